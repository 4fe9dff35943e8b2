"""The manager of shared memory unlinks what it made when it ends."""

import multiprocessing
import os
import signal

import numpy as np
import pytest

import shmkernel as shm
from shmkernel import SharedMemoryManager
from tests.helpers import Child, until_left


def test_everything_it_made_is_unlinked_at_the_end_of_with():
    with SharedMemoryManager() as smm:
        block, items, grid = smm.SharedMemory(16), smm.ShareableList("abc"), smm.array((2, 3), "int16")
        copy = smm.array(np.arange(3.0))
        assert len(shm.list()) == 4
        assert (block.size, list(items), grid.shape, copy.tolist()) == (16, ["a", "b", "c"], (2, 3), [0.0, 1.0, 2.0])
    assert [one.state for one in shm.list()] == ["unlinked"] * 4
    grid[:] = 7
    assert grid.sum() == 42


def test_it_makes_nothing_before_its_start_or_after_its_end():
    smm = SharedMemoryManager()
    with pytest.raises(ValueError, match="the manager is new: call start"):
        smm.SharedMemory(9)
    smm.start()
    with pytest.raises(multiprocessing.ProcessError, match="started already"):
        smm.start()
    smm.shutdown()
    smm.shutdown()
    with pytest.raises(ValueError, match="shut down"):
        smm.ShareableList([1])
    with pytest.raises(ValueError, match="shut down"), smm:
        pass
    for use in (smm.start, smm.Lock):
        with pytest.raises(ValueError, match=r"Make another one: SharedMemoryManager\(\)$"):
            use()


@pytest.mark.parametrize("shape", [5, np.int64(5), (np.uint8(2), 3), (), [4.0, 5.0], np.array(5), 2.5, True, np.True_])
def test_integers_of_any_type_are_a_shape_and_all_else_is_values(shape):
    lengths = {5: (5,), (2, 3): (2, 3), (): ()}
    counts = type(shape) not in (list, float, bool, np.bool_, np.ndarray)
    with SharedMemoryManager() as smm:
        made = smm.array(shape)
        assert made.shape == (lengths[shape] if counts else np.shape(shape))
        assert made.any() != counts


def test_an_error_in_the_block_and_names_that_are_gone_already_do_no_harm():
    def fail():
        with SharedMemoryManager() as smm:
            smm.SharedMemory(9).unlink()
            smm.array(3)
            raise LookupError

    with pytest.raises(LookupError):
        fail()
    assert not shm.session


def test_a_pool_of_its_own_works_on_shared_arrays_and_ends_with_it():
    with SharedMemoryManager(ctx=multiprocessing.get_context("spawn")) as smm:
        values = smm.array(4)
        pool = smm.Pool(2)
        assert pool.map(np.size, [values, values[1:]]) == [4, 3]
        workers = [worker.pid for worker in pool._pool]
    assert not any(os.path.exists(f"/proc/{pid}") for pid in workers)


def count(lock, values):
    for _ in range(500):
        with lock:
            values[0] += 1


@pytest.mark.parametrize("way", ["fork", "spawn", "forkserver"])
def test_its_lock_goes_to_workers_and_excludes_them(way):
    with SharedMemoryManager(ctx=multiprocessing.get_context(way)) as smm:
        lock, values = smm.Lock(), smm.array(1, "int64")
        smm.Pool(2).starmap(count, [(lock, values)] * 4)
        assert values.tolist() == [2000]


def test_an_initializer_runs_at_the_start():
    told = []
    smm = SharedMemoryManager()
    smm.start(told.append, ("started",))
    assert told == ["started"]
    smm.shutdown()


def make_and_wait(connection):
    smm = SharedMemoryManager()
    smm.start()
    kept = [smm.SharedMemory(9), smm.ShareableList([1]), smm.array(3)]
    connection.send(len(kept))
    connection.recv()


def test_what_it_made_is_gone_when_its_process_is_killed(shm_dir):
    with Child(make_and_wait) as child:
        assert child.hear() == 3
        child.end(signal.SIGKILL)
        until_left(shm_dir)


def test_a_forked_child_that_leaves_the_block_ends_what_it_made_and_nothing_else():
    with SharedMemoryManager(ctx=multiprocessing.get_context("fork")) as smm:
        mine, pool = smm.array((3,)), smm.Pool(1)

        def leave(connection):
            own = smm.array((4,))
            smm.__exit__(None, None, None)
            connection.send({one.shape: one.state for one in shm.list()})
            del own

        with Child(leave) as child:
            assert child.hear() == {(3,): "", (4,): "unlinked"}
        assert pool.apply(np.sum, [mine]) == 0
        assert [one.shape for one in shm.list()] == [(3,)]
