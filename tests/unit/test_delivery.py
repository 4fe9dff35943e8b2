"""An error while a value is rebuilt fails its task alone, in workers and in the parent: no process hangs or dies."""

from __future__ import annotations

import copyreg
import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor

import joblib
import numpy as np
import pytest
from joblib.externals.loky import get_reusable_executor

import shmkernel as shm
from tests import workers
from tests.helpers import PATIENCE, python

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
ERRORS = [
    AttributeError("a"), ImportError("b"), MemoryError("c"), OSError(5, "d"), EOFError("e"), RecursionError("f"),
    pickle.UnpicklingError("g"), shm.DamagedError("h"),
]  # fmt: skip


@pytest.fixture(params=["fork", "spawn", "forkserver"], scope="module")
def context(request):
    return multiprocessing.get_context(request.param)


@pytest.fixture
def submit(context, monkeypatch):
    """Ways to run a task in a worker; each returns a function that waits for the result."""
    monkeypatch.delitem(copyreg.dispatch_table, workers.OddError, raising=False)  # xarray's dask adds all errors
    shm.create("begun", 1)  # the first create registers the picklers
    with context.Pool(1) as pool, ProcessPoolExecutor(1, context) as executor:
        ways = {
            "apply": lambda task, *args: pool.apply_async(task, args).get(PATIENCE),
            "map": lambda task, *args: pool.map_async(task, args[:1]).get(PATIENCE),
            "starmap": lambda task, *args: pool.starmap_async(task, [args]).get(PATIENCE),
            "imap": lambda task, *args: pool.imap(task, args[:1]).next(PATIENCE),
            "imap_unordered": lambda task, *args: pool.imap_unordered(task, args[:1]).next(PATIENCE),
            "an executor": lambda task, *args: executor.submit(task, *args).result(PATIENCE),
            "an executor's map": lambda task, *args: next(executor.map(task, args[:1], timeout=PATIENCE)),
        }
        yield ways
        for run in ways.values():  # all of them still work
            assert list(np.ravel(run(abs, -5))) == [5]


def test_an_error_in_a_value_is_its_tasks(submit):
    for run in submit.values():
        for error in ERRORS:
            for task, value in ((len, workers.Fails(error)), (workers.send_back, error)):
                with pytest.raises(type(error), match=str(error.args[-1])):
                    run(task, value)
        with pytest.raises(pickle.UnpicklingError, match="OddError: 1 and 2"):
            run(len, workers.Odder())


def test_what_is_unlinked_on_its_way_is_its_tasks_error(submit):
    makers = [lambda: shm.create("x", np.arange(3)), lambda: shm.create("x", [1, 2]), lambda: shm.create("x", b"abc"),
              lambda: shm.create("x", {"a": 1}), lambda: shm.create("x", ring=2, shape=3)]  # fmt: skip
    for name in ("apply", "an executor"):
        for make in makers:
            with pytest.raises(shm.NotFoundError, match=r"no segment named 'x'.*unlinked while a reference"):
                submit[name](workers.look_away, make(), workers.Unlinks("x"))
        for make in (shm.SharedMemory, shm.ShareableList):
            made = make(create=True, size=3) if make is shm.SharedMemory else make([1])
            with pytest.raises(shm.NotFoundError):
                submit[name](workers.look_away, made, workers.Unlinks(f"/{getattr(made, 'shm', made).name}"))


def test_a_result_that_cannot_be_attached_is_its_tasks_error(submit):
    for name in ("apply", "map", "starmap", "imap", "an executor"):
        with pytest.raises(shm.NotFoundError, match="lifetime 'attached' goes with its last user"):
            submit[name](workers.make, "part")


