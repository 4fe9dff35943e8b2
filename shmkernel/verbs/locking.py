"""Agreement between those who share: locks, versions, waiting, consistent copies.

Each verb takes a name, or the object that is shared under it, or a view of that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from shmkernel._core import counts, paths
from shmkernel.errors import RefusedError, UnsupportedError
from shmkernel.sync import locks, seqlock, versions
from shmkernel.verbs import attachments, segments

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

T = TypeVar("T")


def lock(x: Any, *, shared: bool = False, timeout: float | None = None) -> locks.Lock:  # noqa: ANN401
    """Exclude others: ``with shm.lock(x):``, or ``async with`` where an event loop must go on.

    It holds between processes, threads and tasks, who may enter it again inside. However a holder dies, the lock is
    free at once; the next to enter is warned, since what he wrote may be half written. Leaving raises the version.

    Parameters
    ----------
    x : str or shared object
        A segment, or any name that all agree on.
    shared : bool
        Readers' lock: they share it with each other, not with a writer.
    timeout : float, optional
        Seconds to wait at most; by default until Ctrl-C.

    Returns
    -------
    Lock
        ``abandoned`` says after entering who died inside, if somebody did. It can be sent to other processes.

    Raises
    ------
    TimedOutError
        A TimeoutError, on entering; ``holder`` is who has it.
    LockError
        On entering, where the same thread has it shared and wants it alone: two who do so would wait for ever.

    Examples
    --------
    >>> import shmkernel as shm
    >>> x = shm.create("x", shape=3)
    >>> with shm.lock(x):
    ...     x += 1
    >>> with shm.lock("setup", timeout=10):   # any name will do
    ...     pass
    >>> shm.unlink("x")
    """
    return locks.Lock(name_of(x), shared=shared, timeout=_patience(timeout))


def _patience(timeout: float | None) -> float | None:
    return None if timeout is None else counts.seconds(timeout)


def publish(x: Any) -> int:  # noqa: ANN401
    """Say that there is something new: raise the version, and wake who waits for it.

    Returns
    -------
    int
        The new version.

    Raises
    ------
    RefusedError
        A PermissionError, if it is attached here so that it cannot have changed for others.

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


def version(x: Any) -> int:  # noqa: ANN401
    """Return how many times it was published: by `publish`, by leaving an exclusive lock, by replacing.

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


def wait(x: Any, since: int | None = None, timeout: float | None = None) -> int:  # noqa: ANN401
    """Sleep until there is something new, and return its version. Ctrl-C ends it.

    A name without a segment is waited for until it has one.

    Parameters
    ----------
    x : str or shared object
        What to wait for.
    since : int, optional
        The version known so far: whatever was published after that is not missed. By default the present one.
    timeout : float, optional
        Seconds to wait at most.

    Raises
    ------
    TimedOutError
        A TimeoutError.
    NotFoundError
        If the segment is unlinked.

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
    return versions.wait(name_of(x), since, _patience(timeout))


def changes(x: Any, since: int | None = None) -> AsyncIterator[int]:  # noqa: ANN401
    """Iterate over what is published from now on: ``async for version in shm.changes(x):``.

    What is published while the loop's body runs is one step, of the latest version. NotFoundError ends it when the
    segment is unlinked.

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


def writing(x: Any, *, timeout: float | None = None) -> locks.Lock:  # noqa: ANN401
    """Lock out other writers, and let `snapshot` see all of it or nothing: ``with shm.writing(x):``.

    Raises
    ------
    RefusedError
        A PermissionError, if it is attached here only to be read, or so that changes stay private.

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


def snapshot(x: Any) -> Any:  # noqa: ANN401
    """Return a private copy that is whole: made while nobody wrote under `writing` or `lock`.

    No lock is taken, so that readers do not hold up the writer, unless he writes almost all the time.

    Parameters
    ----------
    x : str or shared object
        An array, or what else has a ``copy``; a view is copied alone.

    Raises
    ------
    AbandonedError
        If the last writer died while he wrote, and nobody has written since.

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


def name_of(x: Any) -> str:  # noqa: ANN401
    """Return the name of a shared object, or of what it is a view of; a name is checked."""
    if isinstance(x, str):
        paths.path_of(x)
        return x
    return _held(x).name


def _writable(x: Any) -> str:  # noqa: ANN401
    """Return the name, where what was given, or is attached under the name, can have changed for others."""
    if isinstance(x, str):
        name, path = x, paths.path_of(x)
        modes = {one.key[2] for one in attachments.everything() if one.path == path}
    else:
        one = _held(x)
        name, modes = one.name, {one.key[2]}
    if modes and "r+" not in modes:
        how = "read only" if "r" in modes else "with private changes"
        message = f"{name!r} is attached {how} here, so nothing new is in it. To write: %shm_attach {name} --mode r+"
        raise RefusedError(message, name=name)
    return name


def _held(x: Any) -> attachments.Held:  # noqa: ANN401
    attached, part = attachments.everything(), x
    while part is not None:
        for one in attached:
            if one() is part or one.value() is part:
                return one
        part = getattr(part, "base", None)
    message = f"this {type(x).__name__} is not shared from here. Give a name, or what create or attach returned"
    raise UnsupportedError(message, type=type(x).__name__)
