"""Create, attach, close, keep and unlink segments, and remove leftovers."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from shmkernel import kinds
from shmkernel._core import descriptors, folders, limits, paths, records, registry, segment_file, sessions
from shmkernel.errors import ArgumentError, Cure, DamagedError, LimitError, NotFoundError, RefusedError
from shmkernel.sync import sync_file
from shmkernel.verbs import attachments, listing, staging

if TYPE_CHECKING:
    import builtins
    from collections.abc import Sequence


@limits.explains
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
    mode: str | None = None,
    lifetime: str = "session",
    replace: bool = False,
    allow_pickle: bool = False,
) -> Any:
    """Share a value under a name, and return the shared value.

    Parameters
    ----------
    name : str
        Letters, digits and ``_``; dots may join parts.
    value : array_like, list, dict, DataFrame or bytes-like, optional
        The value to copy into shared memory: an array or number; a flat list or tuple of int, float, bool, str,
        bytes and None; a dict; a table of pandas, polars, pyarrow or DuckDB; bytes; any other value that consists of
        such parts, as an object. A Dask array or DataFrame is computed straight into it. Without a value, give
        `shape`, `size` or `kind`.
    kind : {'array', 'dict', 'list', 'object', 'raw', 'table'}, optional
        Kind of the segment; by default chosen by the type of the value.
    shape : int or sequence of int, optional
        Shape of a new array, to fill in place. This avoids a second copy in memory.
    dtype : data-type, optional
        Type of the elements; by default that of the value, or float64. A value that does not fit is refused; floats
        may be rounded.
    order : {'C', 'F'}, optional
        Memory layout of an array; by default that of the value.
    fill : scalar, optional
        Value of all elements of a new array, by default 0.
    size : int, optional
        Size of a new block in bytes. Bytes after those of `value` are zero.
    ring : int, optional
        Number of slots of a new stream, for frames of this `shape` and `dtype`.
    mode : {'r+', 'r', 'c'}, optional
        Use of the result in this process: read and write, read only, or with private changes. By default r+, and c
        for a table or object, which does not change once it is shared.
    lifetime : {'session', 'attached', 'keep'}
        The segment stays until this process ends, until the last process lets go of it, or until it is unlinked.
    replace : bool
        Replace an existing segment of this name. Processes that have it attached keep the old values.
    allow_pickle : bool
        Pickle a value that cannot be shared otherwise, a model for example. To attach it runs code: see `attach`.

    Returns
    -------
    numpy.ndarray, ShareableList, SharedDict, Ring, SharedMemory, a table or object
        The shared value. It and its views keep the memory, even after `unlink`.

    Raises
    ------
    TakenError
        A FileExistsError: the name is taken, and `replace` is false.
    FullError
        An OSError with errno ENOSPC: there is not enough memory. ``needed`` and ``free`` are in bytes.
    UnsupportedError
        A TypeError: the value cannot be shared without changing it.
    ArgumentError
        A ValueError: the name, mode, lifetime or shape is invalid.

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
    options = {"shape": shape, "dtype": dtype, "order": order, "fill": fill, "size": size, "ring": ring,
               "allow_pickle": allow_pickle or None}  # fmt: skip
    (shared,) = staging.name_all([staging.draft(name, value, options, kind, mode, lifetime, replace)], replace)
    return shared


