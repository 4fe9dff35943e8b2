"""The operations that the part `interrupts` interrupts: each leaves everything as it was before, if it completes.

The segments ``the_array``, ``the_list``, ... exist and are attached; ``a_free_name`` leads to nothing. An operation
makes others under the name ``new``, and removes them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

import shmkernel as shm
from shmkernel._core import sessions
from tests.prove.kinds import KINDS

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.prove.kinds import Subject

attached: dict[str, Any] = {}  # what `prepare` has attached


def prepare() -> None:
    """Attach what the operations use; the process that comes first creates it."""
    for subject in KINDS:
        name = f"the_{subject.name}"
        try:
            attached[name] = shm.attach(name)
        except shm.NotFoundError:
            attached[name] = subject.create(name, 1, lifetime="keep")  # both processes end their sessions


def _whole(subject: Subject, value: Any) -> None:
    found = subject.stamps(value)
    assert len(found) == 1, f"torn: {found}"


def _create(subject: Subject, **options: Any) -> None:
    _whole(subject, subject.create("new", 2, **options))
    shm.unlink("new")


def _replace(subject: Subject) -> None:
    old = subject.create("new", 2)
    _whole(subject, subject.create("new", 3, replace=True))
    _whole(subject, old)
    shm.unlink("new")


def _let_go(subject: Subject) -> None:
    """The last one lets go of a segment of lifetime attached, which unlinks it."""
    value = subject.create("brief", 2, lifetime="attached")
    del value


def _attach(subject: Subject) -> None:
    """Attach in a mode in which nothing else here is attached, so that it is mapped anew."""
    _whole(subject, shm.attach(f"the_{subject.name}", "r"))
    shm.close(f"the_{subject.name}")
    attached[f"the_{subject.name}"] = shm.attach(f"the_{subject.name}")


def _attach_again(subject: Subject) -> None:
    again = shm.attach(f"the_{subject.name}")
    assert subject.fresh or again is attached[f"the_{subject.name}"]


def _attach_in_each_form(subject: Subject) -> None:
    for form in subject.forms:
        value = shm.attach(f"the_{subject.name}", as_=form)
        if form != "duckdb":  # which makes errors of its own of an interrupt of its query
            _whole(subject, value)


def _change(subject: Subject) -> None:
    with shm.lock(f"the_{subject.name}"):
        if subject.change is not None:
            subject.change(attached[f"the_{subject.name}"], 4)
    if subject.change is not None:
        shm.publish(f"the_{subject.name}")


def _save_and_load(subject: Subject) -> None:
    if subject.value is None:
        return
    path = f"{os.environ['SHMKERNEL_DIR']}/saved{subject.suffix}"
    subject.save(f"the_{subject.name}", path)
    _whole(subject, subject.load("new", path))
    os.unlink(path)
    shm.unlink("new")


def _keep(subject: Subject) -> None:
    subject.create("new", 2)
    shm.keep("new")
    shm.keep("new", "session")
    shm.unlink("new")


def _list() -> None:
    for one in shm.list():
        shm.info(one.name)
    shm.gc()
    shm.version("a_free_name")


def _lock() -> None:
    with shm.lock("the_array"):
        pass


def _lock_shared() -> None:
    with shm.lock("the_array", shared=True, timeout=5), shm.lock("the_array", shared=True):
        pass


def _lock_nested() -> None:
    with shm.lock("the_array"), shm.lock("the_array", shared=True), shm.lock("a_free_name"), shm.lock("the_array"):
        pass


def _lock_in_a_stack() -> None:
    with contextlib.ExitStack() as stack:
        stack.enter_context(shm.lock("the_array"))


def _lock_in_a_generator() -> None:
    def generate() -> Any:
        with shm.lock("the_array"):
            yield 1

    for _ in generate():
        break


def _lock_by_a_decorator() -> None:
    @contextlib.contextmanager
    def entered() -> Any:
        with shm.lock("the_array"):
            yield

    @entered()
    def inside() -> None:
        pass

    inside()


def _lock_explicitly() -> None:
    lock = shm.lock("the_array")
    lock.acquire()
    lock.release()


def _lock_in_vain() -> None:
    with contextlib.suppress(TimeoutError):
        shm.lock("theirs", timeout=0.0002).acquire()


async def _in_two_tasks(enter: Callable[[], Any]) -> None:
    async def one() -> None:
        async with enter():
            await asyncio.sleep(0)

    await asyncio.gather(one(), one())


def _in_tasks(name: str, method: str) -> None:
    asyncio.run(_in_two_tasks(getattr(attached[name], method)))


def _lock_in_tasks() -> None:
    asyncio.run(_in_two_tasks(partial(shm.lock, "the_array")))


def _writing() -> None:
    with shm.writing("the_array"):
        shm.snapshot(attached["the_array"])
    shm.snapshot(attached["the_array"])


def _stream() -> None:
    ring = attached["the_ring"]
    with ring.slot() as out:
        out[:] = 5
    ring.put(np.full(out.shape, 6))
    ring.latest()


def _publish() -> None:
    shm.publish("the_array")
    shm.version("the_array")


def _publish_anew() -> None:
    """Make a sync file, and remove it."""
    shm.publish("a_free_name")
    shm.gc()


def _wait() -> None:
    with contextlib.suppress(TimeoutError):
        shm.wait("the_array", timeout=0.0002)
    with contextlib.suppress(TimeoutError):
        shm.wait("a_free_name", since=-1, timeout=0.0002)


def _changes() -> None:
    async def follow() -> None:
        following = shm.changes("the_array")
        soon = asyncio.ensure_future(anext(following))
        await asyncio.sleep(0.001)
        shm.publish("the_array")
        await soon
        await following.aclose()

    asyncio.run(follow())


def _transaction() -> None:
    the_dict = attached["the_dict"]
    with the_dict.transaction():
        for key in the_dict:
            the_dict[key] = 7
        with the_dict.transaction():
            the_dict["0"] = the_dict["1"]


def _transaction_in_a_stack() -> None:
    the_dict = attached["the_dict"]
    with contextlib.ExitStack() as stack:
        stack.enter_context(the_dict.transaction())
        the_dict["0"] = the_dict["1"]


def _single_changes() -> None:
    the_dict = attached["the_dict"]
    the_dict["n"] = 1
    the_dict.increment("n")
    the_dict.update({"more": [1, 2], "large": np.zeros(20_000)})
    for key in ("n", "more", "large"):
        the_dict.pop(key, None)


def _reopen_a_dict() -> None:
    """Open the store of a dict anew: nothing here refers to it."""
    attached.pop("the_dict", None)
    attached["the_dict"] = shm.attach("the_dict")
    len(attached["the_dict"])


def _session() -> None:
    sessions.end()
    sessions.begin()


def _block() -> None:
    block = shm.SharedMemory(create=True, size=100)
    other = shm.SharedMemory(block.name)
    other.close()
    block.close()
    block.unlink()


def _shareable_list() -> None:
    made = shm.ShareableList([1, "two", None])
    assert shm.ShareableList(name=made.shm.name)[1] == "two"
    made.shm.close()
    made.shm.unlink()


_OF_KINDS = {
    "create": _create,
    "replace": _replace,
    "create kept": partial(_create, lifetime="keep"),
    "let go of the last": _let_go,
    "attach": _attach,
    "attach again": _attach_again,
    "attach in each form": _attach_in_each_form,
    "change under a lock": _change,
    "save and load": _save_and_load,
    "keep": _keep,
}
VERBS = {f"{verb} {subject.name}": verb for subject in KINDS for verb in _OF_KINDS}
OPERATIONS: dict[str, Callable[[], object]] = {
    **{f"{verb} {subject.name}": partial(act, subject) for subject in KINDS for verb, act in _OF_KINDS.items()},
    "list, info and gc": _list,
    "lock": _lock,
    "lock, shared": _lock_shared,
    "lock, nested": _lock_nested,
    "lock, in an ExitStack": _lock_in_a_stack,
    "lock, in a generator": _lock_in_a_generator,
    "lock, by a decorator": _lock_by_a_decorator,
    "lock, acquire and release": _lock_explicitly,
    "lock, in vain": _lock_in_vain,
    "lock, in asyncio tasks": _lock_in_tasks,
    "writing and snapshot": _writing,
    "slot and put": _stream,
    "slot, in asyncio tasks": partial(_in_tasks, "the_ring", "slot"),
    "publish": _publish,
    "publish a new name": _publish_anew,
    "wait": _wait,
    "changes, in an asyncio task": _changes,
    "transaction": _transaction,
    "transaction, in an ExitStack": _transaction_in_a_stack,
    "transaction, in asyncio tasks": partial(_in_tasks, "the_dict", "transaction"),
    "changes of a dict": _single_changes,
    "first open of a dict": _reopen_a_dict,
    "session's start": _session,
    "SharedMemory": _block,
    "ShareableList": _shareable_list,
}


def clean() -> None:
    """Undo what an interrupted operation has left: names that it had made, locks that it had acquired explicitly."""
    for name in ("new", "brief"):
        with contextlib.suppress(shm.NotFoundError):
            shm.unlink(name)
    for name in os.listdir(folder := os.environ["SHMKERNEL_DIR"]):
        if name.startswith("psm_"):
            shm.unlink(f"/{name}")
        elif name.startswith("saved"):
            os.unlink(f"{folder}/{name}")
    shm.gc()  # records of what was unlinked
    with contextlib.suppress(shm.LockError):
        while True:
            shm.lock("the_array").release()
    if "the_dict" not in attached:
        attached["the_dict"] = shm.attach("the_dict")
    with contextlib.suppress(shm.LockError):
        while True:
            attached["the_dict"].transaction().__exit__(KeyboardInterrupt, None, None)
