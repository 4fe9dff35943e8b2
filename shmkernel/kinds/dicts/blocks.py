"""A transaction of several changes, from the entering of a statement to its leaving.

What begins and ends it runs in the keeper (keeper.py), one step after the other, and each may be asked for twice. Who
asks for an end sets `over`: from then on nobody takes the transaction for his own. Whoever is inside:

    the owner (owners.py)    reads and writes in it
    another thread           reads what was before, and waits to write
    another task             of the same thread reads what was before, and may not write: that would block the loop

Each reading and change of the owner's is one `use`. Another thread may ask for the end at any time (it closes the
generator that entered, say), but LMDB frees the transaction only between two uses: during one, that would be a crash.

It is stored if the statement that began it is left without an error, by its owner, after all that joined it. Any other
end undoes it.
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

    from shmkernel._core.interrupts import Entry
    from shmkernel.kinds.dicts.store import Store
    from shmkernel.kinds.dicts.writer_lock import Description

    Txn = lmdb.Transaction[bytes]


class Block:
    """``entries`` are the statements inside, the one that began it first; ``failed``: it will not be stored."""

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
        self.touched = self.wrote = False  # by the change under way; by any
        self._begun: keeper.Job | None = None
        self._at_end: object = None

    def is_mine(self) -> bool:
        """Say whether who asks is inside."""
        return not self.over and self.owner.is_me()

    def begin(self) -> keeper.Job:
        """Have it begun; the caller has the writer lock."""
        self._at_end = self.owner.at_end(self._thread_ended)
        put, job = keeper.prepare(self._begin)
        self._begun = job
        put(job)
        return job

    def commit(self) -> None:
        """Store it, and return when others can read it."""
        self._see_to(*self._end(self._commit), wait=not self.use.is_mine())

    def undo(self, *, wait: bool = True) -> None:
        """Undo it. What garbage collection undoes does not `wait`: it may have struck anywhere, in the keeper too."""
        if self._begun is None:  # Ctrl-C came before it was asked for
            self.over = True
            self._let_go()
            return
        self._see_to(*self._end(self._undo), wait=wait and keeper.can_wait() and not self.use.is_mine())

    def refuse_others(self) -> None:
        """Raise LockError in another task of the owner's thread."""
        if not self.over and self.owner.is_thread():
            name = self.store.name
            message = (
                f"{name!r} is in a transaction of another task of this thread, which would wait for it for ever. "
                f"It can wait without blocking the loop: async with {name}.transaction():"
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
                job.finish()  # what follows shall not see it happen
            raise

    def _end(self, act: Callable[[], None]) -> tuple[Callable[[keeper.Job], object], keeper.Job]:
        if self._begun is not None and self._begun.inline:  # LMDB's mutex is this thread's
            return keeper.Job.do, keeper.Job(act)
        return keeper.prepare(act)

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
        self.entries.clear()  # they refer to this, and it to the store
        keeper.held.discard(self)
        if self.store.block is self:
            self.store.block = None
        if description is not None:
            self.store.lock.end(description)

    def _thread_ended(self, _: object, at_exit: Callable[[], bool] = sys.is_finalizing) -> None:
        if not self.over and not at_exit():  # then the OS ends it, and our modules may be gone
            self.undo(wait=False)
