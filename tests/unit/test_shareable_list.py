"""ShareableList: differences from the stdlib's class, and both on one segment. tests/stdlib tests what they share."""

from __future__ import annotations

import copy
import gc
import pickle
from multiprocessing import resource_tracker, shared_memory

import pytest

import shmkernel as shm
from shmkernel import ShareableList
from shmkernel.verbs import attachments
from tests.helpers import Child, leaving_none_open, left

ITEMS = ["howdy", b"HoWdY", -273.154, 100, None, True, 42, "é" * 9]


@pytest.fixture
def stdlib(posix_name, monkeypatch):
    """The stdlib's class without its tracker, which would unlink the memory."""
    monkeypatch.setattr(resource_tracker, "register", lambda *_: None)
    monkeypatch.setattr(resource_tracker, "unregister", lambda *_: None)
    return shared_memory.ShareableList


def test_either_class_attaches_what_the_other_made(stdlib, posix_name):
    ours = ShareableList(ITEMS, name=f"{posix_name}a")
    there = stdlib(name=ours.shm.name)
    assert list(there) == ITEMS
    there[0] = 5
    there.shm.close()
    assert ours[0] == 5
    ours.shm.unlink()

    theirs = stdlib(ITEMS[:-1], name=f"{posix_name}b")
    here = ShareableList(name=theirs.shm.name)
    assert list(here) == ITEMS[:-1]
    assert here.format == theirs.format
    here[4] = "some"
    assert theirs[4] == "some"
    theirs.shm.close()
    here.shm.unlink()


def test_the_stdlib_attaches_what_create_has_made(stdlib, posix_name):
    made = shm.create(posix_name, ITEMS)
    assert type(made) is ShareableList
    assert made.shm.name.endswith(posix_name)
    there = stdlib(name=made.shm.name)
    assert list(there) == ITEMS
    there.shm.close()
    shm.unlink(posix_name)


def test_a_list_is_owned_by_the_session_like_everything_else():
    items = ShareableList([1, 2])
    (info,) = shm.list()
    assert (info.name, info.kind, info.type, info.mine) == (f"/{items.shm.name}", "list", "2 items", True)
    assert shm.attach(info.name) is items


def test_a_pickle_leads_to_the_same_list():
    items = ShareableList(ITEMS)
    again = pickle.loads(pickle.dumps(items))
    assert again is not items
    again[3] = 101
    assert items[3] == 101


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
@pytest.mark.parametrize("mode", ["r+", "r", "c"])
def test_what_create_and_attach_give_is_copied_and_pickled_by_its_items(copied, mode):
    shm.create("x", ITEMS)
    x = shm.attach("x", mode)
    shm.create("x", [7, 8, 9], replace=True)
    again = copied(x)
    assert again == ITEMS
    again[0] = 0
    assert x[0] == ITEMS[0]


def test_a_pickle_leads_to_no_other_list_of_its_name():
    items = ShareableList([1, 2, 3], name="x")
    text = pickle.dumps(items)
    shm.create("/x", [7, 8, 9], replace=True)
    for load in (lambda: pickle.loads(text), lambda: copy.copy(items)):
        with pytest.raises(shm.NotFoundError, match="replaced"):
            load()
    shm.unlink("/x")


def test_closing_a_list_frees_its_memory_and_ends_its_use():
    items = ShareableList(ITEMS)
    iteration = iter(items)
    next(iteration)
    items.shm.close()
    assert attachments.everything() == []
    for use in (lambda: items[0], lambda: items[-1], lambda: len(items), lambda: list(items), lambda: next(iteration)):
        with pytest.raises(ValueError, match="released"):
            use()
    items.shm.unlink()


def test_a_list_is_freed_with_its_last_reference_and_no_collection():
    gc.disable()
    try:
        items = ShareableList(ITEMS)
        with leaving_none_open(but=-1):
            items.shm.unlink()
            del items
        assert attachments.everything() == []
    finally:
        gc.enable()


def test_a_generator_makes_a_list_or_leaves_nothing(shm_dir):
    def failing():
        yield 1
        raise RuntimeError("in the middle")

    assert list(ShareableList(n for n in range(3))) == [0, 1, 2]
    before = left(shm_dir)
    with pytest.raises(RuntimeError, match="in the middle"):
        ShareableList(failing())
    with pytest.raises(TypeError, match="cannot be an item"):
        ShareableList([[]])
    assert left(shm_dir) == before


def test_what_is_no_list_is_not_attached_as_one():
    block = shm.SharedMemory(create=True, size=100)
    block.buf[:] = b"x" * 100
    with pytest.raises(shm.DamagedError, match="no list"):
        ShareableList(name=block.name)
    with pytest.raises(FileNotFoundError):
        ShareableList(name="nowhere")
    assert bytes(block.buf) == b"x" * 100


def test_a_reader_sees_the_old_number_or_the_new_one_and_nothing_between():
    items = ShareableList([1, 0.5])

    def store(connection):
        connection.send("begun")
        while not connection.poll():
            items[0], items[1] = -1, -0.5
            items[0], items[1] = 1, 0.5

    with Child(store, kin=True) as writer:
        writer.hear()
        ints, floats = {items[0] for _ in range(100_000)}, {items[1] for _ in range(100_000)}
        writer.tell()
        writer.join()
    assert ints <= {1, -1}
    assert floats <= {0.5, -0.5}


def test_a_subclass_and_a_type_in_brackets_work():
    class Names(ShareableList):
        pass

    made = Names(["a"], name="x")
    assert repr(made) == "Names(['a'], name='x')"
    assert type(pickle.loads(pickle.dumps(ShareableList(name="x")))) is ShareableList
    assert ShareableList[int].__origin__ is ShareableList
