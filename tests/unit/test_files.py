from __future__ import annotations

import contextlib
import os
import pickle
import socket
import stat
import threading

import numpy as np
import pytest

import shmkernel as shm
from shmkernel._core import registry
from shmkernel._core.progress import Progress
from shmkernel.verbs import files
from tests.helpers import leaving_none_open, left


@pytest.fixture
def npy(tmp_path):
    return tmp_path / "x.npy"


@pytest.mark.parametrize("order", ["C", "F"])
def test_what_is_saved_is_what_numpy_would_save(order, npy):
    value = np.asarray(np.arange(6).reshape(2, 3), order=order)
    shm.create("x", value)
    shm.save("x", npy)
    loaded = np.load(npy)
    assert np.array_equal(loaded, value)
    assert loaded.flags.f_contiguous == (order == "F")


def test_a_damaged_segment_is_not_saved_over_a_good_file(npy):
    shm.create("x", np.arange(3))
    shm.save("x", npy)
    os.truncate(shm.info("x").path, 140)
    with pytest.raises(shm.DamagedError, match="promises 152 bytes, the file holds 140"):
        shm.save("x", npy)
    assert np.load(npy).tolist() == [0, 1, 2]
    shm.unlink("x")


def test_save_writes_what_is_stored_by_now_over_what_was_there(npy):
    x = shm.create("x", np.arange(3))
    npy.write_text("older")
    x[0] = 7
    shm.save("x", npy)
    assert np.load(npy).tolist() == [7, 1, 2]
    assert os.listdir(npy.parent) == ["x.npy"]


def test_paths_may_begin_at_home_or_be_relative(npy, monkeypatch):
    monkeypatch.setenv("HOME", str(npy.parent))
    monkeypatch.chdir(npy.parent)
    shm.create("x", np.arange(3))
    shm.save("x", "~/a.npy")
    shm.save("x", "b.npy")
    assert shm.load("y", "~/b.npy").tolist() == shm.load("z", "a.npy").tolist() == [0, 1, 2]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interrupted_save_leaves_the_older_file(error, npy, monkeypatch):
    shm.create("x", np.arange(3))
    npy.write_text("older")

    def stop(*_):
        raise error

    monkeypatch.setattr(Progress, "__call__", stop)
    with pytest.raises((KeyboardInterrupt, shm.ArgumentError)):
        shm.save("x", npy)
    assert npy.read_text() == "older"
    assert os.listdir(npy.parent) == ["x.npy"]


def test_two_threads_that_save_to_the_same_file_leave_one_whole_file(npy):
    shm.create("x", np.arange(100_000))
    failed = []

    def save():
        for _ in range(100):
            try:
                shm.save("x", npy)
            except Exception as error:
                failed.append(error)

    threads = [threading.Thread(target=save) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert np.load(npy).sum() == np.arange(100_000).sum()
    assert os.listdir(npy.parent) == ["x.npy"]


def test_an_interrupted_load_leaves_nothing(npy, monkeypatch, shm_dir):
    np.save(npy, np.arange(3))
    registry.begin()
    before = left(shm_dir)

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Progress, "__call__", stop)
    with leaving_none_open(), pytest.raises(KeyboardInterrupt):
        shm.load("x", npy)
    assert left(shm_dir) == before


def test_a_load_takes_the_options_of_create(npy):
    np.save(npy, np.arange(3))
    x = shm.load("x", npy, mode="r", lifetime="attached")
    assert not x.flags.writeable
    with pytest.raises(shm.TakenError):
        shm.load("x", npy)
    y = shm.load("x", npy, replace=True)
    assert y.flags.writeable
    assert x.tolist() == y.tolist()


def test_what_is_larger_than_a_piece_comes_whole(npy, monkeypatch):
    from shmkernel.kinds import array

    monkeypatch.setattr(files, "_PIECE", 1000)
    monkeypatch.setattr(array, "_PIECE", 1000)
    value = np.arange(10_001)
    np.save(npy, value)
    assert np.array_equal(shm.load("x", npy), value)
    shm.save("x", npy)
    assert np.array_equal(np.load(npy), value)


