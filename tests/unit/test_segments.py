from __future__ import annotations

import copy
import ctypes
import errno
import gc
import os
import pickle
import re
import resource
import signal
import tempfile
from pathlib import Path

import numpy as np
import pytest

import shmkernel as shm
from shmkernel._core import paths, registry, segment_file, sessions
from shmkernel.verbs import attachments
from tests.helpers import Child, holding, leaving_none_open, left
from tests.unit.elsewhere import elsewhere


def path():
    return paths.path_of("x")


def test_create_returns_a_plain_array_over_the_file():
    x = shm.create("x", np.arange(3))
    assert type(x) is np.ndarray
    assert x.flags.writeable
    x[0] = 7
    assert np.load(path()).tolist() == [7, 1, 2]


def test_the_source_stays_private():
    source = np.arange(3)
    x = shm.create("x", source)
    x[0] = 7
    assert source.tolist() == [0, 1, 2]


@pytest.mark.parametrize("mode", ["r", "c"])
def test_create_may_hand_out_what_cannot_change_the_segment(mode):
    x = shm.create("x", np.arange(3), mode=mode)
    assert x.flags.writeable == (mode == "c")
    if mode == "c":
        x[0] = 7
    assert shm.attach("x").tolist() == [0, 1, 2]


def test_attaching_again_in_the_same_mode_gives_the_same_object():
    x = shm.create("x", np.arange(3))
    assert shm.attach("x") is x
    read = shm.attach("x", mode="r")
    assert read is not x
    assert shm.attach("x", mode="r") is read
    private = shm.attach("x", mode="c")
    assert private is shm.attach("x", mode="c")


def test_python_is_strict_about_taken_names():
    x = shm.create("x", np.arange(3))
    with pytest.raises(FileExistsError, match="'x' is taken"):
        shm.create("x", np.arange(3))
    assert x.tolist() == [0, 1, 2]


def test_a_taken_name_is_noticed_before_anything_is_allocated():
    shm.create("x", 1)
    with pytest.raises(shm.TakenError):
        shm.create("x", shape=1 << 60, dtype="u1")


def test_who_has_the_old_value_keeps_it_when_it_is_replaced():
    old = shm.create("x", np.arange(3))
    view = old[1:]
    new = shm.create("x", np.ones(3), replace=True)
    old[2] = 5
    assert view.tolist() == [1, 5]
    assert new.tolist() == [1, 1, 1]
    assert shm.attach("x") is new


def test_who_has_it_keeps_it_when_it_is_unlinked():
    x = shm.create("x", np.arange(3))
    shm.unlink("x")
    x[0] = 5
    assert x.tolist() == [5, 1, 2]
    with pytest.raises(shm.NotFoundError):
        shm.attach("x")
    again = shm.create("x", np.zeros(2))
    assert x.tolist() == [5, 1, 2]
    assert again.tolist() == [0, 0]


def test_a_view_outlives_close_and_unlink():
    x = shm.create("x", np.arange(1000))
    view = x[10:20].reshape(2, 5).T
    assert shm.close("x") is False
    del x
    shm.unlink("x")
    view += 1
    assert view.tolist() == np.arange(11, 21).reshape(2, 5).T.tolist()


def test_after_close_attach_gives_a_new_object_over_the_same_memory():
    x = shm.create("x", np.arange(3))
    shm.close("x")
    y = shm.attach("x")
    assert y is not x
    x[0] = 9
    assert y[0] == 9


def test_close_is_true_when_nothing_is_left():
    x = shm.create("x", np.arange(3))
    holder = [x]
    del x
    attachments.everything()
    holder.clear()
    assert shm.close("x") is True
    assert shm.close("x") is True


def test_close_is_done_already_where_the_segment_has_gone_meanwhile():
    x = shm.create("x", np.arange(3))
    shm.unlink("x")
    assert shm.close("x") is False
    del x
    assert shm.close("x") is True


def test_close_of_what_only_others_have_is_done_already():
    with elsewhere(lambda: shm.create("x", np.arange(3))):
        assert shm.close("x") is True


def test_close_of_an_unknown_or_bad_name_is_an_error():
    shm.create("elevation", 1)
    with pytest.raises(shm.NotFoundError, match=r"'elevatoin' is not attached here.*Did you mean elevation"):
        shm.close("elevatoin")
    with pytest.raises(shm.ArgumentError):
        shm.close("no name")


def test_what_this_process_has_shared_itself_it_is_told_how_to_get():
    x = shm.create("x", np.arange(3))
    with pytest.raises(shm.TakenError, match="this process shares it already") as caught:
        shm.create("x", 1)
    assert caught.value.mine
    assert eval(re.search(r"shm\.attach\('x'\)", str(caught.value))[0]) is x
    with elsewhere(lambda: shm.create("y", 1)), pytest.raises(shm.TakenError, match=r"by plot\.ipynb") as caught:
        shm.create("y", 1)
    assert not caught.value.mine


