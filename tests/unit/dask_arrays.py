"""Dask arrays that are computed into a segment by Dask's own schedulers. `test_dask.py` runs this file."""

from __future__ import annotations

import sys
import tracemalloc

import dask
import dask.array as da
import numpy as np
import pytest

import shmkernel as shm
from shmkernel._core import oflock, paths
from shmkernel.kinds.dask import blocks
from tests.helpers import Child, lies_in, needs, until_left

X = da.random.default_rng(1).random((100, 70), chunks=(30, 26))


@pytest.fixture(autouse=True)
def scheduler():
    """Dask's threads, of which there are several on every machine."""
    with dask.config.set(scheduler="threads", num_workers=4):
        yield


COLLECTIONS = {
    "blocks": X,
    "one block": X.rechunk(-1),
    "rows": X.rechunk((30, -1)),
    "columns": X.rechunk((-1, 30)),
    "transposed": X.T,
    "a slice": X[::-2, 5:],
    "three dimensions": X[:, None, :],
    "a number": X.sum(),
    "uneven": da.arange(1001, chunks=100),
    "nothing": da.zeros((0, 3)),
    "no columns": da.zeros((3, 0)),
    "bools": X > 0.5,
    "single floats": X.astype("f4"),
    "big endian": X.astype(">f8"),
    "dates": da.arange(10, chunks=3).astype("M8[D]"),
    "texts": da.from_array(np.array(["a", "bcd", ""]), chunks=2),
    "records": da.from_array(np.array([(1, 2.5)] * 7, "i4,f8"), chunks=3),
    "of an array": da.from_array(np.arange(12).reshape(3, 4), chunks=2),
}


@pytest.mark.parametrize("value", COLLECTIONS.values(), ids=COLLECTIONS)
def test_a_collection_becomes_the_array_that_compute_returns(value):
    shared, computed = shm.create("x", value), np.asarray(value.compute())
    assert (type(shared), shared.shape, shared.dtype) == (np.ndarray, computed.shape, computed.dtype)
    assert shared.tolist() == computed.tolist()
    assert shm.attach("x") is shared
    assert np.load(shm.info("x").path).tolist() == computed.tolist()


@pytest.mark.parametrize("chunks", [(30, 26), (30, -1), (-1, 30)])
def test_order_and_dtype_are_as_for_other_values(chunks):
    value = X.rechunk(chunks)
    columns = shm.create("x", value, order="F", dtype="f4")
    assert columns.flags.f_contiguous
    assert columns.tolist() == value.compute().astype("f4").tolist()


def test_the_tasks_store_the_blocks_themselves(monkeypatch):
    stored = blocks.ArrayTarget.store

    def store(self, fd, *about):
        assert sys._getframe(1).f_code.co_name == "store", "the creator has stored it"
        return stored(self, fd, *about)

    monkeypatch.setattr(blocks.ArrayTarget, "store", store)
    assert shm.create("x", X).tolist() == X.compute().tolist()


def test_no_more_than_some_blocks_are_in_memory():
    value = da.ones((4096, 1024), chunks=(64, 1024)) + 1  # 32 MiB, in blocks of 512 KiB
    with dask.config.set(scheduler="synchronous"):
        shm.create("before", value[:64])
        tracemalloc.start()
        try:
            shared = shm.create("x", value)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert lies_in("x", shared)
    assert shared.min() == shared.max() == 2
    assert peak < 8 << 20


def test_processes_that_cannot_open_the_segment_send_the_values(monkeypatch):
    monkeypatch.setattr(blocks.ArrayTarget, "_opened", lambda _: None)
    for value in (X, X.T, X.sum()):
        assert shm.create("x", value, replace=True).tolist() == np.asarray(value.compute()).tolist()


def keeping(kept):
    """Return a scheduler that keeps what it has computed, so that it can be computed again."""

    def get(graph, keys, **options):
        kept.append((graph, keys))
        return dask.get(graph, keys)

    return get


@pytest.mark.parametrize("end", ["lives", "is unlinked", "is replaced"])
def test_a_task_that_is_computed_once_more_later_changes_no_segment(end):
    kept, blocks = [], da.from_array(np.ones((4, 4)), chunks=2)
    with dask.config.set(scheduler=keeping(kept)):
        x = shm.create("x", blocks)
    x[:] = 7
    if end != "lives":
        shm.unlink("x")
    again = shm.create("x", np.full((4, 4), 7.0)) if end == "is replaced" else x
    for graph, keys in kept:
        dask.get(graph, keys)
    assert set(x.ravel()) == set(again.ravel()) == {7}


def test_a_task_of_a_creation_that_has_failed_changes_no_later_one():
    graphs = []

    def get(graph, keys, **options):
        graphs.append((graph, keys))
        done = dask.get(*graphs[-1])
        if len(graphs) == 1:
            raise ZeroDivisionError
        dask.get(*graphs[0])
        return done

    with dask.config.set(scheduler=get):
        with pytest.raises(ZeroDivisionError):
            shm.create("x", da.zeros((4, 4), chunks=2))
        assert shm.create("x", da.full((4, 4), 7, chunks=2)).min() == 7


