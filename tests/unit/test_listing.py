from __future__ import annotations

import os
import time

import numpy as np
import pytest

import shmkernel as shm
from shmkernel._core import identity, paths, registry, segment_file, sessions
from shmkernel.kinds.preview import Look
from shmkernel.monitor.preview import of as looked
from tests.helpers import holding, kill_watchdogs, needs
from tests.unit.elsewhere import answering, elsewhere


def test_nothing_shared_is_an_empty_list():
    assert shm.list() == []


def test_info_tells_all_that_is_known():
    before = time.time()
    x = shm.create("ds.x", np.asfortranarray(np.ones((2, 3), "i2")))
    found = shm.info("ds.x")
    assert (found.name, found.kind, found.type, found.size) == ("ds.x", "array", "int16 (2, 3)", 128 + x.nbytes)
    assert (found.dtype, found.shape, found.order) == ("int16", (2, 3), "F")
    assert (found.mine, found.owner_alive, found.owner_pid) == (True, True, os.getpid())
    assert (found.lifetime, found.state, found.elsewhere) == ("session", "", False)
    assert [one.pid for one in found.attached] == [os.getpid()]
    assert found.path == paths.path_of("ds.x")
    assert before <= found.created <= time.time()
    assert shm.list() == [found]


def test_a_structured_dtype_is_told_in_short():
    shm.create("x", np.zeros(2, [("a", "i4"), ("b", "f8")]))
    assert shm.info("x").type == "struct[2] (2,)"


def test_segments_are_listed_by_name_with_owner_and_holders():
    with elsewhere(lambda: shm.create("b", 1), "b.ipynb"), elsewhere(lambda: (shm.attach("b"), shm.create("a", 1))):
        b = shm.attach("b")
        first, second = shm.list()
        assert (first.name, first.owner, first.mine) == ("a", "plot.ipynb", False)
        assert (second.name, second.owner) == ("b", "b.ipynb")
        assert {one.label for one in second.attached} == {"b.ipynb", "plot.ipynb", sessions.mine().label}
        assert b == 1


def test_holders_are_listed_by_name_and_this_process_first():
    shm.create("x", 1)
    with elsewhere(lambda: shm.attach("x"), "z.ipynb"), elsewhere(lambda: shm.attach("x"), "b.ipynb"):
        x = shm.attach("x")
        first, *others = shm.info("x").attached
        assert first.pid == os.getpid()
        assert [one.label for one in others] == ["b.ipynb", "z.ipynb"]
        assert shm.list()[0].attached == (first, *others)
        del x


def test_memory_that_only_this_process_still_has_is_listed():
    old = shm.create("x", np.arange(3))
    new = shm.create("x", np.arange(4), replace=True)
    assert [(one.shape, one.state) for one in shm.list()] == [((4,), ""), ((3,), "replaced")]
    shm.unlink("x")
    assert [(one.shape, one.state) for one in shm.list()] == [((3,), "unlinked"), ((4,), "unlinked")]
    assert shm.info("x").state == "unlinked"
    del old, new
    assert shm.list() == []


@pytest.mark.parametrize("value", [np.arange(3000), [1, "a"] * 2000, {"a": 1}], ids=["array", "list", "dict"])
def test_memory_without_a_name_whose_file_is_shortened_is_listed_as_damaged(value):
    x = shm.create("x", value)
    with open(shm.info("x").path, "r+b") as file:  # as another process that has it open
        shm.unlink("x")
        size = shm.info("x").size
        for length in (100, 0):  # the first page stays, then none
            file.truncate(length)
            row = shm.info("x")
            assert (row.state, row.type, row.size) == ("unlinked", "damaged: its file became shorter", size)
            assert shm.list() == [row]
            assert looked(row, Look()).facts["note"] == "its file became shorter"
        file.truncate(size)  # a dict writes there when it is closed
    del x


