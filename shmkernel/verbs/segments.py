"""From create to unlink."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from shmkernel import kinds
from shmkernel._core import descriptors, folders, paths, records, registry, segment_file, sessions
from shmkernel.errors import ArgumentError, Cure, DamagedError, LimitError, NotFoundError
from shmkernel.sync import sync_file
from shmkernel.verbs import attachments, listing, staging

if TYPE_CHECKING:
    import builtins
    from collections.abc import Sequence


def create(
    name: str,
    value: object = None,
    *,
    kind: str | None = None,
    shape: int | Sequence[int] | None = None,
    dtype: object = None,
    order: str | None = None,
    fill: object = None,
    size: int | None = None,
    ring: int | None = None,
    mode: str = "r+",
    lifetime: str = "session",
    replace: bool = False,
) -> Any:  # noqa: ANN401  what the kind gives out
    """Share a value under a name, and return it as it lies in shared memory.

    Parameters
    ----------
    name : str
        Letters, digits and ``_``; parts may be joined by dots.
    value : array_like, list, dict or bytes-like, optional
        What to copy in: an array or number; a flat list or tuple of int, float, bool, str, bytes and None;
        a dict; bytes. Without one, give `shape` or `size`.
    kind : {'array', 'dict', 'list', 'raw'}, optional
        By default the kind that takes the value.
    shape : int or sequence of int, optional
        Shape of a new array, to be filled in place: no second copy is ever needed.
    dtype : data-type, optional
        By default the value's, or float64. A value that it cannot hold is refused, but floats may be rounded.
    order : {'C', 'F'}, optional
        By default the value's.
    fill : scalar, optional
        What a new array is filled with, by default zeros.
    size : int, optional
        Bytes of a new block; what `value` leaves of them is zero.
    ring : int, optional
        How many slots a new stream has, for frames of this `shape` and `dtype`.
    mode : {'r+', 'r', 'c'}
        How the result may be used here: written to, only read, or changed privately.
    lifetime : {'session', 'attached', 'keep'}
        Until this process ends, until the last process lets go, or until unlinked by hand.
    replace : bool
        Whether a segment of this name gives way; those who have it attached keep the old values.

    Returns
    -------
    numpy.ndarray, ShareableList, SharedDict or SharedMemory
        Over the shared memory, which lives at least as long as it or a view of it.

    Raises
    ------
    TakenError
        A FileExistsError, if the name is taken and `replace` is false.
    FullError
        An OSError with errno ENOSPC, if the memory does not suffice; ``needed`` and ``free`` are in bytes.
    UnsupportedError
        A TypeError, if the value would not come back as it is.
    ArgumentError
        A ValueError, for a bad name, mode, lifetime, shape.

    Examples
    --------
    >>> import shmkernel as shm
    >>> x = shm.create("x", [1, 2, 3], dtype="int16")
    >>> shm.attach("x") is x
    True
    >>> shm.create("people", ["Ada", 1815, None])
    ShareableList(['Ada', 1815, None], name=...)
    >>> block = shm.create("block", size=65536)
    >>> block.buf[:3] = b"abc"
    >>> [shm.unlink(name) for name in ("x", "people", "block")]
    [None, None, None]
    """
    options = {"shape": shape, "dtype": dtype, "order": order, "fill": fill, "size": size, "ring": ring}
    (shared,) = staging.name_all([staging.draft(name, value, options, kind, mode, lifetime, replace)], replace)
    return shared


def attach(name: str, mode: str = "r+", kind: str | None = None) -> Any:  # noqa: ANN401
    """Return the value that is shared under a name. Nothing is copied.

    Parameters
    ----------
    name : str
        What `create` was given, in whatever process; ``/name`` for a POSIX shared memory object.
    mode : {'r+', 'r', 'c'}
        Read and write; only read, which the processor enforces (a store that numpy does not know of, through a
        pointer, ends the process); or changes that stay private.
    kind : str, optional
        How to read a file that has no record, made by another program. By default its first bytes tell, and a
        ``/name`` is raw if they do not.

    Returns
    -------
    numpy.ndarray, ShareableList, SharedDict or SharedMemory
        The same object each time, for as long as it lives.

    Raises
    ------
    NotFoundError
        A FileNotFoundError and KeyError; ``similar`` holds names that come near.
    DamagedError
        A ValueError, if what lies there cannot be trusted.
    RefusedError
        A PermissionError, if it belongs to another user.

    Examples
    --------
    >>> import shmkernel as shm
    >>> x = shm.create("x", shape=3)
    >>> y = shm.attach("x", mode="c")
    >>> y += 1
    >>> x.tolist(), y.tolist()
    ([0.0, 0.0, 0.0], [1.0, 1.0, 1.0])
    >>> shm.unlink("x")
    """
    segment_file.check_mode(mode)
    path = paths.path_of(name)
    if not sessions.covers(path):  # before: with lifetime attached, this process may be the last one at once
        with staging.room_for(name):
            registry.begin()
    fd, status = segment_file.attach(path, mode, name)
    try:
        if status.st_nlink > 1:
            records.confirm(name, status)
        given = attachments.get(status, mode)
        if given is not None:
            return given
        record = records.of(status)
        reader = _reader(name, fd, kind or (record.kind if record else None))
        try:
            mapping, value = staging.open_(reader, fd, status, path, name, mode)
        except NotFoundError:  # the folder of a store went, and with it the name
            if registry.inode_at(name) == status.st_ino:
                raise segment_file.damaged(name, "the folder of its store is gone") from None
            return attach(name, mode, kind)
        except ArgumentError:
            raise
        except ValueError as error:  # an empty file cannot even be mapped
            raise segment_file.damaged(name, error if status.st_size else "the file is empty") from None
    except LimitError as error:
        raise descriptors.ran_out(error, name) from None
    finally:
        os.close(fd)
    return attachments.put(mapping, value, attachments.Segment(status, mode, path, name, reader.name, record))


def close(name: str) -> bool:
    """Let go of a segment here: it is no longer given out, and its memory goes with the last view of it.

    Returns
    -------
    bool
        True if this process does not have it attached any more, which may have been so before; False if arrays or
        views that are still referenced keep the memory attached.

    Raises
    ------
    NotFoundError
        If this process has never had such a segment, and there is none.

    Examples
    --------
    >>> import shmkernel as shm
    >>> x = shm.create("x", shape=3)
    >>> shm.close("x")   # x itself is a view that lives on
    False
    >>> del x
    >>> shm.close("x")
    True
    >>> shm.unlink("x")
    """
    path = paths.path_of(name)
    if attachments.forget(path):
        return False
    if not attachments.had(path) and registry.inode_at(name) is None:
        similar = paths.near(name, paths.names())
        message = f"{name!r} is not attached here, and no segment has this name.{paths.hint(similar)}"
        raise NotFoundError(message, Cure("Live names", "list"), name=name, similar=similar)
    return True


def unlink(name: str) -> None:
    """Remove a segment's name, whoever made it; those who have it attached keep its memory until they let go.

    Raises
    ------
    NotFoundError
        If there is no such segment.

    Examples
    --------
    >>> import shmkernel as shm
    >>> x = shm.create("x", shape=3)
    >>> shm.unlink("x")
    >>> x.tolist()   # safe
    [0.0, 0.0, 0.0]
    """
    registry.unlink(name)


def keep(name: str, lifetime: str = "keep") -> listing.Info:
    """Change how long a segment lives.

    One that was unlinked while attached here cannot be named again: a new segment is made of it, a copy. Those who
    have the old memory attached stay on it, this process's arrays too: ``stayed`` names the other processes.

    Parameters
    ----------
    name : str
        Any segment of this user.
    lifetime : {'keep', 'session', 'attached'}
        As for `create`. A segment whose owner has ended becomes this session's.

    Returns
    -------
    Info

    Examples
    --------
    >>> import shmkernel as shm
    >>> x = shm.create("x", shape=3)
    >>> shm.keep("x").lifetime
    'keep'
    >>> shm.unlink("x")
    """
    staging.check_lifetime(lifetime)
    with staging.room_for(name):
        session = registry.begin()
    with staging.room_for(name), registry.locked():
        inode = registry.inode_at(name)
        attached = (attachment for attachment in attachments.everything() if attachment.name == name)
        left = next((attachment for attachment in attached if attachment.value() is not None), None)
        if inode is None and left is None:
            raise segment_file.missing(name)
        if lifetime == "attached" and not registry.in_use(name):
            message = f"nobody has {name!r} attached, so with that lifetime it would be gone at once: keep, or session"
            raise ArgumentError(message, name=name, lifetime=lifetime)
        if inode is not None:
            record = records.read(inode) or _adopted(name, inode)
            if lifetime != "keep" and not sessions.alive(record.owner):
                record = record._replace(owner=session.id, label=session.label)
            records.change(record._replace(lifetime=lifetime))
            attachments.set_lifetime(inode, lifetime)
    if inode is not None or left is None:
        return listing.info(name)
    others = tuple(holder for holder in listing.holders(left) if holder.pid != os.getpid())
    create(name, attachments.intact(left), lifetime=lifetime)
    return listing.info(name)._replace(stayed=others)


def gc(*, dry_run: bool = False) -> builtins.list[tuple[str, int]]:
    """Unlink what sessions have left that have ended and whose watchdog was killed too.

    Locks and versions of names that lead nowhere, and that nobody uses, go too: 4 KiB each. If one says that a holder
    died inside, that is forgotten with it.

    Returns
    -------
    list of (name, size in bytes)
        What was unlinked, or with `dry_run` would be; ``("lock of x", 4096)`` for a lock.

    Examples
    --------
    >>> import shmkernel as shm
    >>> shm.gc()
    []
    """
    folders.prepare()
    unused = sync_file.remove_unused(all_=True, dry_run=dry_run)
    over = [(record.name, size) for record, size in registry.sweep(dry_run=dry_run)]
    if not dry_run:
        unused += sync_file.remove_unused(all_=True)  # of what was unlinked just now
    return over + [(f"lock of {name}", sync_file.SIZE) for name in unused]


def _reader(name: str, fd: int, kind: str | None) -> kinds.Kind:
    if kind is not None:
        return kinds.named(kind)
    reader = kinds.for_bytes(os.pread(fd, kinds.HEAD, 0), foreign=paths.foreign(name))
    if reader is None:
        message = f"{name!r} is damaged: it has no record, and its first bytes are of no kind that can be opened here"
        cures = Cure("Its bytes as they are", "attach", name, kind=kinds.ANY_BYTES), Cure("Remove it", "unlink", name)
        raise DamagedError(message, *cures, name=name)
    return reader


def _adopted(name: str, inode: int) -> records.Record:
    session = registry.begin()
    kind = kinds.for_bytes(segment_file.peek(paths.path_of(name), kinds.HEAD, name), foreign=paths.foreign(name))
    if kind is None:
        raise segment_file.damaged(name, "it has no record, and its first bytes are of no kind")
    return records.Record(inode, name, kind.name, session.id, session.label, "session", time.time())
