"""One process of a storm: it runs its strands, tells the stage of every step, and at its end looks for what is left."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import os
import random
import signal
import sys
import threading
import traceback
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

import shmkernel as shm
from shmkernel.kinds.dicts import keeper
from shmkernel.sync import sync_file
from shmkernel.verbs import attachments
from tests.prove.storm import acts, conditions, holds
from tests.prove.storm.acts import BrokenError, Skip

if TYPE_CHECKING:
    from tests.prove.storm.oracle import Log, Words
    from tests.prove.storm.program import Process, Step


class Actor:
    """What the strands of one process share."""

    def __init__(self, number: int, process: Process, log: Log, words: Words, files: str, errors: tuple) -> None:
        self.number, self.process, self.log, self.words, self.files = number, process, log, words, files
        self.errors: tuple[type[BaseException], ...] = errors
        self.values: dict[str, Any] = {}
        self.versions: dict[str, int] = {}
        self.suspended: set[Runner] = set()  # tasks inside of holds

    def run(self) -> None:
        """Run the strands to their ends."""
        self.log("born", self.number)
        self.inherited = {id(one) for one in attachments.alive()}, {*_descriptors()}
        _report_the_unseen(self.log)
        with conditions.limits(self.process.condition, self.files):
            main, *others = [Runner(self, index, strand) for index, strand in enumerate(self.process.strands)]
            tasks = [runner for runner in others if runner.way == "task"]
            threads = [threading.Thread(target=runner.run) for runner in others if runner.way == "thread"]
            if tasks:
                threads.append(threading.Thread(target=lambda: asyncio.run(_together(tasks))))
            for thread in threads:
                thread.start()
            main.run(signal.SIGINT)
            _ignore_interrupts()
            for thread in threads:
                thread.join()
        for runner in (main, *others):
            runner.collect()
        if self.process.end == "exit":
            self.log("ended")
            ctypes.pythonapi.Py_Exit(0)  # the values are still attached
        self.end()

    def end(self) -> None:
        """Let go of everything, and tell the stage what is left."""
        self.values.clear()
        gc.collect()
        left = [str(hold.file.name) for hold in sync_file.busy] + [str(block) for block in keeper.held]
        if left:
            self.log("fault", f"holds are left at the end of a process: {left}")
        attached = [
            f"{one.name} ({one.kind}, {one.key[2]})" for one in attachments.alive() if id(one) not in self.inherited[0]
        ]
        if attached:
            self.log("fault", f"attachments are left without a value: {attached}")
        if found := [
            path for path in {*_descriptors()} - self.inherited[1] if "/shmk-" in path and "/sync/" not in path
        ]:
            self.log("fault", f"descriptors are left: {found}")
        if threads := threading.enumerate()[1:]:
            self.log("fault", f"threads are left: {threads}")
        self.log("ended")


class Runner:
    """One strand: it runs its steps, one after the other."""

    def __init__(self, actor: Actor, number: int, strand: Any) -> None:
        self.actor, self.number, self.way, self.steps = actor, number, strand.way, strand.steps
        self.log, self.words, self.values, self.files = actor.log, actor.words, actor.values, actor.files
        self.rng = random.Random(f"{actor.number}/{number}")
        self.me = os.getpid() << 8 | actor.number << 4 | number
        self.inside: list[tuple[str, bool]] = []  # names of locks, and whether shared
        self.explicit: list[Any] = []  # context managers that no `with` statement has entered
        self.in_task = strand.way == "task"
        self.transactions: list[str] = []  # names of dicts
        self.children: list[int] = []
        self.seen: dict[str, int] = {}  # versions, under the locks that are held
        self._stamp = 0

    # What acts ask for

    def stamp(self) -> int:
        """Return a number that no other strand writes."""
        self._stamp = (self._stamp + 1) & 0xFFFF
        return acts.TOP | (self.me & 0xFF) << 16 | self._stamp

    def keep(self, name: str, value: Any) -> None:
        """Keep a value for later steps of this process."""
        self.values[name] = value

    def value(self, name: str, mode: str | None = None) -> Any:
        """Return the value that this process has under the name; attach it if it has none."""
        value = self.values.get(name)
        given = None if value is None else attachments.given(value)
        if given is None or (mode and given.key[2] != mode):
            value = shm.attach(name, mode)
            self.keep(name, value)
        return value

    def reference(self, name: str) -> Any:
        """Return a name, the value, or a part of it: what a verb may be called with."""
        value = self.values.get(name)
        if value is None or attachments.given(value) is None:
            return name
        choices = [name, value, value[1:]] if isinstance(value, np.ndarray) else [name, value]
        return self.rng.choice(choices)

    def rises(self, name: str, version: int) -> None:
        """Check that this strand has not seen a later version under a lock that it still holds."""
        if any(held == name for held, _ in self.inside):
            if version < self.seen.get(name, 0):
                raise BrokenError(f"version {version} of {name} after {self.seen[name]}")
            self.seen[name] = version

    def counting(self, name: str, add: Any) -> None:
        """Count one: begun, and done."""
        self.log("adding", name)
        add()
        if name not in self.transactions:  # which may be undone
            self.log("added", name)

    # Running

    def run(self, *unblocked: int) -> None:
        """Run all steps; an interrupt ends the outermost one that runs."""
        left, interrupted = [*self.steps], False
        while left or interrupted:
            try:
                if interrupted:
                    self._interrupted()
                    interrupted = False
                signal.pthread_sigmask(signal.SIG_UNBLOCK, unblocked)
                while left:
                    self.step(left.pop(0))
            except KeyboardInterrupt:
                interrupted = True

    def step(self, step: Step) -> None:
        """Run one step."""
        if self.in_task and self.actor.suspended - {self} and holds.blocks(step.act):
            return  # it might wait for another process, which waits for a hold of another task of this loop
        if step.act == "fork":
            self.fork(step.body)
        elif step.act in acts.ACTS:
            self._do(step.act, lambda: acts.ACTS[step.act].run(self, step), acts.ACTS[step.act].errors)
        else:
            holds.hold(self, step)

    async def step_in_task(self, step: Step) -> None:
        """Run one step in a task, and let the others run."""
        if step.act in holds.ASYNC and str(step["way_in"]).startswith("async"):
            await holds.hold_async(self, step)
        else:
            self.step(step)
        await asyncio.sleep(0)

    def _do(self, what: str, call: Any, errors: tuple[type[BaseException], ...]) -> None:
        self.log("begin", self.me, what)
        try:
            call()
        except Skip:
            self.log("end", self.me, "skipped")
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            self.judge(what, error, errors)
        else:
            self.log("end", self.me, "done")

    def judge(self, what: str, error: BaseException, errors: tuple[type[BaseException], ...]) -> None:
        """Tell the stage of an error, which may be one that the act may raise."""
        if isinstance(error, shm.AbandonedError):
            self.log("abandoned", what)
        elif not isinstance(error, (*errors, *self.actor.errors)) or isinstance(error, BrokenError):
            text = "".join(traceback.format_exception(error))
            self.log("fault", f"{what}: {type(error).__name__}: {error}\n{text[-3000:]}")
        self.log("end", self.me, type(error).__name__)

    def run_body(self, steps: tuple[Step, ...]) -> None:
        """Run the steps inside a hold."""
        for step in steps:
            self.step(step)

    def fork(self, steps: tuple[Step, ...]) -> None:
        """Run steps in a forked child."""
        self._do("fork", lambda: self.forked() or self.end_child(steps), (OSError,))

    def forked(self) -> int:
        """Fork; return the child's pid, 0 in the child, which is another strand from then on."""
        pid = os.fork()
        if pid:
            self.children.append(pid)
            return pid
        self.me = os.getpid() << 8 | (self.me & 0xFF)
        self.inside, self.children, self.transactions, self.in_task = [], [], [], False
        self.explicit, self.seen, self.words.is_child = [], {}, True
        self.log("born", f"child of {self.actor.number}")
        return 0

    def end_child(self, steps: tuple[Step, ...]) -> None:
        """Run steps, and end this forked child."""
        status = 1
        try:
            self.steps = steps
            self.run()
            self.collect()
            self.log("ended")
            status = 0
        except BaseException:
            self.log("fault", f"a child failed: {traceback.format_exc()[-3000:]}")
        finally:
            os._exit(status)

    def collect(self) -> None:
        """Wait for the children."""
        while self.children:
            pid = self.children.pop()
            with contextlib.suppress(ChildProcessError):
                self.log("death", pid, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

    def _interrupted(self) -> None:
        """Leave what no `with` statement leaves, and check that nothing else is held."""
        self.log("interrupted", self.me)
        holds.leave_explicit(self)
        self.words.forget(self.me)
        self.inside.clear()
        self.transactions.clear()
        self.seen.clear()
        self.check_free("an interrupt")

    def check_free(self, after: str) -> None:
        """Tell the stage of a lock or transaction that this strand still has, although it has left all."""
        held = [
            hold.file.name
            for hold in [*sync_file.busy]
            if any(place.owner.is_me() for place in hold.places or [hold])  # other tasks may have joined a shared one
        ]
        blocks = [block for block in [*keeper.held] if not block.over and block.owner.is_me()]
        held += [f"transaction of {block.store.name}" for block in blocks]
        if held:
            self.log("fault", f"after {after} this is still held: {held}")


async def _together(runners: list[Runner]) -> None:
    await asyncio.gather(*(_run(runner) for runner in runners))


async def _run(runner: Runner) -> None:
    for step in runner.steps:
        await runner.step_in_task(step)


def _descriptors() -> list[str]:
    found = []
    for entry in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.append(os.readlink(f"/proc/self/fd/{entry}"))
    return found


def _ignore_interrupts() -> None:
    for _ in range(3):
        with contextlib.suppress(KeyboardInterrupt):
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # a mask would not do: any thread may receive it


def _report_the_unseen(log: Log) -> None:
    """Tell the stage of what Python would print: warnings, and errors of threads and finalizers."""

    def unraisable(unseen: Any) -> None:
        if not isinstance(unseen.exc_value, KeyboardInterrupt):
            text = "".join(traceback.format_exception(unseen.exc_value))[-3000:]
            log("unraisable", type(unseen.exc_value).__name__, f"{unseen.err_msg} {unseen.object!r}: {text}")

    def in_thread(given: Any) -> None:
        text = "".join(traceback.format_exception(given.exc_value))[-3000:]
        log("fault", f"in a thread: {type(given.exc_value).__name__}: {text}")

    def warned(message: Any, category: Any, *_: Any, **__: Any) -> None:
        log("warning", category.__name__, message)

    sys.unraisablehook, threading.excepthook, warnings.showwarning = unraisable, in_thread, warned
    warnings.simplefilter("always")
    warnings.filterwarnings("ignore", category=DeprecationWarning)  # of a fork beside threads