@pytest.mark.parametrize(
    "data",
    [b"", b"text", pickle.dumps([1, 2]), b"PK\x03\x04", b"\x93NUMPY", b"\x93NUMPY\x09\x00" + bytes(100)],
    ids=["empty", "text", "pickle", "zip", "cut", "version 9"],
)
def test_what_is_no_npy_file_is_damaged(data, npy, shm_dir):
    npy.write_bytes(data)
    with pytest.raises(shm.DamagedError, match="cannot be loaded"):
        shm.load("x", npy)
    assert left(shm_dir) == []


def test_objects_are_not_unpickled(npy):
    np.save(npy, np.array([print], object), allow_pickle=True)
    with pytest.raises(shm.DamagedError):
        shm.load("x", npy)


def test_a_truncated_file_is_damaged(npy, shm_dir):
    np.save(npy, np.arange(1000))
    whole = npy.read_bytes()
    for length in (10, 64, 127, 128, 5000, len(whole) - 1):
        npy.write_bytes(whole[:length])
        with pytest.raises(shm.DamagedError):
            shm.load("x", npy)
    assert left(shm_dir) == []


def test_a_file_that_shrinks_while_it_is_read_is_an_error(npy, monkeypatch, shm_dir):
    np.save(npy, np.arange(100_000))
    registry.begin()
    before = left(shm_dir)
    monkeypatch.setattr(Progress, "__call__", lambda *_: os.truncate(npy, 1000))
    with pytest.raises(shm.ArgumentError, match="became shorter"):
        shm.load("x", npy)
    assert left(shm_dir) == before


@pytest.mark.parametrize("verb", ["save", "load"])
def test_paths_that_lead_nowhere_are_told(verb, npy):
    shm.create("x", 1)
    for path in (npy / "missing" / "x.npy", npy.parent):
        with pytest.raises(shm.ShmError, match=str(path)):
            getattr(shm, verb)("x" if verb == "save" else "y", path)
    assert os.listdir(npy.parent) == []


def device(path):
    if os.geteuid():
        pytest.skip("only root may make a device; the test of a pipe asks the same of everyone")
    os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))  # as /dev/null


def unix_socket(path):
    with socket.socket(socket.AF_UNIX) as made, contextlib.chdir(path.parent):  # a longer path may be refused
        made.bind(path.name)


@pytest.mark.parametrize("verb", ["save", "load"])
@pytest.mark.parametrize(
    ("make", "what"),
    [(device, "a device"), (os.mkfifo, "a pipe"), (unix_socket, "a socket"), (os.mkdir, "a folder")],
    ids=["device", "pipe", "socket", "folder"],
)
def test_what_is_no_plain_file_is_neither_replaced_nor_read(make, what, verb, tmp_path):
    path = tmp_path / "there"
    make(path)
    (tmp_path / "link").symlink_to("there")
    shm.create("x", 1)
    before = path.lstat()
    for way in (path, tmp_path / "link"):
        with pytest.raises(shm.ArgumentError, match=f"{path.parent}/.* is {what}. Give the path of a file"):
            getattr(shm, verb)("x" if verb == "save" else "y", way)
    after = path.lstat()
    assert (after.st_ino, after.st_mode) == (before.st_ino, before.st_mode)
    assert sorted(os.listdir(tmp_path)) == ["link", "there"]
    shm.unlink("x")


