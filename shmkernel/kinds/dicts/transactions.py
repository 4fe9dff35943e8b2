"""`Transaction`: several atomic changes, by ``with`` and ``async with``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shmkernel._core import interrupts
from shmkernel.errors import ArgumentError, LockError, warn

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from types import TracebackType
    from typing import Any

    from shmkernel._core.interrupts import Entry
    from shmkernel.kinds.dicts import store
    from shmkernel.kinds.dicts.blocks import Block
    from shmkernel.kinds.dicts.mapping import SharedDict

    Kind = type[BaseException] | None

_ASYNC = 0.01, 0.002  # seconds to wait for the begin: first blocking, then between polls of the event loop


class Transaction(interrupts.Holding):
    """The result of `SharedDict.transaction`. Each ``with`` statement keeps its state in an entry."""

    __slots__ = ("_dict", "_store", "_timeout")

    def __init__(self, given: SharedDict, opened: store.Store, timeout: float | None) -> None:
        self._dict, self._store, self._timeout = given, opened, timeout

    def _enter(self, entry: Entry) -> SharedDict:
        if not self._joins(entry):
            block = entry.taken = self._store.new_block(entry)
            try:
                self._store.lock.take(block, long=True, timeout=self._timeout)
                block.begin().wait()
            except BaseException:  # an explicit entry has no token that would abort it
                block.undo(wait=False)
                raise
        return self._dict

    def _joins(self, entry: Entry) -> bool:
        opened = self._store
        block = opened.block
        if block is None:
            return False
        if not block.is_mine():
            block.refuse_others()
            return False
        entry.taken = block
        block.entries.append(entry)
        return True

    def __aenter__(self) -> Coroutine[Any, Any, SharedDict]:
        return self._enter_async(interrupts.entry_of(self))

    __aexit__ = interrupts.Exit("_exit_async")

    async def _enter_async(self, entry: Entry) -> SharedDict:
        import asyncio  # noqa: PLC0415  slow, and here it is loaded

        opened = self._store
        if opened.current_block() is not None:
            self._joins(entry)
            return self._dict
        block = entry.taken = opened.new_block(entry)
        try:
            await opened.lock.take_async(block, self._timeout)
            job = block.begin()
            at_once, later = _ASYNC
            if not job.wait(at_once):
                while not job.wait(0):  # noqa: ASYNC110  the keeper has mostly begun by now
                    await asyncio.sleep(later)
        except BaseException:
            block.undo(wait=False)
            raise
        return self._dict

    def _exit_async(
        self, entry: Entry | None, kind: Kind, error: BaseException | None, at: TracebackType | None
    ) -> Coroutine[Any, Any, None]:
        self._exit(entry, kind, error, at)
        return _nothing()

    def _leave(self, entry: Entry | None, kind: Kind) -> None:
        name = self._dict.name
        if entry is None:
            entry = self._last()
            if entry is None:
                return
        block: Block = entry.taken
        if block.over:
            if kind is None:
                raise LockError(
                    f"{name!r}: nothing of the transaction is stored, since it had ended already", name=name
                )
            return
        if not block.owner.is_me():
            block.undo(wait=kind is not GeneratorExit)
            if kind is None:
                message = (
                    f"{name!r}: nothing of the transaction is stored, since it was left in another thread or "
                    "task than it was entered in"
                )
                raise LockError(message, name=name)
            self._warn(block, kind)
            return
        block.failed |= kind is not None
        if entry is not block.entries[0]:
            block.entries.remove(entry)
        elif len(block.entries) > 1:
            block.undo()
            if kind is None:
                what = "one that was entered inside it has not been left"
                message = f"{name!r}: nothing of the transaction is stored, since {what}"
                raise LockError(message, name=name)
        elif not block.failed:
            block.commit()
        else:
            block.undo(wait=kind is not GeneratorExit)
            if kind is None:
                message = f"{name!r}: nothing of the transaction is stored, since a part of it failed"
                raise ArgumentError(message, name=name)
            self._warn(block, kind)

    def _last(self) -> Entry | None:
        """Return the entry that an explicit ``__exit__`` leaves."""
        opened, name = self._store, self._dict.name
        block = opened.current_block()
        explicit = [entry for entry in block.entries if entry.explicit] if block else []
        if explicit:
            return explicit[-1]
        if opened.left_to_parent:
            opened.left_to_parent -= 1
            return None
        raise LockError(f"this thread or task is in no transaction of {name!r}", name=name)

    def _abort(self, entry: Entry) -> None:
        block: Block | None = entry.taken
        if block is None or not block.entries:
            return
        if entry is block.entries[0]:
            block.undo(wait=False)  # does nothing after the end
        elif entry in block.entries:
            block.entries.remove(entry)
            block.failed = True

    def _warn(self, block: Block, kind: Kind) -> None:
        if kind is GeneratorExit and block.wrote:
            message = (
                f"{self._dict.name!r}: a generator was closed inside a transaction, so everything that this thread "
                "wrote since the transaction began is undone, also what the generator did not write"
            )
            warn(message)


async def _nothing() -> None:
    pass
