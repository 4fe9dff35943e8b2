"""SharedMemory: differences from the stdlib's class, and both on one segment. tests/stdlib tests what they share."""

from __future__ import annotations

import contextlib
import copy
import errno
import gc
import os
import pickle
import threading
from multiprocessing import resource_tracker, shared_memory

import numpy as np
import pytest

import shmkernel as shm
from shmkernel import ShareableList, SharedMemory
from shmkernel._core import paths, registry
from shmkernel.verbs import attachments
from tests.helpers import holding, leaving_none_open, left, python, until_left

MAKES = "import shmkernel; block = shmkernel.SharedMemory(create=True, size=10); print(block.name)"
ATTACHES = "import sys, shmkernel; block = shmkernel.SharedMemory(sys.argv[1]); print(bytes(block.buf[:3]))"


@pytest.fixture
def stdlib(posix_name, monkeypatch):
    """The stdlib's class without its tracker, which would unlink the memory."""
    monkeypatch.setattr(resource_tracker, "register", lambda *_: None)
    monkeypatch.setattr(resource_tracker, "unregister", lambda *_: None)
    return shared_memory.SharedMemory


def test_either_class_attaches_what_the_other_made(stdlib, posix_name):
    ours = SharedMemory(f"{posix_name}a", create=True, size=10)
    ours.buf[:3] = b"abc"
    there = stdlib(ours.name)
    assert bytes(there.buf[:3]) == b"abc"
    there.buf[0] = ord("x")
    there.close()
    assert bytes(ours.buf[:3]) == b"xbc"
    ours.unlink()

    theirs = stdlib(f"{posix_name}b", create=True, size=10)
    here = SharedMemory(theirs.name)
    here.buf[:3] = b"abc"
    assert bytes(theirs.buf[:3]) == b"abc"
    theirs.close()
    here.unlink()


def test_the_stdlib_attaches_what_create_has_made(stdlib, posix_name):
    x = shm.create(posix_name, b"abc")
    there = stdlib(x.name)
    assert bytes(there.buf) == b"abc"
    there.close()
    shm.unlink(posix_name)


def test_a_block_is_owned_by_the_session_like_everything_else():
    block = SharedMemory(create=True, size=10)
    (info,) = shm.list()
    assert (info.name, info.kind, info.size, info.mine, info.lifetime) == (f"/{block.name}", "raw", 10, True, "session")
    assert shm.attach(f"/{block.name}") is block
    kept = SharedMemory("kept", create=True, size=10, track=False)
    assert shm.info("/kept").lifetime == "keep"
    kept.unlink()


def test_a_process_that_only_attached_a_block_destroys_nothing():
    block = SharedMemory(create=True, size=3)
    block.buf[:] = b"abc"
    assert python(ATTACHES, block.name).stdout == "b'abc'\n"
    assert bytes(SharedMemory(block.name).buf) == b"abc"


def test_a_program_that_closes_nothing_prints_nothing_and_leaves_nothing(shm_dir):
    done = python(MAKES, flags=["-X", "dev"])
    assert done.stdout.startswith("psm_")
    assert done.stderr == ""
    until_left(shm_dir)


def test_a_block_too_large_raises_and_leaves_nothing(shm_dir):
    registry.begin()
    gc.collect()  # what earlier tests have left
    with leaving_none_open():
        with pytest.raises(OSError, match=r"needs 1024\.0 TiB") as raised:
            SharedMemory("x", create=True, size=1 << 50)
        assert raised.value.errno == errno.ENOSPC
        assert [path for path in left(shm_dir) if "sessions" not in path] == []
        del raised
        gc.collect()
    with pytest.raises(FileNotFoundError):
        SharedMemory("x")


def test_memory_is_reserved_unless_the_block_is_sparse():
    full = SharedMemory("full", create=True, size=1 << 20)
    empty = SharedMemory("sparse", create=True, size=1 << 40, sparse=True)
    assert os.stat(paths.path_of("/full")).st_blocks * 512 == full.size
    assert os.stat(paths.path_of("/sparse")).st_blocks == 0
    empty.buf[-1] = 1
    assert SharedMemory("sparse").buf[-1] == 1