@pytest.mark.parametrize(
    ("value", "kind", "suffix", "said"),
    [
        (np.arange(3), "array", ".csv", "'x' is an array, and .*/x.csv would be loaded as a table. Give it"),
        (np.arange(3), "array", ".npz", "is an array, and .*/x.npz would be loaded as an object"),
        ([1, 2], "list", ".json", "is a list, and .*/x.json would be loaded as a dict"),
        ("text", "object", ".parquet", "is an object, and .*/x.parquet would be loaded as a table"),
        ({"a": 1}, "dict", ".pkl", "is a dict, and .*/x.pkl would be loaded as an object"),
        ([1, 2], "list", ".npy", "is a list, and .*/x.npy would be loaded as an array"),
    ],
)
def test_what_would_be_loaded_as_another_kind_is_not_saved(value, kind, suffix, said, tmp_path):
    shm.create("x", value, kind=kind)
    with pytest.raises(shm.ArgumentError, match=said):
        shm.save("x", tmp_path / f"x{suffix}")
    assert os.listdir(tmp_path) == []
    shm.save("x", tmp_path / "x.data")
    shm.load("y", tmp_path / "x.data", kind=kind)
    shm.unlink("x")
    shm.unlink("y")


def test_the_file_of_a_segment_is_not_replaced(tmp_path):
    shm.create("x", np.arange(3))
    y = shm.create("y", np.zeros(2))
    place = shm.info("y").path
    (tmp_path / "y.npy").symlink_to(place)
    for path in (place, shm.info("x").path, tmp_path / "y.npy", f"{place}_new"):
        with pytest.raises(shm.ArgumentError, match=r"is the file of a segment\. Give another path"):
            shm.save("x", path)
    assert shm.attach("y") is y
    assert shm.info("y").mine
    shm.save("x", f"{os.path.dirname(place)}/plain.npy")
    os.unlink(f"{os.path.dirname(place)}/plain.npy")


def test_a_link_stays_and_leads_to_what_is_saved(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "x.npy").symlink_to("disk/large.npy")
    shm.create("x", 7)
    for _ in range(2):  # it leads to nothing, then to a file
        shm.save("x", tmp_path / "x.npy")
        assert os.readlink(tmp_path / "x.npy") == "disk/large.npy"
        assert np.load(tmp_path / "disk" / "large.npy") == 7
    assert os.listdir(tmp_path / "disk") == ["large.npy"]
    shm.unlink("x")


@pytest.mark.parametrize("moment", ["records.of", "segments.attach"])
def test_a_dict_that_is_replaced_while_it_is_saved_is_saved_as_what_it_is_by_then(moment, tmp_path, monkeypatch):
    shm.create("x", {"a": 1})
    module, name = getattr(files, moment.partition(".")[0]), moment.partition(".")[2]
    call, times = getattr(module, name), []

    def replace(*arguments, **options):
        times.append(1)
        if len(times) == (2 if name == "of" else 1):  # `_check` has asked for the record before
            shm.create("x", [1, 2], kind="list", replace=True)
        return call(*arguments, **options)

    monkeypatch.setattr(module, name, replace)
    shm.save("x", tmp_path / "x")
    monkeypatch.undo()
    assert list(shm.load("y", tmp_path / "x", kind="list")) == [1, 2]
    for made in ("x", "y"):
        shm.unlink(made)


def test_saving_what_is_not_there_makes_no_file(npy):
    with pytest.raises(shm.NotFoundError):
        shm.save("x", npy)
    assert os.listdir(npy.parent) == []


def test_saving_keeps_nobody_attached(npy):
    shm.create("x", 1, lifetime="keep")
    shm.save("x", npy)
    assert shm.info("x").attached == ()
    shm.unlink("x")


@pytest.mark.parametrize(("value", "kinds"), [([1, "two"], ["list", "raw"]), (b"bytes", ["raw"])])
def test_a_file_whose_bytes_do_not_tell_its_kind_is_loaded_as_the_error_says(value, kinds, tmp_path):
    shm.create("x", value)
    shm.save("x", tmp_path / "x.data")
    with pytest.raises(shm.DamagedError, match="its first bytes are not those of") as caught:
        shm.load("y", tmp_path / "x.data")
    assert [cure.options["kind"] for cure in caught.value.cures] == kinds
    for cure in caught.value.cures:
        shm.load(*cure.arguments, **cure.options)
        assert shm.info("y").kind == cure.options["kind"]
        shm.save("y", tmp_path / "again.data")
        assert (tmp_path / "again.data").read_bytes() == (tmp_path / "x.data").read_bytes()
        shm.unlink("y")
    shm.unlink("x")
