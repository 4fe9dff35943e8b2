"""Convert between the name of a segment and the path of its file.

The segment ``elevation`` is the file ``<folder>/shmk-<uid>-elevation``. The uid keeps the users of a host apart, and
since there is no subfolder the file is a POSIX shared memory object. A name with a slash, ``/psm_1a2b``, is the file
``<folder>/psm_1a2b``, as the standard library makes it. The runtime folder ``<folder>/.shmk-<uid>/`` holds the rest.
"""

from __future__ import annotations

import errno
import functools
import os
import re
from typing import TYPE_CHECKING

from shmkernel._core import descriptors
from shmkernel._core.imports import importing
from shmkernel.errors import ArgumentError, Cure, FolderError, FullError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z0-9_]+)*")
_POSIX = re.compile(r"/[^/\0]+")
_NAME_MAX = 255  # bytes in a file's name
_PATHS = 1 << 14  # names whose paths are known: a listing asks for all, one after the other
_SHORT = 200  # characters that leave room for the prefix
LOCK = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC  # the flags that open names.lock, or make it


def folder() -> str:
    """Return the path of the folder that holds the segments.

    Examples
    --------
    >>> os.path.isdir(folder())
    True
    """
    return _folder(os.environ.get("SHMKERNEL_DIR"))


@functools.lru_cache
def _folder(path: str | None) -> str:
    if not path:
        return "/dev/shm"  # noqa: S108  the place POSIX shared memory has on Linux
    try:
        return os.path.abspath(os.path.expanduser(path))
    except OSError as error:
        message = f"SHMKERNEL_DIR={path} is relative to the working directory, which is gone: give its full path"
        raise FolderError(message, path=path) from error


def prefix() -> str:
    """Return the prefix of the file names of this user's segments."""
    return f"shmk-{os.geteuid()}-"


def path_of(name: str) -> str:
    """Return the path of the segment `name`.

    Raises
    ------
    ArgumentError
        If `name` is neither an identifier, with dots allowed, nor a ``/posix`` name.

    Examples
    --------
    >>> os.path.basename(path_of("ds.var")) == f"shmk-{os.geteuid()}-ds.var"
    True
    >>> path_of("two words")
    Traceback (most recent call last):
    shmkernel.errors.ArgumentError: 'two words' cannot be the name of a segment: use letters, digits, _ and dots...
    """
    try:
        return _path(name, os.environ.get("SHMKERNEL_DIR"), os.geteuid())
    except TypeError:
        kind = type(name).__name__
        article = "an" if kind[:1].lower() in "aeio" else "a"
        raise ArgumentError(f"the name of a segment is a str, not {article} {kind}") from None


@functools.lru_cache(maxsize=_PATHS)
def _path(name: str, chosen: str | None, uid: int) -> str:
    if _NAME.fullmatch(name):
        base = f"shmk-{uid}-{name}"
    elif _POSIX.fullmatch(name) and name not in ("/.", "/.."):
        base = name[1:]
    else:
        raise _refused(name)
    if len(os.fsencode(base)) > _NAME_MAX:
        message = f"the name {name[:20]}... is too long: a file name has at most {_NAME_MAX} bytes"
        raise ArgumentError(message, name=name)
    return f"{_folder(chosen)}/{base}"


def check(name: str) -> None:
    """Raise ArgumentError or TypeError as `path_of` does; faster, since it makes no path."""
    if len(name) >= _SHORT or not _NAME.fullmatch(name):
        path_of(name)


def local(host: str, name: str) -> str:
    """Return the name that the snapshot of another host's segment has here.

    Examples
    --------
    >>> local("hostA", "x"), local("node-7.lan", "ds.var"), local("7", "x")
    ('hostA.x', 'node_7_lan.ds.var', '_7.x')
    """
    plain = re.sub(r"\W", "_", host, flags=re.ASCII)
    return f"{'_' * plain[0].isdigit()}{plain}.{name}"


def on_host(name: str) -> tuple[str, str] | None:
    """Return the host and the name in ``host:name``, None for any other name.

    Examples
    --------
    >>> on_host("hostA:x"), on_host("x"), on_host("/a:b")
    (('hostA', 'x'), None, None)
    """
    host, _, plain = name.rpartition(":")
    return (host, plain) if HOST.fullmatch(host) and _NAME.fullmatch(plain) else None


