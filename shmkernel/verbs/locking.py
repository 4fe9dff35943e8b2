"""Coordinate processes that share a segment: locks, versions, waiting, consistent copies.

Each verb takes a segment's name, the shared object itself, or a view of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from shmkernel import kinds
from shmkernel._core import counts, folders, limits, paths, records, registry
from shmkernel.errors import Cure, RefusedError, UnsupportedError
from shmkernel.sync import locks, seqlock, versions
from shmkernel.verbs import attachments, segments, staging

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

T = TypeVar("T")


@limits.explains
def lock(x: Any, *, shared: bool = False, timeout: float | None = None) -> locks.Lock:
    """Return a lock on a name: use it as ``with shm.lock(x):``, or ``async with`` in an event loop.

    It excludes other processes, threads and tasks; its holder may enter it again. When a holder dies, the lock is
    free at once, and the next to enter gets a warning, because the data may be half written. Leaving an exclusive
    lock increases the version.

    Parameters
    ----------
    x : str or shared object
        A segment, or any name that its users agree on.
    shared : bool
        True: a readers' lock. Several readers can hold it at once, but not together with a writer.
    timeout : float, optional
        Seconds to wait at most; by default it waits until Ctrl-C.

    Returns
    -------
    Lock
        After entering, ``abandoned`` names the holder that died inside, if one did. It can be sent to other processes.

    Raises
    ------
    TimedOutError
        A TimeoutError, on entering. ``holder`` names the process that has the lock.
    LockError
        On entering: this thread has the shared lock and asks for the exclusive one. Two such threads would deadlock.

    Examples
    --------
    >>> import shmkernel as shm
    >>> x = shm.create("x", shape=3)
    >>> with shm.lock(x):
    ...     x += 1
    >>> with shm.lock("setup", timeout=10):   # a name without a segment
    ...     pass
    >>> shm.unlink("x")
    """
    return locks.Lock(name_of(x), shared=shared, timeout=_patience(timeout))


def _patience(timeout: float | None) -> float | None:
    return None if timeout is None else counts.seconds(timeout)


@limits.explains
def publish(x: Any) -> int:
    """Announce new content: increase the version and wake every process that waits for it.

    Returns
    -------
    int
        The new version.

    Raises
    ------
    RefusedError
        A PermissionError: it is attached here read only or with private changes, so nothing can have changed.

    Examples
    --------
    >>> import shmkernel as shm
    >>> x = shm.create("x", shape=3)
    >>> x[:] = 1
    >>> shm.publish(x), shm.version(x)
    (1, 1)
    >>> shm.unlink("x")
    """
    return versions.publish(_writable(x))


@limits.explains
def version(x: Any) -> int:
    """Return the version: it counts calls of `publish`, exclusive locks that were left, and replacements.

    Examples
    --------
    >>> import shmkernel as shm
    >>> x = shm.create("x", shape=3)
    >>> with shm.lock(x):
    ...     x += 1
    >>> y = shm.create("x", shape=4, replace=True)
    >>> shm.version("x")
    2
    >>> shm.unlink("x")
    """
    return versions.version(name_of(x))


@limits.explains
def wait(x: Any, since: int | None = None, timeout: float | None = None) -> int:
    """Sleep until the version increases, and return it. Ctrl-C interrupts it.

    If the name has no segment yet, wait until it has one.

    Parameters
    ----------
    x : str or shared object
        A segment, by its name or its value; or ``hostA:name`` for what another host shares.
    since : int, optional
        The last version that you have seen; if a later one exists, return at once. By default the current version; of
        another host's segment that of its snapshot here, if there is one.
    timeout : float, optional
        Seconds to wait at most.

    Raises
    ------
    TimedOutError
        A TimeoutError: nothing was published within `timeout`.
    NotFoundError
        The segment was unlinked.
    HostError
        A ConnectionError: the other host was lost, or this one has not joined.

    Examples
    --------
    >>> import shmkernel as shm
    >>> x = shm.create("x", shape=3)
    >>> known = shm.version(x)
    >>> shm.publish(x)
    1
    >>> shm.wait(x, since=known)
    1
    >>> shm.unlink("x")
    """
    if attachments.on_host and isinstance(x, str) and paths.on_host(x):
        return attachments.on_host[0](x, since, _patience(timeout))
    return versions.wait(name_of(x), since, _patience(timeout))


def changes(x: Any, since: int | None = None) -> AsyncIterator[int]:
    """Iterate over the versions published from now on: ``async for version in shm.changes(x):``.

    If several versions are published while the loop's body runs, the next step yields only the latest.
    It raises NotFoundError when the segment is unlinked.

    Examples
    --------
    >>> import asyncio
    >>> import shmkernel as shm
    >>> x = shm.create("x", shape=3)
    >>> async def first():
    ...     async for version in shm.changes(x, since=0):
    ...         return version
    >>> shm.publish(x)
    1
    >>> asyncio.run(first())
    1
    >>> shm.unlink("x")
    """
    return versions.changes(name_of(x), since)


@limits.explains
def writing(x: Any, *, timeout: float | None = None) -> locks.Lock:
    """Lock out other writers: ``with shm.writing(x):``. A `snapshot` then has all changes of the block or none.

    Raises
    ------
    RefusedError
        A PermissionError: it is attached here read only or with private changes.

    Examples
    --------
    >>> import shmkernel as shm
    >>> x = shm.create("x", shape=3)
    >>> with shm.writing(x):
    ...     x[:] = 1, 2, 3
    >>> shm.snapshot("x")
    array([1., 2., 3.])
    >>> shm.unlink("x")
    """
    return lock(_writable(x), timeout=timeout)


@limits.explains
def snapshot(x: Any) -> Any:
    """Return a consistent private copy: one made while nobody wrote under `writing` or `lock`.

    On x86 it takes no lock, so readers do not delay the writer. On other processors, and under a writer that hardly
    pauses, it takes the shared lock.

    Parameters
    ----------
    x : str or shared object
        An array, or another value that has a ``copy`` method. Of a view only its own elements are copied.

    Raises
    ------
    AbandonedError
        The last writer died while writing, and nobody has written since.

    Examples
    --------
    >>> import shmkernel as shm
    >>> x = shm.create("x", [1, 2, 3], dtype=int)
    >>> shm.snapshot(x[1:])
    array([2, 3])
    >>> shm.unlink("x")
    """
    name = name_of(x)
    value = segments.attach(name, "r") if isinstance(x, str) else x
    if not hasattr(value, "copy"):
        message = f"{name!r}: a {type(value).__name__} has no copy(). Read it under shm.lock({name!r}, shared=True)"
        raise UnsupportedError(message, name=name, type=type(value).__name__)
    return seqlock.snapshot(name, value.copy)


def name_of(x: Any) -> str:
    """Return the segment's name for a shared object or a view of it. A str is checked and returned."""
    if isinstance(x, str):
        paths.path_of(x)
        return x
    return _attachment(x).name


