"""Arrays in objects and tables go to workers as the memory of the segment, unless they were changed here."""

from __future__ import annotations

import errno
import gc
import multiprocessing
import os
import pickle
import sys
import threading
import types
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.reduction import ForkingPickler

import joblib
import numpy as np
import pytest
from joblib.externals.loky import get_reusable_executor

import shmkernel as shm
from shmkernel.stdlib import pages, references
from tests import workers
from tests.helpers import leaving_none_open, needs, python

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
ARRAYS = {"a": np.arange(1000.0), "b": np.arange(6000.0).reshape(60, 100), "c": np.ones(5000)}
SUMS = [float(array.sum()) for array in ARRAYS.values()]
BY_REFERENCE = [(total, True) for total in SUMS]

module = types.ModuleType("of_a_part")
sys.modules[module.__name__] = module
exec("class Model:\n    def __init__(self, **parts):\n        vars(self).update(parts)\n", vars(module))


@pytest.fixture(autouse=True)
def _own(shm_dir, tmp_path, monkeypatch):
    """Use the folder and the key of the test."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))


def over(value):
    """Pickle and unpickle a value with multiprocessing's pickler."""
    return pickle.loads(ForkingPickler.dumps(value))


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_pool_gets_the_arrays_of_an_object_by_reference_and_each_task_those_that_were_shared(method):
    x = shm.create("x", ARRAYS, kind="object")
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert pool.map(workers.take, [x] * 3, chunksize=1) == [BY_REFERENCE] * 3
        assert pool.apply(workers.take, ([x["b"].T[::-1]],)) == [BY_REFERENCE[1]]
        changed = shm.attach("x")
        changed["c"] *= 3
        first, _, last = pool.apply(workers.take, (changed,))  # the second shares a page of memory with the last
        assert (first, last) == (BY_REFERENCE[0], (15_000.0, False))
    with ProcessPoolExecutor(1, multiprocessing.get_context(method)) as pool:
        assert list(pool.map(workers.take, [x, [x["c"][10:]]])) == [BY_REFERENCE, [(4990.0, True)]]
    assert [float(array.sum()) for array in x.values()] == SUMS


@pytest.fixture
def parallel():
    yield joblib.Parallel(n_jobs=2)
    get_reusable_executor().shutdown(wait=True)


def test_joblib_gets_them_by_reference(parallel):
    x = shm.create("x", ARRAYS, kind="object")
    assert parallel(joblib.delayed(workers.take)(x) for _ in range(4)) == [BY_REFERENCE] * 4


def test_a_pickled_object_goes_with_its_arrays_by_reference():
    model = shm.create("model", module.Model(weights=ARRAYS["a"], names=["a"]), allow_pickle=True)
    got = over(model)
    assert type(got) is module.Model
    assert workers.is_mapped(got.weights)
    assert not np.shares_memory(got.weights, model.weights)
    assert len(ForkingPickler.dumps(model)) < 2000


def test_what_was_changed_here_goes_by_value_and_the_rest_by_reference():
    x = shm.create("x", ARRAYS, kind="object")
    x["b"][30, 5] = -1
    got = over(x)
    assert got["b"].tobytes() == x["b"].tobytes() != ARRAYS["b"].tobytes()
    assert not workers.is_mapped(got["b"])
    assert workers.is_mapped(got["c"])
    assert workers.is_mapped(over(x["b"][:5]))  # other pages of memory


def test_changes_after_a_message_are_in_no_earlier_or_later_one():
    x = shm.create("x", ARRAYS, kind="object")
    message = ForkingPickler.dumps(x)
    x["c"][:] = 7
    first = pickle.loads(message)
    assert first["c"].sum() == 5000
    first["c"][:] = 8
    assert over(x)["c"].sum() == 35_000
    assert shm.attach("x")["c"].sum() == 5000
    again = over(first)
    assert again["c"].sum() == 40_000
    assert over(again["a"]).sum() == SUMS[0]


def test_arrays_of_one_message_are_one_mapping_and_those_of_two_are_not():
    x = shm.create("x", ARRAYS, kind="object")
    with leaving_none_open(but=2):  # one for each message
        got = over([x["a"], x["a"][1:], x["c"]])
        assert np.shares_memory(got[0], got[1])
        other = over(x["a"])
        got[0][:] = 5
        assert other.sum() == SUMS[0]


