"""The holds of a storm: what is entered in every way, and left in every way.

A hold changes its value in two halves, before and after the steps of its body: whoever reads under the proper verb must
never see one half.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from typing import TYPE_CHECKING, Any

import numpy as np

import shmkernel as shm
from shmkernel.verbs import attachments
from tests.prove.storm.acts import LEAVES, BrokenError, Skip, changing, subject_of

if TYPE_CHECKING:
    from tests.prove.storm.actor import Runner
    from tests.prove.storm.program import Step

ASYNC = ("lock", "shared", "transaction", "slot")
LOCKS = {"lock": False, "shared": True, "writing": False, "slot": False}  # and whether they are shared
ERRORS = (
    shm.NotFoundError, shm.TimedOutError, shm.LockError, shm.RefusedError, shm.ArgumentError, shm.UnsupportedError,
)  # fmt: skip


class LeavingError(Exception):
    """The exception by which a hold is left."""


def hold(runner: Runner, step: Step) -> None:
    """Enter, run the body, and leave."""
    _watched(runner, step, lambda: _enter(runner, step))


async def hold_async(runner: Runner, step: Step) -> None:
    """Enter and leave by ``async with``, and let other tasks run inside."""
    body = _Body(runner, step)
    runner.log("begin", runner.me, _what(step))
    try:
        await _enter_async(step, body)
        body.after()
    except (TimeoutError, asyncio.CancelledError) as error:
        if isinstance(error, asyncio.CancelledError):
            asyncio.current_task().uncancel()
        runner.log("end", runner.me, type(error).__name__)
        if not (runner.inside or runner.transactions):
            runner.check_free("a cancelled task")
    except BaseException as error:
        _ended(runner, step, error)
    else:
        runner.log("end", runner.me, "done")


async def _enter_async(step: Step, body: _Body) -> None:
    async with asyncio.timeout(None if step["timeout"] is None else 0.01):  # it cancels: the lock's own is longer
        if step["way_in"] == "async with":
            async with body.manager() as given:
                await body.run_async(given)
        else:
            async with contextlib.AsyncExitStack() as stack:
                await body.run_async(await stack.enter_async_context(body.manager()))


def blocks(act: str) -> bool:
    """Return whether an act, or a hold that is entered by a blocking call, waits for locks."""
    return act in LOCKS or act == "transaction" or (act in LEAVES and bool(LEAVES[act].levels))


def leave_explicit(runner: Runner) -> None:
    """Leave what an interrupt has left entered: no `with` statement would."""
    while runner.explicit:
        manager = runner.explicit.pop()
        with contextlib.suppress(shm.LockError):
            while True:
                manager.__exit__(KeyboardInterrupt, None, None)
                if not hasattr(manager, "release"):
                    break


def _what(step: Step) -> str:
    return f"{step.act}/{step['way_in']}/{step['way_out']}"


def _watched(runner: Runner, step: Step, call: Any) -> None:
    runner.log("begin", runner.me, _what(step))
    try:
        call()
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        _ended(runner, step, error)
    else:
        runner.log("end", runner.me, "done")


def _ended(runner: Runner, step: Step, error: BaseException) -> None:
    if isinstance(error, (LeavingError, Skip)):
        runner.log("end", runner.me, "left" if isinstance(error, LeavingError) else "skipped")
    else:
        runner.judge(_what(step), error, ERRORS)


def _enter(runner: Runner, step: Step) -> None:
    body = _Body(runner, step)
    manager = body.manager()
    try:
        _enter_by(runner, step["way_in"], manager, body)
    except Exception:
        _forget(runner, manager)
        raise
    _forget(runner, manager)
    body.after()


def _forget(runner: Runner, manager: Any) -> None:
    if manager in runner.explicit:
        runner.explicit.remove(manager)


def _enter_by(runner: Runner, way: str, manager: Any, body: _Body) -> None:
    if way == "stack":
        runner.explicit.append(manager)
        with contextlib.ExitStack() as stack:
            body.run(stack.enter_context(manager))
    elif way == "generator":
        _by_generator(manager, body)
    elif way == "acquire" and hasattr(manager, "acquire"):
        runner.explicit.append(manager)
        if not manager.acquire():
            raise shm.TimedOutError("acquire returned False")
        try:
            body.run(manager)
        finally:
            manager.release()
    elif way in ("calls", "acquire"):
        runner.explicit.append(manager)
        _by_calls(manager, body)
    else:
        with manager as given:
            body.run(given)


def _by_calls(manager: Any, body: _Body) -> None:
    given = manager.__enter__()
    try:
        body.run(given)
    except BaseException as error:
        manager.__exit__(type(error), error, error.__traceback__)
        raise
    manager.__exit__(None, None, None)


def _by_generator(manager: Any, body: _Body) -> None:
    def generator():
        with manager as given:
            yield given

    suspended = generator()
    given = next(suspended)
    try:
        body.run(given)
    except BaseException as error:
        with contextlib.suppress(StopIteration):
            suspended.throw(error)
        raise
    if body.way_out == "another thread":
        _in_another_thread(suspended.close)
    elif body.way_out == "closing the generator":
        suspended.close()
    elif body.way_out == "dropping the generator":
        del suspended
    else:
        next(suspended, None)


class _Body:
    """What happens inside of a hold."""

    def __init__(self, runner: Runner, step: Step) -> None:
        self._runner, self._step, self._name = runner, step, step.name
        self.way_out: str = step["way_out"]
        self._value: Any = None
        self._outermost = False
        self._is_child = False

    def manager(self) -> Any:
        """Return the context manager of the step."""
        runner, act, name, timeout = self._runner, self._step.act, self._name, self._step["timeout"]
        if act == "manager":
            self._made = shm.SharedMemoryManager()
            return self._made
        if act in ("lock", "shared"):
            self._made = shm.lock(runner.reference(name), shared=act == "shared", timeout=timeout)
        elif act == "writing":
            self._made = shm.writing(runner.reference(name), timeout=timeout)
        else:
            self._value = runner.value(name)
            _, subject = subject_of(self._value)
            if subject.kind != {"transaction": "dict", "slot": "ring"}[act]:
                raise Skip
            self._made = self._value.transaction(timeout) if act == "transaction" else self._value.slot()
        return self._made

    def run(self, given: Any) -> None:
        """Run the body, and begin to leave."""
        self._begin(given)
        try:
            with self._changed(given):
                self._runner.run_body(self._step.body)
                self._break_off()
        finally:
            self._end()
        self._leave()

    async def run_async(self, given: Any) -> None:
        """Run the body in a task."""
        suspended, runner = self._runner.actor.suspended, self._runner
        outer = runner in suspended
        suspended.add(runner)
        try:
            self._begin(given)
            try:
                with self._changed(given):
                    for step in self._step.body:
                        await runner.step_in_task(step)
                    if self.way_out == "cancelling the task":
                        asyncio.current_task().cancel()
                        await asyncio.sleep(0)
                    self._break_off()
            finally:
                self._end()
            self._leave()
        finally:
            if not outer:
                suspended.discard(runner)

    def after(self) -> None:
        """Go on after the hold; a forked child ends."""
        if self._is_child:
            self._runner.end_child(self._step.body)

    def _begin(self, given: Any) -> None:
        shared = LOCKS.get(self._step.act)
        if shared is None:
            if self._step.act == "manager":
                self._fill(given)
            else:
                self._runner.transactions.append(self._name)
            return
        inside, name = self._runner.inside, self._name
        self._outermost = not any(held == name for held, _ in inside)
        inside.append((name, shared))
        if self._outermost and (wrong := self._runner.words.enter(name, self._runner.me, shared=shared)):
            self._runner.log("not alone", self._runner.me, f"{self._step.act} {name}: {wrong}")

    def _end(self) -> None:
        shared = LOCKS.get(self._step.act)
        runner, name = self._runner, self._name
        if shared is None and self._step.act != "manager" and name in runner.transactions:
            runner.transactions.remove(name)
        if shared is None or (name, shared) not in runner.inside:
            return
        runner.inside.remove((name, shared))
        if self._outermost:
            if wrong := runner.words.check(name, runner.me, shared=shared):
                runner.log("not alone", runner.me, f"{self._step.act} {name}: {wrong}")
            runner.words.leave(name, runner.me)
            runner.seen.pop(name, None)

    @contextlib.contextmanager
    def _changed(self, given: Any):
        """Change the value in two halves, around the body."""
        act, runner = self._step.act, self._runner
        if act == "transaction" and self._name == "tally":
            yield
        elif act == "transaction":
            if attachments.given(given).key[2] == "r":
                raise Skip
            stamp, keys = runner.stamp(), [*given]
            for key in keys[: len(keys) // 2]:
                given[key] = stamp
            yield
            for key in keys:  # the body may have changed some
                given[key] = stamp
            if (found := {*given.values()}) - {stamp}:
                raise BrokenError(f"a transaction does not see its own changes: {found}")
        elif act == "slot":
            stamp = runner.stamp()
            given[:32] = stamp
            yield
            given[32:] = stamp
        elif (
            act == "writing"
            and isinstance(value := runner.values.get(self._name), np.ndarray)
            and self._name != "count"
        ):
            attachment = attachments.given(value)
            if attachment is None or attachment.key[2] == "r":
                yield
                return
            with changing(runner, value):
                value[:32] = value[32:] = runner.stamp()
            yield
        else:
            yield

    def _fill(self, manager: Any) -> None:
        block, made, array = manager.SharedMemory(64), manager.ShareableList([1, "a"]), manager.array((2, 3))
        shared = manager.dict(a=1)
        block.buf[:1], made[1] = b"x", "b"
        array[:] = 1
        shared["b"] = 2
        with manager.Lock():
            pass
        if (bytes(block.buf[:1]), made[1], array.sum(), shared) != (b"x", "b", 6, {"a": 1, "b": 2}):
            raise BrokenError("a manager's values are others")

    def _break_off(self) -> None:
        """Leave in one of the ways that do not wait until the change is complete."""
        way, runner = self.way_out, self._runner
        if way == "an exception":
            raise LeavingError
        if way == "SIGINT":
            signal.raise_signal(signal.SIGINT)
        elif way == "SIGKILL":
            runner.log("SIGKILL")
            os.kill(os.getpid(), signal.SIGKILL)
        elif way == "os._exit":
            runner.log("exit")
            os._exit(0)

    def _leave(self) -> None:
        if self.way_out == "another thread" and self._step["way_in"] != "generator":
            _in_another_thread(lambda: self._made.__exit__(None, None, None))
        elif self.way_out == "a forked child" and not self._runner.forked():
            self._is_child = True


def _in_another_thread(leave: Any) -> None:
    done = threading.Event()

    def run() -> None:
        try:
            with contextlib.suppress(shm.LockError):
                leave()
        finally:
            done.set()

    thread = threading.Thread(target=run)
    try:
        thread.start()
        thread.join()
    except KeyboardInterrupt:
        done.wait(10)  # if it has started, the other thread leaves all the same; what is held is looked at next
        raise