@pytest.mark.parametrize("way", ["unlinked", "replaced"])
def test_who_still_has_memory_without_a_name_is_listed_in_every_process(way):
    kept = []
    with answering(lambda word: kept.append(shm.attach("x")) if word == "attach" else shm.list()[-1]) as other:
        x = shm.create("x", np.arange(3))
        other.tell("attach")
        other.hear()
        shm.unlink("x") if way == "unlinked" else shm.create("x", 1, replace=True)
        here = shm.list()[-1]
        assert (here.state, here.shape) == (way, (3,))
        assert [(one.pid, one.label) for one in here.attached] == [
            (os.getpid(), sessions.mine().label), (other.pid, "plot.ipynb")
        ]  # fmt: skip
        other.tell("list")
        there = other.hear()
        assert (there.state, [one.pid for one in there.attached]) == (way, [other.pid, os.getpid()])
    assert [one.pid for one in shm.list()[-1].attached] == [os.getpid()]
    del x


def test_an_ended_owner_is_told(shm_dir):
    with holding(lambda: shm.create("x", 1, lifetime="keep")) as child:
        kill_watchdogs(shm_dir)
        child.end()
    found = shm.info("x")
    assert (found.owner_alive, found.attached, found.lifetime) == (False, (), "keep")
    shm.unlink("x")
    assert shm.gc() == []


def test_a_child_of_a_session_is_called_one():
    with elsewhere(lambda: (shm.create("x", 1), os.fork() or (shm.attach("x", "r"), time.sleep(1000)))) as child:
        children = {one.label for one in shm.info("x").attached}
        assert "plot.ipynb" in children
        with open(f"/proc/{child.pid}/task/{child.pid}/children") as file:
            pids = list(map(int, file.read().split()))
        for pid in pids:
            os.kill(pid, 9)


def test_files_of_other_programs_are_listed_too(shm_dir):
    with open(paths.path_of("x"), "wb") as file:
        np.save(file, np.arange(3))
    found = shm.info("x")
    assert (found.kind, found.type, found.owner, found.lifetime) == ("array", "int64 (3,)", "another program", "keep")
    shm.unlink("x")
    assert paths.names() == []
    assert shm_dir.exists()


def test_posix_names_that_were_made_here_are_listed():
    x = shm.create("/posix", np.arange(3))
    assert [one.name for one in shm.list()] == ["/posix"]
    shm.unlink("/posix")
    assert x.tolist() == [0, 1, 2]


def test_a_segment_that_is_replaced_while_it_is_read_is_not_called_damaged(monkeypatch):
    """Its first bytes tell the kind, and then its last ones are read."""
    table = needs("pyarrow").table
    glance, replaced = segment_file.glance, []

    def and_replace(*arguments):
        seen = glance(*arguments)
        if not replaced:
            replaced.append(shm.create("x", b"no table", replace=True))
        return seen

    shm.create("x", table({"a": [1, 2]}))
    monkeypatch.setattr(segment_file, "glance", and_replace)
    assert (shm.info("x").kind, shm.info("x").state) == ("raw", "")


def test_a_segment_that_is_unlinked_while_it_is_read_is_not_listed(monkeypatch):
    table = needs("pyarrow").table
    glance = segment_file.glance

    def and_unlink(*arguments):
        seen = glance(*arguments)
        shm.unlink("x")
        return seen

    shm.create("x", table({"a": [1, 2]}))
    monkeypatch.setattr(segment_file, "glance", and_unlink)
    assert shm.list() == []


@pytest.mark.parametrize("name", ["no name", "", None])
def test_info_of_a_bad_name_is_an_error(name):
    with pytest.raises(shm.ArgumentError):
        shm.info(name)


@pytest.mark.parametrize("container", [True, False])
def test_a_container_s_listing_takes_the_lock_of_names_once_for_all_that_nobody_here_has(monkeypatch, container):
    monkeypatch.setattr(identity, "INITIAL", -1 if container else identity.pid_namespace())
    for name in "abc":
        shm.create(name, 1)
    taken = []
    locked = registry.locked
    monkeypatch.setattr(registry, "locked", lambda: taken.append(1) or locked())
    assert [one.attached for one in shm.list()] == [(), (), ()]
    assert taken == [1] * container