def test_mode_r_stays_read_only():
    shm.create("x", ARRAYS, kind="object")
    x = shm.attach("x", mode="r")
    got = over(x)
    assert workers.is_mapped(got["a"])
    with pytest.raises(ValueError, match="read-only"):
        got["a"][0] = 1


def test_a_result_comes_back_by_reference():
    x = shm.create("x", ARRAYS, kind="object")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        got = pool.apply(workers.give_back, (x,))
    assert workers.is_mapped(got["b"])
    assert got["b"].tobytes() == ARRAYS["b"].tobytes()


def test_the_columns_of_a_table_go_by_reference():
    pd = needs("pandas")
    needs("pyarrow")
    frame = shm.create("frame", pd.DataFrame({"a": np.arange(5000.0), "b": np.arange(5000.0)}))
    got = over(frame)
    assert len(ForkingPickler.dumps(frame)) < 5000
    assert got.equals(frame)


def test_what_has_no_name_any_more_goes_by_value():
    x = shm.create("x", ARRAYS, kind="object")
    message = ForkingPickler.dumps(x)
    shm.unlink("x")
    assert not workers.is_mapped(over(x)["b"])
    with pytest.raises(shm.NotFoundError, match="unlinked while a reference to it was on its way"):
        pickle.loads(message)
    shm.create("x", [1, [2]])
    with pytest.raises(shm.NotFoundError, match="replaced while a reference to it was on its way"):
        pickle.loads(message)


def test_a_pickle_outside_of_a_message_takes_the_values(tmp_path):
    x = shm.create("x", ARRAYS, kind="object")
    assert not workers.is_mapped(pickle.loads(pickle.dumps(x))["b"])
    with open(tmp_path / "file", "wb") as file:
        ForkingPickler(file, pickle.HIGHEST_PROTOCOL).dump(x)
    assert not workers.is_mapped(pickle.loads((tmp_path / "file").read_bytes())["b"])


def test_the_memory_goes_with_the_last_array_that_arrived():
    x = shm.create("x", ARRAYS, kind="object")
    got = over(x)
    shm.unlink("x")
    del x
    part = got["c"][10:]
    del got
    assert part.sum() == 4990
    del part
    gc.collect()
    assert shm.list() == []


def test_without_pagemap_the_values_are_sent(monkeypatch):
    x = shm.create("x", ARRAYS, kind="object")

    def fail(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(pages, "open", fail, raising=False)
    assert not workers.is_mapped(over(x)["b"])


def test_a_page_that_was_only_read_counts_as_untouched_and_one_byte_written_as_touched():
    x = shm.create("x", {"a": np.zeros(1 << 20)}, kind="object")["a"]
    low = x.ctypes.data
    assert pages.untouched(low, low + x.nbytes)
    assert x.sum() == 0
    assert pages.untouched(low, low + x.nbytes)
    x.view("u1")[-1] = 0
    assert not pages.untouched(low, low + x.nbytes)
    assert pages.untouched(low, low + x.nbytes // 2)


FORKED = """
import os
import numpy as np
import shmkernel as shm
from shmkernel.stdlib import pages

x = shm.create("x", {"a": np.ones(100_000), "b": np.ones(100_000)}, kind="object")
x["a"][:] = 2
child = os.fork()
span = lambda array: (array.ctypes.data, array.ctypes.data + array.nbytes)
assert not pages.untouched(*span(x["a"]))
assert pages.untouched(*span(x["b"][2000:]))
if not child:
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""


def test_a_forked_child_knows_what_its_parent_has_changed():
    assert python(FORKED).returncode == 0


LOST_ITS_NAME = """
import pickle, sys
import numpy as np

rebuild, arguments = pickle.loads(bytes.fromhex(sys.argv[1]))
for number in range(300):
    assert rebuild(*arguments).sum() == 45, number
"""


def test_memory_without_a_name_is_found_although_its_sender_opens_and_closes_files():
    lower = [os.open(os.devnull, os.O_RDONLY) for _ in range(5)]  # the numbers that the thread will use
    x = shm.create("x", np.arange(10.0))
    for number in lower:
        os.close(number)
    message = pickle.dumps(references.view(x, held=True))
    shm.unlink("x")
    over = threading.Event()

    def open_and_close():
        while not over.is_set():
            for number in [os.open(os.devnull, os.O_RDONLY) for _ in range(5)]:
                os.close(number)

    thread = threading.Thread(target=open_and_close)
    thread.start()
    try:
        python(LOST_ITS_NAME, message.hex())
    finally:
        over.set()
        thread.join()
