"""`with` statements release what they hold, although real signals interrupt them at random moments."""

from __future__ import annotations

import os
import random
import sys
import threading
from contextlib import ExitStack, contextmanager

import pytest

from shmkernel._core.interrupts import Guard, Holding, entry_of
from tests.helpers import PATIENCE, InterruptingTimer, repeat, without_collector
from tests.unit.test_fork import forked

pytestmark = pytest.mark.timeout(method="thread")  # the other method is the timer that is used here
ROUNDS = 2000
LONGEST = 3e-4  # seconds; some hundred bytecodes


class Door(Holding):
    """Counts entries in several steps, between which it can be interrupted."""

    def __init__(self):
        self.inside, self.log = [], []

    def _enter(self, entry):
        entry.taken = True
        self.inside.append(entry)
        return self

    def _leave(self, entry, kind):
        self.inside.remove(entry or self.inside[-1])
        self.log.append(kind)

    def _abort(self, entry):
        if entry in self.inside:
            self.inside.remove(entry)
            self.log.append("aborted")


@pytest.fixture
def interrupted(monkeypatch):
    """Run a function repeatedly, each time until a signal ends it."""
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)  # Python drops the error in a callback
    chance = random.Random(7)
    kept = []  # IPython keeps tracebacks, which keep frames

    def run(act, check):
        for _ in range(ROUNDS):
            try:
                timer.set(1e-5 + LONGEST * chance.random())
                repeat(act, done=lambda: timer.came)
            except KeyboardInterrupt as error:
                kept[:] = [*kept[-20:], error]
            check()

    with InterruptingTimer() as timer, without_collector():
        yield run


def test_a_guard_is_free_after_an_interrupt_at_any_bytecode(interrupted):
    guard = Guard()

    def act():
        with guard, guard:
            pass

    def check():
        taken = threading.Thread(target=guard.__enter__, daemon=True)
        taken.start()
        taken.join(PATIENCE)
        assert not taken.is_alive()
        guard.in_child()  # that thread has not left

    interrupted(act, check)


def test_a_statement_is_left_after_an_interrupt_at_any_bytecode(interrupted):
    door = Door()

    def act():
        with door, door:
            pass

    interrupted(act, lambda: not door.inside or pytest.fail("somebody is inside"))


def test_an_exit_stack_holds_until_it_is_left():
    door = Door()
    with ExitStack() as stack:
        stack.enter_context(door)
        assert len(door.inside) == 1
        with door:
            assert len(door.inside) == 2
        assert len(door.inside) == 1
    assert door.log == [None, None]


def test_an_explicit_enter_holds_until_it_is_left_whoever_calls():
    door = Door()

    def helper():
        door.__enter__()

    helper()
    assert len(door.inside) == 1
    door.__exit__(None, None, None)
    assert door.inside == []


def test_looking_at_an_exit_enters_nothing():
    door = Door()
    assert hasattr(door, "__exit__")
    door.__enter__()
    assert len(door.inside) == 1
    door.__exit__(None, None, None)
    assert door.log == [None]


def test_errors_are_told_to_who_leaves():
    door = Door()
    with pytest.raises(ZeroDivisionError), door:
        1 / 0
    assert door.log == [ZeroDivisionError]


def test_a_generator_that_is_collected_leaves():
    door = Door()

    def generate():
        with door:
            yield

    generator = generate()
    next(generator)
    assert door.inside
    del generator
    assert not door.inside


def test_a_context_manager_around_it_holds():
    door = Door()

    @contextmanager
    def around():
        with door:
            yield

    with around():
        assert door.inside
    assert door.log == [None]


def test_statements_of_two_threads_are_apart():
    door, entered, leave = Door(), threading.Event(), threading.Event()

    def other():
        with door:
            entered.set()
            leave.wait(PATIENCE)

    thread = threading.Thread(target=other)
    thread.start()
    entered.wait(PATIENCE)
    with door:
        assert len(door.inside) == 2
    leave.set()
    thread.join()
    assert door.inside == []


def test_leaving_in_a_forked_child_does_nothing():
    door = Door()
    with door:
        pid = os.fork()
        if pid:
            assert os.waitpid(pid, 0)[1] == 0
    if not pid:  # left in the child
        os._exit(len(door.log))
    assert door.log == [None]


def test_a_child_does_not_wait_for_a_guard_that_another_thread_of_the_parent_holds():
    guard, entered, leave = Guard(), threading.Event(), threading.Event()

    def other():
        with guard:
            entered.set()
            leave.wait(PATIENCE)

    thread = threading.Thread(target=other)
    thread.start()
    entered.wait(PATIENCE)

    def child():
        guard.in_child()
        with guard:
            return "entered"

    assert forked(child) == "entered"
    leave.set()
    thread.join()


def test_an_entry_of_an_explicit_call_says_so():
    door = Door()
    assert entry_of(door).explicit
