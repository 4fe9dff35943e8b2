"""Objects to and from files of others: .npz and .safetensors run nothing, .pkl by consent; damage is an error."""

from __future__ import annotations

import errno
import json
import os
import pickle
import struct
import subprocess
import sys
import types
import zipfile

import numpy as np
import pytest

import shmkernel as shm
from shmkernel import kinds
from shmkernel._core import registry
from shmkernel.kinds.objects import files
from tests.helpers import leaving_none_open, left, needs

module = types.ModuleType("of_a_file")
sys.modules[module.__name__] = module
exec(
    """
ran = []

class Model:
    def __init__(self, weights):
        self.weights = weights

    def __setstate__(self, state):
        ran.append(type(self).__name__)
        self.__dict__ = state

class Broken:
    def __reduce__(self):
        return explode, ()

def explode():
    raise LookupError("it exploded")

class Once:
    pickled = False

    def __reduce__(self):
        if Once.pickled:
            raise LookupError("it was pickled before")
        Once.pickled = True
        return Once, ()
""",
    vars(module),
)
ARRAYS = {
    "a": np.arange(1000.0).reshape(10, 100),
    "columns": np.asfortranarray(np.arange(600).reshape(20, 30)),
    "nothing": np.zeros((0, 3)),
    "one": np.array(3),
    "steps": np.arange(9000, dtype="i2")[::3],  # the names are in the order of the alphabet
    "é/b": np.ones(1000, bool),
}
MORE = ARRAYS | {
    "dates": np.arange(500).astype("M8[D]"),
    "fields": np.zeros(100, [("a", "i4"), ("b", "f8")]),
    "swapped": np.arange(1000, dtype=">i4"),
    "texts": np.full(300, "é"),
}


