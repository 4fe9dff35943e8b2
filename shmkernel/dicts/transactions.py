"""Blocks that are one step for all kernels."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from shmkernel import frames
from shmkernel.dicts import store
from shmkernel.errors import ArgumentError

if TYPE_CHECKING:
    from types import TracebackType

    import lmdb

    from shmkernel.dicts.shared import SharedDict


class Transaction:
    """What `SharedDict.transaction` returns, for ``with``."""

    __slots__ = ("_dict", "_store", "_txn")

    def __init__(self, given: SharedDict, opened: store.Store) -> None:
        self._dict, self._store = given, opened
        self._txn: lmdb.Transaction[bytes] | None = None  # of the outermost block
        frames.after_each_cell(store.tidy)

    def __enter__(self) -> SharedDict:
        if self._store.mine() is None:
            self._txn = self._store.enter(sys._getframe(1))  # noqa: SLF001
        return self._dict

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        opened = self._store
        if self._txn is None:
            opened.failed |= kind is not None
            return
        if opened.txn is not self._txn:  # in a child that was forked inside: the transaction is the parent's
            return
        if kind is None and not opened.failed:
            opened.write(lambda _: None)
            return
        opened.undo()
        if kind is None:
            name = self._dict.name
            message = f"{name!r}: nothing of the transaction is stored, since a part of it failed"
            raise ArgumentError(message, name=name)