def test_results_that_replace_each_other_are_never_taken_for_each_other(context):
    shm.create("begun", 1)
    with context.Pool(2) as pool:
        for waiting in [pool.apply_async(workers.make_anew, ("x", number)) for number in range(20)]:
            number, got = None, None
            try:
                number, got = waiting.get(PATIENCE)
            except shm.NotFoundError:
                continue
            assert got.tolist() == [number] * 4
    assert "x" in shm.session


def test_who_reads_a_queue_or_a_pipe_gets_the_error_and_the_next_message():
    context = multiprocessing.get_context("spawn")
    simple, queue = context.SimpleQueue(), context.Queue()
    reader, writer = context.Pipe(duplex=False)
    for send, receive in ((simple.put, simple.get), (queue.put, queue.get), (writer.send, reader.recv)):
        x = shm.create("x", np.arange(3))
        send((x, workers.Unlinks("x")))
        send("next")
        with pytest.raises(shm.NotFoundError):
            receive()
        assert receive() == "next"
    queue.close()
    queue.join_thread()


@pytest.mark.parametrize("backend", ["loky", "multiprocessing"])
def test_joblib_raises_the_error_of_a_value_that_cannot_be_rebuilt(backend):
    try:
        for make in (lambda: shm.create("x", np.arange(3)), lambda: shm.create("x", [1, 2])):
            with pytest.raises(shm.NotFoundError), joblib.parallel_config(backend, n_jobs=2):
                joblib.Parallel(timeout=PATIENCE)([joblib.delayed(workers.look_away)(make(), workers.Unlinks("x"))])
        with pytest.raises(AttributeError, match="odd"), joblib.parallel_config(backend, n_jobs=2):
            joblib.Parallel(timeout=PATIENCE)([joblib.delayed(workers.send_back)(AttributeError("odd"))] * 2)
    finally:
        get_reusable_executor().shutdown(wait=True)


@pytest.mark.parametrize("kind", [list, tuple])
def test_what_only_looks_like_a_task_is_delivered_as_it_is(kind):
    reader, writer = multiprocessing.Pipe(duplex=False)
    for message in (kind([1, 2, 3]), kind([1, 2, len, (), {}])):
        writer.send(message)
        assert reader.recv() == message


# As in a notebook, a program given by -c has a main module that no new process can import.
NOTEBOOK = """
import functools, multiprocessing, sys
import shmkernel as shm
from concurrent.futures import ProcessPoolExecutor

class Point:
    class Inner:
        pass
    def norm(self):
        return 5

def early():
    return 3

shm.create("x", 1)
context = multiprocessing.get_context(sys.argv[1])
with context.Pool(1) as pool, ProcessPoolExecutor(1, context) as executor:
    executor.submit(abs, 1).result(100)
    def late(*_):
        return 4
    class Late:
        pass
    cases = {
        "early": (early,), "norm": (Point().norm,), "instance": (id, Point()), "class": (id, Point.Inner),
        "late": (late,), "partial": (functools.partial(late, 1),), "new": (id, Late()),
        "lambda": (lambda: 1,), "inside": (id, [late]),
    }
    for name, (task, *args) in cases.items():
        for run in (lambda: pool.apply_async(task, args).get(100), lambda: executor.submit(task, *args).result(100)):
            try:
                run()
                print(name, "done")
            except Exception as error:
                print(name, type(error).__name__, "%%writefile helpers.py" in str(error))
"""


@pytest.mark.parametrize("way", ["fork", "spawn", "forkserver"])
def test_what_a_notebook_has_defined_and_a_worker_has_not_is_an_error_with_a_cure(way):
    ran = python(NOTEBOOK, way, flags=["-W", "ignore"])
    told = dict(line.split(" ", 1) for line in ran.stdout.splitlines())
    lacking = "UnsupportedError True"
    early = "done" if way == "fork" else lacking
    assert told == {
        "early": early, "norm": early, "instance": early, "class": early, "late": lacking, "partial": lacking,
        "new": lacking, "lambda": "PicklingError False", "inside": lacking,
    }, ran.stderr  # fmt: skip
