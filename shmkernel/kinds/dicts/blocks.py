"""A transaction of several changes: begun by a ``with`` statement, committed or aborted when it is left.

The keeper thread (keeper.py) begins and ends it, one job after the other; a second job to end it does nothing. The job
is preceded by setting `over`: from then on no caller uses the transaction. While it is open

    the owner (owners.py)    reads and writes in it
    another thread           reads the state before it, and waits to write
    another task             of the same thread reads the state before it; a write is refused: it would block the loop

Each read and change of the owner is a `use`. Another thread may end the transaction at any time, for example by closing
the generator that entered it. LMDB must not free it during a use, which would crash, so the end waits for the use.

It is committed if its owner leaves the first statement without an error, after all statements that joined. Any other
end aborts it.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from shmkernel._core import interrupts, owners
from shmkernel.errors import LockError
from shmkernel.kinds.dicts import keeper

if TYPE_CHECKING:
    from collections.abc import Callable

    import lmdb

    from shmkernel._core.closing import Description
    from shmkernel._core.interrupts import Entry
    from shmkernel.kinds.dicts.store import Store

    Txn = lmdb.Transaction[bytes]


class Block:
    """A transaction. ``entries`` are its statements, the first one began it; if ``failed`` it will be aborted."""

    __slots__ = (
        "_at_end", "_begun", "description", "entries", "failed", "over", "owner", "store", "touched", "txn", "use",
        "wrote",
    )  # fmt: skip

    def __init__(self, store: Store, entry: Entry) -> None:
        self.store, self.entries = store, [entry]
        self.owner = owners.Owner()
        self.use = interrupts.Guard()
        self.description: Description | None = None
        self.txn: Txn | None = None
        self.over = self.failed = False
        self.touched = self.wrote = False  # whether the present change has written; whether any has
        self._begun: keeper.Job | None = None
        self._at_end: object = None

    def is_mine(self) -> bool:
        """Return whether the caller is its owner, and it is open."""
        return not self.over and self.owner.is_me()

    def begin(self) -> keeper.Job:
        """Ask the keeper to begin it; the caller has the writer lock."""
        self._at_end = self.owner.at_end(self._thread_ended)
        put, job = keeper.prepare(self._begin, self.store.name)
        self._begun = job
        put(job)
        return job

    def commit(self) -> None:
        """Commit it, and return when others can read it."""
        self._see_to(*self._end(self._commit), wait=not self.use.is_mine())

    def undo(self, *, wait: bool = True) -> None:
        """Abort it. A finalizer does not `wait`, since it may run in any thread, also in the keeper."""
        if self._begun is None:  # Ctrl-C came before `begin`
            self.over = True
            self._let_go()
            return
        self._see_to(*self._end(self._undo), wait=wait and keeper.can_wait() and not self.use.is_mine())

    def refuse_others(self) -> None:
        """Raise LockError in another task of the owner's thread."""
        if not self.over and self.owner.is_thread():
            name = self.store.name
            message = (
                f"another task of this thread is in a transaction of {name!r}, and waiting for it here would block the "
                f"event loop for ever. Wait without blocking it: async with {name}.transaction():"
            )
            raise LockError(message, name=name)

    def _see_to(self, put: Callable[[keeper.Job], object], job: keeper.Job, *, wait: bool = True) -> None:
        try:
            self.over = True
            put(job)
            if wait:
                job.wait()
        except KeyboardInterrupt:
            if wait:
                job.finish()  # so that the caller's next steps do not run beside it
            raise

    def _end(self, act: Callable[[], None]) -> tuple[Callable[[keeper.Job], object], keeper.Job]:
        if self._begun is not None and self._begun.inline:  # this thread owns LMDB's mutex
            return keeper.Job.do, keeper.Job(act)
        return keeper.prepare(act, self.store.name)

    def _begin(self) -> None:
        if self.over:
            self._let_go()
            return
        try:
            self.txn = self.store.writing()
        except BaseException:
            self.over = True
            self._let_go()
            raise
        keeper.held.add(self)
        self.store.entered(self)

    def _commit(self) -> None:
        self._end_by(self.store.commit)

    def _undo(self) -> None:
        self._end_by(self.store.abort)

    def _end_by(self, act: Callable[[Txn], None]) -> None:
        with self.use:
            if self.txn is not None:
                txn, self.txn = self.txn, None
                try:
                    act(txn)
                finally:
                    self._let_go()

    def _let_go(self) -> None:
        description, self.description, self._at_end = self.description, None, None
        self.over = True
        self.entries.clear()  # a reference cycle would keep the store
        keeper.held.discard(self)
        if self.store.block is self:
            self.store.block = None
        if description is not None:
            self.store.lock.end(description)

    def _thread_ended(self, _: object, at_exit: Callable[[], bool] = sys.is_finalizing) -> None:
        if not self.over and not at_exit():  # at exit the OS ends it; modules may be torn down
            self.undo(wait=False)
