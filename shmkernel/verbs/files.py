"""Save segments to files, and load files as segments."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import stat
import uuid
from collections.abc import Callable
from typing import IO, TYPE_CHECKING, Any, cast

from shmkernel import kinds
from shmkernel._core import capacity, limits, paths, records, registry, segment_file
from shmkernel._core.progress import Progress
from shmkernel.errors import ArgumentError, Cure, DamagedError, FullError, RefusedError, ShmError
from shmkernel.verbs import attachments, segments, staging

if TYPE_CHECKING:
    from collections.abc import Iterator

_PIECE = 16 << 20
_NOT_PLAIN = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
_Writer = Callable[[IO[bytes], Callable[[int], None]], None]


class _ReplacedError(Exception):
    """The name leads to another segment by now."""


@limits.explains
def save(name: str, path: str | os.PathLike[str], *, allow_pickle: bool | None = None) -> None:
    """Write a segment to a file at exactly this path: an array in the ``.npy`` format.

    A dict is written as JSON if the path ends in ``.json``, else as MessagePack. `load` recognizes a dict by the
    suffixes ``.json`` and ``.msgpack``. A dict or object that is a mapping of arrays is written to ``.npz`` and
    ``.safetensors`` files in these formats, an object to ``.pkl`` as a pickle, to others as it lies in memory.

    An object that was pickled is unpickled for a ``.pkl`` file; `allow_pickle` is that of `attach`.

    The file appears, or replaces an older one, only when it is complete. A link stays, and leads to the new file.

    Raises
    ------
    ArgumentError
        A ValueError: `load` would take the suffix for that of another kind, or the path is a device, pipe or folder,
        or that of a segment.

    Examples
    --------
    >>> import shmkernel as shm, numpy as np, tempfile
    >>> x = shm.create("x", np.arange(3))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     shm.save("x", f"{folder}/x.npy")
    ...     np.load(f"{folder}/x.npy")
    array([0, 1, 2])
    >>> shm.unlink("x")
    """
    target = os.path.realpath(_path(name, path))
    _check_plain(name, target)
    _check_no_segment(name, target)
    fd, status = segment_file.attach(paths.path_of(name), "r", name)
    part = f"{target}.{uuid.uuid4().hex[:8]}.part"  # random: another thread may save to the same file
    try:
        if not records.confirm(name, status):
            raise _ReplacedError  # noqa: TRY301  handled below
        _check(name, fd, status, target)
        with open(part, "xb") as file:
            if write := _writer(name, status, target, allow_pickle):
                with Progress(name, status.st_size) as progress:
                    write(file, progress)
            else:
                _send(fd, status.st_size, file.fileno(), name)
        os.replace(part, target)
    except _ReplacedError:
        save(name, path, allow_pickle=allow_pickle)
    except OSError as error:
        raise _failed(name, target, error) from None
    finally:
        fd.close()
        registry.unlink_unused(status.st_ino)  # the last other user may have detached while this process read it
        with contextlib.suppress(OSError):
            os.unlink(part)


@limits.explains
def load(
    name: str,
    path: str | os.PathLike[str],
    *,
    kind: str | None = None,
    mode: str | None = None,
    lifetime: str = "session",
    replace: staging.Replace = False,
    allow_pickle: bool = False,
) -> Any:
    """Share the content of a file without a second copy in memory: an array from a ``.npy`` file.

    The other parameters are those of `create`. To load a list, give ``kind="list"``; to load any file as raw bytes,
    give ``kind="raw"``. ``.npz`` and ``.safetensors`` files become objects: dicts of arrays. A ``.pkl`` file, and one
    of a pickled object, needs ``allow_pickle=True``: it runs code.

    Examples
    --------
    >>> import shmkernel as shm, numpy as np, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(f"{folder}/x.npy", np.arange(3))
    ...     shm.load("x", f"{folder}/x.npy")
    array([0, 1, 2])
    >>> shm.unlink("x")
    """
    source = _path(name, path)
    _check_plain(name, source)
    try:
        with open(source, "rb") as file:
            guess = kinds.for_file(source, file.read(kinds.HEAD))
        reader = kinds.named(kind) if kind else guess
        plan = reader.load(
            name, source, **({"allow_pickle": allow_pickle} if getattr(reader, "pickles", False) else {})
        )
        staging.check(name, mode, lifetime, replace)
        (shared,) = staging.name_all([staging.make(name, reader, plan, mode, lifetime)], replace)
    except OSError as error:
        raise _failed(name, source, error) from None
    except DamagedError as error:
        if "why" in error.facts:  # of a segment that never had the name: what has it may be healthy
            message = f"{source} cannot be loaded: {error.facts['why']}"
            raise DamagedError(message, name=name, path=source) from None
        if kind or kinds.for_suffix(source):
            raise
        raise error.reworded(error.what, *_unmarked(name, source)) from None
    return shared


def _unmarked(name: str, source: str) -> Iterator[Cure]:
    """Yield how to load a file as the kinds of which no bytes tell, as far as they take it."""
    for kind, lead in kinds.UNMARKED.items():
        with contextlib.suppress(ShmError):
            kinds.named(kind).load(name, source)
            yield Cure(lead, "load", name, source, kind=kind)


def _check(name: str, fd: int, status: os.stat_result, target: str) -> None:
    """Raise an error if the file could not be loaded, and might replace a good one: by its suffix, or for damage."""
    if record := records.of(status):
        kind, loader = kinds.named(record.kind), kinds.for_suffix(target)
        fit = (*getattr(kind, "suffixes", ()), *getattr(kind, "formats", ()))
        if loader and not target.endswith(fit):
            own, other = map(kinds.with_article, (kind.name, loader.name))
            message = f"{name!r} is {own}, and {target} would be loaded as {other}. Give it another suffix"
            raise ArgumentError(message, name=name, path=target)
        try:
            head = os.pread(fd, kinds.HEAD, 0)
            kinds.described(record.kind, head, status.st_size, lambda at, size: os.pread(fd, size, at))
        except ValueError as error:
            raise segment_file.damaged(name, error) from None


def _writer(name: str, status: os.stat_result, target: str, allow_pickle: bool | None) -> _Writer | None:
    """Return a function that writes a segment in a format of its kind; None: copy its bytes."""
    record = records.of(status)
    if record is None and registry.inode_at(name) != status.st_ino:  # it had one until it was replaced
        raise _ReplacedError
    kind = kinds.named(record.kind) if record else None
    if kind is None:
        return None
    if target.endswith(getattr(kind, "formats", ())):
        value = _value(name, status, kind, target, allow_pickle)
        return functools.partial(cast("Any", kind).write, name, value, target)
    if not hasattr(kind, "save"):
        return None
    pieces = kind.save(_value(name, status, kind, target, None), target)
    return functools.partial(_write, pieces) if pieces else None


def _value(name: str, status: os.stat_result, kind: kinds.Kind, target: str, allow_pickle: bool | None) -> Any:
    mode = "c" if getattr(kind, "fresh", False) else "r"  # what pickles itself may write to its arrays
    try:
        value = segments.attach(name, mode, as_=next(iter(getattr(kind, "forms", ())), None), allow_pickle=allow_pickle)
    except ArgumentError:  # what the name leads to now has no such form
        raise _ReplacedError from None
    except RefusedError as error:
        if not error.cures:
            raise
        cure = Cure("If you trust who made it", "save", name, target, allow_pickle=True)
        raise RefusedError(error.what, cure, name=name, **error.facts) from None
    attachment = attachments.given(value)  # a text has none
    if (attachment.key[1] if attachment else registry.inode_at(name)) != status.st_ino:
        raise _ReplacedError
    return value


def _write(pieces: Iterator[bytes], file: IO[bytes], progress: Callable[[int], None]) -> None:
    for piece in pieces:
        file.write(piece)
        progress(len(piece))


def _send(fd: int, size: int, to: int, name: str) -> None:
    with Progress(name, size) as progress:
        done = 0
        capacity.check_file_size(name, size)
        while done < size and (sent := os.sendfile(to, fd, done, _PIECE)):
            done += sent
            progress(sent)


def _path(name: str, path: str | os.PathLike[str]) -> str:
    paths.path_of(name)
    return os.path.abspath(os.path.expanduser(os.fspath(path)))


def _check_plain(name: str, path: str) -> None:
    """Raise ArgumentError for a device, pipe, socket or folder: a file would replace it; reading it may never end."""
    with contextlib.suppress(OSError):  # what is not there is told by those who open it
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):
            what = _NOT_PLAIN.get(stat.S_IFMT(mode), "a device")
            raise ArgumentError(f"{name!r}: {path} is {what}. Give the path of a file", name=name, path=path)


def _check_no_segment(name: str, path: str) -> None:
    """Raise ArgumentError for the file of a segment: what replaces it has no owner, so it would stay for ever."""
    folder, file = os.path.split(path)
    if file.startswith(paths.prefix()) and folder == os.path.realpath(paths.folder()):
        raise ArgumentError(f"{name!r}: {path} is the file of a segment. Give another path", name=name, path=path)


def _failed(name: str, path: str, error: OSError) -> Exception:
    if isinstance(error, ShmError):
        return error
    if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):  # a limit of this process, not of the file
        return limits.explained(error, name)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        message = f"{name!r}: {path}: {error.strerror}. Choose a path on another disk"
        return FullError(message, name=name, path=path, limit="quota" if error.errno == errno.EDQUOT else "disk")
    hint = ""
    if isinstance(error, FileNotFoundError):
        folder, file = os.path.split(path)
        with contextlib.suppress(OSError):
            hint = paths.hint(paths.near(file, os.listdir(folder)))
    return ArgumentError(f"{name!r}: {path}: {error.strerror or error}.{hint}".rstrip("."), name=name, path=path)