def test_an_array_over_the_bytes_outlives_close_and_the_handle():
    block = SharedMemory(create=True, size=80)
    values = np.ndarray(10, float, block.buf)
    values[:] = np.arange(10)
    view = block.buf[:8]
    block.close()
    assert block.buf is None
    block.unlink()
    del block
    gc.collect()
    assert values.sum() == 45
    assert bytes(view) == bytes(8)
    assert [one.name.startswith("/psm_") for one in attachments.everything()] == [True]
    del values, view
    assert attachments.everything() == []


def test_close_under_a_living_view_leaks_no_descriptor():
    SharedMemory("first", create=True, size=1)
    for _ in range(10):
        with leaving_none_open():
            with leaving_none_open(but=1):
                block = SharedMemory("first")
            view = block.buf[:1]
            block.close()
            block.close()
            del view


def test_a_failed_attach_unlinks_nothing_and_leaks_nothing(shm_dir):
    SharedMemory("other", create=True, size=1)
    (shm_dir / "empty").touch()
    with leaving_none_open(), pytest.raises(ValueError, match="empty"):
        SharedMemory("empty")
    assert (shm_dir / "empty").exists()
    (shm_dir / "empty").unlink()


def test_a_taken_name_stays_what_it_is():
    first = SharedMemory("x", create=True, size=1)
    with pytest.raises(FileExistsError, match="taken"):
        SharedMemory("x", create=True, size=2)
    assert SharedMemory("x").size == first.size
    assert len(shm.list()) == 1


def test_no_one_sees_a_block_before_it_has_its_size():
    sizes, over = set(), threading.Event()

    def look():
        while not over.is_set():
            with contextlib.suppress(FileNotFoundError):
                sizes.add(SharedMemory("x").size)

    SharedMemory("begin", create=True, size=1)
    looking = threading.Thread(target=look)
    looking.start()
    for _ in range(200):
        block = SharedMemory("x", create=True, size=4096)
        block.close()
        block.unlink()
    over.set()
    looking.join()
    assert sizes <= {4096}


def test_the_second_unlink_is_an_error():
    block = SharedMemory(create=True, size=1)
    block.unlink()
    with pytest.raises(FileNotFoundError):
        block.unlink()
    assert block.buf[0] == 0


def test_a_subclass_may_open_or_create():
    class Either(SharedMemory):
        _flags = os.O_CREAT | os.O_RDWR

    made = Either("x", size=10)
    assert Either("x", size=20).size == made.size == 10
    with pytest.raises(FileNotFoundError):
        Either("y")
    assert repr(made) == "Either('x', size=10)"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"name": "a/b"}, ValueError),
        ({"name": "a\0b"}, ValueError),
        ({"name": ""}, ValueError),
        ({"name": ".."}, ValueError),
        ({"name": "nowhere"}, FileNotFoundError),
        ({"name": "x", "create": True, "size": 1.5}, TypeError),
        ({"create": True}, ValueError),
        ({"create": True, "size": -1}, ValueError),
        ({}, ValueError),
    ],
    ids=str,
)
def test_errors_have_the_stdlibs_types(arguments, error, shm_dir):
    with pytest.raises(error):
        SharedMemory(**arguments)
    assert [path for path in left(shm_dir) if "sessions" not in path] == []


def test_a_pickle_of_a_handle_leads_to_the_block():
    block = SharedMemory(create=True, size=3)
    again = pickle.loads(pickle.dumps(block))
    assert again is not block
    again.buf[:] = b"abc"
    assert bytes(copy.copy(block).buf) == b"abc"
    assert bytes(copy.deepcopy(block).buf) == b"abc"


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
@pytest.mark.parametrize("mode", ["r+", "r", "c"])
def test_what_create_and_attach_give_is_copied_and_pickled_by_its_bytes(copied, mode):
    made = shm.create("x", b"abc")
    x = shm.attach("x", mode)
    shm.create("x", b"other", replace=True)
    again = copied(x)
    assert again == b"abc"
    again[0] = 0
    assert bytes(made.buf) == b"abc"
    x.close()
    with pytest.raises(shm.ArgumentError, match="closed"):
        pickle.dumps(x)


