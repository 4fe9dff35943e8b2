"""The owner of a hold: the thread, and inside a running event loop the task."""

from __future__ import annotations

import asyncio
import os
import threading

from shmkernel._core.owners import Owner


def made_elsewhere(make):
    """Return the result of `make` in a thread that has ended."""
    found = []
    thread = threading.Thread(target=lambda: found.append(make()))
    thread.start()
    thread.join()
    return found[0]


def test_another_thread_is_somebody_else_and_an_ended_one_is_known():
    owner = made_elsewhere(Owner)
    assert not owner.is_me()
    assert not owner.is_thread()
    assert owner.ended()
    assert not any(made_elsewhere(owner.is_me) for _ in range(20))  # thread idents are reused


def test_a_thread_that_a_forked_child_does_not_have_ends_in_its_process_alone():
    read, write = os.pipe()
    ready, done = threading.Event(), threading.Event()

    def wait():
        kept = Owner().at_end(lambda _: os.write(write, f"{os.getpid()} ".encode()))
        ready.set()
        done.wait()
        kept_until_the_end.append(kept)

    kept_until_the_end = []
    thread = threading.Thread(target=wait)
    thread.start()
    ready.wait()
    child = os.fork()
    if child == 0:
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    done.set()
    thread.join()
    os.close(write)
    with os.fdopen(read) as told:
        assert told.read().split() == [str(os.getpid())]


def test_another_task_of_the_thread_is_somebody_else_until_the_owner_has_ended():
    async def main():
        owner = asyncio.create_task(make())
        made = await owner
        return made, made.is_me()

    async def make():
        made = Owner()
        assert made.is_me()
        assert not await asyncio.create_task(ask(made))
        return made

    async def ask(made):
        assert made.is_thread()
        return made.is_me()

    owner, in_the_loop = asyncio.run(main())
    assert in_the_loop  # the task has ended: its thread is the owner
    assert owner.is_me()


def test_what_a_thread_holds_its_tasks_hold():
    owner = Owner()

    async def main():
        return owner.is_me()

    assert asyncio.run(main())