@pytest.fixture(autouse=True)
def _own(shm_dir, tmp_path, monkeypatch):
    """Use the folder and the key of the test, and work where its files are."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    module.ran.clear()


def _need(kind):
    if kind == "dict":
        needs("lmdb", "dicts")  # no wheel for the newest Python


def same(got, arrays, *, order="K"):
    assert [*got] == [*arrays]
    for key, array in arrays.items():
        assert (got[key].dtype, got[key].shape) == (array.dtype, array.shape)
        assert got[key].tobytes(order) == array.tobytes(order)
    return True


@pytest.mark.parametrize("kind", ["object", "dict"])
def test_a_mapping_of_arrays_becomes_an_npz_file_as_numpy_writes_it(kind):
    _need(kind)
    shm.create("x", MORE, kind=kind)
    shm.save("x", "x.npz")
    with np.load("x.npz") as loaded:
        assert same({key: loaded[key] for key in MORE}, MORE, order="C")
    assert os.listdir() == ["x.npz"]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_npz_file_becomes_an_object_without_a_second_copy(save):
    save("x.npz", **MORE)
    x = shm.load("x", "x.npz")
    assert same(x, MORE, order="C")
    assert x["columns"].flags.f_contiguous
    assert not x["a"].flags.owndata
    assert same(shm.attach("x"), MORE, order="C")
    assert shm.info("x").type == f"dict of {len(MORE)}"


def test_safetensors_files_are_those_of_the_library():
    library = needs("safetensors.numpy")
    library.save_file({key: np.array(array, order="C") for key, array in ARRAYS.items()}, "theirs.safetensors")
    theirs = shm.load("theirs", "theirs.safetensors")
    assert same(dict(sorted(theirs.items())), ARRAYS, order="C")
    shm.save("theirs", "ours.safetensors")
    assert same(dict(sorted(library.load_file("ours.safetensors").items())), ARRAYS, order="C")


@pytest.mark.parametrize("kind", ["object", "dict"])
def test_a_mapping_of_arrays_comes_back_from_a_safetensors_file(kind):
    _need(kind)
    shm.create("x", ARRAYS | {"bytes": MORE["swapped"]}, kind=kind)
    shm.save("x", "x.safetensors")
    y = shm.load("y", "x.safetensors")
    expected = ARRAYS | {"bytes": MORE["swapped"].astype("<i4")}
    assert same(dict(sorted(y.items())), dict(sorted(expected.items())), order="C")


def test_the_arrays_of_a_safetensors_file_keep_their_order():
    shm.create("x", {"b": np.ones(3, "f4"), "c": np.ones(3), "a": np.ones(3)}, kind="object")
    shm.save("x", "x.safetensors")
    assert list(shm.load("y", "x.safetensors")) == ["b", "c", "a"]


@pytest.mark.parametrize(
    ("value", "file", "why"),
    [
        ([1, [2]], "x.npz", r"a \.npz file holds a mapping of arrays, and it is a list"),
        ({"a": 1}, "x.npz", r"a \.npz file holds arrays, and 'a' is an int"),
        ({1: np.arange(3)}, "x.npz", "1 is none"),
        ({"a\0": np.arange(3)}, "x.safetensors", r"'a\\x00' is none"),
        ({"d": MORE["dates"]}, "x.safetensors", r"no arrays of datetime64\[D\]"),
        ({"__metadata__": np.arange(3)}, "x.safetensors", "no array has the name"),
    ],
)
def test_what_a_file_would_not_hold_is_refused_with_a_file_that_does(value, file, why):
    shm.create("x", value, kind="object")
    with pytest.raises(shm.UnsupportedError, match=why) as caught:
        shm.save("x", file)
    assert os.listdir() == []
    exec(str(caught.value).rpartition(": ")[2], {"shm": shm})
    assert repr(shm.load("y", "x.shm")) == repr(value)


def test_an_object_becomes_a_pickle_that_needs_no_shmkernel():
    shm.create("x", [ARRAYS["a"], "a text"], kind="object")
    shm.save("x", "x.pkl")
    with open("x.pkl", "rb") as file:
        data = file.read()
    assert b"shmkernel" not in data
    array, text = pickle.loads(data)
    assert text == "a text"
    assert array.flags.writeable
    assert array.tobytes() == ARRAYS["a"].tobytes()


def test_a_pickle_runs_only_when_it_is_asked_for_and_then_is_shared():
    shm.create("model", module.Model(ARRAYS["a"]), allow_pickle=True)
    shm.save("model", "model.pkl")
    module.ran.clear()
    with pytest.raises(shm.RefusedError, match=r"model\.pkl is a pickle.*allow_pickle=True"):
        shm.load("again", "model.pkl")
    assert not module.ran
    again = shm.load("again", "model.pkl", allow_pickle=True)
    assert again.weights.tobytes() == ARRAYS["a"].tobytes()
    assert not again.weights.flags.owndata


def test_what_is_not_signed_is_saved_as_it_is_but_not_unpickled_for_a_file(tmp_path):
    model = shm.create("model", module.Model(1), allow_pickle=True)
    os.unlink(tmp_path / "data/shmkernel/key")
    module.ran.clear()
    shm.save("model", "model.shm")
    with pytest.raises(shm.RefusedError, match="not signed with your key") as caught:
        shm.save("model", "model.pkl")
    assert not module.ran
    assert sorted(os.listdir()) == ["data", "model.shm"]
    exec(str(caught.value).rpartition(": ")[2], {"shm": shm})
    assert module.ran
    with pytest.raises(shm.RefusedError, match="not allowed here"):
        shm.save("model", "model.pkl", allow_pickle=False)
    del model


def _head(**tensors):
    text = json.dumps(tensors).encode()
    return struct.pack("<Q", len(text)) + text


def _tensor(begin, end, shape, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff" * 8,
        struct.pack("<Q", 2**60) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 100_000) + b"[" * 100_000,
        struct.pack("<Q", 27) + b'{"__metadata__":{},"a":1}  ',
        _head(a=_tensor(0, 4, [1])),
        _head(a=_tensor(0, 4, [2])) + bytes(4),
        _head(a=_tensor(4, 8, [1])) + bytes(8),
        _head(a=_tensor(0, 8, [2]), b=_tensor(4, 8, [1])) + bytes(8),
        _head(a=_tensor(-4, 0, [1])) + bytes(4),
        _head(a=_tensor(0, 4, [-1, -1])) + bytes(4),
        _head(a=_tensor(0, 0, [2**62, 4, 0])),
        _head(a=_tensor(0, 4, [1.0])) + bytes(4),
        _head(a=_tensor(0, 4, [1], "O")) + bytes(4),
        _head(a=_tensor(0, 4, [1], ["F32"])) + bytes(4),
        _head(a=_tensor(0, 4, {"a": 1})) + bytes(4),
        _head(a={"shape": [1]}) + bytes(4),
        _head(a=_tensor(0, 4, [1])) + bytes(5),
        struct.pack("<Q", 10) + b'{"\xff\xff": 1}',
    ],
)
def test_a_damaged_safetensors_file_is_an_error(data, tmp_path):
    (tmp_path / "x.safetensors").write_bytes(data)
    with pytest.raises(shm.DamagedError, match=r"x\.safetensors cannot be loaded"):
        shm.load("x", "x.safetensors")
    assert shm.list() == []


def test_a_type_that_numpy_has_not_is_named(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(_head(a=_tensor(0, 4, [2], "BF16")) + bytes(4))
    with pytest.raises(shm.UnsupportedError, match="'a' is of BF16, a type that numpy has not"):
        shm.load("x", "x.safetensors")


def test_an_npz_file_cut_anywhere_or_with_wrong_bytes_is_damaged_or_harmless(tmp_path):
    np.savez("x.npz", a=np.arange(200.0), b=np.arange(3))
    whole = (tmp_path / "x.npz").read_bytes()
    choose = np.random.default_rng(0)
    cut = [whole[:at] for at in range(0, len(whole), 97)]
    wrong = [bytearray(whole) for _ in range(60)]
    for data in wrong:
        for place in choose.integers(0, len(whole), choose.integers(1, 5)):
            data[place] = choose.integers(256)
    for data in (*cut, *wrong):
        (tmp_path / "y.npz").write_bytes(data)
        try:
            shm.load("y", "y.npz")
        except (shm.DamagedError, shm.UnsupportedError):
            continue
        shm.unlink("y")
    assert shm.list() == []


@pytest.mark.parametrize(
    ("suffix", "form"), [(".npz", "a .npz file"), (".safetensors", "a .safetensors file"), (".pkl", "a whole pickle")]
)
def test_a_foreign_file_is_refused_once_and_told_what_it_has_to_be(tmp_path, suffix, form):
    path = tmp_path / f"x{suffix}"
    path.write_bytes(b"\x00\xff" * 50)
    with pytest.raises(shm.DamagedError) as caught:
        shm.load("x", path, allow_pickle=True)
    message = str(caught.value)
    assert message.count("cannot be loaded") == message.count("It has to be") == 1
    assert f"It has to be {form}" in message
    assert caught.value.__cause__ is not None or suffix != ".pkl"  # what the pickle raised is beneath


def test_a_changed_byte_of_an_array_is_found_by_the_checksum(tmp_path):
    np.savez("x.npz", a=np.arange(2000.0))
    data = bytearray((tmp_path / "x.npz").read_bytes())
    data[9000] ^= 1
    (tmp_path / "x.npz").write_bytes(data)
    with pytest.raises(shm.DamagedError, match="Bad CRC-32"):
        shm.load("x", "x.npz")
    assert shm.list() == []


def test_members_that_are_no_plain_arrays_are_refused(tmp_path):
    np.savez("objects.npz", a=np.array([object]))
    with zipfile.ZipFile("other.npz", "w") as archive:
        archive.writestr("a.txt", "a text")
    with zipfile.ZipFile("twice.npz", "w") as archive:
        archive.write("objects.npz", "a.npy")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.write("objects.npz", "a.npy")
    for file, why in (("objects", "holds Python objects"), ("other", "no .npy file"), ("twice", "cannot be loaded")):
        with pytest.raises(shm.DamagedError, match=why):
            shm.load("x", f"{file}.npz")


@pytest.mark.parametrize("cut", [0, 1, 30, 2000, -1])
def test_a_pickle_that_stops_short_is_damaged(cut, tmp_path):
    (tmp_path / "x.pkl").write_bytes(pickle.dumps([ARRAYS["a"], "a text"], 5)[:cut])
    with pytest.raises(shm.DamagedError, match=r"x\.pkl cannot be loaded"):
        shm.load("x", "x.pkl", allow_pickle=True)
    assert shm.list() == []


POOR = """
import resource, sys, numpy as np, shmkernel as shm
np.savez("small.npz", value=np.zeros(100))
shm.load("npz", "small.npz")  # what is imported now needs no memory later
shm.save("npz", "small.pkl")
shm.load("pkl", "small.pkl", allow_pickle=True)
with open("/proc/self/statm", encoding="ascii") as file:
    now = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + (8 << 20), resource.getrlimit(resource.RLIMIT_AS)[1]))
