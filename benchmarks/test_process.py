"""Measure what depends on processes: start, end, sharing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import xarray as xr
from jupyter_client.manager import KernelManager

import shmkernel as shm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

OWNER = "import shmkernel as shm, signal; x = shm.create('x', shape=1000); print('ready', flush=True); signal.pause()"
AT_ONCE = {"MALLOC_MMAP_THRESHOLD_": "131072"}  # bytes: glibc gives back larger blocks as soon as they are freed
READER = """
import sys, shmkernel as shm
for name in ("small", "x"):
    x = shm.attach(name)
    READ
    print("ready", flush=True)
    sys.stdin.readline()
"""
READS = {  # all bytes of a value, and how
    "array": "x.max()",
    "frame": "[x[key].cat.codes.max() if key == 'kind' else x[key].max() for key in x]",
    "dataset": "x.max().load()",
}


def _start(code: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", code], env=os.environ | AT_ONCE, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip


def _hear(*children: subprocess.Popen[bytes]) -> None:
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"


def _tell(*children: subprocess.Popen[bytes]) -> None:
    for child in children:
        assert child.stdin is not None
        child.stdin.write(b"\n")
        child.stdin.flush()


def _stop(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    child.communicate()


@pytest.mark.benchmark(group="from SIGKILL to unlinked")
def test_a_killed_owner_leaves_nothing(benchmark: Any, shm_dir: Path) -> None:
    path = shm_dir / f"shmk-{os.geteuid()}-x"

    def kill(child: subprocess.Popen[bytes]) -> None:
        os.killpg(child.pid, signal.SIGKILL)
        while path.exists():
            time.sleep(0.0001)

    def setup() -> tuple[tuple[subprocess.Popen[bytes]], dict[str, Any]]:
        children.append(_start(OWNER))
        _hear(children[-1])
        return (children[-1],), {}

    children: list[subprocess.Popen[bytes]] = []
    benchmark.pedantic(kill, setup=setup, rounds=50)
    for child in children:
        child.communicate()


def array(size: int) -> Any:
    return np.full(size // 8, 1.0)


def frame(size: int) -> Any:
    rows = size // 54
    numbers = {f"number {n}": np.full(rows, n, float) for n in range(4)}
    texts = pd.Series(pa.array(["some", "text"]).take(np.arange(rows) % 2), dtype="str")
    kinds = pd.Categorical.from_codes(np.arange(rows) % 3, ["low", "middle", "high"])
    return pd.DataFrame({**numbers, "day": pd.date_range("2000", periods=rows, freq="s"), "text": texts, "kind": kinds})


def dataset(size: int) -> Any:
    grid = np.arange(256.0)
    names = ("heat", "rain", "wind", "snow")
    rows = size // len(names) // 8 // 256 or 1
    return xr.Dataset({name: (("time", "x"), np.full((rows, 256), 1.0)) for name in names}, {"x": grid})


@pytest.mark.parametrize("make", [array, frame, dataset])
def test_four_processes_hold_one_value(make: Callable[[int], Any], shm_dir: Path) -> None:
    """The memory that they take more than with a small value: that of one segment, and a little each."""
    shm.create("small", make(6000))
    shm.create("x", make(1 << 30))
    size = shm.info("x").size
    readers = [_start(READER.replace("READ", READS[make.__name__])) for _ in range(4)]
    try:
        _hear(*readers)
        before = sum(_pss(child.pid) for child in readers)
        _tell(*readers)
        _hear(*readers)
        held = sum(_pss(child.pid) for child in readers) - before
        dogs = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if str(shm_dir) in _command(pid)]
        watchdogs = max(map(_pss, dogs))
        print(f"\n{make.__name__}: {size / 1e6:,.0f} MB, and {(held - size) / 4e6:.1f} MB more in each of 4 processes")
        assert size * 0.99 < held < size + 4 * 10e6
        assert len(dogs) == 5
        assert watchdogs < 10e6
    finally:
        for child in readers:
            _stop(child)
        shm.unlink("x")
        shm.unlink("small")


@pytest.mark.benchmark(group="import, in a process of its own")
@pytest.mark.parametrize(
    "code", ["import numpy", "import numpy, shmkernel", "import numpy, shmkernel; shmkernel.attach"]
)
def test_import(benchmark: Any, code: str) -> None:
    benchmark.pedantic(lambda: subprocess.run([sys.executable, "-c", code], check=True), rounds=10, warmup_rounds=1)


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[Any]:
    manager = KernelManager(transport="ipc", connection_file=str(tmp_path / "kernel.json"))
    manager.start_kernel(stderr=subprocess.DEVNULL)
    client = manager.blocking_client()
    client.start_channels()
    client.wait_for_ready(timeout=60)
    yield client
    client.stop_channels()
    manager.shutdown_kernel()


@pytest.mark.benchmark(group="%load_ext in a running kernel")
def test_load_extension(benchmark: Any, kernel: Any) -> None:
    took: list[float] = []

    def output(message: dict[str, Any]) -> None:
        took.extend(float(word) for word in message["content"].get("text", "").split())

    code = "import time as t; b = t.perf_counter()\n%load_ext shmkernel\nprint(t.perf_counter() - b)"
    kernel.execute_interactive("1", timeout=60)
    kernel.execute_interactive(code, timeout=60, output_hook=output)
    benchmark.extra_info["in the kernel, ms"] = took[0] * 1e3
    print(f"\n%load_ext shmkernel: {took[0] * 1e3:.1f} ms")
    benchmark.pedantic(lambda: kernel.execute_interactive("%reload_ext shmkernel", timeout=60), rounds=5)


@pytest.mark.benchmark(group="complete a name")
@pytest.mark.parametrize("count", [10, 1000])
def test_completion(benchmark: Any, kernel: Any, count: int) -> None:
    kept = [shm.create(f"x{i}", shape=4) for i in range(count)]
    kernel.execute_interactive("%load_ext shmkernel", timeout=60)
    reply = kernel.complete("%shm_attach x", reply=True, timeout=60)
    assert len(reply["content"]["matches"]) == min(count, 500)  # IPython offers no more
    benchmark(lambda: kernel.complete("%shm_attach x", reply=True, timeout=60))
    for i in range(len(kept)):
        shm.unlink(f"x{i}")


def _pss(pid: int) -> int:
    with open(f"/proc/{pid}/smaps_rollup") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("Pss:"))


def _command(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
