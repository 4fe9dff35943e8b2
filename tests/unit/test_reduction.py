"""Arrays sent to processes arrive as the same memory, as its inode proves."""

from __future__ import annotations

import copy
import multiprocessing
import operator
import os
import pickle
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.reduction import ForkingPickler

import joblib
import numpy as np
import pytest
from joblib.externals.loky import get_reusable_executor

import shmkernel as shm
from shmkernel import stdlib
from shmkernel._core import paths, registry
from shmkernel.stdlib import delivery, reduction
from tests import workers
from tests.helpers import PATIENCE, python

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
METHODS = pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
VIEWS = {
    "the whole": lambda x: x,
    "a slice": lambda x: x[1:3, ::2],
    "transposed": lambda x: x.T,
    "reversed": lambda x: x[::-1, ::-1],
    "a column": lambda x: x[:, 2],
    "a diagonal": np.diagonal,
    "another shape": lambda x: x.reshape(-1, 2)[1:],
    "another dtype": lambda x: x.view("i4"),
    "a scalar": lambda x: x[1, 1, ...],
    "an empty one": lambda x: x[2:2],
    "the end": lambda x: x[4:],
    "broadcast": lambda x: np.broadcast_to(x, (2, 4, 6)),
    "windows": lambda x: np.lib.stride_tricks.sliding_window_view(x, (2, 3)),
    "strided": lambda x: np.lib.stride_tricks.as_strided(x, (3, 3), (56, 8)),
    "through its buffer": lambda x: np.asarray(memoryview(x)),
    "from its buffer": lambda x: np.frombuffer(x, np.int32, offset=8),
    "one that may only be read": lambda x: _read_only(x[1:]),
    "records": lambda x: x.view(np.recarray),
    "a matrix": lambda x: x.view(np.matrix)[1:],
}


def _read_only(array):
    array.flags.writeable = False
    return array


def over(ways):
    """Pickle and unpickle an array with multiprocessing's pickler."""
    return pickle.loads(ForkingPickler.dumps(ways))


def inode():
    return os.stat(paths.path_of("x")).st_ino


def assert_arrived(got, sent):
    values, dtype, strides, writeable, inodes = got
    assert values == sent.tolist()
    assert (dtype, strides, writeable) == (sent.dtype, sent.strides, sent.flags.writeable)
    assert inodes == [inode()]


@METHODS
def test_a_pool_gets_views_by_reference(method):
    x = shm.create("x", np.arange(24).reshape(4, 6))
    views = [view(x) for view in VIEWS.values()]
    with multiprocessing.get_context(method).Pool(1) as pool:
        for got, sent in zip(pool.map(workers.look, views), views, strict=True):
            assert_arrived(got, sent)
        pool.apply(workers.double, (x[1:, ::-1],))
    assert x.tolist() == (np.arange(24).reshape(4, 6) * [[1], [2], [2], [2]]).tolist()


@METHODS
def test_a_process_gets_its_arguments_by_reference(method):
    x = shm.create("x", np.arange(24.0).reshape(4, 6))
    child = multiprocessing.get_context(method).Process(target=workers.double, args=(x.T[2:],))
    child.start()
    child.join()
    expected = np.arange(24.0).reshape(4, 6)
    expected[:, 2:] *= 2
    assert x.tolist() == expected.tolist()


@METHODS
def test_an_executor_gets_them_by_reference(method):
    x = shm.create("x", np.arange(24).reshape(4, 6))
    with ProcessPoolExecutor(1, multiprocessing.get_context(method)) as pool:
        assert_arrived(pool.submit(workers.look, x[::-1]).result(), x[::-1])


def test_a_result_comes_back_by_reference():
    x = shm.create("x", np.arange(24))
    with multiprocessing.get_context("fork").Pool(1) as pool:
        tail = pool.apply(workers.tail, ("x",))
    tail[0] = 100
    assert x[-3] == 100


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_every_view_is_cut_out_again_as_it_was(view):
    x = shm.create("x", np.arange(24).reshape(4, 6))
    sent = view(x)
    got = over(sent)
    assert (got.shape, got.strides, got.dtype) == (sent.shape, sent.strides, sent.dtype)
    assert got.__array_interface__["data"][0] == sent.__array_interface__["data"][0]
    assert got.flags.writeable == sent.flags.writeable


