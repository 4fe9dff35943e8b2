from __future__ import annotations

import contextlib
import errno
import os

import numpy as np
import pytest

import shmkernel as shm
from shmkernel._core import descriptors
from tests.helpers import Child


def wait_in_vain(name):
    with pytest.raises(shm.TimedOutError):
        shm.wait(name, timeout=0.001)


USES = {
    "array": (lambda: shm.create("y", np.arange(3)), lambda: shm.attach("x")),
    "list": (lambda: shm.create("y", [1, 2, 3]), lambda: shm.attach("l")),
    "block": (lambda: shm.create("y", b"123"), lambda: shm.attach("b")),
    "dict": (lambda: shm.create("y", {"a": np.zeros(1 << 18)}), lambda: shm.attach("d")["a"]),
    "ring": (lambda: shm.create("y", ring=3, shape=3, dtype=int), lambda: shm.attach("f")),
    "lock": (lambda: shm.lock("x").acquire(), lambda: shm.version("x")),
    "wait": (lambda: wait_in_vain("x"), lambda: shm.publish("x")),
    "other verbs": (shm.list, shm.gc, shm.doctor, lambda: shm.keep("x", "session"), lambda: shm.info("d")),
}


@pytest.mark.parametrize("uses", USES.values(), ids=USES)
@pytest.mark.parametrize("closed", [(0, 1, 2), pytest.param((1,), marks=pytest.mark.long)])
def test_what_is_printed_where_the_standard_streams_are_closed_goes_nowhere(uses, closed):
    """A daemon closes the standard streams, and the next files would get their numbers."""
    shm.create("x", np.arange(3))
    shm.create("l", [1, 2, 3])
    shm.create("b", b"123")
    shm.create("d", {"a": np.zeros(1 << 18)})
    shm.create("f", ring=3, shape=3, dtype=int)

    def work(connection):
        for fd in closed:
            os.close(fd)
        kept = [use() for use in uses]
        for fd in closed:
            with contextlib.suppress(OSError):  # nothing had to be put there
                os.write(fd, b"hi, everybody")
                assert os.readlink(f"/proc/self/fd/{fd}") == os.devnull
        connection.send(len(kept))

    with Child(work) as child:
        assert child.hear() == len(uses)
        assert child.join() == 0
    assert shm.attach("x").tolist() == [0, 1, 2]


def test_streams_that_are_open_are_left_alone():
    before = {fd: os.fstat(fd) for fd in range(3)}
    descriptors.take_streams()
    assert {fd: os.fstat(fd) for fd in range(3)} == before


def test_an_error_for_want_of_something_else_stays_as_it_is():
    error = OSError(errno.EIO, "broken")
    assert descriptors.ran_out(error) is error
    assert descriptors.ran_out(OSError(errno.ENFILE, "many"), "x").errno == errno.ENFILE
