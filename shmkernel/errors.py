"""Every error that shmkernel raises on purpose.

Each one is also the builtin that a user of files or dicts would catch, carries its facts as attributes
so that code need not parse text, and survives pickling on its way out of a worker process.

What to do next is data as well: `Cure`. It becomes text where the error is shown, in the words of that place: a
call in Python, a magic in a notebook, a command in a shell. `word` makes that text. The default makes Python; the
magics replace it while they are loaded, the command line while it runs.
"""

from __future__ import annotations

import errno
import struct
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

    Without a verb it is an option, to repeat with it the call that failed. ``str`` gives the text for the place where
    the user is, or nothing where that verb does not exist: the command line cannot attach.

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
    """Word a cure as a call; `word` is this one by default.

    Examples
    --------
    >>> in_python(Cure("To write", "attach", "x", mode="r+")), in_python(Cure("Share it", "create", "x"))
    ("shm.attach('x', mode='r+')", "shm.create('x', x)")
    """
    if cure.verb == "help":
        return "help(shm)"
    given = [*map(repr, cure.arguments), *(f"{name}={value!r}" for name, value in cure.options.items())]
    if cure.verb == "create" and not cure.options:  # of the variable of that name, as in a notebook
        given += map(str, cure.arguments)
    return f"shm.{cure.verb}({', '.join(given)})" if cure.verb else ", ".join(given)


word: Callable[[Cure], str] = in_python  # a notebook and the command line set their own


class ShmError(Exception):
    """What all errors of shmkernel have in common: a sentence, the name it is about, the facts.

    The text says what to run next, as it is written where it is shown: ``shm.unlink('x')`` in Python, ``%shm_unlink x``
    in a notebook that has loaded the magics, ``shmkernel unlink x`` on the command line.

    Parameters
    ----------
    what : str
        What happened, and to which name.
    *cures : Cure
        What to run next.
    name : str, optional
        The segment concerned.
    **facts
        Whatever a program needs to decide what to do; each becomes an attribute.

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
    """One that the operating system has a number for."""

    code: int

    def __init__(self, what: str, *cures: Cure, name: str | None = None, **facts: object) -> None:
        super().__init__(what, *cures, name=name, **facts)
        self.errno = self.code


class NotFoundError(_FileError, FileNotFoundError, KeyError):
    """No segment has this name.

    ``%shm_list`` shows the names. The owner may have ended: share it there with ``--lifetime keep``.
    """

    code = errno.ENOENT


class TakenError(_FileError, FileExistsError):
    """The name belongs to a segment that may not be replaced. ``owner`` says whose it is, ``mine`` if this process's.

    Use another name, or ``--replace`` (``replace=True``): who has the old one attached keeps it.
    """

    code = errno.EEXIST


class FullError(_FileError):
    """There is not enough memory. ``needed`` and ``free`` are in bytes.

    ``limit`` says what is full: the folder, its inodes, the container, the machine, or a quota. The text says what
    would help; ``%shm_list`` what there is.
    """

    code = errno.ENOSPC


class LimitError(_FileError):
    """A limit of this process is reached, which has nothing to do with the segment: ``limit`` says which.

    Descriptors (``ulimit -n``), addresses (``-v``), the size of a file (``-f``). Raise it, as the text says.
    """

    code = errno.EMFILE

    def __init__(self, what: str, *cures: Cure, name: str | None = None, errno: int = code, **facts: object) -> None:
        super().__init__(what, *cures, name=name, errno=errno, **facts)
        self.errno = errno


class ArgumentError(ShmError, ValueError):
    """An argument makes no sense: a bad name, mode, lifetime, shape.

    The text says what is allowed, mostly with an example.
    """


class RangeError(ArgumentError, struct.error):
    """A number that has no room in an item of a list; the stdlib's ShareableList raises struct.error.

    Share the number as a text, or in an array.
    """


class UnsupportedError(ShmError, TypeError):
    """A value that no kind can share without changing it.

    Give what the text says: of texts ``x.astype(str)``, of a table ``x.to_numpy()``.
    """


class DamagedError(ShmError, ValueError):
    """What lies under the name is not a segment that can be trusted.

    ``%shm_info x`` says how it is damaged, ``%shm_unlink x`` removes it.
    """


class RefusedError(_FileError, PermissionError):
    """The file, or the runtime folder, belongs to somebody else.

    Each user has names of their own; what was attached read only is attached again with ``--mode r+``.
    """

    code = errno.EACCES


class FolderError(_FileError):
    """The folder cannot hold segments: it is missing, or its file system lacks O_TMPFILE.

    Choose a folder in memory (a tmpfs) with ``SHMKERNEL_DIR``; ``%shm_doctor`` says what a folder lacks.
    """

    code = errno.ENOTSUP


class WatchdogError(ShmError, RuntimeError):
    """The process that cleans up after this session did not start, so nothing was created.

    ``%shm_doctor`` says why. Often the limit of processes is reached: ``ulimit -u``.
    """


class TimedOutError(_FileError, TimeoutError):
    """What was waited for did not happen in time. ``timeout`` is in seconds; ``holder`` says who has the lock.

    Wait longer, or ask whoever it is that the text names.
    """

    code = errno.ETIMEDOUT


class LockError(ShmError, RuntimeError):
    """A lock is used in a way that cannot work: an upgrade of a shared one, a release of one not held.

    Take it exclusively from the start; release it where it was taken.
    """


class AbandonedError(ShmError, RuntimeError):
    """Who wrote died meanwhile, so that the values may be half old, half new. ``holder`` says who it was.

    Write the values anew under ``shm.writing(x)``, which clears this.
    """
