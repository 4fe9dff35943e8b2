"""A transaction lasts until it is left, belongs to its owner, and never hangs or commits half."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

import pytest

import shmkernel as shm
from shmkernel.kinds.dicts import keeper, writer_lock
from tests.helpers import PATIENCE, Child, InterruptingTimer, python, repeat, until, without_collector

ROUNDS = 300
LONGEST = 3e-4  # seconds until a signal


def elsewhere(act):
    """Call `act` in another thread, and return its result or error."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(act)
        return future.exception(PATIENCE) or future.result()


def seen_by_another(name="x"):
    """Return what another process reads after it has written: no one holds the dict."""

    def work(connection):
        x = shm.attach(name, "r+")
        x["other"] = 1
        del x["other"]
        connection.send(x.to_dict())

    with Child(work) as child:
        return child.hear()


class Entered:
    """A class that enters a transaction in its ``__enter__``, as users write."""

    def __init__(self, x):
        self.transaction = x.transaction()

    def __enter__(self):
        self.transaction.__enter__()

    def __exit__(self, *error):
        self.transaction.__exit__(*error)


@contextlib.contextmanager
def helper(x):
    with x.transaction():
        yield


@contextlib.contextmanager
def stacked(x):
    with contextlib.ExitStack() as stack:
        stack.enter_context(x.transaction())
        yield


@pytest.mark.parametrize("enter", [Entered, helper, stacked])
def test_it_lasts_until_it_is_left_whoever_enters_it(enter):
    x = shm.create("x", {})
    with enter(x):
        x["a"] = 1
        assert elsewhere(x.to_dict) == {}
    assert x == {"a": 1}
    with pytest.raises(ZeroDivisionError), enter(x):
        x["b"] = 1 / (x.pop("a") - 1)
    assert x == seen_by_another() == {"a": 1}


def test_an_explicit_one_lasts_from_one_function_to_another():
    x = shm.create("x", {})
    transaction = x.transaction()

    def enter():
        transaction.__enter__()

    enter()
    x["a"] = 1
    assert elsewhere(x.to_dict) == {}
    transaction.__exit__(None, None, None)
    assert elsewhere(x.to_dict) == {"a": 1}
    with pytest.raises(shm.LockError, match="no transaction"):
        transaction.__exit__(None, None, None)


def test_it_keeps_no_dict_alive(shm_dir):
    x = shm.create("x", {}, lifetime="attached")
    with x.transaction(), x.transaction():
        x["a"] = 1
    gc.disable()
    try:
        del x
        until(lambda: list(shm_dir.glob("shmk-*")) == [], "it is unlinked")
    finally:
        gc.enable()


def test_threads_exclude_each_other_with_one_object_or_several():
    x = shm.create("x", {"n": 0})
    one = x.transaction()

    def count(transaction):
        for _ in range(100):
            with transaction():
                x["n"] += 1

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(count, [x.transaction, lambda: one] * 2, timeout=PATIENCE))
    assert x["n"] == 400


def test_plain_changes_of_other_threads_wait_for_its_end():
    x = shm.create("x", {"n": 0})
    begun = threading.Event()

    def change():
        begun.set()
        x["plain"] = x.increment("n", 10)

    thread = threading.Thread(target=change)
    with x.transaction():
        x["n"] = 1
        thread.start()
        begun.wait()
        x["n"] += 1
    thread.join(PATIENCE)
    assert x == {"n": 12, "plain": 12}


def test_one_object_nested_in_itself_is_one_transaction():
    x = shm.create("x", {})
    one = x.transaction()
    with contextlib.suppress(ZeroDivisionError), one, one:
        x["a"] = 1 / 0
    with one:
        x["b"] = 1
        with one:
            x["c"] = 1
    with pytest.raises(shm.ArgumentError, match="part of it failed"), one:
        x["d"] = 1
        with contextlib.suppress(ZeroDivisionError), one:
            x["e"] = 1 / 0
    assert x == {"b": 1, "c": 1}


