import asyncio
import errno
import os
import resource
import signal
import threading

import pytest

import shmkernel as shm
from shmkernel._core import paths
from shmkernel.sync import inotify, sync_file, versions
from tests.helpers import PATIENCE, Child, leaving_none_open, until


@pytest.fixture(params=["inotify", "polling"])
def way(request, monkeypatch):
    """Run the test with inotify, and without an instance."""
    if request.param == "polling":
        monkeypatch.setattr(inotify._libc, "inotify_init1", lambda _: -1)
        monkeypatch.setattr(inotify, "_inotify", None)


def once_asleep(act):
    """Call `act` as soon as a waiter sleeps."""

    def wait():
        until(lambda: len(inotify._waiters), "somebody waits")
        act()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


async def asleep(count=1):
    """Return when so many waiters sleep."""
    while len(inotify._waiters) < count:  # noqa: ASYNC110  they send no event when they fall asleep
        await asyncio.sleep(0)


def in_another_process(act):
    def work(_):
        act()

    with Child(work) as child:
        assert child.join() == 0


def test_publish_leaving_a_lock_and_replacing_raise_the_version():
    x = shm.create("x", shape=3)
    seen = [shm.version(x), shm.publish(x)]
    with shm.lock(x):
        pass
    seen.append(shm.version("x"))
    shm.create("x", shape=3, replace=True)
    seen.append(shm.version("x"))
    with open(paths.path_of("x"), "r+b") as file:  # in place: another program's business
        file.write(b"?")
    seen.append(shm.version("x"))
    assert seen == [0, 1, 2, 3, 3]


def test_a_name_has_one_version_whatever_lies_under_it():
    shm.publish("x")
    shm.create("x", shape=3)
    assert shm.version("x") == 2
    shm.unlink("x")
    assert shm.version("x") == 2
    shm.create("x", shape=3)
    assert shm.version("x") == 3
    assert shm.version(f"/shmk-{os.geteuid()}-x") == 3


def test_none_is_lost_that_processes_and_threads_publish_at_the_same_time():
    def work(connection):
        threads = [threading.Thread(target=lambda: [shm.publish("x") for _ in range(200)]) for _ in range(2)]
        for thread in threads:
            thread.start()
        for _ in range(200):
            with shm.lock("x"):
                pass
        for thread in threads:
            thread.join()
        connection.send("done")

    with Child(work) as one, Child(work) as other:
        assert (one.hear(), other.hear()) == ("done", "done")
    assert shm.version("x") == 2 * 3 * 200


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(
    "act",
    [
        lambda: shm.publish("x"),
        lambda: shm.lock("x").__enter__().release(),
        lambda: shm.create("x", shape=5, replace=True, lifetime="keep"),
        lambda: os.replace(paths.path_of("y"), paths.path_of("x")),
    ],
    ids=["published", "a lock left", "replaced", "replaced by another program"],
)
def test_wait_returns_when_it_is(act):
    x = shm.create("x", shape=3)
    shm.create("y", shape=3)
    thread = once_asleep(lambda: in_another_process(act))
    assert shm.wait(x, timeout=PATIENCE) == 1
    thread.join()
    shm.unlink("x")


@pytest.mark.usefixtures("way")
def test_wait_does_not_miss_what_came_before_it():
    shm.create("x", shape=3)
    known = shm.version("x")
    shm.publish("x")
    shm.publish("x")
    assert shm.wait("x", since=known) == 2
    with pytest.raises(shm.TimedOutError):
        shm.wait("x", since=2, timeout=0)


@pytest.mark.usefixtures("way")
def test_wait_raises_when_the_segment_is_unlinked():
    x = shm.create("x", shape=3)
    thread = once_asleep(lambda: in_another_process(lambda: shm.unlink("x")))
    with pytest.raises(shm.NotFoundError, match="no segment named 'x'"):
        shm.wait(x, timeout=PATIENCE)
    thread.join()
    with pytest.raises(shm.NotFoundError):
        shm.wait("x", since=shm.version("x"))


@pytest.mark.usefixtures("way")
def test_wait_raises_when_the_owner_is_killed():
    def work(connection):
        shm.create("x", shape=3)
        connection.send("made")
        connection.recv()

    with Child(work) as child:
        child.hear()
        thread = once_asleep(lambda: os.kill(child.pid, signal.SIGKILL))
        with pytest.raises(shm.NotFoundError):
            shm.wait("x", timeout=PATIENCE)
        thread.join()