PAIR = [("a", "<i4"), ("b", [("c", "<i4")])]
ALTERED = {
    "shape": lambda x: setattr(x, "shape", (2, 3)),
    "strides": lambda x: setattr(x, "strides", (0,)),
    "dtype": lambda x: setattr(x, "dtype", "V8"),
    "writeable": lambda x: setattr(x.flags, "writeable", False),
    "aligned": lambda x: x.setflags(align=False),
    "names of fields": lambda x: setattr(x.dtype, "names", ("p", "q")),
    "names of fields in a field": lambda x: setattr(x.dtype["b"], "names", ("q",)),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of setting strides, and later shapes
@pytest.mark.parametrize("change", ALTERED)
@pytest.mark.parametrize("mode", ["r+", "r"])
def test_what_one_does_to_ones_own_array_object_nobody_else_is_given(change, mode):
    value = np.zeros(6, PAIR) if "names" in change else np.arange(6)
    if change == "writeable" and mode == "r":
        return
    shm.create("x", value)
    x = shm.attach("x", mode)
    before = (x.shape, x.strides, str(x.dtype), x.flags.num)
    ALTERED[change](x)
    y = shm.attach("x", mode)
    assert y is not x
    assert (y.shape, y.strides, str(y.dtype), y.flags.num) == before
    assert shm.attach("x", mode) is y
    assert np.shares_memory(x, y)
    z = shm.create("z", value)
    assert (z.shape, str(z.dtype)) == (before[0], before[2])  # nor what is made of an equal header


@pytest.mark.filterwarnings("ignore:Setting the shape:DeprecationWarning")  # numpy 2.5
def test_what_is_kept_is_the_value_as_it_was_shared():
    x = shm.create("x", np.arange(6))
    x.shape = (2, 3)
    shm.unlink("x")
    shm.keep("x")
    assert shm.attach("x").shape == (6,)
    shm.unlink("x")


def test_the_session_pins_nothing():
    x = shm.create("x", np.arange(3))
    assert _attached() == [os.getpid()]
    del x
    assert _attached() == []
    assert shm.attach("x").tolist() == [0, 1, 2]


def _attached():
    return [one.pid for one in shm.info("x").attached]


def test_pickle_and_deepcopy_take_the_values():
    x = shm.create("x", np.arange(3))
    for clone in (pickle.loads(pickle.dumps(x)), copy.deepcopy(x), x.copy()):
        shared = attachments.everything()
        clone[0] = 9
        assert x.tolist() == [0, 1, 2]
        assert len(shared) == 1
    assert b"shmk" not in pickle.dumps(x)


def test_keep_changes_the_lifetime_of_anybodys_segment():
    with holding(lambda: shm.create("x", 1)) as child:
        assert shm.keep("x").lifetime == "keep"
        child.end()
    assert not shm.info("x").owner_alive
    assert shm.keep("x", "session").mine
    assert shm.attach("x") == 1


def test_keep_makes_a_segment_of_what_was_unlinked():
    x = shm.create("x", np.arange(3))
    shm.unlink("x")
    kept = shm.keep("x")
    assert (kept.lifetime, kept.state) == ("keep", "")
    assert shm.attach("x") is not x
    assert shm.attach("x").tolist() == [0, 1, 2]
    shm.unlink("x")


def test_keep_adopts_a_file_of_another_program():
    with open(path(), "wb") as file:
        np.save(file, np.arange(3))
    assert shm.info("x").owner == "another program"
    info = shm.keep("x", "session")
    assert (info.kind, info.mine, info.lifetime) == ("array", True, "session")


def test_keep_of_a_bad_lifetime_is_an_error():
    shm.create("x", 1)
    with pytest.raises(shm.ArgumentError, match="lifetime 'ever' is unknown"):
        shm.keep("x", "ever")


def test_lifetime_attached_given_later_counts_at_once():
    x = shm.create("x", 1)
    shm.keep("x", "attached")
    assert os.path.exists(path())
    del x
    assert not os.path.exists(path())


def test_lifetime_attached_taken_back_counts_too():
    x = shm.create("x", 1, lifetime="attached")
    shm.keep("x", "session")
    del x
    assert os.path.exists(path())


def test_a_failed_create_leaves_nothing(shm_dir):
    registry.begin()
    before = left(shm_dir)
    for bad in (
        lambda: shm.create("x", np.array([object()])),
        lambda: shm.create("x", np.array(["a"]), dtype=float),
        lambda: shm.create("x", shape=1 << 62, dtype="u1"),
        lambda: shm.create("bad name", 1),
        lambda: shm.create("x", 1, lifetime="ever"),
        lambda: shm.create("x", 1, mode="w"),
    ):
        with leaving_none_open(), pytest.raises(shm.ShmError):
            bad()
        assert left(shm_dir) == before


def test_the_session_is_a_mapping():
    shm.session["x"] = np.arange(3)
    shm.session["x"] = np.arange(4)
    shm.session["ds.y"] = 1
    assert shm.session["x"].tolist() == [0, 1, 2, 3]
    assert [*shm.session] == ["ds.y", "x"]
    assert len(shm.session) == 2
    assert "x" in shm.session
    assert "z" not in shm.session
    assert shm.session.get("z") is None
    assert repr(shm.session) == "<shmkernel session: ds.y, x>"
    assert shm.session.pop("x").tolist() == [0, 1, 2, 3]
    with pytest.raises(KeyError):
        shm.session["x"]
    with pytest.raises(KeyError):
        del shm.session["x"]
    shm.session.clear()
    assert repr(shm.session) == "<shmkernel session: nothing shared>"


def test_the_mapping_replaces_only_what_is_ones_own():
    with holding(lambda: shm.create("x", 1)), pytest.raises(shm.TakenError):
        shm.session["x"] = 2


def test_asking_whether_a_name_is_in_the_session_attaches_nothing():
    shm.create("x", 1)
    assert "x" in shm.session
    assert attachments.everything() == []
    assert "y" not in shm.session
    assert "no name" not in shm.session
    assert 5 not in shm.session


@pytest.mark.parametrize("verb", ["make", "link_all"])
def test_no_descriptor_stays_open_where_not_even_giving_up_works(verb, monkeypatch):
    def fails(*_):
        raise OSError(errno.EMFILE, "too many open files")

    registry.begin()
    gc.collect()  # of earlier tests
    monkeypatch.setattr(registry, "abandon", fails)
    monkeypatch.setattr(*((segment_file, "fill", fails) if verb == "make" else (registry, "link_all", fails)))
    with leaving_none_open():
        for _ in range(3):
            with pytest.raises(OSError, match="too many"):
                shm.create("x", 1)
            gc.collect()


def test_too_many_open_files_are_not_blamed_on_the_folder():
    shm.create("x", 1)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        with pytest.raises(OSError, match=r"Too many open files.*ulimit -n") as caught:
            shm.list()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert isinstance(caught.value, shm.LimitError)


def test_a_name_in_another_folder_is_another_segment(shm_dir, tmp_path, monkeypatch):
    here = shm.create("x", shape=3)
    monkeypatch.setenv("SHMKERNEL_DIR", str(tmp_path))
    shm.create("x", shape=2)
    assert shm.close("x")  # not held by this process
    shm.unlink("x")
    sessions.end()
    monkeypatch.setenv("SHMKERNEL_DIR", str(shm_dir))
    assert shm.attach("x") is here


@pytest.mark.parametrize(("mode", "status"), [("r", -signal.SIGSEGV), ("c", 0)])
def test_a_store_through_a_bare_address_ends_the_process_in_mode_r_and_is_private_in_mode_c(mode, status):
    x = shm.create("x", np.zeros(4))

    def store(_):
        there = shm.attach("x", mode)
        ctypes.memset(there.ctypes.data, 1, 8)

    with Child(store) as child:
        assert child.join() == status
    assert x.tolist() == [0] * 4


def _saved(name):
    with tempfile.TemporaryDirectory() as folder:
        shm.save(name, f"{folder}/x")
        return Path(folder, "x").read_bytes()


OPENERS = {
    "attach": lambda name: bytes(shm.attach(name).buf),
    "save": _saved,
    "SharedMemory": lambda name: bytes(shm.SharedMemory(f"/{os.path.basename(paths.path_of(name))}").buf),
}


@pytest.mark.parametrize(
    ("value", "opened"),
    [([1, 2], OPENERS["attach"]), *(({"a": 1}, opened) for opened in OPENERS.values())],
    ids=["attach a list", *(f"{name} of a dict" for name in OPENERS)],
)
@pytest.mark.parametrize("goes", ["replaced", "unlinked"])
def test_what_loses_its_name_while_it_is_opened_is_not_called_damaged(value, opened, goes, monkeypatch):
    """A list without its record is of no kind, and a dict has a second name: the error advised to unlink the new x."""
    shm.create("x", value, lifetime="keep")
    attach, times = segment_file.attach, []

    def lose(*arguments):
        found = attach(*arguments)
        times.append(1)
        if len(times) == 1:
            shm.unlink("x")
            if goes == "replaced":
                shm.create("x", b"new", lifetime="keep")
        return found

    monkeypatch.setattr(segment_file, "attach", lose)
    if goes == "replaced":
        assert opened("x") == b"new"
        shm.unlink("x")
    else:
        with pytest.raises(shm.NotFoundError):
            opened("x")
