"""Raise errors of the OS about limits, and MemoryError, as errors of ours, also where no function expects them.

Nearly every system call can fail for want of memory, or because a sandbox forbids it. A function that knows more, such
as the size that was asked for, raises an error of ours itself. The others let the OS's error pass, and the public
functions, which are decorated with `explains`, convert it.
"""

from __future__ import annotations

import errno
import functools
import mmap
import os
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from shmkernel._core import capacity, descriptors, folders, paths, segment_file
from shmkernel.errors import Cure, LimitError, RefusedError, ShmError

if TYPE_CHECKING:
    from collections.abc import Callable

    Parameters = ParamSpec("Parameters")
    Result = TypeVar("Result")

_FULL = (errno.ENOSPC, errno.EDQUOT)
_FILES = (errno.EMFILE, errno.ENFILE)
_MEMORY = (errno.ENOMEM, errno.ENOLCK)  # the latter: no memory for a lock
_FORBIDDEN = (errno.EACCES, errno.EPERM)
_KNOWN = frozenset((*_FULL, *_FILES, *_MEMORY, *_FORBIDDEN))
_NO_THREAD = (os.strerror(errno.EAGAIN), "can't start new thread")  # what libraries say of a thread that does not start


def is_known(error: OSError) -> bool:
    """Return whether this is an error about a limit, and says nothing about the file."""
    return error.errno in _KNOWN


def told(error: Exception, name: str | None = None) -> OSError | None:
    """Return the error of the OS about a limit that another library's error tells of, by its number or in words.

    Examples
    --------
    >>> told(ValueError("IO Error: cannot open /proc: Too many open files")).errno == errno.EMFILE
    True
    >>> told(RuntimeError("Failed to launch worker thread: Resource temporarily unavailable")).limit
    'threads'
    """
    if isinstance(error, OSError) and is_known(error):
        return error
    if any(words in str(error) for words in _NO_THREAD):
        message = "the operating system starts no more threads for this process. Close other programs, or try again"
        return LimitError(f"{name!r}: {message}" if name else message, name=name, errno=errno.EAGAIN, limit="threads")
    code = next((code for code in _KNOWN if os.strerror(code) in str(error)), None)
    return None if code is None else OSError(code, os.strerror(code))


def raise_told(error: Exception, name: str | None = None) -> None:
    """Raise the error about a limit that another library's error tells of, if it tells of one."""
    limit = told(error, name)
    try:
        if limit is not None:
            raise limit from None
    finally:
        del error, limit  # an error and the frame that raises it would refer to each other


def explained(error: OSError, name: str | None = None) -> OSError:
    """Convert an error of the OS about a limit to one that names the limit; return any other error unchanged.

    Examples
    --------
    >>> explained(OSError(errno.ENOMEM, "Cannot allocate memory"), "x").limit
    'kernel memory'
    """
    if error.errno in _FILES:  # also an error of ours, made where the name was not known
        return descriptors.ran_out(error, name)
    if isinstance(error, ShmError):
        return error
    subject, code, path = f"{name!r}: " if name else "", error.errno, _path(error)
    if code in _FULL:
        return capacity.full(name or path or "this", mmap.PAGESIZE, code=code)
    if code in _MEMORY:
        message = (
            f"{subject}the kernel has no memory left for this ({error.strerror}). Close other programs, or try again"
        )
        return LimitError(message, name=name, errno=code, limit="kernel memory")
    if code in _FORBIDDEN:
        message = f"{subject}the operating system forbids it: {error.strerror}{f': {path}' if path else ''}"
        return RefusedError(message, Cure("More", "doctor"), name=name)
    return error


def too_much(name: str | None) -> LimitError:
    """Make the error for memory that Python or a library asked for and did not get; no decoder takes it for damage."""
    subject = f"{name!r}: " if name else ""
    message = (
        f"{subject}this takes more memory than this process can have. It is large, or a damaged file says that it is. "
        "Close other programs, or raise the limit, in a terminal: ulimit -v unlimited"
    )
    return LimitError(message, name=name, errno=errno.ENOMEM, limit="memory")


def explains(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Have a public function raise errors about limits, and MemoryError, as ours.

    Its first argument is a name, or has one.
    """

    @functools.wraps(function)
    def call(*arguments: Parameters.args, **options: Parameters.kwargs) -> Result:
        try:
            return function(*arguments, **options)
        except MemoryError as error:
            raise too_much(_name(arguments)) from error
        except OSError as error:
            if isinstance(error, ShmError) or not (is_known(error) or error.errno == errno.ENOENT):
                raise
            error = _vanished(error) if error.errno == errno.ENOENT else explained(error, _name(arguments))
            raise error from None

    return call


def _vanished(error: OSError) -> OSError:
    """Convert the error for a file that no function expects to be missing: another program has just removed it."""
    path = _path(error)
    if f"{path}/".startswith(f"{paths.runtime()}/"):
        return folders.vanished()
    return segment_file.missing(paths.called(path)) if os.path.dirname(path) == paths.folder() else error


def _name(arguments: tuple[object, ...]) -> str | None:
    first = arguments[0] if arguments else None
    name = first if isinstance(first, str) else getattr(first, "name", None)
    return name if isinstance(name, str) else None


def _path(error: OSError) -> str:
    return os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes)) else ""
