import asyncio
import contextlib
import os
import pickle
import signal
import threading

import pytest

import shmkernel as shm
from shmkernel._core import paths
from shmkernel.sync import locks, sync_file
from tests.helpers import PATIENCE, Child, until


def holder(name, *, shared=False):
    """Start a child that holds a lock until it receives a word; then it leaves, and reports that."""

    def work(connection):
        with shm.lock(name, shared=shared):
            connection.send("in")
            connection.recv()
        connection.send("out")

    child = Child(work)
    assert child.hear() == "in"
    return child


def free(name, *, shared=False):
    """Return whether another thread of this process could take the lock at once."""
    found = []

    def look():
        lock = shm.lock(name, shared=shared)
        found.append(lock.acquire(block=False))
        if found[0]:
            lock.release()

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    return found[0]


def once_waited_for(name, act):
    """Call `act` as soon as a waiter waits for the lock."""

    def wait():
        words = sync_file.opened(name).words
        until(lambda: words[sync_file.WAITING], "somebody waits")
        act()

    threading.Thread(target=wait).start()


@pytest.mark.parametrize("theirs", [False, True])
@pytest.mark.parametrize("ours", [False, True])
def test_only_readers_share(theirs, ours):
    with holder("x", shared=theirs):
        assert shm.lock("x", shared=ours).acquire(block=False) is (theirs and ours)


def test_threads_exclude_each_other_as_processes_do():
    with shm.lock("x"):
        assert not free("x")
        assert not free("x", shared=True)
    with shm.lock("x", shared=True):
        assert free("x", shared=True)
        assert not free("x")
    assert free("x")


def test_names_are_independent():
    with shm.lock("x"):
        assert free("y")


def test_a_name_and_its_posix_object_have_one_lock():
    with shm.lock("x"):
        assert not free(f"/{os.path.basename(paths.path_of('x'))}")


def test_a_thread_may_enter_again_and_is_out_when_it_has_left_as_often():
    lock = shm.lock("x")
    with lock, shm.lock("x"), shm.lock("x", shared=True), lock:
        pass
    with lock:
        with lock:
            pass
        assert not free("x")
    assert free("x")


def test_an_upgrade_of_a_shared_lock_is_an_error_and_leaves_it_held():
    with shm.lock("x", shared=True):
        with pytest.raises(shm.LockError, match=r"holds the shared lock .x. already"), shm.lock("x"):
            pass
        assert not free("x")
    assert free("x")


def test_to_leave_what_is_not_held_is_an_error():
    with pytest.raises(shm.LockError, match="'x' is not locked here"):
        shm.lock("x").release()


def test_a_lock_that_nobody_keeps_a_reference_to_stays_held():
    shm.lock("x").acquire()
    for i in range(100):  # more than stay open
        shm.version(f"y{i}")
    assert not free("x")
    shm.lock("x").release()
    assert free("x")


@pytest.mark.parametrize("timeout", [0, 0.01, 0.2])
def test_a_timeout_names_the_holder(timeout, monkeypatch):
    monkeypatch.setenv("JPY_SESSION_NAME", "/lab/train.ipynb")
    with holder("x") as child:
        monkeypatch.undo()
        with pytest.raises(TimeoutError, match=rf"'x' is still locked after {timeout} s, by train.ipynb") as caught:
            shm.lock("x", timeout=timeout).__enter__()
        error = pickle.loads(pickle.dumps(caught.value))
        assert (error.name, error.timeout, error.holder.pid) == ("x", timeout, child.pid)
        assert (error.holder.label, error.holder.kernel) == ("train.ipynb", None)


@pytest.mark.parametrize("shared", [False, True])
def test_a_timeout_says_that_the_thread_which_holds_has_ended_and_how_to_let_go(shared):
    thread = threading.Thread(target=lambda: shm.lock("x", shared=shared).acquire())
    thread.start()
    thread.join()
    with pytest.raises(shm.TimedOutError, match="thread that took it has ended") as caught:
        shm.lock("x", timeout=0).__enter__()
    eval(str(caught.value).rpartition(": ")[2])
    assert free("x")


def test_a_timeout_under_readers_says_so():
    with holder("x", shared=True), pytest.raises(shm.TimedOutError, match="by readers who share it") as caught:
        shm.lock("x", timeout=0).__enter__()
    assert caught.value.holder is None


@pytest.mark.parametrize("timeout", [None, PATIENCE])
def test_who_waits_enters_when_the_holder_leaves(timeout):
    with holder("x") as child:
        lock = shm.lock("x", timeout=timeout)
        once_waited_for("x", child.tell)
        with lock:
            assert child.hear() == "out"


@pytest.mark.parametrize("timeout", [None, PATIENCE])
@pytest.mark.parametrize("shared", [False, True])
def test_who_waits_enters_when_the_holder_is_killed_and_is_told(timeout, shared):
    with holder("x") as child:
        once_waited_for("x", lambda: os.kill(child.pid, signal.SIGKILL))
        lock = shm.lock("x", shared=shared, timeout=timeout)
        with pytest.warns(RuntimeWarning, match=r"\(pid \d+\) died while it held 'x': what the lock protects may be"):
            lock.__enter__()
        assert lock.abandoned.pid == child.pid
        lock.release()
    if shared:  # which repairs nothing
        with pytest.warns(RuntimeWarning, match="died"), shm.lock("x"):
            pass
    with shm.lock("x", shared=True) as lock:
        assert lock.abandoned is None


def enter_by_acquire():
    lock = shm.lock("x")
    lock.acquire()
    lock.release()


def enter_by_stack():
    with contextlib.ExitStack() as stack:
        stack.enter_context(shm.lock("x"))


def enter_in_a_task():
    async def main():
        async with shm.lock("x"):
            pass

    asyncio.run(main())