for path in sys.argv[1:]:
    try:
        shm.load("x", path, allow_pickle=path.endswith("pkl"))
    except Exception as error:
        print(type(error).__name__, getattr(error, "limit", ""))
print(*sorted(one.name for one in shm.list()))
"""


def test_memory_that_is_too_small_for_a_file_is_told_as_that(tmp_path):
    value = np.arange(8_000_000)
    (tmp_path / "x.pkl").write_bytes(pickle.dumps([value], 5))
    np.savez(tmp_path / "x.npz", value=value)
    command = [sys.executable, "-c", POOR, "x.pkl", "x.npz"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [*["LimitError memory"] * 2, "npz pkl"]


SHORTENED = """
import os, sys, numpy as np, shmkernel as shm
from shmkernel.kinds.lists import layout as lists
from shmkernel.kinds.objects import layout as objects
kind, path = sys.argv[1:]
value = [np.arange(100_000.0), "a"] if kind == "object" else list(range(100_000))
shm.create("x", value)
shm.save("x", path)
module, name = (objects, "open_") if kind == "object" else (lists, "decode")
real = getattr(module, name)
def shorten(data):
    os.truncate(path, 64)
    return real(data)
setattr(module, name, shorten)
y = shm.load("y", path, kind=kind)
assert y[0].sum() == value[0].sum() if kind == "object" else [*y] == value
print("loaded")
"""


@pytest.mark.parametrize("kind", ["object", "list"])
def test_a_file_that_another_program_shortens_while_it_is_loaded_ends_no_process(kind, tmp_path):
    command = [sys.executable, "-c", SHORTENED, kind, f"{tmp_path}/x.shm"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout) == (0, "loaded\n"), done.stderr


def test_an_object_file_that_shrinks_while_it_is_read_is_an_error(monkeypatch, shm_dir):
    shm.create("x", [ARRAYS["a"], "a"])
    shm.save("x", "x.shm")
    before = left(shm_dir)
    monkeypatch.setattr(kinds.capacity, "memory", lambda: os.truncate("x.shm", 1000) or 1 << 40)
    with pytest.raises(shm.ArgumentError, match="became shorter"):
        shm.load("y", "x.shm")
    assert left(shm_dir) == before


def test_an_error_while_a_pickle_is_loaded_is_ours_with_its_own_beneath(tmp_path, monkeypatch):
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(module.Broken()))
    with pytest.raises(shm.UnsupportedError, match="cannot be unpickled: LookupError: it exploded") as caught:
        shm.load("x", "x.pkl", allow_pickle=True)
    assert isinstance(caught.value.__cause__, LookupError)
    (tmp_path / "y.pkl").write_bytes(pickle.dumps(module.Model(1)))
    monkeypatch.delitem(sys.modules, module.__name__)
    with pytest.raises(shm.UnsupportedError, match="of_a_file is not installed here"):
        shm.load("x", "y.pkl", allow_pickle=True)


def _meet():
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


class _MetLater:
    def __reduce__(self):
        return _meet, ()


class _MetAtOnce:
    def __reduce__(self):
        return _meet()


def test_a_limit_that_an_object_meets_while_it_is_pickled_or_made_again_is_named(tmp_path):
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(_MetLater()))
    for act in (
        lambda: shm.create("x", _MetAtOnce(), allow_pickle=True),
        lambda: shm.create("x", _MetLater(), allow_pickle=True),
        lambda: shm.load("x", "x.pkl", allow_pickle=True),
    ):
        with pytest.raises(shm.LimitError, match="ulimit -n") as caught:
            act()
        assert caught.value.errno == errno.EMFILE
    assert shm.list() == []


def test_what_does_not_pickle_again_leaves_no_file():
    shm.create("x", module.Once(), allow_pickle=True)
    with pytest.raises(shm.UnsupportedError, match="cannot be pickled: it was pickled before"):
        shm.save("x", "x.pkl")
    assert os.listdir() == ["data"]


@pytest.mark.parametrize("file", ["x.npz", "x.safetensors", "x.pkl", "x.shm"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_a_full_disk_or_ctrl_c_leaves_the_older_file(file, error, monkeypatch, tmp_path):
    shm.create("x", ARRAYS, kind="object")
    (tmp_path / file).write_text("older")

    def stop(*_):
        raise error

    monkeypatch.setattr("shmkernel.verbs.files.Progress.__call__", stop)
    with pytest.raises((KeyboardInterrupt, shm.FullError)):
        shm.save("x", file)
    assert (tmp_path / file).read_text() == "older"
    assert os.listdir() == [file]


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".pkl"])
def test_an_interrupted_load_leaves_nothing(suffix, monkeypatch, shm_dir):
    shm.create("x", ARRAYS, kind="object")
    shm.save("x", f"x{suffix}")
    shm.unlink("x")
    registry.begin()
    before = left(shm_dir)

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("shmkernel.verbs.staging.Progress.__call__", stop)
    with leaving_none_open(), pytest.raises(KeyboardInterrupt):
        shm.load("x", f"x{suffix}", allow_pickle=True)
    assert left(shm_dir) == before


@pytest.mark.parametrize("file", ["x.npz", "x.safetensors", "x.pkl"])
def test_a_real_full_disk_is_an_error_that_names_the_path(file):
    """/dev/full takes no byte. The file is not there by that name, so the writer is called as `save` calls it."""
    with open("/dev/full", "wb", buffering=0) as full, pytest.raises(OSError, match="No space left"):
        files.write("x", ARRAYS, file, full, lambda _: None)
