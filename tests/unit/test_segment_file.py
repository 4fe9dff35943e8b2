from __future__ import annotations

import fcntl
import mmap
import os

import pytest

import shmkernel as shm
from shmkernel._core import segment_file
from tests.helpers import Child, left


def nothing(_):
    pass


def block(shm_dir, data=b"abc", size=None):
    """Make and link a segment file; return its path."""
    fd = segment_file.blank(str(shm_dir))
    segment_file.fill(fd, size or len(data), [memoryview(data)], "x", nothing)
    segment_file.link(fd, f"{shm_dir}/x")
    fd.close()
    return f"{shm_dir}/x"


@pytest.fixture
def path(shm_dir):
    yield block(shm_dir, size=10_000)
    os.unlink(f"{shm_dir}/x")


def test_a_block_has_no_name_until_it_is_whole(shm_dir):
    fd = segment_file.blank(str(shm_dir))
    assert os.fstat(fd).st_nlink == 0
    assert left(shm_dir) == []
    assert os.fstat(fd).st_mode & 0o777 == 0o600
    assert not os.get_inheritable(fd)
    fd.close()


def test_a_block_is_born_locked(shm_dir):
    for lock in (fcntl.LOCK_SH, fcntl.LOCK_EX):
        fd = segment_file.blank(str(shm_dir), lock)
        other = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(other)
        fd.close()


def test_what_the_pieces_leave_is_reserved_and_zero(path):
    found = os.stat(path)
    assert found.st_blocks * 512 >= found.st_size == 10_000
    with open(path, "rb") as file:
        assert file.read() == b"abc".ljust(10_000, b"\0")


def test_progress_counts_every_byte_that_is_written(shm_dir):
    fd, counts = segment_file.blank(str(shm_dir)), []
    segment_file.fill(fd, 100, [memoryview(b"a" * 60), memoryview(b"b" * 40)], "x", counts.append)
    fd.close()
    assert sum(counts) == 100


def test_an_overflow_in_a_piece_is_not_taken_for_want_of_room(shm_dir):
    def pieces():
        yield memoryview(b"abc")
        raise OverflowError("a fault of the kind")

    fd = segment_file.blank(str(shm_dir))
    with pytest.raises(OverflowError, match="of the kind"):
        segment_file.fill(fd, 10, pieces(), "x", nothing)
    with pytest.raises(shm.FullError):
        segment_file.fill(fd, 1 << 64, (), "x", nothing)
    fd.close()


def test_a_taken_name_is_not_overwritten(path, shm_dir):
    fd = segment_file.blank(str(shm_dir))
    with pytest.raises(FileExistsError):
        segment_file.link(fd, path)
    fd.close()


def test_an_attachment_lasts_as_long_as_its_mapping(path):
    def alone():
        fd = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            os.close(fd)
        return True

    assert alone()
    fd, found = segment_file.attach(path, "r+", "x")
    mapping = segment_file.map_(fd, found.st_size, "r+", "x")
    fd.close()
    assert not alone()
    mapping.close()
    assert alone()


@pytest.mark.parametrize("mode", ["r", "r+", "c"])
def test_modes_say_who_sees_a_change(mode, path):
    fd, found = segment_file.attach(path, mode, "x")
    mapping = segment_file.map_(fd, found.st_size, mode, "x")
    fd.close()
    if mode == "r":
        with pytest.raises(TypeError):
            mapping[0] = 1
    else:
        mapping[0] = 1
    assert segment_file.peek(path, 3, "x") == (b"\1bc" if mode == "r+" else b"abc")


@pytest.mark.parametrize("mode", ["w", "rw", "", None, "R"])
def test_other_modes_are_refused(mode):
    with pytest.raises(shm.ArgumentError, match="is unknown: r "):
        segment_file.check_mode(mode)


def test_no_descriptor_takes_the_place_of_a_standard_stream(shm_dir):
    def work(connection):
        for fd in range(3):
            os.close(fd)
        connection.send([segment_file.blank(str(shm_dir)) > 2 for _ in range(3)])

    with Child(work) as child:
        assert child.hear() == [True] * 3
        assert child.join() == 0


def test_a_mapping_leaks_into_no_program(path):
    fd, found = segment_file.attach(path, "r", "x")
    mapping = segment_file.map_(fd, found.st_size, "r", "x")
    fd.close()
    open_on_it = [fd for fd in os.listdir("/proc/self/fd") if _leads_to(fd, path)]
    assert len(open_on_it) == 1
    assert not os.get_inheritable(int(open_on_it[0]))
    assert len(mapping) == 10_000
    assert len(mapping) > mmap.PAGESIZE


def _leads_to(fd, path):
    try:
        return os.readlink(f"/proc/self/fd/{fd}") == path
    except OSError:
        return False