def _refused(name: str) -> ArgumentError:
    what = f"{name!r} cannot be the name of a segment"
    if place := on_host(name):
        message = f"{what}: it names one of another host, whose snapshot here is {local(*place)}"
        return ArgumentError(message, Cure("To have that", "attach", name), name=name)
    return ArgumentError(f"{what}: use letters, digits, _ and dots{_example(name)}", name=name)


def _example(name: str) -> str:
    """Propose a valid name: without accents, and with _ in place of everything but letters and digits."""
    with importing:
        import unicodedata  # noqa: PLC0415  only for a message

    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    example = re.sub(r"\W+", "_", plain).strip("_")
    example = f"n{example}" if example[:1].isdigit() else example
    foreign = " (a to z, without accents)" if not name.isascii() else ""
    return foreign + (f". For example {example}" if _NAME.fullmatch(example) and len(example) < _NAME_MAX // 2 else "")


def called(path: str) -> str:
    """Return the name of the segment at this path: the reverse of `path_of`.

    Examples
    --------
    >>> called(path_of("x")), called("/dev/shm/psm_1a2b")
    ('x', '/psm_1a2b')
    """
    base = os.path.basename(path)
    name = base.removeprefix(prefix())
    return name if name != base and _NAME.fullmatch(name) else f"/{base}"


def foreign(name: str) -> bool:
    """Return whether this is a ``/posix`` name, whose file any program may have made."""
    return called(path_of(name)).startswith("/")


def names() -> list[str]:
    """Return the names of this user's segments, sorted, without ``/posix`` names."""
    start = prefix()
    try:
        found = os.listdir(folder())
    except OSError as error:
        raise no_folder(error, folder()) from None
    names = (file[len(start) :] for file in found if file.startswith(start))
    return sorted(filter(_NAME.fullmatch, names))


def inodes() -> dict[str, int]:
    """Return the inode of each of this user's segments, by name."""
    return {name: file.inode() for name, file in files().items()}


def files() -> dict[str, os.DirEntry[str]]:
    """Return the file of each of this user's segments, by name."""
    start = prefix()
    try:
        with os.scandir(folder()) as entries:
            by_name = {entry.name[len(start) :]: entry for entry in entries if entry.name.startswith(start)}
    except OSError as error:
        raise no_folder(error, folder()) from None
    return {name: file for name, file in by_name.items() if _NAME.fullmatch(name)}


def near(name: str, known: Iterable[str]) -> list[str]:
    """Return up to three known names that are similar to `name`, the best first."""
    with importing:
        import difflib  # noqa: PLC0415  only for a message, and the watchdog shares this module

    spelled: dict[str, list[str]] = {}
    for candidate in known:
        spelled.setdefault(candidate.casefold(), []).append(candidate)
    close = difflib.get_close_matches(name.casefold(), spelled, n=3, cutoff=0.6)
    return [candidate for word in close for candidate in spelled[word]][:3]


def hint(similar: Sequence[str]) -> str:
    """Return the end of a message that proposes similar names.

    Examples
    --------
    >>> hint(["x", "y"]), hint([])
    (' Did you mean x or y?', '')
    """
    return f" Did you mean {' or '.join(similar)}?" if similar else ""


def runtime(*parts: str) -> str:
    """Return a path inside the runtime folder, which `folders.prepare` makes."""
    return "/".join((_runtime(os.environ.get("SHMKERNEL_DIR"), os.geteuid()), *parts))


@functools.lru_cache
def _runtime(chosen: str | None, uid: int) -> str:
    return f"{_folder(chosen)}/.shmk-{uid}"


def store_folder(inode: int | str) -> str:
    """Return the folder of a segment whose kind keeps a folder beside its file; all of them lie in ``stores``."""
    return runtime("stores", str(inode))


def no_folder(error: OSError, path: str) -> OSError:
    """Make the error for a folder that cannot hold segments."""
    if error.errno in (errno.EMFILE, errno.ENFILE):  # a limit of the process or machine
        return descriptors.ran_out(error)
    kind = FullError if error.errno in (errno.ENOSPC, errno.EDQUOT) else FolderError
    message = f"{path} cannot hold segments: {error.strerror}. Choose a folder in memory (a tmpfs) with SHMKERNEL_DIR"
    return kind(message, Cure("More", "doctor"), path=path)
