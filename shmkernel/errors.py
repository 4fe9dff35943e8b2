"""All errors that shmkernel raises on purpose.

Each is also the builtin that users of files or dicts catch. It carries facts as attributes, so that programs need not
parse its text, and it can be pickled, so that it can leave a worker process.

The cure is data too: a `Cure`. `word` turns it into text where the error is shown: a call in Python, a magic in a
notebook, a command in a shell. By default it writes Python; the magics replace it while they are loaded, the command
line while it runs.
"""

from __future__ import annotations

import errno
import struct
import sys
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

__all__ = [
    "AbandonedError",
    "ArgumentError",
    "DamagedError",
    "FolderError",
    "FullError",
    "HostError",
    "LimitError",
    "LockError",
    "NotFoundError",
    "RangeError",
    "RefusedError",
    "ShmError",
    "TakenError",
    "TimedOutError",
    "UnsupportedError",
    "WatchdogError",
]


class Cure:
    """What to do next: a verb of shmkernel with its arguments, and the words that lead to it.

    Without a verb it is an option with which to repeat the failed call. ``str`` returns the text for the place where
    the user is. It is empty if the verb does not exist there: the command line cannot attach.

    Examples
    --------
    >>> print(Cure("Remove it", "unlink", "x"))
    Remove it: shm.unlink('x')
    >>> print(Cure("To replace it", replace=True))
    To replace it: replace=True
    """

    def __init__(self, lead: str, verb: str = "", *arguments: object, **options: object) -> None:
        self.lead = lead
        self.verb = verb
        self.arguments = arguments
        self.options = options

    def __str__(self) -> str:
        text = word(self)
        return f"{self.lead}: {text}" if text and self.lead else text


def in_python(cure: Cure) -> str:
    """Write a cure as a call in Python. This is the default of `word`.

    Examples
    --------
    >>> in_python(Cure("To write", "attach", "x", mode="r+")), in_python(Cure("Share it", "create", "x"))
    ("shm.attach('x', mode='r+')", "shm.create('x', x)")
    >>> in_python(Cure("What is shared", "list", hosts=True))
    'shm.offers()'
    """
    if cure.verb == "help":
        return "help(shm)"
    if cure.verb == "list" and cure.options:
        return "shm.offers()"
    given = [*map(repr, cure.arguments), *(f"{name}={value!r}" for name, value in cure.options.items())]
    if cure.verb == "create" and not cure.options:  # share the variable of that name, as a notebook does
        given += map(str, cure.arguments)
    return f"shm.{cure.verb}({', '.join(given)})" if cure.verb else ", ".join(given)


word: Callable[[Cure], str] = in_python  # a notebook and the command line set their own


class ShmError(Exception):
    """The base class of all errors: a message, the segment's name, and facts.

    The text says what to run next in the language of the place: ``shm.unlink('x')`` in Python, ``%shm_unlink x`` in a
    notebook that has loaded the magics, ``shmkernel unlink x`` on the command line.

    Parameters
    ----------
    what : str
        What happened, and to which name.
    *cures : Cure
        What to run next.
    name : str, optional
        Name of the segment.
    **facts
        What a program needs in order to react; each becomes an attribute.

    Attributes
    ----------
    message : str
        The whole text in one line: what happened, and what to run next.

    Examples
    --------
    >>> import pickle
    >>> error = NotFoundError("no segment named 'x'", Cure("All names", "list"), name="x")
    >>> error.name, isinstance(error, FileNotFoundError), isinstance(error, KeyError)
    ('x', True, True)
    >>> str(pickle.loads(pickle.dumps(error)))
    "no segment named 'x'. All names: shm.list()"
    """

    def __init__(self, what: str, *cures: Cure, name: str | None = None, **facts: object) -> None:
        self.what = what
        self.cures = cures
        self.name = name
        self.facts = facts
        super().__init__(self.message)
        vars(self).update(facts)

    @property
    def message(self) -> str:
        """The text, in the words of the place where it is read."""
        texts = [self.what, *filter(None, map(str, self.cures))]
        return " ".join([*(text if text.endswith(("?", ".")) else f"{text}." for text in texts[:-1]), texts[-1]])

    def __str__(self) -> str:
        return self.message  # KeyError would show its repr, OSError its errno

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.what, self.cures, self.name, self.facts)

    def reworded(self, what: str, *more: Cure, **facts: object) -> Self:
        """Make the same error with another text; the cures stay, and `more` follow."""
        return type(self)(what, *self.cures, *more, name=self.name, **{**self.facts, **facts})


def _rebuild(
    cls: type[ShmError], what: str, cures: tuple[Cure, ...], name: str | None, facts: dict[str, object]
) -> ShmError:
    return cls(what, *cures, name=name, **facts)


