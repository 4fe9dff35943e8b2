"""Computing a Dask array into a segment, beside `compute` and a copy, and beside `da.store` into the attached array.

uv run --group large python benchmarks/dask_arrays.py

It is no test among the others, since to import distributed changes a process. The cluster has two workers of one thread
each; all ways are timed in turn, and the median of five is printed, with how much memory this process had at most.
"""

from __future__ import annotations

import gc
import statistics
import time
from pathlib import Path

import dask.array as da
from distributed import Client, LocalCluster

import shmkernel as shm

ROUNDS = 5
SIZES = {"8 MB": 1 << 20, "64 MB": 1 << 23, "512 MB": 1 << 26}


class Attached:
    """A target of `da.store`: each task attaches the segment by its name."""

    def __setitem__(self, where, block):
        shm.attach("x")[where] = block


def create(lazy):
    return shm.create("x", lazy)


def compute(lazy):
    x = shm.create("x", shape=lazy.shape)
    x[:] = lazy.compute()
    return x


def store(lazy):
    x = shm.create("x", shape=lazy.shape)
    da.store(lazy, Attached(), lock=False)
    return x


def private():
    """Return the most memory of its own that this process has had since it was asked to forget, in MB."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    facts = {line.partition(":")[0]: line.split()[1] for line in lines if line.startswith(("VmHWM", "RssShmem"))}
    return (int(facts["VmHWM"]) - int(facts["RssShmem"])) / 1024


def measured(way, lazy):
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the most so far
    before, start = private(), time.perf_counter()
    x = way(lazy)
    took = time.perf_counter() - start
    assert x[0] == x[-1] == 2
    more = private() - before
    shm.unlink("x")
    return took, more


def main():
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0", memory_limit=0) as cluster,
        Client(cluster),
    ):
        for size, count in SIZES.items():
            lazy = da.ones(count, chunks=1 << 20) + 1
            found = {way: [] for way in (create, compute, store)}
            for _ in range(ROUNDS):
                for way, times in found.items():
                    times.append(measured(way, lazy))
            for way, times in found.items():
                took, more = (statistics.median(column) for column in zip(*times, strict=True))
                print(f"{size:>7} {way.__name__:8} {took * 1000:8.0f} ms, {max(more, 0):6.0f} MB more of its own")


if __name__ == "__main__":
    main()
