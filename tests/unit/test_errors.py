from __future__ import annotations

import copy
import errno
import pickle
import struct

import pytest

import shmkernel as shm
from shmkernel import errors

PARENTS = {
    "NotFoundError": (FileNotFoundError, KeyError, OSError),
    "TakenError": (FileExistsError,),
    "FullError": (OSError,),
    "LimitError": (OSError,),
    "ArgumentError": (ValueError,),
    "UnsupportedError": (TypeError,),
    "DamagedError": (ValueError,),
    "RefusedError": (PermissionError,),
    "FolderError": (OSError,),
    "RangeError": (ValueError, struct.error),
    "WatchdogError": (RuntimeError,),
}
NUMBERS = {
    "NotFoundError": errno.ENOENT, "TakenError": errno.EEXIST, "FullError": errno.ENOSPC,
    "RefusedError": errno.EACCES, "FolderError": errno.ENOTSUP, "LimitError": errno.EMFILE,
}  # fmt: skip


def test_every_error_is_public():
    assert {*PARENTS, "ShmError"} <= {*errors.__all__} <= {*shm.__all__}


@pytest.mark.parametrize("name", PARENTS)
def test_each_is_ours_and_what_a_user_of_the_stdlib_would_catch(name):
    error = getattr(shm, name)("what happened", name="x")
    assert isinstance(error, (shm.ShmError,))
    assert all(isinstance(error, parent) for parent in PARENTS[name])
    assert getattr(error, "errno", None) == NUMBERS.get(name)


@pytest.mark.parametrize("name", PARENTS)
@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))])
def test_each_survives_pickling_with_its_facts(name, clone):
    error = clone(getattr(shm, name)("what happened", name="x", needed=3, free=1))
    assert type(error) is getattr(shm, name)
    assert (str(error), error.message, error.name, error.needed, error.free) == (
        "what happened",
        error.message,
        "x",
        3,
        1,
    )
    assert getattr(error, "errno", None) == NUMBERS.get(name)