@pytest.mark.usefixtures("way")
def test_a_name_without_a_segment_is_waited_for_until_it_has_one():
    thread = once_asleep(lambda: in_another_process(lambda: shm.create("x", shape=3, lifetime="keep")))
    assert shm.wait("x", timeout=PATIENCE) == 1
    thread.join()
    shm.unlink("x")


@pytest.mark.usefixtures("way")
def test_a_free_name_serves_as_a_signal():
    thread = once_asleep(lambda: in_another_process(lambda: shm.publish("go")))
    assert shm.wait("go", timeout=PATIENCE) == 1
    thread.join()


def test_wait_gives_up_after_its_time():
    with pytest.raises(TimeoutError, match=r"nothing was published under 'x' within 0.05 s") as caught:
        shm.wait("x", timeout=0.05)
    assert (caught.value.name, caught.value.timeout, caught.value.errno) == ("x", 0.05, errno.ETIMEDOUT)


def test_a_change_of_the_time_of_the_file_wakes_and_raises_nothing():
    shm.create("x", shape=3)
    looked = threading.Event()
    watch = versions._Watch("x", None)
    waiter = watch.waiter()
    assert watch.newer() is None
    thread = threading.Thread(target=lambda: [waiter.wait(), looked.set()])
    thread.start()
    os.utime(sync_file.opened("x").path)
    assert looked.wait(PATIENCE)
    thread.join()
    assert watch.newer() is None
    waiter.close()


def test_all_threads_that_wait_are_woken():
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(shm.wait("x", since=0, timeout=PATIENCE))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    until(lambda: len(inotify._waiters) == len(threads), "all wait")
    assert len(inotify._watches) == 2  # the folder's and the file's
    in_another_process(lambda: shm.publish("x"))
    for thread in threads:
        thread.join()
    assert found == [1] * len(threads)
    assert (len(inotify._waiters), len(inotify._watches)) == (0, 2)  # one rests


def test_one_waiter_s_end_is_not_the_other_s():
    threads = [threading.Thread(target=lambda: shm.wait("x", since=0, timeout=PATIENCE))]
    threads[0].start()
    until(lambda: len(inotify._waiters), "it waits")
    with pytest.raises(shm.TimedOutError):
        shm.wait("x", timeout=0.01)
    in_another_process(lambda: shm.publish("x"))
    threads[0].join(PATIENCE)
    assert not threads[0].is_alive()


def test_a_forked_child_waits_for_itself():
    def work(connection):
        connection.send("ready")
        connection.send(shm.wait("x", since=0, timeout=PATIENCE))

    thread = threading.Thread(target=lambda: shm.wait("x", since=0, timeout=PATIENCE))
    thread.start()
    until(lambda: len(inotify._waiters), "the parent waits")
    with Child(work) as child:
        assert child.hear() == "ready"
        shm.publish("x")
        assert child.hear() == 1
    thread.join()


def test_changes_gives_each_version_or_a_later_one_and_ends_with_the_segment():
    async def consume(x):
        async for version in shm.changes(x):
            seen.append(version)
            in_another_process(after.pop(0))

    async def main():
        x = shm.create("x", shape=3)
        task = asyncio.create_task(consume(x))
        await asleep()
        shm.publish(x)
        with pytest.raises(shm.NotFoundError):
            await asyncio.wait_for(task, PATIENCE)

    seen = []
    after = [lambda: [shm.publish("x"), shm.publish("x")], lambda: shm.publish("x"), lambda: shm.unlink("x")]
    asyncio.run(main())
    assert seen == [1, 3, 4]
    assert len(inotify._waiters) == 0


def test_changes_counts_from_its_call_on():
    async def main():
        stream = shm.changes("x")
        shm.publish("x")
        return await asyncio.wait_for(anext(stream), PATIENCE)

    assert asyncio.run(main()) == 1


def test_many_tasks_wait_in_one_loop():
    async def main():
        tasks = [asyncio.create_task(versions.following("x", 0)) for _ in range(20)]
        await asleep(len(tasks))
        in_another_process(lambda: shm.publish("x"))
        return await asyncio.wait_for(asyncio.gather(*tasks), PATIENCE)

    assert asyncio.run(main()) == [1] * 20
    assert (len(inotify._waiters), len(inotify._watches)) == (0, 2)  # one rests