def enter_to_write():
    with shm.writing("x"):
        pass


@pytest.mark.parametrize("enter", [enter_by_acquire, enter_by_stack, enter_in_a_task, enter_to_write])
def test_the_warning_shows_the_line_that_entered(enter):
    shm.create("x", 1)
    with holder("x") as child:
        child.end()
    with pytest.warns(RuntimeWarning, match="died while it held") as warned:
        enter()
    assert [one.filename for one in warned] == [__file__]
    shm.unlink("x")


def test_a_warning_that_is_an_error_leaves_the_lock_free_and_told():
    with holder("x") as child:
        child.end()
    with pytest.raises(RuntimeWarning, match="died while it held"), shm.lock("x"):
        pass
    with shm.lock("x"):
        pass
    assert free("x")


def test_a_reader_who_is_killed_leaves_nothing():
    with holder("x", shared=True) as child:
        child.end()
    with shm.lock("x", timeout=PATIENCE) as lock:
        assert lock.abandoned is None


def test_an_error_inside_frees_the_lock():
    with pytest.raises(ZeroDivisionError), shm.lock("x"):
        raise ZeroDivisionError
    assert free("x")


def test_a_forked_child_holds_nothing_of_its_parent():
    def work(connection):
        connection.send(lock.acquire(block=False))
        connection.recv()

    with shm.lock("x") as lock:
        child = Child(work)
        assert child.hear() is False
    assert free("x")
    with child:
        child.tell()
        child.join()


def test_a_child_that_was_forked_under_the_lock_does_not_keep_it_for_a_dead_parent():
    def work(connection):
        with shm.lock("x"), Child(lambda inner: inner.recv()) as grandchild:
            connection.send(grandchild.pid)
            connection.recv()

    with Child(work) as child:
        grandchild = child.hear()
        child.end()
        with pytest.warns(RuntimeWarning, match="died"), shm.lock("x", timeout=PATIENCE):
            pass
        os.kill(grandchild, signal.SIGKILL)


def test_a_writer_that_waits_is_not_overtaken_by_readers_for_ever():
    def read(connection):
        connection.send("ready")
        while not connection.poll():
            with shm.lock("x", shared=True):
                until(lambda: os.sched_yield() is None, "")

    with Child(read) as one, Child(read) as other:
        assert (one.hear(), other.hear()) == ("ready", "ready")
        for _ in range(20):
            with shm.lock("x", timeout=PATIENCE):
                pass
        one.tell()
        other.tell()
        assert (one.join(), other.join()) == (0, 0)


def test_a_word_at_the_gate_of_one_who_died_there_is_forgotten():
    words = sync_file.opened("x").words
    words[sync_file.WAITING] = 1
    with shm.lock("x"):
        pass
    assert words[sync_file.WAITING] == 0


def test_it_travels_by_name():
    with shm.lock("x"):
        lock = pickle.loads(pickle.dumps(shm.lock("x", shared=True, timeout=3)))
    assert (lock.name, lock.shared, lock.timeout) == ("x", True, 3)
    assert repr(lock) == "<shmkernel lock 'x', shared>"


def test_an_array_or_a_view_of_it_is_as_good_as_its_name():
    x = shm.create("x", shape=(3, 3))
    with shm.lock(x[1:, ::2].T):
        assert not free("x")
    with pytest.raises(shm.UnsupportedError, match="not a shared object of this process"):
        shm.lock(x.copy())
    with pytest.raises(shm.ArgumentError, match="cannot be the name of a segment"):
        shm.lock("two words")


def test_leaving_an_exclusive_lock_raises_the_version_once():
    with shm.lock("x"), shm.lock("x"):
        assert shm.version("x") == 0
    with shm.lock("x", shared=True):
        assert shm.version("x") == 1


def test_tasks_exclude_each_other_and_the_loop_goes_on():
    async def one(number):
        async with shm.lock("x"):
            order.append(number)
            await asyncio.sleep(0)
            async with shm.lock("x"):
                order.append(number)

    async def main():
        await asyncio.gather(*map(one, range(5)))

    order = []
    asyncio.run(main())
    assert order[::2] == order[1::2]
    assert sorted(order[::2]) == list(range(5))
    assert free("x")


def test_a_task_that_holds_the_lock_may_take_it_without_await():
    async def main():
        async with shm.lock("x"):
            with shm.lock("x"):
                assert shm.lock("x").acquire(block=False)
                shm.lock("x").release()
            assert not free("x")

    asyncio.run(main())
    assert free("x")


def test_a_task_times_out_and_another_is_cancelled_without_a_trace():
    async def main():
        with pytest.raises(shm.TimedOutError):
            await shm.lock("x", timeout=0.05).__aenter__()
        task = asyncio.create_task(shm.lock("x").__aenter__())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with holder("x") as child:
        asyncio.run(main())
        child.tell()
        child.join()
    assert free("x")


def test_a_task_enters_when_the_holder_leaves_or_dies():
    async def main(how):
        once_waited_for("x", how)
        async with shm.lock("x", timeout=PATIENCE):
            pass

    with holder("x") as child:
        asyncio.run(main(child.tell))
    with holder("x") as child, pytest.warns(RuntimeWarning, match="died"):
        asyncio.run(main(lambda: os.kill(child.pid, signal.SIGKILL)))


def test_a_folder_that_was_emptied_gets_a_new_sync_file():
    lock, other = shm.lock("x"), shm.lock("x")
    with lock:
        pass
    os.unlink(sync_file.opened("x").path)
    until(lambda: lock._file.checked_until < locks.time.monotonic(), "a look at the path")
    with lock, Child(lambda connection: connection.send(other.acquire(block=False))) as child:
        assert child.hear() is False
