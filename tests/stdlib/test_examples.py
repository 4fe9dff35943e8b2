"""The examples that teach `multiprocessing.shared_memory`, with only the import changed."""

import pickle
from multiprocessing import get_context

import numpy as np
import pytest

from shmkernel import ShareableList, SharedMemory, SharedMemoryManager
from tests.helpers import python, quick_first

START_METHODS = quick_first("fork", "spawn", "forkserver")


def test_a_block_of_bytes_seen_from_two_shells():
    shm_a = SharedMemory(create=True, size=10)
    buffer = shm_a.buf
    assert len(buffer) == 10
    buffer[:4] = bytearray([22, 33, 44, 55])
    buffer[4] = 100
    second_shell = """
import array, sys
from shmkernel import SharedMemory
shm_b = SharedMemory(sys.argv[1])
print(array.array('b', shm_b.buf[:5]))
shm_b.buf[:5] = b'howdy'
shm_b.close()
"""
    assert python(second_shell, shm_a.name).stdout == "array('b', [22, 33, 44, 55, 100])\n"
    assert bytes(shm_a.buf[:5]) == b"howdy"
    shm_a.close()
    shm_a.unlink()


def test_the_fibonacci_array_seen_from_two_shells():
    a = np.array([1, 1, 2, 3, 5, 8])
    block = SharedMemory(create=True, size=a.nbytes)
    b = np.ndarray(a.shape, dtype=a.dtype, buffer=block.buf)
    b[:] = a[:]
    second_shell = """
import sys
import numpy as np
from shmkernel import SharedMemory
existing_shm = SharedMemory(name=sys.argv[1])
c = np.ndarray((6,), dtype=np.int64, buffer=existing_shm.buf)
print(c)
c[-1] = 888
del c
existing_shm.close()
"""
    assert python(second_shell, block.name).stdout == "[1 1 2 3 5 8]\n"
    assert b.tolist() == [1, 1, 2, 3, 5, 888]
    block.close()
    assert b.tolist() == [1, 1, 2, 3, 5, 888]
    block.unlink()


def do_work(shared_list, start, stop, results, slot):
    results[slot] = sum(shared_list[i] for i in range(start, stop))


@pytest.mark.parametrize("way", START_METHODS)
def test_two_processes_add_up_the_items_of_a_managers_list(way):
    context = get_context(way)
    with SharedMemoryManager(ctx=context) as smm:
        sl = smm.ShareableList(range(2000))
        results = smm.array(2, dtype="int64")
        p1 = context.Process(target=do_work, args=(sl, 0, 1000, results, 0))
        p2 = context.Process(target=do_work, args=(sl, 1000, 2000, results, 1))
        p1.start()
        p2.start()
        p1.join()
        p2.join()
        assert results.sum() == sum(range(2000)) == sum(sl)
        name = sl.shm.name
    with pytest.raises(FileNotFoundError):
        ShareableList(name=name)


def test_the_types_of_a_list_and_its_changes_in_place():
    a = ShareableList(["howdy", b"HoWdY", -273.154, 100, None, True, 42])
    assert [type(entry) for entry in a] == [str, bytes, float, int, type(None), bool, int]
    a[2] = -78.5
    assert a[2] == -78.5
    a[2] = "dry ice"
    assert a[2] == "dry ice"
    with pytest.raises(ValueError, match="exceeds available storage"):
        a[2] = "larger than previously allocated storage space"
    assert a[2] == "dry ice"
    assert len(a) == 7
    assert a.index(42) == 6
    assert a.count(b"howdy") == 0
    assert a.count(b"HoWdY") == 1
    a.shm.close()
    a.shm.unlink()
    del a


def test_pickling_a_list_gives_the_same_one():
    a = ShareableList(range(5))
    b = ShareableList(name=a.shm.name)
    c = pickle.loads(pickle.dumps(a))
    c[0] = -999
    assert a[0] == b[0] == c[0] == -999
    a.shm.unlink()


def write_into(shared, number):
    shared[number] = number**2


@pytest.mark.parametrize("way", START_METHODS)
def test_ten_workers_of_a_managers_pool_write_into_one_dict(way):
    with SharedMemoryManager(ctx=get_context(way)) as smm:
        shared = smm.dict(first=1)
        smm.Pool(10).starmap(write_into, [(shared, number) for number in range(10)])
        assert dict(shared) == {"first": 1} | {number: number**2 for number in range(10)}
