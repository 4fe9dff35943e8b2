"""Pickled objects: shared by consent, attached by consent or by the user's own signature, and read by nobody else."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import traceback
import types
from pathlib import Path

import numpy as np
import pytest

import shmkernel as shm
from shmkernel import agents
from shmkernel._core import paths
from shmkernel.kinds.objects import layout, pickles, signing
from tests.helpers import Child, left, needs

module = types.ModuleType("of_a_pickle")
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

class Copies(Model):
    def __setstate__(self, state):
        self.weights = state["weights"].copy()

class Broken:
    def __reduce__(self):
        return explode, ()

def explode():
    raise LookupError("it exploded")

class Endless:
    def __init__(self, begin):
        self.begin = begin

    def __reduce__(self):
        self.begin()
        while True:
            pass

class Stuck:
    def __reduce__(self):
        raise KeyboardInterrupt
""",
    vars(module),
)
WEIGHTS = np.arange(1000.0)


@pytest.fixture(autouse=True)
def _own(shm_dir, tmp_path, monkeypatch):
    """Use the folder and the key of the test."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    module.ran.clear()


@pytest.fixture
def unsigned(tmp_path):
    """Share a model that another key has signed."""
    model = shm.create("model", module.Model(WEIGHTS), allow_pickle=True)
    os.unlink(tmp_path / "shmkernel/key")
    module.ran.clear()
    return model


def head_of(name):
    return layout.head_of(Path(paths.path_of(name)).read_bytes(), shm.info(name).size)


def test_a_model_is_shared_by_consent_and_its_arrays_are_not_copied():
    with pytest.raises(shm.UnsupportedError, match="allow_pickle=True"):
        shm.create("model", module.Model(WEIGHTS))
    model = shm.create("model", module.Model(WEIGHTS), allow_pickle=True)
    assert type(model) is module.Model
    assert not model.weights.flags.owndata
    model.weights[0] = 7
    again = shm.attach("model")
    assert again is not model
    assert again.weights.tobytes() == WEIGHTS.tobytes()
    row = shm.info("model")
    assert (row.kind, row.type) == ("object", "Model, pickled")
    assert row.dtype.startswith("of_a_pickle.Model: 7.8 KiB shared, ")


def test_consent_does_not_make_a_plain_value_a_pickle():
    for value, kind in ((WEIGHTS, "array"), ([[1], [2]], "object"), ({"a": 1}, "dict")):
        shm.create("x", value, allow_pickle=True)
        assert shm.info("x").kind == kind
        assert "pickled" not in shm.info("x").type
        shm.unlink("x")


def test_what_this_user_has_signed_attaches_in_another_process():
    shm.create("model", module.Model(WEIGHTS), allow_pickle=True)
    child = Child(lambda connection: connection.send(shm.attach("model").weights.sum()))
    assert child.hear() == WEIGHTS.sum()
    assert child.join() == 0


def test_what_is_not_signed_is_refused_until_it_is_asked_for(unsigned):
    with pytest.raises(shm.RefusedError, match=r"pickled of_a_pickle\.Model of .*not signed with your key") as caught:
        shm.attach("model")
    assert "shm.attach('model', allow_pickle=True)" in str(caught.value)
    shm.list()
    shm.info("model")
    shm.gc()
    shown = agents.preview("model")["text"].splitlines()
    assert shown[0].startswith("model: object Model, pickled, ")
    assert shown[1].startswith("class of_a_pickle.Model, memory 7.8 KiB shared, ")
    assert shown[2] == ".weights | ndarray float64 (1000,)"
    assert not module.ran
    assert shm.attach("model", allow_pickle=True).weights.sum() == WEIGHTS.sum()
    assert module.ran == ["Model"]


def test_what_is_signed_is_refused_where_nothing_may_be_unpickled():
    model = shm.create("model", module.Model(1), allow_pickle=True)
    with pytest.raises(shm.RefusedError, match="to unpickle is not allowed here"):
        shm.attach("model", allow_pickle=False)
    del model


@pytest.mark.parametrize("part", ["head", "stream"])
def test_a_changed_byte_of_head_or_stream_is_not_signed(part):
    model = shm.create("model", module.Model(WEIGHTS), allow_pickle=True)
    path = Path(paths.path_of("model"))
    data = bytearray(path.read_bytes())
    place = data.index(b"Model") if part == "head" else data.rindex(b"weights")
    data[place] ^= 1
    with path.open("r+b") as file:
        file.write(data)
    module.ran.clear()
    with pytest.raises(shm.RefusedError, match="not signed"):
        shm.attach("model")
    assert not module.ran
    del model


def test_a_file_that_others_can_write_or_without_a_record_is_never_unpickled():
    model = shm.create("model", module.Model(WEIGHTS), allow_pickle=True)
    module.ran.clear()
    data = Path(paths.path_of("model")).read_bytes()
    Path(paths.path_of("foreign")).write_bytes(data)
    with pytest.raises(shm.RefusedError, match="it has no record"):
        shm.attach("foreign", allow_pickle=True)
    shm.unlink("foreign")
    os.chmod(paths.path_of("model"), 0o660)
    with pytest.raises(shm.RefusedError, match="other users can write to its file"):
        shm.attach("model", allow_pickle=True)
    assert not module.ran
    del model


@pytest.mark.parametrize("mode", [0o644, 0o600])
def test_a_key_that_others_can_read_or_that_is_too_short_signs_nothing(mode, tmp_path):
    (tmp_path / "shmkernel").mkdir()
    key = tmp_path / "shmkernel/key"
    key.write_bytes(bytes(32 if mode == 0o644 else 31))
    key.chmod(mode)
    model = shm.create("model", module.Model(1), allow_pickle=True)
    with pytest.raises(shm.RefusedError, match="not signed"):
        shm.attach("model")
    del model


def test_the_key_is_the_user_s_alone_and_made_once(tmp_path):
    first = signing.sign(b"a", b"b")
    assert (tmp_path / "shmkernel/key").stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path / "shmkernel") == ["key"]
    assert signing.sign(b"a", b"b") == first != bytes(32)
    assert signing.holds(first, b"a", b"b")
    assert not signing.holds(first, b"ab", b"")


def test_without_a_home_objects_are_shared_unsigned(monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", "/proc/nowhere")
    model = shm.create("model", module.Model(1), allow_pickle=True)
    with pytest.raises(shm.RefusedError, match="not signed"):
        shm.attach("model")
    del model


def test_an_error_while_unpickling_is_ours_with_the_object_s_own_beneath(tmp_path):
    with pytest.raises(shm.UnsupportedError, match="cannot be unpickled: LookupError: it exploded") as caught:
        shm.create("x", module.Broken(), allow_pickle=True)
    assert isinstance(caught.value.__cause__, LookupError)
    assert shm.list() == []


def test_an_error_while_attaching_has_the_object_s_own_traceback_beneath():
    model = shm.create("model", module.Model(1), allow_pickle=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.Model, "__setstate__", lambda *_: module.explode())
        with pytest.raises(
            shm.UnsupportedError, match=r"of_a_pickle\.Model cannot be unpickled: LookupError"
        ) as caught:
            shm.attach("model")
    frames = [frame.name for frame in traceback.extract_tb(caught.value.__cause__.__traceback__)]
    assert frames[-1] == "explode"
    assert shm.attach("model").weights == 1
    del model


def test_ctrl_c_while_an_object_is_pickled_leaves_nothing(shm_dir):
    """Pickling can take minutes: here it takes for ever."""

    def pickle_for_ever(connection):
        signal.signal(signal.SIGINT, signal.default_int_handler)
        before = left(shm_dir)
        try:
            shm.create("x", module.Endless(lambda: connection.send("begun")), allow_pickle=True)
        except KeyboardInterrupt:
            connection.send((shm.list(), left(shm_dir) == before))

    with Child(pickle_for_ever) as child:
        assert child.hear() == "begun"
        os.kill(child.pid, signal.SIGINT)
        assert child.hear() == ([], True)
        assert child.join() == 0


def test_what_cannot_be_pickled_leaves_nothing():
    with pytest.raises(shm.UnsupportedError, match="cannot be pickled") as caught:
        shm.create("x", [sys._getframe()], allow_pickle=True)
    assert isinstance(caught.value.__cause__, TypeError)
    with pytest.raises(KeyboardInterrupt):
        shm.create("x", module.Stuck(), allow_pickle=True)
    deep = [len]
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(shm.UnsupportedError, match="nested too deep"):
        shm.create("x", deep, allow_pickle=True)
    while deep and deep != [len]:  # to free it at once would take the C stack
        deep = deep.pop()
    assert shm.list() == []


def test_a_module_that_is_missing_is_named_with_its_version(monkeypatch):
    module.__version__ = "1.9.1"
    model = shm.create("model", module.Model(1), allow_pickle=True)
    monkeypatch.delitem(sys.modules, module.__name__)
    with pytest.raises(shm.UnsupportedError, match=r"of_a_pickle 1\.9\.1 is not installed here"):
        shm.attach("model")
    older = types.ModuleType(module.__name__)
    older.__version__ = "1.6.1"
    monkeypatch.setitem(sys.modules, module.__name__, older)
    with pytest.raises(shm.UnsupportedError, match=r"it was made with of_a_pickle 1\.9\.1, here is 1\.6\.1"):
        shm.attach("model")
    del model, module.__version__


def test_functions_of_another_python_are_refused(monkeypatch):
    shm.create("f", lambda x: x + 1, allow_pickle=True)
    assert shm.attach("f")(1) == 2
    monkeypatch.setattr(pickles.platform, "python_version", lambda: "3.0.1")
    with pytest.raises(shm.UnsupportedError, match=r"holds functions of Python .*, which Python 3\.0\.1 cannot run"):
        shm.attach("f")


def test_a_class_of_the_notebook_is_the_attaching_notebook_s_or_comes_along(monkeypatch):
    main = sys.modules["__main__"]

    class Mine:
        count = 1

    Mine.__module__, Mine.__qualname__ = "__main__", "Mine"
    monkeypatch.setattr(main, "Mine", Mine, raising=False)
    Mine.count = 5
    made = shm.create("x", [Mine(), Mine()], allow_pickle=True)
    assert type(made[0]) is type(made[1]) is Mine
    assert Mine.count == 5
    monkeypatch.delattr(main, "Mine")
    kind = type(shm.attach("x")[0])
    assert (kind.__name__, kind.count) == ("Mine", 5)


def test_without_cloudpickle_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(pickles, "cloudpickle", None)
    monkeypatch.setattr(pickles, "_Pickler", lambda file, keep: pickle.Pickler(file, 5, buffer_callback=keep))
    with pytest.raises(shm.UnsupportedError, match=r"pip install 'shmkernel\[objects\]'"):
        shm.create("x", type("Mine", (), {"__module__": "__main__"}), allow_pickle=True)


def test_arrays_of_all_dtypes_and_layouts_are_out_of_the_stream():
    arrays = [
        WEIGHTS,
        WEIGHTS[::2],
        WEIGHTS.reshape(10, 100).T,
        WEIGHTS.astype("M8[ms]"),
        WEIGHTS.reshape(10, 10, 10)[:, ::2],
    ]
    x = shm.create("x", [len, *arrays], allow_pickle=True)
    for got, value in zip(x[1:], arrays, strict=True):
        assert (got.dtype, got.tolist()) == (value.dtype, value.tolist())
        assert not got.flags.owndata
    head = head_of("x")
    assert head.copied < 2000
    assert head.shared == sum(array.nbytes for array in arrays)


def test_masked_and_record_arrays_and_matrices_are_out_of_the_stream():
    masked = np.ma.masked_array(WEIGHTS, WEIGHTS > 5, fill_value=-1.0, hard_mask=True)
    records = np.rec.array([(1, 2.5)] * 100, dtype=[("a", "i4"), ("b", "f8")])
    matrix = np.eye(20).view(np.matrix)
    x = shm.create("x", [len, masked, records, matrix, masked], allow_pickle=True)
    assert [*map(type, x[1:4])] == [np.ma.MaskedArray, np.recarray, np.matrix]
    assert (x[1].tolist(), x[1].fill_value, x[1].hardmask) == (masked.tolist(), -1, True)
    assert x[2].a.tolist() == [1] * 100
    assert x[3].tolist() == matrix.tolist()
    assert x[4] is x[1]
    head = head_of("x")
    assert head.copied < 2000
    assert head.shared == masked.nbytes + masked.mask.nbytes + records.nbytes + matrix.nbytes


def test_frames_are_out_of_the_stream():
    """The texts of pandas are so by its own pickling, the columns of polars by ours."""
    needs("pyarrow")
    pd, pl = needs("pandas"), needs("polars")
    texts = [f"row {number} of a table" for number in range(1000)]
    moments = pd.date_range("2026-01-01", periods=1000, freq="s", tz="UTC")
    frames = [pl.DataFrame({"a": texts}), pl.Series("b", texts), pd.DataFrame({"a": texts, "b": moments})]
    x = shm.create("x", [len, *frames, pl.LazyFrame({"a": [1]})], allow_pickle=True)
    assert all(got.equals(value) for got, value in zip(x[1:4], frames, strict=True))
    assert x[4].collect()["a"].to_list() == [1]
    head = head_of("x")
    assert head.copied < 10_000
    assert head.shared > 3 * sum(map(len, texts))


def test_memory_that_unpickling_copies_is_not_called_shared():
    x = shm.create("x", [module.Copies(WEIGHTS), module.Model(WEIGHTS[:500])], allow_pickle=True)
    assert (head_of("x").shared, head_of("x").copied // 1000) == (4000, 8)
    assert "3.9 KiB shared, 8." in shm.info("x").dtype
    del x


def test_a_loaded_file_runs_only_when_it_is_asked_for(tmp_path):
    model = shm.create("model", module.Model(WEIGHTS), allow_pickle=True)
    shm.save("model", tmp_path / "model.shm")
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(module.Model(WEIGHTS)))
    module.ran.clear()
    for file in ("model.shm", "model.pkl"):
        with pytest.raises(shm.RefusedError, match="allow_pickle=True"):
            shm.load("again", tmp_path / file)
        assert not module.ran
        assert shm.load("again", tmp_path / file, allow_pickle=True).weights.sum() == WEIGHTS.sum()
        assert shm.attach("again").weights.sum() == WEIGHTS.sum()
        shm.unlink("again")
        module.ran.clear()
    del model
