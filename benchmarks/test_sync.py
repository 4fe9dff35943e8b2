"""Compare locks, wake-ups, copies and streams with other libraries: `uv run --group bench pytest benchmarks -s`.

Times between two processes are measured with the clock that both share, and printed as medians. Ten million copies
take minutes: `SHMKERNEL_COPIES=10000000`, with `-k copies --timeout 0 -o faulthandler_timeout=0`.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import multiprocessing
import os
import signal
import struct
import time
import traceback
from typing import TYPE_CHECKING, Any

import fasteners
import filelock
import iceoryx2
import numpy as np
import portalocker
import pytest
import zmq

import shmkernel as shm
from shmkernel.sync import locks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Pair = tuple[Callable[[], object], Callable[[], object]]

ROUNDS = 1000
COPIES = int(os.environ.get("SHMKERNEL_COPIES", "200000"))
MEGABYTE = 1 << 20


def _ofd(folder: Path) -> Pair:
    fd = os.open(folder / "ofd", os.O_RDWR | os.O_CREAT)
    take, leave = (struct.pack("hhqqi4x", kind, 0, 0, 1, 0) for kind in (fcntl.F_WRLCK, fcntl.F_UNLCK))
    return lambda: fcntl.fcntl(fd, fcntl.F_OFD_SETLK, take), lambda: fcntl.fcntl(fd, fcntl.F_OFD_SETLK, leave)


def _ours(_: Path, **options: Any) -> Pair:
    lock = shm.lock("lock", **options)
    return lock.__enter__, lambda: lock.__exit__(None, None, None)


def _multiprocessing(_: Path) -> Pair:
    lock = multiprocessing.Lock()
    return lock.acquire, lock.release


def _fasteners(folder: Path) -> Pair:
    lock = fasteners.InterProcessLock(str(folder / "fasteners"))
    return lock.acquire, lock.release


def _filelock(folder: Path) -> Pair:
    lock = filelock.FileLock(str(folder / "filelock"))
    return lock.acquire, lock.release


def _portalocker(folder: Path) -> Pair:
    lock = portalocker.Lock(str(folder / "portalocker"), timeout=60)
    return lock.acquire, lock.release


LOCKS: dict[str, Callable[[Path], Pair]] = {
    "shmkernel": _ours,
    "shmkernel shared": lambda folder: _ours(folder, shared=True),
    "shmkernel with a timeout": lambda folder: _ours(folder, timeout=60),
    "an OFD pair": _ofd,
    "multiprocessing": _multiprocessing,
    "fasteners": _fasteners,
    "filelock": _filelock,
    "portalocker": _portalocker,
}


@pytest.mark.benchmark(group="lock and unlock, nobody else there")
@pytest.mark.parametrize("peer", LOCKS)
def test_an_uncontended_lock(benchmark: Any, tmp_path: Path, peer: str) -> None:
    take, leave = LOCKS[peer](tmp_path)

    def both() -> None:
        take()
        leave()

    benchmark(both)


@contextlib.contextmanager
def _child(work: Callable[[], None]) -> Iterator[int]:
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    try:
        yield pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _told(benchmark: Any, what: str, seconds: np.ndarray[Any, Any]) -> None:
    median, late = np.median(seconds) * 1e6, np.percentile(seconds, 90) * 1e6
    benchmark.extra_info[what] = {"median us": median, "90 % us": late}
    print(f"\n{what}: median {median:.1f} us, 90 % within {late:.1f} us")


@pytest.mark.parametrize("peer", [peer for peer in LOCKS if peer not in ("shmkernel shared", "an OFD pair")])
def test_the_hand_over_of_a_lock(benchmark: Any, tmp_path: Path, peer: str) -> None:
    rounds = ROUNDS if peer.startswith("shm") or peer == "multiprocessing" else ROUNDS // 20
    take, leave = LOCKS[peer](tmp_path) if peer in ("multiprocessing", "shmkernel") else (None, None)
    times = shm.create("times", shape=(rounds, 2))
    ours, theirs = multiprocessing.Pipe()

    def wait() -> None:
        enter, exit_ = (take, leave) if take else LOCKS[peer](tmp_path)
        for i in range(rounds):
            theirs.recv()
            theirs.send("waits")
            enter()
            times[i, 1] = time.perf_counter()
            exit_()
            theirs.send("has it")

    def hand_over() -> None:
        enter, exit_ = (take, leave) if take else LOCKS[peer](tmp_path)
        for i in range(rounds):
            enter()
            ours.send("next")
            ours.recv()
            time.sleep(0.0003)  # until it sleeps
            times[i, 0] = time.perf_counter()
            exit_()
            ours.recv()

    with _child(wait):
        benchmark.pedantic(hand_over, rounds=1)
    _told(benchmark, f"hand-over, {peer}", times[:, 1] - times[:, 0])


def _events(peer: str, folder: Path, end: contextlib.ExitStack) -> tuple[Pair, Pair]:
    """Return functions that signal and wait, in both directions."""
    if peer == "shmkernel":
        return _versions("there"), _versions("back")
    if peer == "multiprocessing.Semaphore":
        return _semaphore(), _semaphore()
    if peer == "pipe":
        return _pipe(), _pipe()
    make = _zmq if peer == "zmq" else _iceoryx2
    return make(folder, "there", end), make(folder, "back", end)


def _versions(name: str) -> Pair:
    known = [shm.version(name)]

    def wait() -> None:
        known[0] = shm.wait(name, since=known[0])

    return lambda: shm.publish(name), wait


def _semaphore() -> Pair:
    semaphore = multiprocessing.Semaphore(0)
    return semaphore.release, semaphore.acquire


def _pipe() -> Pair:
    reader, writer = os.pipe()
    return lambda: os.write(writer, b"1"), lambda: os.read(reader, 1)


def _zmq(folder: Path, name: str, end: contextlib.ExitStack) -> Pair:
    address, made = f"ipc://{folder}/{name}", {}

    def socket(kind: int, connect: str) -> Any:
        if (os.getpid(), kind) not in made:
            context = zmq.Context()
            end.callback(context.destroy, linger=0)
            made[os.getpid(), kind] = one = context.socket(kind)
            getattr(one, connect)(address)
        return made[os.getpid(), kind]

    return lambda: socket(zmq.PUSH, "connect").send(b"1"), lambda: socket(zmq.PULL, "bind").recv()


def _iceoryx2(_: Path, name: str, end: contextlib.ExitStack) -> Pair:
    made: dict[int, Any] = {}
    before = {*glob.glob("/dev/shm/iox2_*")}
    end.callback(lambda: [os.unlink(path) for path in {*glob.glob("/dev/shm/iox2_*")} - before])  # of the killed child
    end.callback(made.clear)
    title = f"shmkernel-{os.getpid()}-{name}"

    def service() -> Any:
        if os.getpid() not in made:
            node = iceoryx2.NodeBuilder.new().create(iceoryx2.ServiceType.Ipc)
            found = node.service_builder(iceoryx2.ServiceName.new(title)).event().open_or_create()
            made[os.getpid()] = node, found.notifier_builder().create(), found.listener_builder().create()
        return made[os.getpid()]

    def notify() -> None:
        service()[1].notify()

    def wait() -> None:
        service()[2].blocking_wait()

    return notify, wait


@pytest.mark.parametrize("peer", ["shmkernel", "multiprocessing.Semaphore", "zmq", "iceoryx2", "pipe"])
def test_a_wake_up(benchmark: Any, tmp_path: Path, peer: str) -> None:
    end = contextlib.ExitStack()
    (signal_there, wait_there), (signal_back, wait_back) = _events(peer, tmp_path, end)
    times = shm.create("times", shape=(ROUNDS, 2))
    ready, tell = os.pipe()

    def listen() -> None:
        if peer == "iceoryx2":
            signal_there()  # makes the listener: a signal that comes before it is lost
            wait_there()
        if peer in ("zmq", "iceoryx2"):
            signal_back()  # connects
        os.write(tell, b"1")
        for i in range(ROUNDS):
            wait_there()
            times[i, 1] = time.perf_counter()
            signal_back()
        signal.pause()  # zmq sends in a thread: ending now would lose the last message

    def ping() -> None:
        os.read(ready, 1)
        if peer in ("zmq", "iceoryx2"):
            wait_back()
        for i in range(ROUNDS):
            time.sleep(0.0003)  # until it sleeps
            times[i, 0] = time.perf_counter()
            signal_there()
            wait_back()

    if peer == "iceoryx2":
        signal_back()  # so that the child's first signal finds a listener
        wait_back()
    with end, _child(listen):
        benchmark.pedantic(ping, rounds=1)
    _told(benchmark, f"signalled to woken, {peer}", times[:, 1] - times[:, 0])


@pytest.mark.benchmark(group="1 MB: copies into 64 MB in turn, a frame put, a frame taken")
@pytest.mark.parametrize("way", ["memcpy", "memcpy to shared memory", "put", "copy", "latest"])
def test_a_stream(benchmark: Any, way: str) -> None:
    ring = shm.create("frames", ring=64, shape=MEGABYTE, dtype="u1")
    source = np.random.default_rng(0).integers(0, 255, MEGABYTE, "u1")
    slots = np.ones((64, MEGABYTE), "u1")  # numpy may use pages of 2 MiB; a tmpfs rarely does
    shared = shm.create("slots", slots)
    turn = iter(range(1 << 60))
    for _ in range(64):
        ring.put(source)
    benchmark(
        {
            "memcpy": lambda: np.copyto(slots[next(turn) % 64], source),
            "memcpy to shared memory": lambda: np.copyto(shared[next(turn) % 64], source),
            "put": lambda: ring.put(source),
            "copy": slots[5].copy,
            "latest": ring.latest,
        }[way]
    )


def test_copies_under_a_writer_who_hammers(benchmark: Any) -> None:
    """Return how many raw reads and how many snapshots were torn."""
    x = shm.create("x", np.zeros(512))

    def hammer() -> None:
        value = 0.0
        while True:
            value += 1
            with shm.writing(x):
                x[:] = value

    def torn(read: Callable[[], Any], count: int) -> int:
        return sum(1 for _ in range(count) if (one := read())[0] != one[-1])

    with _child(hammer):
        shm.wait(x, since=10, timeout=10)
        raw = torn(x.copy, COPIES)
        found = benchmark.pedantic(lambda: torn(lambda: shm.snapshot(x), COPIES), rounds=1)
    benchmark.extra_info.update(torn_raw=raw, torn_snapshots=found, copies=COPIES)
    print(f"\ntorn of {COPIES} copies: raw {raw}, snapshot {found}")
    assert found == 0
    assert locks.Lock("x", timeout=10).acquire()
