"""Compare the shared dict with other libraries: `uv run --group bench pytest benchmarks/test_dict.py`.

Manager().dict() asks a server process. UltraDict keeps a dict in each process and sends changes. Plain LMDB is what a
user would write with LMDB and msgspec alone; with `writemap` it stores into the mapping, as ours does, and where memory
is full that ends the process.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import multiprocessing
import shutil
from typing import TYPE_CHECKING, Any

import lmdb
import msgspec
import numpy as np
import pytest
from UltraDict import UltraDict

import shmkernel as shm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, MutableMapping
    from pathlib import Path

MILLION = 1_000_000
COUNT = 5_000  # writes of each of two processes
CONTENT = {f"key {n}": n for n in range(1000)}
PEERS = ["shmkernel", "plain lmdb", "UltraDict", "Manager"]


class Plain:
    """LMDB and msgspec alone."""

    def __init__(self, folder: str, *, writemap: bool = False) -> None:
        self.folder = folder
        self.env = lmdb.open(folder, map_size=1 << 32, sync=False, metasync=False, writemap=writemap)
        self.encode, self.decode = msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder().decode

    def __getitem__(self, key: str) -> Any:
        with self.env.begin() as txn:
            return self.decode(txn.get(key.encode()))

    def __setitem__(self, key: str, value: Any) -> None:
        with self.env.begin(write=True) as txn:
            txn.put(key.encode(), self.encode(value))

    def update(self, content: dict[str, Any]) -> None:
        with self.env.begin(write=True) as txn:
            for key, value in content.items():
                txn.put(key.encode(), self.encode(value))

    def __reduce__(self) -> Any:
        return Plain, (self.folder,)


@contextlib.contextmanager
def made(peer: str, folder: Path, *, locked: bool = False) -> Iterator[Any]:
    """Return the dict of another library, `locked` if several processes write."""
    with contextlib.ExitStack() as stack:
        if peer == "shmkernel":
            found: Any = shm.create("bench", {})
            stack.callback(shm.unlink, "bench")
        elif peer == "plain lmdb":
            found = Plain(f"{folder}/plain")
            stack.callback(shutil.rmtree, f"{folder}/plain")
        elif peer == "UltraDict":
            found = UltraDict(shared_lock=locked, buffer_size=1 << 20)
            stack.callback(found.unlink)
        else:
            found = stack.enter_context(multiprocessing.get_context("spawn").Manager()).dict()
        found.update(CONTENT)
        yield found


@pytest.fixture(scope="module")
def dicts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str, int], Any]]:
    """Return a function that returns the dict of a peer with so many keys; each is made once."""
    with contextlib.ExitStack() as stack:

        @functools.cache
        def of(way: str, size: int) -> Any:
            content = {f"key {n}": n for n in range(size)}
            if way == "UltraDict":
                found: Any = UltraDict(shared_lock=False, buffer_size=1 << 20)
                stack.callback(found.unlink)
                found.data.update(content)  # its own copy alone: sending a million keys takes minutes
            elif way.startswith("plain lmdb"):
                found = Plain(str(tmp_path_factory.mktemp("plain")), writemap=way.endswith("writemap"))
                found.update(content)
            elif way == "Manager":
                found = stack.enter_context(multiprocessing.get_context("spawn").Manager()).dict(content)
            else:
                found = shm.create("bench", content if way == "created full" else {})
                if way == "created empty":
                    found.update(content)
                shm.unlink("bench")  # it stays usable here, and leaves nothing behind
            return found

        yield of


WAYS = ["created empty", "created full", "plain lmdb", "plain lmdb, writemap", "UltraDict", "Manager"]
SIZES = [1, 100, MILLION]
VALUES: dict[str, Any] = {
    "number": 7,
    "text of 1,000": "x" * 1000,
    "nested": {"layers": [64, 64, 10], "rate": 0.1, "name": "adam"},
    "list of 1,000": list(range(1000)),
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("way", WAYS)
def test_get(benchmark: Any, dicts: Callable[[str, int], Any], way: str, value: str, size: int) -> None:
    benchmark.group, found = f"get a {value}, {size} keys", dicts(way, size)
    found["key 0"] = VALUES[value]
    assert benchmark(lambda: found["key 0"]) == VALUES[value]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("way", WAYS)
def test_set(benchmark: Any, dicts: Callable[[str, int], Any], way: str, value: str, size: int) -> None:
    benchmark.group, found = f"set a {value}, {size} keys", dicts(way, size)
    benchmark(lambda: found.__setitem__("key 0", VALUES[value]))
    assert found["key 0"] == VALUES[value]


@pytest.mark.parametrize("way", WAYS)
def test_get_of_any_key(benchmark: Any, dicts: Callable[[str, int], Any], way: str) -> None:
    benchmark.group, found = f"get any of {MILLION} keys", dicts(way, MILLION)
    names = itertools.cycle([f"key {n}" for n in range(1, MILLION, 7)])
    benchmark(lambda: found[next(names)])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("way", WAYS)
def test_insert(benchmark: Any, dicts: Callable[[str, int], Any], way: str, size: int) -> None:
    benchmark.group, found = f"set a key that is new, {size} keys", dicts(way, size)
    names = (f"new {n}" for n in itertools.count())
    benchmark.pedantic(lambda: found.__setitem__(next(names), 1), rounds=200, iterations=100)


def write(found: MutableMapping[str, int], seed: int, ready: Any, begin: Any, done: Any) -> None:
    """Write in a process of its own, after both have started."""
    found[f"key {seed}"] = 0
    ready.wait()
    begin.wait()
    for n in range(COUNT):
        found[f"key {(n * 7 + seed) % 1000}"] = n
    done.wait()


@pytest.mark.benchmark(group=f"two processes set {COUNT} each")
@pytest.mark.parametrize("peer", PEERS)
def test_two_processes_write(benchmark: Any, shm_dir: Path, peer: str) -> None:
    context = multiprocessing.get_context("spawn")
    children: list[Any] = []
    with made(peer, shm_dir, locked=True) as found:

        def start() -> tuple[tuple[Any, ...], dict[str, Any]]:
            ready, begin, done = (context.Barrier(3) for _ in range(3))
            for seed in range(2):
                children.append(context.Process(target=write, args=(found, seed, ready, begin, done), daemon=True))
                children[-1].start()
            ready.wait()
            return (begin, done), {}

        def run(begin: Any, done: Any) -> None:
            begin.wait()
            done.wait()

        benchmark.pedantic(run, setup=start, rounds=3)
        for child in children:
            child.join()


@pytest.fixture(scope="module")
def names() -> list[str]:
    return [f"item {n}" for n in range(MILLION)]


@pytest.mark.benchmark(group="create from 1,000,000 items")
@pytest.mark.parametrize("peer", ["a plain dict", "shmkernel"])
def test_create(benchmark: Any, names: list[str], peer: str) -> None:
    content = dict(zip(names, range(MILLION), strict=True))
    ways: dict[str, Callable[[], Any]] = {
        "a plain dict": lambda: {f"item {n}": n for n in range(MILLION)},
        "shmkernel": lambda: shm.create("bench", content),
    }

    def clear() -> None:
        if "bench" in shm.session:
            shm.unlink("bench")

    benchmark.pedantic(ways[peer], setup=clear, rounds=3, warmup_rounds=1)
    clear()


@pytest.mark.benchmark(group="scan 1,000,000 items")
@pytest.mark.parametrize("way", ["keys", "items", "to_dict"])
def test_scan(benchmark: Any, names: list[str], way: str) -> None:
    found = shm.create("bench", dict(zip(names, range(MILLION), strict=True)))
    count = benchmark.pedantic(lambda: sum(1 for _ in getattr(found, way)()), rounds=3, warmup_rounds=1)
    assert count == MILLION
    shm.unlink("bench")


@pytest.mark.benchmark(group="get an array of 256 MB, by one who has just attached the dict")
@pytest.mark.parametrize("way", ["shmkernel", "a copy of it"])
def test_get_an_array(benchmark: Any, way: str) -> None:
    array = np.ones(32 << 20)
    found = shm.create("bench", {"large": array})
    benchmark.pedantic(
        {"shmkernel": lambda: found["large"][0], "a copy of it": lambda: array.copy()[0]}[way], rounds=5, iterations=1
    )
    shm.unlink("bench")


@pytest.mark.benchmark(group="a step of several kernels")
@pytest.mark.parametrize("way", ["increment", "transaction", "attach and get"])
def test_step(benchmark: Any, way: str) -> None:
    found = shm.create("bench", CONTENT)

    def transaction() -> None:
        with found.transaction():
            found["key 5"] += 1

    def attach() -> Any:
        nonlocal found
        found = None
        found = shm.attach("bench")
        return found["key 5"]

    benchmark(
        {"increment": lambda: found.increment("key 5"), "transaction": transaction, "attach and get": attach}[way]
    )
    shm.unlink("bench")
