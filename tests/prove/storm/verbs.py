"""The acts of a storm on names: sharing, attaching, ending, waiting; and the standard library's classes."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import pickle

import shmkernel as shm
from tests.prove.storm.acts import FORMS, SUBJECTS, BrokenError, Skip, act
from tests.prove.storm.program import LIFETIMES, MODES, NAMES

MAKING = (None, None, None, "r+", "r", "c")  # without a mode most often, as a table and an object have no r+


@contextlib.contextmanager
def _refusing(mode):
    """Pass over the refusal of a mode: a dict and a ring are never private, a table and an object never r+."""
    try:
        yield
    except shm.ArgumentError as error:
        if mode is None or error.facts.get("mode") != mode:
            raise


@act(
    4,
    shm.TakenError,
    shm.LockError,
    levels=(0, 1),
    kind=("kinds",),
    mode=MAKING,
    lifetime=LIFETIMES,
    replace=(True, False),
)
def create(runner, step):
    name, subject = step.name, SUBJECTS[step["kind"]]
    if subject.value is None and step["mode"] == "r":
        raise Skip  # it is made empty, and could not get its stamp
    options = {key: step[key] for key in ("mode", "lifetime", "replace")}
    with _refusing(step["mode"]):
        runner.keep(name, subject.create(name, runner.stamp(), **options))


@act(1, shm.TakenError, kind=("kinds",))
def set_in_session(runner, step):
    subject = SUBJECTS[step["kind"]]
    if subject.value is None or subject.options:  # which cannot be given there
        raise Skip
    shm.session[step.name] = subject.value(runner.stamp())


@act(5, shm.NotFoundError, names=NAMES, mode=MODES)
def attach(runner, step):
    with _refusing(step["mode"]):
        runner.keep(step.name, shm.attach(step.name, mode=step["mode"]))


@act(2, shm.NotFoundError, names=NAMES, form=FORMS)
def attach_as(runner, step):
    try:
        value = shm.attach(step.name, as_=step["form"])
    except shm.ArgumentError as error:  # another kind has no forms
        if error.facts.get("as_") != step["form"]:
            raise
    else:
        runner.keep(step.name, value)


@act(1, shm.NotFoundError, names=NAMES)
def get_from_session(runner, step):
    runner.keep(step.name, shm.session[step.name])


@act(1, shm.NotFoundError)
def delete_from_session(_, step):
    del shm.session[step.name]


@act(1, names=NAMES)
def look_at_session(_, step):
    step.name in shm.session, list(shm.session), len(shm.session), repr(shm.session)


@act(2, shm.NotFoundError, names=NAMES)
def close(_, step):
    shm.close(step.name)


@act(2, shm.NotFoundError)
def unlink(_, step):
    shm.unlink(step.name)


@act(2, shm.NotFoundError, shm.TakenError, shm.ArgumentError, lifetime=LIFETIMES)
def keep(_, step):
    shm.keep(step.name, step["lifetime"])


@act(1, shm.NotFoundError, names=NAMES)
def info(_, step):
    repr(shm.info(step.name))


@act(1)
def list_(_, step):
    repr(shm.list())


@act(1, dry_run=(True, False))
def gc_(_, step):
    shm.gc(dry_run=step["dry_run"])


@act(0.2)
def doctor(_, step):
    repr(shm.doctor())


@act(2)
def drop(runner, step):
    runner.values.pop(step.name, None)
    gc.collect()


@act(1, shm.NotFoundError, shm.ArgumentError, names=NAMES, levels=(0,))
def save(runner, step):
    shm.save(step.name, f"{runner.files}/{os.getpid()}-{runner.number}")


@act(1, shm.TakenError, kind=("kinds",), mode=MAKING, lifetime=LIFETIMES, replace=(True, False))
def load(runner, step):
    subject = SUBJECTS[step["kind"]]
    if subject.value is None:
        raise Skip
    path = f"{runner.files}/{subject.name}{subject.suffix}"
    options = {key: step[key] for key in ("mode", "lifetime", "replace")}
    with _refusing(step["mode"]):
        runner.keep(step.name, subject.load(step.name, path, **options))


@act(2, shm.NotFoundError, shm.RefusedError, names=NAMES)
def publish(runner, step):
    runner.rises(step.name, shm.publish(runner.reference(step.name)))


@act(2, shm.NotFoundError, names=NAMES)
def version(runner, step):
    runner.rises(step.name, shm.version(runner.reference(step.name)))


@act(2, shm.NotFoundError, shm.TimedOutError, names=NAMES, since=(None, 0), timeout=(0, 0.005, 0.02))
def wait(runner, step):
    runner.rises(step.name, shm.wait(runner.reference(step.name), step["since"], timeout=step["timeout"]))


@act(1, shm.NotFoundError, TimeoutError, names=NAMES, since=(None, 0))
def changes(runner, step):
    async def follow():
        async with asyncio.timeout(0.02):
            async for number in shm.changes(runner.reference(step.name), step["since"]):
                runner.rises(step.name, number)

    if runner.in_task:
        raise Skip
    asyncio.run(follow())


_CLICKS: tuple[dict[str, object], ...] = (
    {"do": "hello"},
    {"do": "see", "view": "page", "on": True},
    {"do": "look", "axes": [0], "start": 1},
    {"do": "act", "id": 1, "verb": "keep", "inode": "0"},
    {"do": "see", "view": "page", "on": False},
)


@act(1, shm.LimitError, names=NAMES)
def watch(runner, step):
    """Show the monitor, with the messages that its page would send."""
    if runner.way == "main":
        raise Skip  # an interrupt could come before the monitor is known here, and its thread would stay
    monitor = shm.watch(step.name, interval=0.05)
    thread = monitor._sampler._thread
    try:
        for click in _CLICKS:
            monitor._on_message(None, {**click, "key": step.name, "name": step.name}, [])
            monitor._sampler.sample()
    finally:
        monitor.close()
        thread.join()


# The standard library's classes


@act(1)
def blocks(runner, step):
    block = shm.SharedMemory(create=True, size=64)
    try:
        block.buf[:] = b"x" * 64
        other = pickle.loads(pickle.dumps(block))
        if bytes(other.buf) != b"x" * 64:
            raise BrokenError("a block's pickle is another block")
        other.close()
    finally:
        block.unlink()
        block.close()


@act(1)
def lists(runner, step):
    made = shm.ShareableList([runner.stamp(), "text", None, 1.5, True, b"bytes"])
    try:
        other = shm.ShareableList(name=made.shm.name)
        other[1] = "else"
        if made[1] != "else" or len(other) != 6:
            raise BrokenError("a list's item was not set")
        other.shm.close()
    finally:
        made.shm.unlink()
        made.shm.close()