@limits.explains
def attach(
    name: str,
    mode: str | None = None,
    kind: str | None = None,
    *,
    as_: str | None = None,
    allow_pickle: bool | None = None,
    refresh: bool = False,
) -> Any:
    """Return the value that is shared under a name. Nothing is copied.

    Parameters
    ----------
    name : str
        The name given to `create` in any process of this user; ``/name`` for a POSIX shared memory object;
        ``hostA:name`` for a read-only snapshot of what another host shares, which is copied first if it is not here.
    mode : {'r+', 'r', 'c'}, optional
        r+: read and write. r: read only, enforced by the processor: a write through a pointer kills the process.
        c: changes stay private. By default r+, and c for a table or object, which does not change once it is shared.
    kind : str, optional
        Kind of a file that another program made. By default its first bytes decide; a ``/name`` is raw if they are
        of no known kind.
    as_ : {'pandas', 'polars', 'arrow', 'duckdb'}, optional
        The library that gives a table its form; by default the one that it was shared from.
    allow_pickle : bool, optional
        Whether to unpickle an object that was pickled, which runs code that the segment chooses. By default only if it
        is signed with the key of this user, as those are that the user's own processes share.
    refresh : bool
        Copy what another host shares again if it has a new version. Who has the older snapshot attached keeps it.

    Returns
    -------
    numpy.ndarray, ShareableList, SharedDict, Ring, SharedMemory, a table or object
        The same one at each call, for as long as it exists; of an object a new one.

    Raises
    ------
    NotFoundError
        A FileNotFoundError and KeyError: no segment has this name. ``similar`` lists similar names.
    DamagedError
        A ValueError: the file is not a valid segment.
    RefusedError
        A PermissionError: the segment belongs to another user, or may not be unpickled.

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
    opening = "r+" if mode is None else mode
    segment_file.check_mode(opening)
    if refresh:
        name = attachments.copied(name, refresh=True) or name
    try:
        path = paths.path_of(name)
        if not sessions.covers(path):  # first of all: with lifetime attached, this process may be the last holder
            with staging.room_for(name):
                registry.begin()
        fd, status = segment_file.attach(path, opening, name)
    except (ArgumentError, NotFoundError):
        copy = attachments.copied(name)
        if copy is None:
            raise
        return attach(copy, mode, kind, as_=as_, allow_pickle=allow_pickle)
    try:
        if status.st_nlink > 1 and not records.confirm(name, status):
            return attach(name, mode, kind, as_=as_, allow_pickle=allow_pickle)
        given = attachments.get(status, opening, as_)
        if given is not None:
            return given
        record = records.of(status)
        if record is None and registry.inode_at(name) != status.st_ino:  # it has lost its name, and its record with it
            return attach(name, mode, kind, as_=as_, allow_pickle=allow_pickle)
        wanted = kind or (record.kind if record else None)
        reader = kinds.named(wanted) if wanted is not None else _reader(name, fd)
        origin = record.origin if record else None
        if mode is None and (origin or hasattr(reader, "modes")):
            opening = reader.modes[0] if hasattr(reader, "modes") else "r"
            given = attachments.get(status, opening, as_)
            if given is not None:
                return given
        if mode is not None or as_ is not None:
            staging.check_use(reader, name, mode, as_)
        if origin and opening == "r+":
            message = f"{name!r} is a snapshot of {origin}, which all processes of this host share: it is read only"
            raise RefusedError(
                message, Cure("Changes stay private", "attach", str(origin), mode="c"), name=name, owner=None
            )
        trusted = record is not None and record.kind == reader.name and status.st_mtime <= record.created
        trusted &= origin is None  # else another host has sent the bytes
        try:
            consent = staging.consent_for(allow_pickle, status, record) if getattr(reader, "pickles", False) else None
            mapping, value = staging.open_(
                reader, fd, status, path, name, opening, form=as_, trusted=trusted, consent=consent
            )
        except NotFoundError:  # the folder of a store is gone, usually with its name
            if registry.inode_at(name) == status.st_ino:
                raise segment_file.damaged(name, "the folder of its store is gone") from None
            return attach(name, mode, kind, as_=as_, allow_pickle=allow_pickle)
    except LimitError as error:
        raise descriptors.ran_out(error, name) from None
    finally:
        fd.close()
    segment = attachments.Segment(status, opening, path, name, reader.name, record, as_)
    if getattr(reader, "fresh", False):
        attachments.note(mapping, value, segment)
        return value
    return attachments.put(mapping, value, segment)


@limits.explains
def close(name: str) -> bool:
    """Let go of a segment in this process. Its memory is released with the last array or view of it.

    Returns
    -------
    bool
        True if this process does not have the segment attached any more, or never had; False if arrays or views
        still keep it attached.

    Raises
    ------
    NotFoundError
        This process has never attached a segment of this name, and none exists.

    Examples
    --------
    >>> import shmkernel as shm
    >>> x = shm.create("x", shape=3)
    >>> shm.close("x")   # x still exists
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


