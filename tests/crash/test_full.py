"""A folder that is too small: an error with the figures, no leftovers, never SIGBUS.

Each test runs in a child with mounts of its own, on a tmpfs of one MiB.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import os
from functools import partial

import numpy as np
import pytest

import shmkernel as shm
from shmkernel._core import capacity, paths, registry, sessions
from tests.helpers import left, mount, needs, run_apart, until, watchdogs

MIB = 1 << 20
CURE = "run as root, or allow user namespaces: sysctl kernel.unprivileged_userns_clone=1"


@pytest.fixture
def small(tmp_path):
    """Return a function that calls its argument on a small tmpfs; failed asserts fail the test."""

    def prepare(options):
        prevented = mount(tmp_path, options)
        if not prevented:
            os.environ["SHMKERNEL_DIR"] = str(tmp_path)
        return prevented

    return lambda work, options="size=1m": run_apart(partial(prepare, options), work, f"{{}}: {CURE}")


def fill_up(leave=0):
    """Fill the folder with a file of another program, except for some bytes."""
    with open(f"{paths.folder()}/other", "ab") as file:
        room = os.statvfs(paths.folder())
        os.posix_fallocate(file.fileno(), file.tell(), room.f_bavail * room.f_frsize - leave)


def refused(call):
    """Return the FullError that a call must raise, without changing the folder."""
    before = left(paths.folder())
    with pytest.raises(shm.FullError) as caught:
        call()
    assert left(paths.folder()) == before
    error = caught.value
    assert isinstance(error, OSError)
    assert error.errno == errno.ENOSPC
    assert error.needed > 0
    assert error.free >= 0
    assert "SHMKERNEL_DIR" in error.message
    assert "unlink" not in error.message  # no cure removes a healthy segment
    assert ("--shm-size" in error.message) == (error.needed < capacity.machine())  # no cure that would not help
    return error


@pytest.mark.parametrize("size", [MIB - 8192, MIB, 64 * MIB, 1 << 50])
def test_what_is_larger_than_the_folder_is_refused_with_the_figures(size, small):
    def work():
        shm.create("small", np.arange(1000))
        error = refused(lambda: shm.create("big", shape=size, dtype="u1"))
        assert error.needed == size + 128
        assert 900_000 < error.free < MIB
        assert (
            f"needs {capacity.human(error.needed)}, and {paths.folder()} has 1008.0 KiB free of 1.0 MiB"
            in error.message
        )
        assert ("The largest segment is small, 7.9 KiB" in error.message) == (error.free + 8128 > error.needed)

    small(work)


def test_values_that_do_not_fit_are_refused(small):
    big = np.ones(MIB // 8)

    def work():
        registry.begin()
        refused(lambda: shm.create("big", big))
        refused(lambda: shm.create("big", shape=MIB, dtype="u1", fill=1))
        assert shm.create("fits", big[::2]).sum() == MIB // 16

    small(work)


def test_a_file_that_does_not_fit_is_refused(small, tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "big.npy"
    np.save(path, np.ones(MIB // 8))
    small(lambda: (registry.begin(), refused(lambda: shm.load("big", path))))


def test_a_segment_can_be_stored_to_however_full_the_folder_is_by_now(small):
    def work():
        blank = shm.create("blank", shape=MIB // 2, dtype="u1")
        fill_up()
        blank[:] = 7
        private = shm.attach("blank", mode="c")
        private[:] = 8
        assert blank.sum() == 7 * (MIB // 2)

    small(work)


def test_creating_until_it_is_full_damages_nothing(small):
    def work():
        made = []
        with contextlib.suppress(shm.FullError):
            while True:
                made.append(shm.create(f"x{len(made)}", np.full(1000, len(made))))
        assert 50 < len(made) < 200
        for number, array in enumerate(made):
            assert (array == number).all()
            array[:] = -number
        assert len(shm.list()) == len(made)

    small(work)


def test_without_a_page_left_all_but_making_works(small):
    def work():
        x = shm.create("x", np.arange(1000))
        y = shm.create("y", np.arange(1000))
        shm.create("z", 1, lifetime="attached")
        registry.begin()
        fill_up()
        refused(lambda: shm.create("w", 1))
        refused(lambda: shm.create("x", np.zeros(3), replace=True))
        refused(lambda: shm.keep("x"))
        assert shm.info("x").lifetime == "session"
        assert shm.attach("x", mode="r").sum() == x.sum() == 499500
        assert [one.name for one in shm.list()] == ["x", "y"]
        assert shm.gc() == []
        assert shm.doctor()
        shm.unlink("x")
        del x
        gc.collect()  # the traceback of keep's error has also held it: only now are its pages freed
        assert shm.create("w", 1) + y[0] == 1

    small(work)


def test_with_room_for_the_value_but_not_for_its_record_nothing_is_made(small):
    def work():
        registry.begin()
        for pages in range(4):
            fill_up(leave=pages * 4096)
            try:
                shm.create("x", 1)
            except shm.FullError:
                assert [path for path in left(paths.folder()) if "sessions" not in path] == ["other"]
                os.unlink(f"{paths.folder()}/other")
            else:
                assert pages == 2
                break

    small(work)


@pytest.mark.parametrize("verb", ["create", "attach", "keep"])
def test_a_session_cannot_begin_in_a_full_folder(verb, small):
    def work():
        fill_up()
        call = {"create": lambda: shm.create("x", 1), "attach": lambda: shm.attach("x"), "keep": lambda: shm.keep("x")}
        refused(call[verb])
        assert sessions.mine() is None
        os.unlink(f"{paths.folder()}/other")
        assert shm.create("x", 1) == 1

    small(work)


@pytest.mark.parametrize("inodes", range(2, 20))
def test_a_folder_without_inodes_is_full_too(inodes, small):
    def work():
        with contextlib.suppress(shm.FullError):
            for number in range(20):
                shm.create(f"x{number}", number)
        made = paths.names()
        assert len(made) < 20
        assert len(registry_files()) == 2 * len(made)
        for name in made:
            assert shm.attach(name) == int(name[1:])
        for verb in (shm.list, shm.gc, shm.doctor, lambda: shm.unlink("nothing")):
            with contextlib.suppress(shm.FullError, shm.NotFoundError):  # no bare OSError
                verb()

    def registry_files():
        return [path for path in left(paths.folder()) if "sessions" not in path]

    small(work, f"size=1m,nr_inodes={inodes}")


def test_inodes_are_told_as_inodes(small):
    def work():
        registry.begin()
        with pytest.raises(shm.FullError) as caught:
            _ = [shm.create(f"x{number}", number, lifetime="keep") for number in range(40)]
        assert caught.value.limit == "inodes"
        assert "its 30 inodes are taken" in caught.value.message
        assert "nr_inodes=120" in caught.value.message
        assert "unlink" not in caught.value.message

    small(work, "size=10m,nr_inodes=30")


SYNCS = {
    "lock": lambda: shm.lock("free").acquire(),
    "publish": lambda: shm.publish("free"),
    "version": lambda: shm.version("x"),
    "wait": lambda: shm.wait("x", timeout=0),
    "snapshot": lambda: shm.snapshot("x"),
    "a first attach": lambda: shm.SharedMemory(name="block"),
}


@pytest.mark.parametrize("verb", SYNCS)
def test_what_needs_a_file_of_its_own_says_that_there_are_no_inodes(verb, small):
    def work():
        block = shm.SharedMemory("block", create=True, size=8, track=False)
        x = shm.create("x", [1], dtype=int, lifetime="keep")
        if verb == "a first attach":
            sessions.end()
            until(lambda: not watchdogs(paths.folder()), "the watchdog has given back what the session took")
        with contextlib.suppress(OSError), contextlib.ExitStack() as files:
            for number in range(40):
                files.enter_context(open(f"{paths.folder()}/other{number}", "w"))
        with pytest.raises(shm.FullError) as caught:
            SYNCS[verb]()
        assert caught.value.limit == "inodes"
        del block, x

    small(work, "size=10m,nr_inodes=30")


@pytest.mark.parametrize("call", ["pwrite", "posix_fallocate"])
def test_a_quota_is_told_as_a_quota(call, monkeypatch, shm_dir):
    """Few kernels support quotas on a tmpfs, so the OS's answer is simulated."""
    shm.create("small", 1)
    before = left(shm_dir)

    def over(*_):
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(os, call, over)
    with pytest.raises(shm.FullError, match=r"your quota in .* is used up") as caught:
        shm.create("x", np.ones(10) if call == "pwrite" else None, **({} if call == "pwrite" else {"shape": MIB}))
    assert caught.value.limit == "quota"
    assert "unlink" not in caught.value.message
    assert left(shm_dir) == before


def test_a_stream_of_unknown_length_that_does_not_fit_leaves_nothing(small):
    pa = needs("pyarrow")
    read = []

    def batches():
        for number in range(1000):
            read.append(number)
            yield pa.record_batch({"x": np.full(2000, number)})

    def work():
        small_one = shm.create("small", pa.table({"x": [1]}))
        reader = pa.RecordBatchReader.from_batches(pa.schema({"x": pa.int64()}), batches())
        refused(lambda: shm.create("big", reader))
        assert 10 < len(read) < 100  # it stopped on the way
        assert [info.name for info in shm.list()] == ["small"]
        assert shm.create("after", small_one).equals(small_one)

    small(work)
