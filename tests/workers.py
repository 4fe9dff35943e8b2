"""What child processes of the tests run: functions that spawn and forkserver can import."""

from __future__ import annotations

import mmap
import os
import signal

import numpy as np

import shmkernel as shm
from shmkernel._core import sessions
from shmkernel.stdlib import references
from shmkernel.verbs import attachments

kept = []


def create(name):
    """Share an array, and say whose it is."""
    shm.create(name, np.arange(10))
    return sessions.mine().parent


def create_and_die(name):
    """Share an array, then end as an out-of-memory killer ends processes."""
    shm.create(name, np.arange(10))
    os.kill(os.getpid(), signal.SIGKILL)


def die_at(block, marker=None):
    """Compute a block; the process that has the first one dies: once if there is a path to note that, else always."""
    if block[0, 0] == 0:
        if marker is not None:
            try:
                os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                return block + 1
        os.kill(os.getpid(), signal.SIGKILL)
    return block + 1


def die_at_frame(frame, marker):
    """Compute a partition; the process that has the first one dies once."""
    if frame["a"].iloc[0] == 0:
        try:
            os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return frame
        os.kill(os.getpid(), signal.SIGKILL)
    return frame


def look(array):
    """Tell what arrived: the values, and the inodes of all that is attached here."""
    return (
        array.tolist(),
        array.dtype,
        array.strides,
        array.flags.writeable,
        [one.key[1] for one in attachments.everything()],
    )


def lies(array):
    """Tell where an array lies, and its sum."""
    where = "segment" if references.view(array) else "memory of its own"
    return where, float(np.asarray(array).sum())


def double(array):
    """Change what arrived, in place."""
    array *= 2


def take(arrays):
    """Tell of each array its sum and whether it lies in shared memory, then change it where that may be."""
    arrays = list(arrays.values() if isinstance(arrays, dict) else arrays)
    told = [(float(array.sum()), is_mapped(array)) for array in arrays]
    for array in arrays:
        if array.flags.writeable:
            array[...] += 1
    kept.append(arrays)  # beyond the end of the task
    return told


def is_mapped(array):
    """Return whether an array lies in a mapping, not in memory of this process alone."""
    while array is not None and type(array) is not mmap.mmap:
        array = getattr(array, "obj", None) if type(array) is memoryview else getattr(array, "base", None)
    return array is not None


def give_back(arrays):
    """Send back what arrived."""
    return arrays


def tail(name):
    """Attach, and send back a view."""
    return shm.attach(name)[-3:]


def look_away(*_):
    """Use nothing of what arrives."""


def make(name):
    """Share an array, and send it back; it goes on the way."""
    return shm.create(name, np.arange(4), lifetime="attached"), Unlinks(name)


def make_anew(name, number):
    """Share an array in place of another worker's, and send it back."""
    return number, shm.create(name, np.full(4, number), replace=True)


class Fails:
    """A value that can be sent, and not be rebuilt."""

    def __init__(self, error):
        self.error = error

    def __reduce__(self):
        return fail, (self.error,)


def fail(error):
    """Raise."""
    raise error


def send_back(error):
    """Return what the receiver cannot rebuild."""
    return Fails(error)


class OddError(Exception):
    """An error that can be pickled, and not be unpickled."""

    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")


def be_odd():
    """Raise it."""
    raise OddError(1, 2)


class Odder:
    """A value whose rebuilding raises it."""

    def __reduce__(self):
        return be_odd, ()


class Unlinks:
    """Unlinks a segment when it is sent: after what stands before it in the same message."""

    def __init__(self, *names):
        self.names = names

    def __reduce__(self):
        for name in self.names:
            shm.unlink(name)
        return int, ()
