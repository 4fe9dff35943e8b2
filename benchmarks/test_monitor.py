"""Measure the monitor's cost and delay: `uv run --group bench pytest benchmarks/test_monitor.py`."""

from __future__ import annotations

import ast
import itertools
import json
import os
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import shmkernel as shm
from shmkernel.kinds import array
from shmkernel.kinds.preview import Look, Source
from tests.kernels.kernel import Kernel

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

GIB = 1 << 30
SECONDS = 20.0  # of watching
WRITE = 0.05  # seconds between two changes: more often than the monitor samples


@pytest.mark.benchmark(group="preview of a sparse array of 8 GiB, 32768 x 32768 and 1 G x 1")
@pytest.mark.parametrize("shape", [(1 << 15, 1 << 15), (GIB,)], ids=["heat", "line"])
def test_preview_of_8_gib(benchmark: Any, shm_dir: Path, shape: tuple[int, ...]) -> None:
    head, path = array.encode(shape, np.dtype(float), "C"), shm_dir / "sparse"
    with path.open("wb+") as file:
        file.write(head)
        file.truncate(len(head) + 8 * GIB)
        fd = file.fileno()
        source = Source(lambda at, size: os.pread(fd, size, at), len(head) + 8 * GIB)
        found = benchmark(array.KIND.preview, source, Look())
        benchmark.extra_info["bytes"] = len(found.data)
        assert os.fstat(fd).st_blocks <= 16
    path.unlink()


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    """A kernel that watches a thousand segments of this process, and what it sends to its page."""
    made = {f"x{at}": shm.create(f"x{at}", shape=16) for at in range(1000)}
    made["seen"] = shm.create("seen", np.random.default_rng(0).normal(size=(100, 100)))
    found = Page(Kernel("b.ipynb", tmp_path), made["seen"])
    yield found
    found.kernel.end()
    for name in made:
        shm.unlink(name)


class Page:
    """The page's end of a monitor's comm, in place of a browser."""

    def __init__(self, kernel: Kernel, seen: Any) -> None:
        self.kernel, self.seen = kernel, seen
        kernel("import time, shmkernel as shm; w = shm.watch('seen')")
        self.comm = ast.literal_eval(self.value("w.comm.comm_id"))
        self.tell({"do": "hello"})
        self.tell({"do": "see", "view": "page", "on": True})
        self.frame()
        self.value("0")  # wait until the kernel has handled all messages

    def tell(self, content: dict[str, object]) -> None:
        """Send a message as the page would."""
        message = {"comm_id": self.comm, "data": {"method": "custom", "content": content}}
        self.kernel.client.shell_channel.send(self.kernel.client.session.msg("comm_msg", message))

    def value(self, expression: str) -> str:
        """Evaluate an expression in the kernel."""
        reply = self.kernel.client.execute("", user_expressions={"it": expression}, reply=True, timeout=60)
        return str(reply["content"]["user_expressions"]["it"]["data"]["text/plain"])

    def hear(self) -> tuple[dict[str, Any], int]:
        """Return the monitor's next message, and its size in bytes."""
        while True:
            message = self.kernel.client.get_iopub_msg(timeout=60)
            content = message["content"]
            if message["msg_type"] == "comm_msg" and content["data"]["method"] == "custom":
                return content["data"]["content"], len(json.dumps(content)) + sum(map(len, message["buffers"]))

    def frame(self) -> None:
        """Wait for a preview."""
        while self.hear()[0]["do"] != "frame":
            pass


@pytest.mark.benchmark(group="from a store in one process to the picture in the page of another's monitor")
def test_a_change_reaches_the_page(benchmark: Any, page: Page) -> None:
    phases = itertools.cycle(np.linspace(0.05, 0.3, 26))

    def change() -> None:
        time.sleep(next(phases))  # at any phase of the monitor's interval
        page.seen[3, 3] += 1

    benchmark.pedantic(page.frame, setup=change, rounds=26 if benchmark.enabled else 1)


@pytest.mark.benchmark(
    group="watching 1,000 segments, one of which changes all the time: all of the kernel's processor time"
)
def test_watching_1000_segments(benchmark: Any, page: Page) -> None:
    ended = threading.Event()

    def write() -> None:
        while not ended.wait(WRITE):
            page.seen[3, 3] += 1

    def watch() -> None:
        deadline = time.monotonic() + (SECONDS if benchmark.enabled else 1)
        while time.monotonic() < deadline:
            told.append(page.hear())

    told: list[tuple[dict[str, Any], int]] = []
    writer = threading.Thread(target=write)
    writer.start()
    try:
        cpu, began = float(page.value("time.process_time()")), time.monotonic()
        benchmark.pedantic(watch, rounds=1)
        used, lasted = float(page.value("time.process_time()")) - cpu, time.monotonic() - began
    finally:
        ended.set()
        writer.join()
    benchmark.extra_info |= {
        "% of a core": round(100 * used / lasted, 2),
        "pictures a second": round(sum(one["do"] == "frame" for one, _ in told) / lasted, 2),
        "largest message": max(size for _, size in told),
    }
    assert max(size for _, size in told) < 64 << 10