def test_the_name_waits_for_a_process_that_stores_a_block(monkeypatch, shm_dir):
    def work(connection):
        target = connection.recv()
        file = target._opened()
        assert oflock.take(file, blocks._SHARED)
        connection.send("stores")
        connection.recv()

    with Child(work) as child:

        def get(graph, keys, **options):
            done = dask.get(graph, keys)
            child.tell(targets[0])
            assert child.hear() == "stores"
            return done

        def init(self, *about):
            made(self, *about)
            targets.append(self)

        def nap(_):
            waited.append(list(paths.names()))
            child.tell()
            assert child.join() == 0

        targets, waited, made = [], [], blocks.ArrayTarget.__init__
        monkeypatch.setattr(blocks.ArrayTarget, "__init__", init)
        monkeypatch.setattr(blocks.time, "sleep", nap)
        with dask.config.set(scheduler=get):
            x = shm.create("x", X)
    assert waited == [[]]
    assert x.tolist() == X.compute().tolist()


def test_a_task_that_fails_leaves_nothing(shm_dir):
    def fail(block):
        raise ZeroDivisionError("it is the third")

    with pytest.raises(ZeroDivisionError, match="it is the third"):
        shm.create("x", da.concatenate([X, X.map_blocks(fail, dtype=float)]))
    assert not list(paths.names())


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied", "/data"), MemoryError("of the task")])
def test_what_a_task_may_not_do_or_has_no_memory_for_is_no_limit_of_the_segment(error):
    def read(block):
        raise error

    with pytest.raises(RuntimeError, match=r"'x': a task of Dask failed: .*('/data'|of the task)"):
        shm.create("x", X.map_blocks(read, dtype=float))


class Device(np.ndarray):
    """A stand-in for an array in the memory of a device."""

    __module__ = "cupy"

    def get(self):
        return np.asarray(self)


def sparse():
    scipy = needs("scipy.sparse")
    return da.ones((4, 4), chunks=2).map_blocks(scipy.csr_matrix)


ODD = {
    "unknown chunks": (lambda: X[X > 0.5], "does not know the shape"),
    "masks": (lambda: da.ma.masked_greater(X, 0.5), "masks, which would be lost"),
    "scipy": (sparse, "csr_matrix of scipy"),
    "cupy": (lambda: X.map_blocks(lambda block: block.view(Device)), "a Device of cupy"),
    "another dtype": (lambda: X.astype("i8").map_blocks(lambda b: b + 0.5, dtype="i8", meta=np.empty((0, 0), "i8")),
                      "is of float64, and Dask was told int64"),
    "another shape": (lambda: X.map_blocks(lambda b: b[:9], dtype=float), r"has the shape \(9, "),
}  # fmt: skip


@pytest.mark.parametrize(("make", "message"), ODD.values(), ids=ODD)
def test_the_cure_for_what_cannot_be_shared_works(make, message):
    x = make()
    with pytest.raises(shm.UnsupportedError, match=message) as failed:
        shm.create("x", x)
    cured = eval(failed.value.expression, {"x": x, "numpy": np})
    assert failed.value.message.endswith(failed.value.expression)
    assert shm.create("x", cured).tolist() == np.asarray(cured.compute()).tolist()


def test_objects_and_values_that_would_change_are_refused():
    objects = da.from_array(np.array([1, "a"], object), chunks=1)
    with pytest.raises(shm.UnsupportedError, match=r"addresses.*x\.astype\('float64'\)"):
        shm.create("x", objects)
    with pytest.raises(shm.UnsupportedError, match="would become"):
        shm.create("x", X, dtype="i8")
    with pytest.raises(shm.ArgumentError, match="takes no size"):
        shm.create("x", X, size=4)
    assert not list(paths.names())


def test_a_notebook_shares_a_collection(notebook):
    notebook("import dask.array as da\nlazy = da.arange(10, chunks=3) * 2")
    told = notebook("%shm_create x --from lazy")
    assert "x: array int64 (10,)" in told
    assert notebook["x"].tolist() == [*range(0, 20, 2)]
    notebook("%shm_create lazy")
    assert type(notebook["lazy"]) is np.ndarray
    notebook("odd = da.arange(10, chunks=3)\nodd = odd[odd > 3]")
    error = notebook.fails("%shm_create odd")
    assert str(error).endswith("So: %shm_create odd_shared --from odd.compute_chunk_sizes()")
    notebook("%shm_create odd_shared --from odd.compute_chunk_sizes()")


def test_from_array_reads_it_back():
    x = shm.create("x", X)
    assert da.from_array(x, chunks=20).sum().compute() == pytest.approx(x.sum())


connections = []  # not in a task: some releases of Dask copy tasks


def tell(block):
    if block[0] >= 4:
        connections[0].send("computes")
        connections[0].recv()
    return block


def test_a_creator_that_is_killed_in_the_middle_leaves_nothing(shm_dir):
    def work(connection):
        connections.append(connection)
        with dask.config.set(scheduler="synchronous"):
            shm.create("x", da.arange(8, chunks=2).map_blocks(tell, meta=np.empty(0, "i8"), name="tell"))

    with Child(work) as creator:
        assert creator.hear() == "computes"
        creator.end()
    until_left(shm_dir)
