"""The end and the owner of a hold: statements, stacks, threads, tasks, forks."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from contextlib import AsyncExitStack, ExitStack

import numpy as np
import pytest

import shmkernel as shm
from shmkernel.sync import sync_file
from shmkernel.testing import remove
from tests.helpers import PATIENCE, Child, python, until
from tests.unit.test_fork import forked
from tests.unit.test_sync_locks import free, holder


class Config:
    """A class that enters a lock in its ``__enter__``."""

    def __enter__(self):
        self.lock = shm.lock("x")
        return self.lock.__enter__()

    def __exit__(self, *error):
        return self.lock.__exit__(*error)


def in_a_thread(act):
    """Return the result or error of `act` in a thread that has ended."""
    found = []

    def run():
        try:
            found.append(act())
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(PATIENCE)
    return found[0]


def test_a_stack_holds_until_it_is_left_whatever_is_nested_meanwhile():
    with ExitStack() as stack:
        stack.enter_context(shm.lock("x"))
        with shm.lock("x"):
            pass
        assert not free("x")
    assert free("x")


def test_a_class_and_a_helper_that_enter_hold():
    with Config():
        with shm.lock("x", shared=True):
            pass
        assert not free("x")
    assert free("x")

    def helper():
        return shm.lock("x").__enter__()

    lock = helper()
    assert not free("x")
    lock.__exit__(None, None, None)
    assert free("x")


def test_writing_in_a_stack_lets_the_writer_copy_and_nobody_else_write():
    x = shm.create("x", np.zeros(3))
    with ExitStack() as stack:
        stack.enter_context(shm.writing(x))
        x[:] = 1
        assert shm.snapshot(x).tolist() == [1, 1, 1]
        assert not free("x")
    assert free("x")


def test_a_frame_may_be_put_under_the_lock_of_the_ring_and_the_lock_is_held_on():
    ring = shm.create("frames", ring=3, shape=2)
    with ExitStack() as stack:
        stack.enter_context(shm.lock("frames"))
        assert (ring.put([1, 2]), ring.put([3, 4])) == (1, 2)
        with ring.slot() as out:
            out[:] = 5
        assert not free("frames")
    assert free("frames")
    assert ring.newest == 3


def test_a_slot_in_a_stack_is_published_when_the_stack_is_left():
    ring = shm.create("frames", ring=3, shape=2)
    with ExitStack() as stack:
        out = stack.enter_context(ring.slot())
        out[:] = 7
        assert ring.newest == 0
    assert (ring.newest, ring.latest().tolist()) == (1, [7, 7])


def test_a_lock_may_be_let_go_inside_its_block_and_taken_again():
    lock = shm.lock("x")
    with lock:
        lock.release()
        assert free("x")
        lock.acquire()
        assert not free("x")
    assert free("x")


def test_a_collected_generator_leaves_wherever_it_is_collected():
    def generate():
        with shm.lock("x"):
            yield

    for collect in (lambda act: act(), in_a_thread):
        kept = [generate()]
        next(kept[0])
        assert not free("x")
        collect(kept.clear)
        assert free("x")


def test_to_leave_in_another_thread_is_an_error_while_the_owner_lives_and_works_afterwards():
    lock = shm.lock("x")
    lock.acquire()
    assert "held by another thread" in str(in_a_thread(lock.release))
    assert not free("x")
    lock.release()
    in_a_thread(lock.acquire)
    assert in_a_thread(lambda: lock.acquire(block=False)) is False  # a new thread, perhaps with the same ident
    lock.release()
    assert free("x")


def test_a_block_on_the_event_loop_is_refused_at_once_where_another_task_holds():
    async def main():
        async def one():
            with shm.lock("x"):
                held.set()
                await left.wait()

        async def two():
            await held.wait()
            assert shm.lock("x").acquire(block=False) is False
            with pytest.raises(shm.LockError, match=r"async with shm.lock\('x'\):"), shm.lock("x"):
                pass
            left.set()
            async with shm.lock("x"):
                return "in"

        held, left = asyncio.Event(), asyncio.Event()
        return await asyncio.gather(one(), two())

    assert asyncio.run(main()) == [None, "in"]
    assert free("x")


def test_a_block_is_refused_where_a_task_of_this_loop_waits_before_it():
    async def main():
        async def one():
            async with shm.lock("x"):
                pass

        task = asyncio.create_task(one())
        while not sync_file.opened("x").queued:  # noqa: ASYNC110  it sends no event
            await asyncio.sleep(0)
        with pytest.raises(shm.LockError, match="waits for it"), shm.lock("x"):
            pass
        child.tell()
        await task

    with holder("x") as child:
        asyncio.run(main())
    assert free("x")


def test_tasks_that_share_do_not_hold_each_other_up():
    async def one(number):
        with shm.lock("x", shared=True):
            await asyncio.sleep(0)
            return number

    async def main():
        return await asyncio.gather(*map(one, range(3)))

    assert asyncio.run(main()) == [0, 1, 2]
    assert free("x")


def test_tasks_exclude_each_other_inside_what_their_thread_holds():
    async def one(log):
        async with shm.lock("x"):
            log.append("in")
            await asyncio.sleep(0)
            log.append("out")

    async def main():
        log = []
        await asyncio.gather(one(log), one(log))
        return log

    with shm.lock("x"):
        assert asyncio.run(main()) == ["in", "out"] * 2
        assert not free("x")
    assert free("x")


def test_what_a_task_that_has_ended_holds_its_thread_leaves():
    async def cell(act):
        act()

    lock = shm.lock("x")
    asyncio.run(cell(lock.acquire))
    assert not free("x")
    asyncio.run(cell(lock.release))
    assert free("x")


def test_a_wait_that_is_limited_or_cancelled_leaves_no_trace_and_one_that_succeeds_is_the_callers():
    async def main():
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(shm.lock("x").__aenter__(), 0.02)
        child.tell()
        lock = shm.lock("x")
        await asyncio.wait_for(lock.__aenter__(), PATIENCE)
        assert not free("x")
        with shm.lock("x"):
            pass
        await lock.__aexit__(None, None, None)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(shm.lock("x"))
            assert not free("x")

    with holder("x") as child:
        asyncio.run(main())
    assert free("x")


def test_a_slot_waits_for_another_task_and_a_task_that_is_cancelled_in_it_publishes_nothing():
    ring = shm.create("frames", ring=3, shape=2)

    async def fill(value, entered, leave):
        async with ring.slot() as out:
            out[:] = value
            entered.set()
            await leave.wait()

    async def main():
        entered, leave = asyncio.Event(), asyncio.Event()
        first = asyncio.create_task(fill(1, entered, leave))
        await entered.wait()
        with pytest.raises(shm.LockError, match="async with"):
            ring.put([0, 0])
        second = asyncio.create_task(fill(2, asyncio.Event(), leave))
        await asyncio.sleep(0)
        first.cancel()
        leave.set()
        await asyncio.gather(first, second, return_exceptions=True)

    asyncio.run(main())
    assert (ring.newest, ring.latest().tolist()) == (1, [2, 2])


@pytest.mark.parametrize("how", ["statement", "stack", "explicit"])
def test_leaving_in_a_forked_child_does_nothing(how):
    ring = shm.create("frames", ring=3, shape=2)
    stack = ExitStack()

    def leave():
        stack.close()
        if how == "explicit":
            lock.release()
        return f"{ring.newest} {shm.lock('x').acquire(block=False)}"

    lock = shm.lock("x")
    if how == "stack":
        stack.enter_context(lock)
        stack.enter_context(ring.slot())[:] = 1
        assert forked(leave) == "0 False"
    elif how == "explicit":
        lock.acquire()
        assert forked(leave) == "0 False"
        lock.release()
    else:
        with lock, ring.slot() as out:
            out[:] = 1
            pid = os.fork()
            if pid:
                assert os.waitpid(pid, 0)[1] == 0
        if not pid:  # left in the child
            os._exit(leave() != "0 False")
    stack.close()
    assert free("x")


def test_a_child_that_is_forked_beside_threads_that_lock_takes_and_leaves_what_it_likes():
    stop = threading.Event()

    def work():
        while not stop.is_set():
            with shm.lock("x"):
                shm.publish("y")

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(20):

            def child(connection):
                for _ in range(3):
                    with shm.lock("x", timeout=PATIENCE):
                        shm.publish("y")
                connection.send("done")

            with Child(child) as one:
                assert one.hear() == "done"
                assert one.join() == 0
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert free("x")


@pytest.mark.parametrize("timeout", [-1, float("nan"), "soon", [], object()])
def test_a_timeout_that_makes_no_sense_is_refused(timeout):
    for wait in (
        lambda: shm.lock("x", timeout=timeout),
        lambda: shm.lock("x").acquire(timeout=timeout),
        lambda: shm.wait("x", timeout=timeout),
    ):
        with pytest.raises(shm.ArgumentError, match="is not a number of seconds, 0 or more"):
            wait()


@pytest.mark.parametrize("timeout", [np.float32(0.01), np.int64(0), 0.01])
def test_numbers_of_numpy_are_timeouts_and_a_lock_has_its_own(timeout):
    with holder("x"):
        assert shm.lock("x", timeout=timeout).acquire() is False
        assert shm.lock("x").acquire(timeout=timeout) is False
    with pytest.raises(TimeoutError):
        shm.wait("x", timeout=timeout)


def test_what_is_left_of_locks_is_told_and_removed_even_after_a_death(shm_dir):
    with holder("x") as child:
        child.end()
    with holder("y") as child:
        child.tell()
        child.join()
    gc.collect()
    sync_file._recent.cache_clear()
    assert sorted(shm.gc(dry_run=True)) == [("lock of x", 4096), ("lock of y", 4096)]
    assert sorted(shm.gc()) == [("lock of x", 4096), ("lock of y", 4096)]
    assert not list(shm_dir.glob(".shmk-*/sync/*"))


def test_a_folder_whose_name_is_not_utf_8_has_locks_and_streams(shm_dir):
    script = """
import os, sys
odd = os.fsencode(sys.argv[1]) + b"/caf\\xe9"
os.mkdir(odd)
os.chdir(odd)
os.environ["SHMKERNEL_DIR"] = os.fsdecode(odd)
import shmkernel as shm
ring = shm.create("frames", ring=2, shape=2)
with shm.lock("x"), shm.writing("frames"):
    print(ring.put([1, 2]), shm.publish("x"))
shm.unlink("frames")
"""
    try:
        assert python(script, shm_dir).stdout == "1 1\n"
    finally:
        until(lambda: not [*shm_dir.glob("caf*/.shmk-*/sessions/*")], "the watchdog has swept")
        remove(shm_dir / os.fsdecode(b"caf\xe9"))