@pytest.mark.parametrize(
    ("shape", "view"),
    [((0, 3), lambda x: x[:, 1]), ((5, 0), lambda x: x[1:]), ((5, 0), lambda x: x[::-1]), ((0, 3), lambda x: x.T[1])],
)
def test_empty_views_arrive(shape, view):
    sent = view(shm.create("x", np.empty(shape, "f4")))
    got = over(sent)
    assert (got.shape, got.dtype) == (sent.shape, sent.dtype)


def test_a_masked_array_arrives_with_its_mask_over_the_same_memory():
    x = shm.create("x", np.arange(4.0))
    for mask in (np.ma.nomask, [True, False, False, False]):
        got = over(np.ma.array(x[1:] if mask is np.ma.nomask else x, mask=mask, fill_value=9, hard_mask=True))
        assert np.ma.getmaskarray(got).sum() == np.sum(mask)
        assert (got.fill_value, got.hardmask) == (9, True)
        got[-1] = got[-1] + 5
    assert x.tolist() == [0, 1, 2, 13]


BUFFERS = {
    "a block": lambda: shm.SharedMemory(create=True, size=4096).buf,
    "a manager's block": lambda: shm.SharedMemoryManager().__enter__().SharedMemory(4096).buf,
    "bytes": lambda: shm.create("x", size=4096).buf,
    "a list": lambda: shm.ShareableList([0] * 500).shm.buf,
    "a stdlib's list": lambda: shm.create("x", [0] * 500).shm.buf,
    "a memmap": lambda: _made() and np.memmap(paths.path_of("x"), "u1", "r+"),
    "numpy.load": lambda: np.load(_made() and paths.path_of("x"), mmap_mode="r+").view("u1"),
    "a dict": lambda: shm.create("x", {"a": np.zeros(1 << 17)})["a"].view("u1"),
}


def _made():
    shm.create("x", np.zeros(512), lifetime="keep")
    return True


@pytest.mark.parametrize("buffer", BUFFERS.values(), ids=BUFFERS)
def test_an_array_over_any_memory_of_ours_is_the_same_memory_there(buffer):
    memory = buffer()
    whole = np.frombuffer(memory, "u1")
    for view in (whole[2048:2112].view("f8"), np.ndarray((2, 8), "i2", memory, 3000), whole[::-2]):
        arrived = over(view)
        assert (type(arrived), arrived.shape, arrived.strides) == (np.ndarray, view.shape, view.strides)
        arrived[...] = 7
        assert (view == 7).all()
    private = np.frombuffer(bytearray(memory), "u1")
    assert not np.shares_memory(over(private), private)
    for name in [*shm.session]:
        shm.unlink(name)


def test_a_memmap_of_a_file_of_somebody_else_goes_by_its_values(tmp_path):
    array = np.memmap(tmp_path / "x", "u1", "w+", shape=100)
    over(array)[:] = 1
    assert array.sum() == 0


def test_the_whole_array_is_the_same_object():
    x = shm.create("x", np.arange(3))
    assert over(x) is x


def test_several_in_one_message_are_one_attachment():
    x = shm.create("x", np.arange(24))
    first, second = over([x[::2], x[1:]])
    first[1] = 99
    assert second[1] == 99


def test_a_read_only_attachment_stays_read_only():
    shm.create("x", np.arange(3))
    x = shm.attach("x", mode="r")
    assert over(x) is x
    assert not over(x[1:]).flags.writeable


def test_private_changes_travel_by_value():
    shm.create("x", np.arange(3))
    x = shm.attach("x", mode="c")
    x[0] = 9
    got = over(x)
    got[1] = 8
    assert got.tolist() == [9, 8, 2]
    assert x.tolist() == [9, 1, 2]


def test_what_was_unlinked_or_replaced_travels_by_value():
    x = shm.create("x", np.arange(3))
    y = shm.create("x", np.ones(3), replace=True)
    got = over(x)
    assert got.tolist() == [0, 1, 2]
    got[0] = 5
    assert x[0] == 0
    shm.unlink("x")
    assert over(y).tolist() == [1, 1, 1]
    assert not np.shares_memory(over(y), y)


def test_private_arrays_travel_by_value():
    value = np.arange(3)
    assert not np.shares_memory(over(value), value)
    assert over(value).tolist() == [0, 1, 2]


def test_a_reference_whose_name_was_replaced_on_the_way_is_an_error():
    x = shm.create("x", np.arange(3))
    message = ForkingPickler.dumps(x)
    shm.create("x", np.ones(3), replace=True)
    with pytest.raises(shm.NotFoundError, match="replaced while a reference to it was on its way"):
        pickle.loads(message)
    shm.unlink("x")
    with pytest.raises(shm.NotFoundError):
        pickle.loads(message)