def _writable(x: Any) -> str:
    """Return the name. Raise RefusedError if this process has attached it only read only or with private changes."""
    if isinstance(x, str):
        name, path = x, paths.path_of(x)
        found = [attachment for attachment in attachments.everything() if attachment.path == path]
    else:
        found = [_attachment(x)]
        name = found[0].name
    modes = {attachment.key[2] for attachment in found}
    if modes and "r+" not in modes:
        if "r+" not in staging.modes_of(kinds.named(found[0].kind)):
            what = kinds.with_article(found[0].kind)
            why = f"{what} does not change once it is shared. Replace it by another: that is published too"
            raise RefusedError(f"{name!r}: {why}", name=name)
        if (record := records.read(found[0].key[1])) and (origin := record.origin):
            why = f"a snapshot of {origin} does not change. Write to it on {origin.host}: that is published there"
            raise RefusedError(f"{name!r}: {why}", name=name)
        how = "read only" if "r" in modes else "with private changes"
        message = f"{name!r} is attached {how} here, so this process has changed nothing in it"
        raise RefusedError(message, Cure("To write", "attach", name, mode="r+"), name=name)
    return name


def _attachment(x: Any) -> attachments.Attachment:
    attached, part = attachments.everything(), x
    while part is not None:
        for attachment in attached:
            if attachment() is part or attachment.value() is part:
                return attachment
        part = getattr(part, "base", None)
    advice = "Give a name, or what create or attach returned"
    message = f"this {type(x).__name__} is not a shared object of this process. {advice}"
    raise UnsupportedError(message, type=type(x).__name__)


def _listen(name: str) -> None:
    """Have the processes that change a segment publish, if its kind's writers can be asked to."""
    inode = registry.inode_at(name)
    if inode is None or not folders.exists(paths.store_folder(inode)):
        return
    record = records.read(inode)
    listen = record and getattr(kinds.named(record.kind), "listen", None)
    if listen:
        listen(paths.store_folder(inode))


versions.on_wait.append(_listen)
