"""Send functions and classes that a notebook defines to worker processes.

A worker started with spawn or forkserver does not have the notebook's ``__main__``; a forked one has it as it was at
the fork. If the function is missing there, the worker dies while it unpickles its task, and the Pool waits forever. So
the function is pickled as a lookup by name; if that fails in the worker, the task raises an error with a cure.
"""

from __future__ import annotations

import functools
import sys
from types import FunctionType

from shmkernel.errors import UnsupportedError
from shmkernel.stdlib import delivery


def in_notebook() -> bool:
    """Return whether this ``__main__`` cannot be imported by another process."""
    main = sys.modules["__main__"]
    return not hasattr(main, "__file__") and getattr(main, "__spec__", None) is None  # %reset removes __spec__


def reducer_override(_: object, value: object) -> object:
    """Reduce functions and classes of a notebook to a lookup by name. This becomes a method of a pickler."""
    if not isinstance(value, (FunctionType, type)) or value.__module__ != "__main__":
        return NotImplemented
    try:
        found = _look_up(value.__qualname__) is value
    except AttributeError:
        found = False
    if not found:  # a lambda or a nested function: pickle raises its own error
        return NotImplemented
    delivery.note()
    return find, (value.__qualname__, "class" if isinstance(value, type) else "function")


def find(name: str, what: str) -> object:
    """Return the function or class from this process's ``__main__``; raise UnsupportedError if it is missing."""
    try:
        return _look_up(name)
    except AttributeError:
        message = (
            f"the {what} {name!r} is defined in a notebook, which this worker process does not have: it was started "
            f"with spawn or forkserver, or before {name!r} was defined. Put it into a module (%%writefile helpers.py, "
            f"then from helpers import {name.partition('.')[0]}), use a new Pool with the start method fork, or an "
            "executor that sends functions by value (loky, joblib)"
        )
        raise UnsupportedError(message, name=name) from None


def _look_up(name: str) -> object:
    return functools.reduce(getattr, name.split("."), sys.modules["__main__"])