class TestTasks:
    def test_wait_for_each_other_with_async_with(self):
        x = shm.create("x", {"n": 0})

        async def count():
            for _ in range(10):
                async with x.transaction():
                    n = x["n"]
                    await asyncio.sleep(0)
                    x["n"] = n + 1

        async def main():
            await asyncio.gather(*(count() for _ in range(4)))
            async with contextlib.AsyncExitStack() as stack:
                await stack.enter_async_context(x.transaction())
                x["stack"] = 1

        asyncio.run(main())
        assert x == {"n": 40, "stack": 1}

    def test_are_refused_where_they_would_block_the_loop_and_read_what_is_stored(self):
        x = shm.create("x", {"n": 0})

        async def other():
            assert (x["n"], x.to_dict(), len(x)) == (0, {"n": 0}, 1)
            for act in (lambda: x.update(a=1), lambda: x.__setitem__("n", 2), x.clear, x.transaction().__enter__):
                with pytest.raises(shm.LockError, match=r"async with x\.transaction\(\):"):
                    act()

        async def main():
            async with x.transaction():
                x["n"] = 1
                await asyncio.create_task(other())
                x["a"] = 1
                assert x["n"] == 1

        asyncio.run(main())
        assert x == seen_by_another() == {"n": 1, "a": 1}

    def test_that_raise_or_are_cancelled_store_nothing(self):
        x = shm.create("x", {"n": 0})

        async def hold():
            async with x.transaction():
                x["n"] = 1
                await asyncio.sleep(PATIENCE)

        async def main():
            holder = asyncio.create_task(hold())
            await asyncio.sleep(0)
            waiter = asyncio.create_task(hold())
            await asyncio.sleep(0.01)
            waiter.cancel()
            holder.cancel()
            await asyncio.gather(holder, waiter, return_exceptions=True)
            async with x.transaction(timeout=PATIENCE):
                x["after"] = x["n"]

        asyncio.run(main())
        assert x == seen_by_another() == {"n": 0, "after": 0}

    def test_a_task_that_ended_leaves_it_to_its_thread(self):
        x = shm.create("x", {})
        transaction = x.transaction()

        async def cell():
            transaction.__enter__()
            x["a"] = 1

        asyncio.run(cell())
        x["b"] = 2
        transaction.__exit__(None, None, None)
        assert x == seen_by_another() == {"a": 1, "b": 2}


def writes(x):
    with x.transaction():
        x["a"] = 1
        yield


class TestLeftElsewhere:
    @pytest.mark.filterwarnings("ignore:.*a generator was closed")
    @pytest.mark.parametrize("way", ["close", "throw", "next", "collect"])
    def test_a_generator_that_another_thread_ends_stores_nothing_and_holds_nobody_up(self, way):
        x = shm.create("x", {})
        suspended = [writes(x)]
        next(suspended[0])

        def end():
            if way == "collect":
                suspended.clear()
                gc.collect()
            elif way == "close":
                suspended[0].close()
            elif way == "throw":
                suspended[0].throw(ZeroDivisionError)
            else:
                next(suspended[0])

        expected = {"throw": ZeroDivisionError, "next": shm.LockError}.get(way, type(None))
        assert type(elsewhere(end)) is expected
        assert seen_by_another() == {}
        x["b"] = 1
        assert x == {"b": 1}

    def test_an_explicit_end_in_another_thread_is_refused_and_changes_nothing(self):
        x = shm.create("x", {})
        transaction = x.transaction()
        transaction.__enter__()
        x["a"] = 1
        assert isinstance(elsewhere(lambda: transaction.__exit__(None, None, None)), shm.LockError)
        x["b"] = 1
        transaction.__exit__(None, None, None)
        assert x == {"a": 1, "b": 1}

    def test_a_thread_that_ends_inside_leaves_it_to_nobody(self):
        x = shm.create("x", {})

        def enter():
            x.transaction().__enter__()
            x["a"] = 1

        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        x["b"] = 1
        assert x == seen_by_another() == {"b": 1}

    def test_a_generator_that_is_closed_says_that_its_consumer_s_changes_go_too(self):
        x = shm.create("x", {})
        suspended = writes(x)
        next(suspended)
        x["mine"] = 1
        with pytest.warns(RuntimeWarning, match="everything that this thread wrote") as warned:
            suspended.close()
        assert warned[0].filename == __file__
        assert x == {}

    def test_one_left_before_what_joined_it_stores_nothing_and_says_so(self):
        x = shm.create("x", {})
        outer, inner = x.transaction(), x.transaction()
        outer_exit, inner_exit = outer.__exit__, None
        outer.__enter__()
        inner_exit = inner.__exit__
        inner.__enter__()
        x["a"] = 1
        with pytest.raises(shm.LockError, match="has not been left"):
            outer_exit(None, None, None)
        with pytest.raises(shm.LockError, match="had ended already"):
            inner_exit(None, None, None)
        assert x == {}


