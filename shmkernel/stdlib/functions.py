"""Functions and classes of a notebook on their way to another process.

A process that multiprocessing starts with spawn or forkserver has not the notebook's ``__main__``, and one that was
forked has only what was there then: it cannot find the function, dies while it unpickles its task, and the Pool waits
for ever. So such a function or class travels as a request to look for it there, and where it is missing, the task
raises an error that says what to do.
"""

from __future__ import annotations

import functools
import sys
from types import FunctionType

from shmkernel.errors import UnsupportedError
from shmkernel.stdlib import delivery


def in_notebook() -> bool:
    """Say whether ``__main__`` is one that no new process can import."""
    main = sys.modules["__main__"]
    return not hasattr(main, "__file__") and getattr(main, "__spec__", None) is None  # %reset takes it away


def reducer_override(_: object, value: object) -> object:
    """Reduce what is defined in a notebook to a search for it; leave all else to the pickler, whose method this is."""
    if not isinstance(value, (FunctionType, type)) or value.__module__ != "__main__":
        return NotImplemented
    try:
        found = _look_up(value.__qualname__) is value
    except AttributeError:
        found = False
    if not found:  # a lambda, a function inside another: pickle says what is wrong with it
        return NotImplemented
    delivery.note()
    return find, (value.__qualname__, "class" if isinstance(value, type) else "function")


def find(name: str, what: str) -> object:
    """Return the function or class of this process's ``__main__``; UnsupportedError says why it is not there."""
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
