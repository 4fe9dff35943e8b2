"""Functions of a notebook on their way to another process.

A process that multiprocessing starts with spawn or forkserver has not the notebook's ``__main__``: it cannot find
the function, dies while it unpickles its task, and the Pool waits for ever. So such a function travels as a request
to look for it there, and where it is missing, calling it raises an error that says what to do.
"""

from __future__ import annotations

import sys
from types import FunctionType
from typing import NoReturn

from shmkernel.errors import UnsupportedError


def in_notebook() -> bool:
    """Say whether ``__main__`` is one that no new process can import."""
    main = sys.modules["__main__"]
    return not hasattr(main, "__file__") and getattr(main, "__spec__", None) is None  # %reset takes it away


def reducer_override(_: object, value: object) -> object:
    """Reduce a notebook's function to a search for it; leave all else to the pickler, whose method this becomes."""
    name = getattr(value, "__qualname__", "")
    found = isinstance(value, FunctionType) and getattr(sys.modules["__main__"], name, None) is value
    return (find, (name,)) if found else NotImplemented


def find(name: str) -> object:
    """Return the function of this process's ``__main__``, or one that says why it is not there."""
    return getattr(sys.modules["__main__"], name, None) or Missing(name)


class Missing:
    """Stands for a function that this process does not have."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, *_: object, **__: object) -> NoReturn:
        """Raise the error that reaches whoever sent the task."""
        message = (
            f"the function {self.name!r} is defined in a notebook, which a process started with spawn or forkserver "
            f"does not have. Put it into a module (%%writefile helpers.py, then from helpers import {self.name}), "
            "use the start method fork, or an executor that sends functions by value (loky, joblib)"
        )
        raise UnsupportedError(message, name=self.name)
