"""What the monitor costs."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import shmkernel as shm
from shmkernel.kinds import array
from shmkernel.monitor.sampler import Sampler
from shmkernel.preview import Look, Source

if TYPE_CHECKING:
    from pathlib import Path

GIB = 1 << 30


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


@pytest.mark.benchmark(group="one turn with 1,000 segments, of which nothing moves but the one that is seen")
def test_a_turn_with_1000_segments(benchmark: Any) -> None:
    made = [shm.create(f"x{at}", shape=16) for at in range(1000)]
    seen = shm.create("seen", np.random.default_rng(0).normal(size=(100, 100)))
    sent: list[int] = []
    sampler = Sampler(lambda content, buffers: sent.append(len(str(content)) + sum(map(len, buffers))), 0.25)
    sampler.hello()
    sampler.see("view", on=True)
    sampler.look("seen", Look())
    sampler.turn()
    time.sleep(0.05)  # the folder's clock settles

    def turn() -> None:
        seen[3, 3] += 1
        sampler.turn()

    turn()
    cpu = time.thread_time()
    benchmark.pedantic(turn, rounds=20)
    used = (time.thread_time() - cpu) / 20
    sampler._board._due = 0.0  # what is looked at once a second
    cpu = time.thread_time()
    turn()
    slow = time.thread_time() - cpu
    benchmark.extra_info |= {
        "ms of CPU a turn": round(1000 * used, 2), "ms of CPU for the turn once a second": round(1000 * slow, 2),
        "% of a core at 4 Hz": round(100 * (3 * used + slow), 2), "largest message": max(sent),
    }  # fmt: skip
    assert max(sent) < 64 << 10
    for at in range(len(made)):
        shm.unlink(f"x{at}")
    shm.unlink("seen")
