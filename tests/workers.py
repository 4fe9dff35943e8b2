"""What child processes of the tests run: functions that spawn and forkserver can import."""

from __future__ import annotations

import os
import signal

import numpy as np

import shmkernel as shm
from shmkernel import sessions
from shmkernel.verbs import held


def create(name):
    """Share an array, and say whose it is."""
    shm.create(name, np.arange(10))
    return sessions.mine().parent


def create_and_die(name):
    """Share an array, then end as an out-of-memory killer ends processes."""
    shm.create(name, np.arange(10))
    os.kill(os.getpid(), signal.SIGKILL)


def look(array):
    """Tell what arrived: the values, and the inodes of all that is attached here."""
    return array.tolist(), array.dtype, array.strides, array.flags.writeable, [one.key[1] for one in held.everything()]


def double(array):
    """Change what arrived, in place."""
    array *= 2


def tail(name):
    """Attach, and send back a view."""
    return shm.attach(name)[-3:]