def test_what_is_attached_so_that_it_cannot_have_changed_is_not_published():
    shm.create("x", shape=3)
    for mode, how in (("r", "read only"), ("c", "with private changes")):

        def work(connection, mode=mode):
            x = shm.attach("x", mode)
            for refused in (lambda: shm.publish(x), lambda: shm.publish("x"), lambda: shm.writing(x)):
                try:
                    refused()
                except PermissionError as error:
                    connection.send(str(error))
            with shm.lock(x):
                pass
            connection.send("locked")  # outside: the receiver may end this process

        with Child(work) as child:
            for _ in range(3):
                assert how in child.hear()
            assert child.hear() == "locked"
            child.join()


def test_the_listing_knows_the_version_without_making_a_sync_file(shm_dir):
    shm.create("x", shape=3)
    assert sync_file.peek("x") == (0, None)
    assert not list(shm_dir.glob(".shmk-*/sync/*"))
    with shm.lock("x"):
        version, who = sync_file.peek("x")
        assert (version, who.pid) == (0, os.getpid())
    assert sync_file.peek("x") == (1, None)


def test_a_replacement_that_has_the_number_of_the_old_inode_is_a_new_version(monkeypatch):
    shm.create("x", shape=3)
    path = paths.path_of("x")
    before, known = os.lstat(path), shm.version("x")
    shm.create("x", shape=3, replace=True)
    real = os.lstat

    def same(at, **options):
        found = real(at, **options)
        if at != path or found.st_ino == before.st_ino:
            return found
        return type("Stat", (), {"st_ino": before.st_ino, "st_ctime_ns": found.st_ctime_ns, "st_dev": before.st_dev})()

    monkeypatch.setattr(os, "lstat", same)
    assert shm.version("x") == known + 1
    assert shm.wait("x", since=known, timeout=PATIENCE) == known + 1


def test_after_the_greatest_count_of_64_bits_comes_another_one():
    """Any bytes may lie in a sync file, and publishing is not where that should fail."""
    shm.create("x", shape=1)
    words = sync_file.opened("x").words
    words[sync_file.PUBLISHED] = words[sync_file.RELEASED] = 2**64 - 1
    before = shm.version("x")
    assert shm.publish("x") != before
    with shm.lock("x"):
        before = shm.version("x")
    assert shm.version("x") != before
    shm.unlink("x")


def test_a_version_that_is_no_number_is_refused():
    with pytest.raises(shm.ArgumentError, match="a version is a whole number"):
        shm.wait("x", since="latest")


def test_a_waiter_that_runs_out_of_descriptors_leaks_none_and_looks_now_and_then(monkeypatch):
    def none(*_):
        raise OSError(errno.EMFILE, "Too many open files")

    shm.version("x")
    monkeypatch.setattr(inotify.select, "epoll", none)
    with leaving_none_open(but=1):  # an open file description to lock
        thread = once_asleep(lambda: in_another_process(lambda: shm.publish("x")))
        assert shm.wait("x", timeout=PATIENCE) == 1
        thread.join()


def test_waiters_beyond_their_share_of_the_descriptors_wake_too(monkeypatch):
    monkeypatch.setattr(inotify, "_SHARE", resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)
    shm.create("x", 1)
    since, woken = shm.version("x"), []
    threads = [threading.Thread(target=lambda: woken.append(shm.wait("x", since))) for _ in range(6)]
    for number, thread in enumerate(threads, 1):
        thread.start()
        until(lambda: len(inotify._waiters) == number, "it waits")  # noqa: B023  at once
    assert sum(waiter.event is not None for waiter in [*inotify._waiters]) <= 2
    shm.publish("x")
    for thread in threads:
        thread.join()
    assert woken == [since + 1] * 6


def test_many_that_poll_look_together_as_often_as_a_few(monkeypatch):
    def pause(count):
        monkeypatch.setattr(inotify, "_waiters", range(count))
        return inotify._pause()

    assert 1000 / pause(1000) <= 16 / pause(16) == 1600
    assert pause(1) == pause(16)


def test_to_wait_for_another_host_one_has_to_join_it():
    with pytest.raises(shm.HostError, match=r"'hostA:x': this host has not joined others\. Join: shm\.join"):
        shm.wait("hostA:x")
    with pytest.raises(shm.ArgumentError, match=r"^since='1': a version is a whole number$"):
        shm.wait("hostA:x", since="1")
