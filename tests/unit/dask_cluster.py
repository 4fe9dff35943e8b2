"""Dask's workers of this host, started by a client: real processes, which get and give references.

The cluster serves all tests of this file, and so they have one folder of segments in common. `test_dask.py` runs it.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import dask
import dask.array as da
import distributed
import numpy as np
import pytest

import shmkernel as shm
import shmkernel.dask
from shmkernel._core import paths, sessions
from shmkernel.kinds.dask.blocks import ArrayTarget
from shmkernel.testing import remove
from tests import workers
from tests.helpers import PATIENCE, lacking, needs, until, until_left


@pytest.fixture(scope="module", autouse=True)
def shm_dir():
    """The folder of segments for all tests of this file and for the workers."""
    folder = Path(tempfile.mkdtemp(prefix="shmkernel-test-", dir="/dev/shm"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHMKERNEL_DIR", str(folder))
        yield folder
        sessions.end()
        until_left(folder)
    remove(folder)


@pytest.fixture(scope="module")
def client(shm_dir):
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": ":0", "memory_limit": 0}
    with distributed.LocalCluster(**options) as cluster, distributed.Client(cluster) as client:
        yield client


@pytest.fixture(scope="module")
def mortals(shm_dir):
    """A client of workers of which one dies in each test: none waits for Dask to start another, which may take long."""
    options = {"n_workers": 4, "threads_per_worker": 1, "dashboard_address": ":0", "memory_limit": 0}
    with distributed.LocalCluster(**options) as cluster, distributed.Client(cluster, set_as_default=False) as client:
        yield client


@pytest.fixture(autouse=True)
def unlinked():
    """Unlink what a test has shared."""
    yield
    for name in paths.names():
        shm.unlink(name)


def test_workers_of_this_host_get_and_give_references(client):
    x = shm.create("x", np.ones((300, 300)))
    scattered = client.scatter(x, broadcast=True)
    assert client.submit(workers.lies, scattered, pure=False).result(PATIENCE) == ("segment", 90_000)
    assert client.submit(workers.lies, x[:10].T, pure=False).result(PATIENCE) == ("segment", 3000)
    client.submit(workers.double, x[0], pure=False).result(PATIENCE)
    assert x[0].sum() == 600
    assert np.shares_memory(client.submit(workers.tail, "x", pure=False).result(PATIENCE), x)


def test_from_array_takes_no_copy_and_its_blocks_are_references(client):
    x = shm.create("x", np.ones((300, 300)))
    for chunks in (100, -1):
        blocks = da.from_array(x, chunks=chunks, name=False)
        parts = client.compute([*blocks.to_delayed().ravel()])
        found = [client.submit(workers.lies, part, pure=False).result(PATIENCE) for part in parts]
        assert {where for where, _ in found} == {"segment"}
        assert client.compute(blocks.sum()).result(PATIENCE) == 90_000
    alone = np.ones(10)
    taken = da.from_array(alone, chunks=5)
    alone[0] = 5
    assert client.compute(taken.sum()).result(PATIENCE) == 10


def test_a_segment_that_is_unlinked_at_once_after_it_was_submitted_arrives(client):
    for _ in range(20):
        x = shm.create("x", np.ones(1000))
        future = client.submit(workers.lies, x, pure=False)
        shm.unlink("x")
        assert future.result(PATIENCE)[1] == 1000


def test_a_segment_that_is_gone_before_it_arrives_costs_no_worker(client):
    class Unlinks:
        def __reduce__(self):
            shm.unlink("x")
            return int, ()

    before = client.run(os.getpid)
    sent = np.array([None])
    sent[0] = shm.create("x", np.ones(1000))
    with contextlib.suppress(RuntimeError):  # which part of Dask reads it first depends on Dask's release
        client.submit(len, [sent.item(0), Unlinks(), sent.fill(None)], pure=False).result(PATIENCE)
    assert client.run(os.getpid) == before


def test_a_worker_that_dies_takes_no_segment_along(client):
    x = shm.create("x", np.ones(1000))
    (worker, *_) = client.scheduler_info()["workers"]
    pids = client.run(os.getpid)
    held = client.scatter(x, workers=[worker])
    assert client.submit(workers.lies, held, pure=False).result(PATIENCE)[0] == "segment"
    os.kill(pids[worker], 9)
    client.wait_for_workers(2, timeout=PATIENCE)
    assert client.submit(workers.lies, x, pure=False).result(PATIENCE) == ("segment", 1000)
    assert shm.attach("x") is x


def blocks(task, *about):
    """A collection of 16 blocks, of which a task computes each."""
    return (
        da.arange(10_000, chunks=10_000)
        .reshape(100, 100)
        .rechunk(25)
        .map_blocks(task, *about, meta=np.empty((0, 0), int))
    )


@pytest.fixture
def stored(monkeypatch):
    """The blocks that this process itself stores, since their workers cannot."""
    places, store = [], ArrayTarget.store
    monkeypatch.setattr(
        ArrayTarget,
        "store",
        lambda self, fd, place, values: (places.append(place), store(self, fd, place, values)),
    )
    return places


def test_workers_compute_a_collection_straight_into_a_segment(client, stored):
    value = blocks(np.negative)
    for order in ("C", "F"):
        x = shm.create("x", value, order=order, replace=True)
        assert x.tolist() == (-np.arange(10_000).reshape(100, 100)).tolist()
    assert client.submit(workers.lies, x, pure=False).result(PATIENCE)[0] == "segment"
    assert not stored


def test_a_worker_that_dies_in_the_middle_makes_no_difference(mortals, stored, tmp_path):
    with mortals.as_current():
        x = shm.create("x", blocks(workers.die_at, str(tmp_path / "died")))
    assert (tmp_path / "died").exists()
    assert x.tolist() == (np.arange(10_000).reshape(100, 100) + 1).tolist()
    assert not stored


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # Dask's, of pandas
def test_a_frame_is_appended_by_the_workers_though_one_dies(mortals, tmp_path, monkeypatch):
    pd, dd = needs("pandas"), needs("dask.dataframe")
    frames = needs("shmkernel.kinds.tables.dask_frames")
    sizes, append = [], frames.append
    monkeypatch.setattr(frames, "append", lambda *about, **more: (sizes.append(more), append(*about, **more))[1])
    frame = pd.DataFrame({"a": np.arange(1000.0), "b": [f"t{number}" for number in range(1000)]})
    lazy = dd.from_pandas(frame, npartitions=7)
    value = lazy.map_partitions(workers.die_at_frame, str(tmp_path / "died"), meta=lazy._meta)
    with mortals.as_current():
        shared = shm.create("x", value)
    assert (tmp_path / "died").exists()
    pd.testing.assert_frame_equal(shared, lazy.compute())
    assert len(sizes) == 1  # the footer


def test_a_task_that_kills_every_worker_is_an_error_and_leaves_nothing(mortals, monkeypatch):
    monkeypatch.setattr(mortals.cluster.scheduler, "allowed_failures", 0)
    with mortals.as_current(), pytest.raises(distributed.KilledWorker):
        shm.create("x", blocks(workers.die_at))
    assert not list(paths.names())


WORKER = """
import asyncio, sys
from distributed import Worker

async def work():
    async with Worker(sys.argv[1], name="far", host="127.0.0.1", memory_limit=0) as worker:
        await worker.finished()

asyncio.run(work())
"""


def test_a_worker_that_sees_other_processes_sends_the_values(client, stored):
    unshare = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    tried = subprocess.run([*unshare, "true"], capture_output=True, text=True, timeout=PATIENCE, check=False)
    if tried.returncode:
        lacking(f"a namespace of processes needs root and unshare: {tried.stderr.strip()}")
    with subprocess.Popen([*unshare, sys.executable, "-c", WORKER, client.scheduler.address]) as far:
        try:
            until(lambda: "far" in [one.name for one in [*client.cluster.scheduler.workers.values()]], "it has come")
            with dask.annotate(workers=["far"], allow_other_workers=False):
                x = shm.create("x", blocks(np.negative))
        finally:
            far.kill()
    assert x.tolist() == (-np.arange(10_000).reshape(100, 100)).tolist()
    assert len(stored) == 16