def test_what_a_job_of_the_keeper_has_raised_keeps_nothing_when_its_caller_goes_on():
    class Large:
        pass

    def fail():
        large.append(weakref.ref(value := Large()))
        raise ValueError(value)

    class Done:
        def release(self):
            gc.collect()
            kept.append(large[0]())
            raise SystemExit  # the keeper works for ever

    large, kept, jobs = [], [], SimpleQueue()
    job = keeper.Job(fail)
    job._done = Done()
    jobs.put(job)
    del job
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keeper, "_ident", keeper._ident)
        with pytest.raises(SystemExit):
            keeper._work(jobs, set())
    assert kept == [None]


def test_where_no_thread_starts_no_transaction_begins_and_all_else_goes_on():
    script = """
import mmap, resource
import shmkernel as shm

x = shm.create("x", {"a": 1})
limits = resource.getrlimit(resource.RLIMIT_AS)
used = int(open("/proc/self/statm").read().split()[0]) * mmap.PAGESIZE
resource.setrlimit(resource.RLIMIT_AS, (used + (4 << 20), limits[1]))  # a thread takes 8 for its stack
try:
    with x.transaction():
        x["a"] = 2
except shm.LimitError as error:
    print(error.limit, error.name, x["a"])
x["a"] = 3
resource.setrlimit(resource.RLIMIT_AS, limits)
with x.transaction(timeout=100):
    x["a"] += 1
print(x)
shm.unlink("x")
"""
    assert python(script).stdout == "threads x 1\n{'a': 4}\n"


class TestTwoDicts:
    def test_in_opposite_order_end_in_an_error_that_names_both(self, monkeypatch):
        monkeypatch.setattr(writer_lock, "PATIENCE", 0.05)
        x, y = shm.create("x", {}), shm.create("y", {})
        both, errors = threading.Barrier(2), []

        def enter(first, second):
            try:
                with first.transaction():
                    both.wait(PATIENCE)
                    with second.transaction():
                        second[first.name] = 1
                    first["done"] = 1
            except shm.TimedOutError as error:
                errors.append(str(error))

        threads = [threading.Thread(target=enter, args=pair) for pair in ((x, y), (y, x))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert errors
        assert all("'x'" in error and "'y'" in error and "same order" in error for error in errors)
        x["free"] = y["free"] = 1

    def test_a_time_limit_ends_the_wait(self):
        x = shm.create("x", {})
        with x.transaction():
            error = elsewhere(lambda: x.transaction(timeout=0.01).__enter__())
        assert isinstance(error, shm.TimedOutError)
        assert error.timeout == 0.01
        x["a"] = 1


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # it closes itself
@pytest.mark.timeout(method="thread")  # the other method is the timer that is used here
def test_an_interrupt_at_any_moment_leaves_a_whole_dict_that_all_can_write(monkeypatch):
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)  # Python drops the error in a callback
    x = shm.create("x", {"a": 0, "b": 0, "n": 0})
    chance = random.Random(5)
    kept = []

    def both(stamp):
        with x.transaction():
            x["a"] = stamp
            x["b"] = stamp

    acts = [
        lambda: both(chance.random()),
        lambda: x.update(a=7, b=7),
        lambda: x.__setitem__("n", 1),
        lambda: x.__setitem__("n", [1]),
        lambda: (x.pop("n", None), x.__setitem__("n", 2)),
        x.to_dict,
        lambda: list(x.items()),
        lambda: x["n"],
        lambda: x.increment("count"),
    ]

    def write(connection):
        other = shm.attach("x", "r+")
        while (what := connection.recv()) is not None:
            other["other"] = what
            connection.send(what)

    with InterruptingTimer() as timer, Child(write) as child, without_collector():
        for turn in range(ROUNDS):
            act = acts[turn % len(acts)]
            try:
                timer.set(1e-5 + LONGEST * chance.random())
                repeat(act, done=lambda: timer.came)
            except KeyboardInterrupt as error:
                kept[:] = [*kept[-20:], error]  # a notebook keeps tracebacks, which keep frames
            seen = x.to_dict()
            assert seen["a"] == seen["b"]
            x["n"] = turn
            assert x["n"] == turn
            if turn % 10 == 0:
                child.tell(turn)
                assert child.hear() == x["other"] == turn
        child.tell()