def test_a_reference_may_be_read_more_than_once():
    x = shm.create("x", np.arange(3))
    message = ForkingPickler.dumps(x[1:])
    assert pickle.loads(message).tolist() == pickle.loads(message).tolist() == [1, 2]


def test_every_pickler_that_is_patched_is_waited_for():
    assert {*stdlib.PICKLERS} == {*reduction.LESSONS, *delivery.LESSONS}
    assert len({*stdlib.PICKLERS}) == len(stdlib.PICKLERS)


def test_a_library_that_is_imported_after_the_value_was_shared_sends_references():
    script = """
import sys
import numpy as np
import shmkernel as shm

x = shm.create("x", np.zeros(4))
people = shm.create("people", [1, 2])
print({"multiprocessing", "joblib", "numpy.ma", "shmkernel.stdlib.reduction"} & {*sys.modules})

import pickle
from multiprocessing.reduction import ForkingPickler
from joblib.externals.loky.backend import queues, reduction

for dumps in (ForkingPickler.dumps, reduction.dumps, queues.dumps):
    over = lambda value: pickle.loads(dumps(value))
    print(over(x) is x, over(people) is people, np.shares_memory(over(np.ma.array(x[1:])), x))
shm.unlink("x"), shm.unlink("people")
"""
    assert python(script).stdout.splitlines() == ["set()", *["True True True"] * 3]


def test_a_plain_pickle_takes_the_values_though_picklers_are_taught():
    x = shm.create("x", np.arange(3))
    again = pickle.loads(pickle.dumps(x))
    assert not np.shares_memory(again, x)


@pytest.fixture
def parallel():
    yield joblib.Parallel(n_jobs=2)
    get_reusable_executor().shutdown(wait=True)


def test_joblib_gets_every_view_by_reference(parallel):
    x = shm.create("x", np.arange(24).reshape(4, 6))
    views = [view(x) for view in VIEWS.values()]
    for got, sent in zip(parallel(joblib.delayed(workers.look)(view) for view in views), views, strict=True):
        assert_arrived(got, sent)
    parallel([joblib.delayed(workers.double)(x[1:, ::-1])])
    assert x.tolist() == (np.arange(24).reshape(4, 6) * [[1], [2], [2], [2]]).tolist()


def test_joblib_gets_the_values_of_private_changes_and_of_large_arrays_that_are_not_shared(parallel):
    shm.create("x", np.arange(3))
    private = shm.attach("x", mode="c")
    private += 1
    large = np.arange(200_000.0)
    results = parallel(joblib.delayed(np.sum)(array) for array in (private, private[::-1], large))
    assert results == [6, 6, large.sum()]


def test_what_a_loky_worker_creates_belongs_to_the_parent(parallel):
    mine = registry.begin()
    assert parallel([joblib.delayed(workers.create)("x")]) == [mine.id]
    get_reusable_executor().shutdown(wait=True)
    shm.gc()
    assert shm.attach("x").sum() == 45


class Sent:
    """An array that a pickler has reduced already."""

    def __init__(self, array):
        self.reduced = reduction.reduce(array)

    def __reduce__(self):
        return self.reduced


@METHODS
def test_what_is_unlinked_on_its_way_to_a_worker_is_an_error_and_hangs_nobody(method):
    sent = Sent(shm.create("x", np.arange(3)))
    shm.unlink("x")
    context = multiprocessing.get_context(method)
    with context.Pool(1) as pool, ProcessPoolExecutor(1, context) as executor:
        for task in (workers.double, workers.look, np.sum, np.asarray, len, list, operator.neg, copy.copy):
            with pytest.raises(shm.NotFoundError, match="no segment named 'x'"):
                pool.apply_async(task, (sent,)).get(PATIENCE)
            with pytest.raises(shm.NotFoundError, match="no segment named 'x'"):
                executor.submit(task, sent).result(PATIENCE)
    with pytest.raises(shm.NotFoundError):  # any other receiver
        over(sent)


def test_a_pickler_is_taught_while_another_thread_attaches_a_new_kind(monkeypatch):
    monkeypatch.setattr(delivery, "reducers", {int: repr})
    monkeypatch.setattr(reduction, "_taught", [])

    class Pickler:
        @staticmethod
        def register(*_):
            delivery.reducers.setdefault(str, repr)

    reduction._teach(Pickler)
    assert [*delivery.reducers] == [int, str]
