"""SharedMemoryManager: a replacement for the standard library's class of that name, without a server process.

The session of the process that made a block owns it. Its watchdog unlinks the block when that process ends, in
whatever way; `shutdown` unlinks it earlier.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from typing import TYPE_CHECKING, Any, Self, TypeVar

from shmkernel._core import counts, fork
from shmkernel.errors import NotFoundError, ShmError
from shmkernel.stdlib import shareable_list, shared_memory
from shmkernel.sync.locks import Lock
from shmkernel.verbs import segments

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, MutableMapping
    from multiprocessing.context import BaseContext
    from multiprocessing.pool import Pool
    from types import TracebackType

_Made = TypeVar("_Made")


_CURES = {
    "new": ": call start(), or use it in a with statement",
    "started": ": use it as it is, or make another one, SharedMemoryManager()",
    "shut down": " for good. Make another one: SharedMemoryManager()",
}


class ManagerError(ShmError, multiprocessing.ProcessError, ValueError):
    """The manager was used before `start` or after `shutdown`.

    Call ``start()`` first, or use the manager in a ``with`` statement. After its shutdown make a new one.
    It is both a ProcessError and a ValueError: the stdlib raises sometimes the one, sometimes the other.
    """


class SharedMemoryManager:
    """Creates shared memory, and unlinks all that it created when it is shut down.

    Parameters
    ----------
    address, authkey, serializer, shutdown_timeout : optional
        Accepted as by `multiprocessing.managers.SharedMemoryManager`, and ignored: there is no server process.
    ctx : multiprocessing context, optional
        Context that starts the processes of `Pool`; by default the program's.

    Examples
    --------
    >>> from shmkernel import SharedMemoryManager
    >>> with SharedMemoryManager() as smm:
    ...     names = smm.ShareableList(["a", "b"])
    ...     block = smm.SharedMemory(size=128)
    ...     grid = smm.array((2, 3), dtype="int16")
    >>> block.unlink()
    Traceback (most recent call last):
    shmkernel.errors.NotFoundError: no segment named ...
    """

    def __init__(
        self,
        address: object = None,
        authkey: bytes | None = None,
        serializer: str = "pickle",
        ctx: BaseContext | None = None,
        *,
        shutdown_timeout: float = 1.0,
    ) -> None:
        del authkey, serializer, shutdown_timeout
        self.address = address
        self._context = ctx or multiprocessing.get_context()
        self._made: list[tuple[str, int]] = []  # names, and the generations of their makers
        self._pools: list[tuple[Pool, int]] = []
        self._state = "new"

    def start(self, initializer: Callable[..., object] | None = None, initargs: Iterable[Any] = ()) -> None:
        """Start the manager. `initializer` runs in this process, because there is no server process."""
        if self._state != "new":
            raise ManagerError(f"the manager is {self._state} already{_CURES[self._state]}")
        if initializer is not None:
            initializer(*initargs)
        self._state = "started"

    def shutdown(self) -> None:
        """Stop the pools and unlink all that was created. Processes that have it attached keep the memory.

        A forked child leaves alone what its parent has created.
        """
        self._state = "shut down"
        while self._pools:
            pool, generation = self._pools.pop()
            if not fork.inherited(generation):
                pool.terminate()
                pool.join()
        while self._made:
            name, generation = self._made.pop()
            if not fork.inherited(generation):
                with contextlib.suppress(NotFoundError):
                    segments.unlink(name)

    def SharedMemory(self, size: int) -> shared_memory.SharedMemory:  # noqa: N802  the stdlib's name
        """Create a block of `size` bytes."""
        return self._keep(lambda: shared_memory.SharedMemory(create=True, size=size), lambda block: f"/{block.name}")

    def ShareableList(self, sequence: Iterable[Any]) -> shareable_list.ShareableList:  # noqa: N802  the stdlib's name
        """Create a list of numbers, str, bytes and None."""
        return self._keep(lambda: shareable_list.ShareableList(sequence), lambda made: f"/{made.shm.name}")

    def array(self, value: object, dtype: object = None) -> Any:
        """Create an array of zeros from a shape (an int or a tuple of ints), or a copy of another array."""
        name = self._name()
        shape = counts.whole(value) is not None or (isinstance(value, tuple) and None not in map(counts.whole, value))
        options: dict[str, Any] = {"shape": value} if shape else {"value": value}
        return self._keep(lambda: segments.create(name, dtype=dtype, kind="array", **options), lambda _: name)

    def dict(self, *args: Any, **items: Any) -> MutableMapping[Any, Any]:
        """Create a dict from the arguments of `dict`. Every process can read and write it."""
        name = self._name()
        return self._keep(lambda: segments.create(name, dict(*args, **items), kind="dict"), lambda _: name)

    def Lock(self) -> Lock:  # noqa: N802  the stdlib's name
        """Create a lock for `with`. It can be sent to other processes; the death of its holder frees it."""
        self._check()
        return Lock(self._name())

    def Pool(  # noqa: N802  the stdlib's name
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
    ) -> Pool:
        """Start worker processes. Shared arrays, lists and blocks are passed to them by reference."""
        self._check()
        pool: Pool = self._context.Pool(processes, initializer, initargs, maxtasksperchild)
        self._pools.append((pool, fork.generation))
        return pool

    def __enter__(self) -> Self:
        if self._state == "new":
            self.start()
        self._check()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.shutdown()

    def __repr__(self) -> str:
        return f"<SharedMemoryManager, {self._state}, {len(self._made)} blocks>"

    def _keep(self, make: Callable[[], _Made], name: Callable[[_Made], str]) -> _Made:
        self._check()
        made = make()
        self._made.append((name(made), fork.generation))
        return made

    def _name(self) -> str:
        return f"m{os.urandom(8).hex()}"

    def _check(self) -> None:
        if self._state != "started":
            raise ManagerError(f"the manager is {self._state}{_CURES[self._state]}")