@pytest.mark.parametrize("closed", [False, True])
def test_a_pickle_of_a_handle_leads_to_no_other_block_of_its_name(closed):
    block = SharedMemory("x", create=True, size=3)
    if closed:
        block.close()
    text = pickle.dumps(block)
    assert pickle.loads(text).size == 3
    shm.unlink("/x")
    with pytest.raises(FileNotFoundError):
        pickle.loads(text)
    other = SharedMemory("x", create=True, size=3)
    with pytest.raises(shm.NotFoundError, match="replaced"):
        pickle.loads(text)
    with pytest.raises(shm.NotFoundError, match="replaced"):
        copy.copy(block)
    other.unlink()


def test_a_closed_handle_is_not_given_out_again():
    x = shm.create("x", b"abc")
    view = x.buf[:]
    x.close()
    again = shm.attach("x")
    assert again is not x
    assert bytes(again.buf) == bytes(view) == b"abc"


def test_a_handle_of_an_array_is_not_given_out_as_the_array():
    block = SharedMemory(shm.create("x", np.arange(3)) is not None and f"{paths.prefix()}x")
    assert block.size == shm.info("x").size
    assert shm.attach("x").tolist() == [0, 1, 2]
    assert {one.name for one in attachments.everything()} == {"x"}


def test_the_last_handle_of_a_block_that_lives_while_attached_unlinks_it():
    other = holding(lambda: shm.create("x", b"abc", lifetime="attached"))
    block = SharedMemory(f"{paths.prefix()}x")
    other.tell()
    assert other.join() == 0
    assert "x" in shm.session
    block.close()
    assert "x" not in shm.session


def test_a_forked_child_shares_its_parents_handle():
    block = SharedMemory(create=True, size=3)

    def work(block=block):
        block.buf[:] = b"abc"
        block.close()
        return ()

    child = holding(work)
    child.tell()
    assert child.join() == 0
    assert bytes(block.buf) == b"abc"
    assert shm.list()[0].name == f"/{block.name}"


def test_the_stdlibs_name_of_a_block_is_told_with_the_slash_that_it_has_here():
    block = shm.SharedMemory(create=True, size=10)
    with pytest.raises(shm.NotFoundError, match=rf"Did you mean /{block.name}\?"):
        shm.attach(block.name)
    assert bytes(shm.attach(f"/{block.name}").buf) == bytes(10)
    block.unlink()


@pytest.mark.parametrize("make", [{}, {"create": True, "size": 9}])
@pytest.mark.parametrize("name", [5, b"blk", 5.0, True, ("a",)])
def test_a_name_that_is_no_text_is_a_type_error_as_in_the_stdlib(name, make):
    for block in (SharedMemory, shared_memory.SharedMemory):
        with pytest.raises(TypeError):
            block(name=name, **make)
    with pytest.raises(TypeError):
        ShareableList([1] if make else None, name=name)


@pytest.mark.parametrize("make", [{}, {"create": True, "size": 9}])
@pytest.mark.parametrize("name", ["", "/", "a/b", "x" * 300])
def test_a_name_that_cannot_be_is_an_os_error_as_in_the_stdlib(name, make):
    for block in (SharedMemory, shared_memory.SharedMemory):
        with pytest.raises(OSError) as caught:
            block(name=name, **make)
        assert caught.value.errno in (errno.EINVAL, errno.ENAMETOOLONG)  # as the C library has it
    assert isinstance(pickle.loads(pickle.dumps(theirs := caught.value)), type(theirs))
    with pytest.raises(shm.ArgumentError):
        SharedMemory(name=name, **make)


def test_a_name_that_is_taken_proposes_what_the_class_can_do():
    block = SharedMemory("words_taken", create=True, size=9)
    with pytest.raises(FileExistsError, match="'words_taken' is taken by another block") as caught:
        SharedMemory("words_taken", create=True, size=9)
    assert "replace" not in str(caught.value)
    block.unlink()