class _FileError(ShmError, OSError):
    """An error with an errno."""

    code: int

    def __init__(self, what: str, *cures: Cure, name: str | None = None, **facts: object) -> None:
        super().__init__(what, *cures, name=name, **facts)
        self.errno = self.code


class NotFoundError(_FileError, FileNotFoundError, KeyError):
    """No segment has this name.

    ``shm.list()`` shows the names. The owner may have ended: a segment shared with ``lifetime="keep"`` stays.
    """

    code = errno.ENOENT


class TakenError(_FileError, FileExistsError):
    """A segment has this name already. ``owner`` names its owner; ``mine`` is true if that is this process.

    Use another name, or ``replace=True`` (``--replace``). Notebooks that have the old one attached keep it.
    """

    code = errno.EEXIST


class FullError(_FileError):
    """There is not enough memory. ``needed`` and ``free`` are in bytes.

    ``limit`` says what is full: the folder, its inodes, the container, the machine, or a quota. The message says what
    helps; ``shm.list()`` shows what takes the memory.
    """

    code = errno.ENOSPC


class HostError(_FileError, ConnectionError):
    """Another host cannot be reached, or was lost. For a copy, ``received`` and ``size`` are in bytes.

    Nothing was named. ``shm.offers()`` shows what can be reached now; ``shm.join()`` connects this host.
    """

    code = errno.ECONNABORTED


class LimitError(_FileError):
    """A limit of this process is reached, independent of the segment; ``limit`` names it.

    It may be the number of descriptors (``ulimit -n``), addresses (``-v``) or the size of a file (``-f``). The message
    says how to raise it.
    """

    code = errno.EMFILE

    def __init__(self, what: str, *cures: Cure, name: str | None = None, errno: int = code, **facts: object) -> None:
        super().__init__(what, *cures, name=name, errno=errno, **facts)
        self.errno = errno


class ArgumentError(ShmError, ValueError):
    """An argument is invalid: a name, mode, lifetime, shape and so on.

    The message says what is allowed, usually with an example.
    """


class RangeError(ArgumentError, struct.error):
    """A number does not fit into an item of a list. The stdlib's ShareableList raises struct.error for it.

    Share the number as a str, or in an array.
    """


class UnsupportedError(ShmError, TypeError):
    """No kind can share the value without changing it.

    Share what the message proposes: for an array of str ``x.astype(str)``, for a table ``x.to_numpy()``. ``expression``
    is that as text, or None.
    """


class DamagedError(ShmError, ValueError):
    """The file under this name is not a valid segment, or what was to be shared is not whole.

    ``shm.info("x")`` says what is wrong with a segment, ``shm.unlink("x")`` removes it. A damaged Arrow table or file
    to load becomes no segment: the message names the column, or the path.
    """


class RefusedError(_FileError, PermissionError):
    """The file or the runtime folder belongs to another user, or a segment attached read only would be written.

    Each user has their own names. To write to a segment, attach it again: ``shm.attach("x", mode="r+")``.
    """

    code = errno.EACCES


class FolderError(_FileError):
    """The folder cannot hold segments: it is missing, or its file system lacks O_TMPFILE.

    Choose a folder in memory (a tmpfs) with ``SHMKERNEL_DIR``; ``shm.doctor()`` says what is missing.
    """

    code = errno.ENOTSUP


class WatchdogError(ShmError, RuntimeError):
    """The watchdog, which cleans up after this session, did not start, so nothing was created.

    ``shm.doctor()`` says why. Often it is the limit of processes: ``ulimit -u``.
    """


class TimedOutError(_FileError, TimeoutError):
    """A wait took longer than ``timeout`` seconds. For a lock, ``holder`` names the process that has it.

    Wait longer, or free the lock in the notebook that the message names.
    """

    code = errno.ETIMEDOUT


class LockError(ShmError, RuntimeError):
    """A lock is used in a way that cannot work: a shared lock is upgraded, or a lock is released that is not held.

    Take the exclusive lock from the start. Release a lock in the thread or task that took it.
    """


class AbandonedError(ShmError, RuntimeError):
    """The writer died while writing, so the values may be half old, half new. ``holder`` names the writer.

    Write the values again under ``shm.writing(x)``, which clears this.
    """


_BETWEEN = {"shmkernel", "IPython", "contextlib"}  # packages whose frames lie between a user's line and a warning


def warn(message: str) -> None:
    """Warn at the line of the user's code that led here, whichever functions lie between."""
    frame, level = sys._getframe(1), 2  # noqa: SLF001  inspect would read the sources of all frames
    while frame.f_back and str(frame.f_globals.get("__name__")).partition(".")[0] in _BETWEEN:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, RuntimeWarning, stacklevel=level)