END = """
import atexit, sys
import shmkernel as shm

x = shm.create("x", {"a": 0})

def end():
    with x.transaction():
        x["a"] = 1
    print(x)

atexit.register(end)
if sys.argv[1] == "used":  # there is a thread for transactions by now
    y = shm.create("y", {})
    transaction = y.transaction()
    transaction.__enter__()
    y["a"] = 1
"""


@pytest.mark.parametrize("before", ["used", pytest.param("new", marks=pytest.mark.long)])
def test_at_the_end_of_the_interpreter_nothing_hangs(before):
    assert python(END, before).stdout == "{'a': 1}\n"


ENDED_IN_USE = """
import threading, warnings
import shmkernel as shm

warnings.simplefilter("ignore")
x = shm.create("x", {})

def inside():
    with x.transaction():
        yield

for _ in range(60):
    suspended, busy, ended = inside(), threading.Event(), threading.Event()

    def use():
        next(suspended)
        try:
            for i in range(100000):
                x[i % 500] = "v" * 300
                x.to_dict() if i % 50 == 0 else x.get(i % 77)
                if i > 100:
                    busy.set()
                if ended.is_set():
                    break
        except shm.LockError:  # another thread has ended it
            busy.set()

    thread = threading.Thread(target=use)
    thread.start()
    busy.wait()
    suspended.close()
    ended.set()
    thread.join()
"""


def test_one_that_another_thread_ends_is_freed_between_two_uses_of_its_owner():
    python(ENDED_IN_USE)


OPEN = """
import gc
import shmkernel as shm

x = shm.attach("x")
x.transaction().__enter__()
x["a"] = 1
del x
gc.collect()
"""
FOUND = """
x = shm.attach("x")
assert x["a"] == 1
x.transaction().__exit__(None, None, None)
"""


def test_one_that_is_open_at_the_end_of_the_interpreter_holds_nobody_up():
    shm.create("x", {"n": 0})
    assert python(OPEN).stderr == ""
    assert seen_by_another() == {"n": 0}


def test_one_of_a_dict_that_nobody_refers_to_lasts_until_it_is_left():
    x = shm.create("x", {})
    python(OPEN + FOUND)
    assert x == seen_by_another() == {"a": 1}


def test_a_child_forked_inside_leaves_the_transaction_to_its_parent():
    x = shm.create("x", {"a": 0})
    explicit = x.transaction()
    explicit.__enter__()
    with x.transaction():
        x["a"] = 1

        def work(connection):
            explicit.__exit__(None, None, None)
            connection.send(x["a"])

        with Child(work, kin=True) as child:
            assert child.hear() == 0
            assert child.join() == 0
    explicit.__exit__(None, None, None)
    assert x["a"] == 1
    until(lambda: seen_by_another() == {"a": 1}, "it is stored")