@limits.explains
def unlink(name: str) -> None:
    """Remove a segment's name, no matter who made it. Processes that have it attached keep its memory.

    Raises
    ------
    NotFoundError
        There is no segment of this name.

    Examples
    --------
    >>> import shmkernel as shm
    >>> x = shm.create("x", shape=3)
    >>> shm.unlink("x")
    >>> x.tolist()   # safe
    [0.0, 0.0, 0.0]
    """
    registry.unlink(name)


@limits.explains
def keep(name: str, lifetime: str = "keep") -> listing.Info:
    """Change the lifetime of a segment.

    If the segment was unlinked and this process still has its memory, a copy is shared under the name. Processes
    that have the old memory keep it, this process too; ``stayed`` of the result names the others.

    Parameters
    ----------
    name : str
        Name of any segment of this user.
    lifetime : {'keep', 'session', 'attached'}
        As for `create`. If the owner of the segment has ended, this session becomes the owner.

    Returns
    -------
    Info
        The segment, with its new lifetime.

    Raises
    ------
    NotFoundError
        There is no segment of this name, and this process has no memory of an earlier one.
    ArgumentError
        A ValueError: the lifetime is unknown, or it is attached and no process has the segment attached.

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
            message = f"nobody has {name!r} attached, so lifetime attached would remove it at once. Use keep or session"
            raise ArgumentError(message, name=name, lifetime=lifetime)
        if inode is not None:
            record = records.read(inode) or _adopted(name, inode, session)
            if lifetime != "keep" and not sessions.alive(record.owner):
                record = record._replace(owner=session.id, label=session.label)
            records.change(record._replace(lifetime=lifetime))
            attachments.set_lifetime(inode, lifetime)
    if inode is not None or left is None:
        return listing.info(name)
    others = tuple(holder for holder in listing.holders(left) if holder.pid != os.getpid())
    _copy(left, lifetime)
    return listing.info(name)._replace(stayed=others)


@limits.explains
def gc(*, dry_run: bool = False) -> builtins.list[tuple[str, int]]:
    """Remove segments that ended sessions have left behind. This happens only if their watchdogs were killed too.

    It also removes unused locks and versions of names without a segment, 4 KiB each. If a lock's holder died inside,
    this is forgotten.

    Parameters
    ----------
    dry_run : bool
        Remove nothing, and return what would be removed.

    Returns
    -------
    list of (str, int)
        Names and sizes in bytes; ``("lock of x", 4096)`` for a lock.

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
        unused += sync_file.remove_unused(all_=True)  # those of the segments that were just unlinked
    return over + [(f"lock of {name}", sync_file.SIZE) for name in unused]


def _copy(left: attachments.Attachment, lifetime: str) -> None:
    """Share a copy of an unlinked segment under its name: of its bytes, or of the value if its library keeps them."""
    mapping, value, kind = left(), left.value(), kinds.named(left.kind)
    if mapping is None or value is None:  # another thread has let go of it meanwhile
        raise segment_file.missing(left.name)
    if kinds.keeps(kind):
        create(left.name, value, kind=left.kind, lifetime=lifetime)
        return
    plan = kinds.Plan(len(mapping), lambda: iter([memoryview(mapping)]))
    staging.name_all([staging.make(left.name, kind, plan, None, lifetime)], replace=False)


def _reader(name: str, fd: int) -> kinds.Kind:
    """Return the kind that the first bytes of a file without a record are of."""
    reader = kinds.for_bytes(os.pread(fd, kinds.HEAD, 0), foreign=paths.foreign(name))
    if reader is None:
        message = f"{name!r} is damaged: it has no record, and its first bytes are of no kind that can be opened here"
        cures = Cure("Its bytes as they are", "attach", name, kind=kinds.ANY_BYTES), Cure("Remove it", "unlink", name)
        raise DamagedError(message, *cures, name=name)
    return reader


def _adopted(name: str, inode: int, session: sessions.Session) -> records.Record:
    kind = kinds.for_bytes(segment_file.peek(paths.path_of(name), kinds.HEAD, name), foreign=paths.foreign(name))
    if kind is None:
        raise segment_file.damaged(name, "it has no record, and its first bytes are of no kind")
    return records.Record(inode, name, kind.name, session.id, session.label, "session", time.time())
