"""Measure what depends on processes: start, end, sharing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
from jupyter_client.manager import KernelManager

import shmkernel as shm

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OWNER = "import shmkernel as shm, signal; x = shm.create('x', shape=1000); print('ready', flush=True); signal.pause()"
READER = "import shmkernel as shm, signal; x = shm.attach('x'); x.sum(); print('ready', flush=True); signal.pause()"


def _start(code: str) -> subprocess.Popen[bytes]:
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True)
    assert child.stdout is not None
    assert child.stdout.readline() == b"ready\n"
    return child


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
        return (children[-1],), {}

    children: list[subprocess.Popen[bytes]] = []
    benchmark.pedantic(kill, setup=setup, rounds=50)
    for child in children:
        child.communicate()


def test_four_processes_share_the_pages_of_one_array(shm_dir: Path) -> None:
    size = 1 << 30
    shm.create("x", shape=size // 8, fill=1.0)
    readers = [_start(READER) for _ in range(4)]
    try:
        held = sum(_pss(child.pid, "shmk-") for child in readers)
        dogs = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if str(shm_dir) in _command(pid)]
        watchdogs = [_pss(pid, "") for pid in dogs]
        print(f"\narray: {held / 1e9:.3f} GB in 4 processes; watchdogs: {[f'{pss / 1e6:.1f} MB' for pss in watchdogs]}")
        assert held < 1.01 * size
        assert len(watchdogs) == 5
        assert max(watchdogs) < 10e6
    finally:
        for child in readers:
            _stop(child)
        shm.unlink("x")


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


def _pss(pid: int, mapped: str) -> int:
    total, counts = 0, False
    with open(f"/proc/{pid}/smaps", errors="replace") as file:
        for line in file:
            if "-" in line.split(" ", 1)[0]:
                counts = mapped in line
            elif counts and line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
    return total


def _command(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
