"""The store of a shared dict, an LMDB file: open it, begin transactions, commit changes.

All processes map the same size, far larger than the file: opening it with a smaller map would truncate it under the
others. The lock file is complete before LMDB opens it (reservation.py), and this package never opens it again: closing
a descriptor of it would drop LMDB's locks.

A single change takes LMDB's mutex in its own thread, for microseconds. A change that may take long takes the writer
lock first (writer_lock.py). The keeper thread begins and ends a transaction of several changes (keeper.py, blocks.py),
since the mutex belongs to a thread.

A process may have a file open but once: closing the other one would drop the locks of both. So a thread that attaches a
store waits while another thread, which has let go of the last reference to it, closes it.

A forked child cannot use the parent's environment. It drops it, and opens the store anew when it needs it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import os
import sys
import time
import weakref
from typing import TYPE_CHECKING, Any, TypeVar

import lmdb
from lmdb import _envid

from shmkernel._core import descriptors, folders, fork, identity, interrupts, segment_file
from shmkernel.kinds.dicts import entries, errors, lmdb_pages, verify, writer_lock
from shmkernel.kinds.dicts.array_files import ArrayFiles
from shmkernel.kinds.dicts.blocks import Block
from shmkernel.kinds.dicts.cache import NOTHING, Cache
from shmkernel.kinds.dicts.lmdb_pages import MAP, PAGE
from shmkernel.kinds.dicts.reservation import CHECKED, Reservation
from shmkernel.kinds.dicts.writer_lock import HeldWriterLock, WriterLock

if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable

    from shmkernel._core.closing import Descriptor
    from shmkernel._core.interrupts import Entry

    Txn = lmdb.Transaction[bytes]

T = TypeVar("T")
_PORTION = 1 << 14  # entries written in one transaction
_FIRST, _SECOND = lmdb_pages.NUMBERS
_NEVER = 1 << 64  # in place of the number of a transaction that is not committed
_AT_ONCE: contextlib.nullcontext[None] = contextlib.nullcontext()
_stores: weakref.WeakValueDictionary[str, Store] = weakref.WeakValueDictionary()
_guard = interrupts.Guard()
_opened: dict[str, weakref.ref[lmdb.Environment]] = {}  # by folder; a store is removed when it has been closed
_inherited: set[str] = set()  # folders of stores that an ancestor had open when it forked
_NAP = 0.001  # seconds between two looks whether a store has been closed
_env_keys = _envid.env_keys


class _Files:
    """What a store has open. It is closed when nothing refers to the store any more.

    The store itself has no finalizer: while one runs, another thread may get the store from `_stores`.
    """

    fd: Descriptor | None = None  # defaults here, since Ctrl-C may end `__init__` before its first line
    lock: WriterLock | None = None
    env: lmdb.Environment | None = None

    def __init__(self, home: str) -> None:
        self.home = home

    def __del__(self, *, _opened: dict[str, Any] = _opened, _ending: Callable[[], bool] = sys.is_finalizing) -> None:
        if self.env is None or self.lock is None:  # no env in a child that has not used the store
            return
        try:
            self.lock.seal()
        except (AttributeError, TypeError):
            if not _ending():  # else Python has emptied the modules that it needs: the next open checks the file
                raise
        self.env.close()
        _opened.pop(self.home, None)


class Store:
    """One LMDB file, open once in a process. ``words`` maps its first two pages."""

    __slots__ = (
        "__weakref__", "_fd", "_files", "array_files", "block", "cache", "env", "home", "left_to_parent", "lock",
        "mapping", "name", "on_change", "reservation", "resized", "words",
    )  # fmt: skip

    def __init__(self, home: str, mapping: mmap.mmap, name: str, *, new: bool = False) -> None:
        self.home, self.mapping, self.name = home, mapping, name
        self.words = memoryview(mapping)[: 2 * PAGE].cast("Q")
        self.block: Block | None = None
        self.left_to_parent = 0  # transactions of the parent before the fork: leaving them here does nothing
        self.resized = 0  # keys that this process has added, less those that it removed
        self.array_files, self.reservation = ArrayFiles(home), Reservation(name, self.words)
        self.cache = Cache(NOTHING)
        self.on_change: Callable[[str], object] | None = None  # called after a commit if LISTENED is set
        self._files = _Files(home)
        self.env: lmdb.Environment | None = None
        path = f"{home}/data.mdb"
        try:
            descriptors.take_streams()
            self._files.fd = self._fd = self.reservation.fd = fd = folders.open_(path, os.O_RDWR | os.O_NONBLOCK)
            if os.fstat(fd).st_ino != int(os.path.basename(home)) or os.path.islink(home):
                raise segment_file.damaged(name, "its store folder holds another file, or is a link")
            self._files.lock = self.lock = WriterLock(fd, path, name, functools.partial(_inside, home))
        except FileNotFoundError:
            raise errors.gone(name) from None
        except OSError as error:
            if error.errno in (errno.EISDIR, errno.ENXIO, errno.ELOOP):
                raise segment_file.damaged(name, "its store folder holds something else than its file") from None
            raise
        if new:
            self.lock.seal()
        self._reopen()
        self._join()

    def reading(self) -> Txn:
        """Begin a read transaction: a snapshot until it is aborted."""
        env = self.env or self._reopen()
        try:
            return env.begin()
        except lmdb.ReadersFullError:
            env.reader_check()
        except lmdb.Error as error:
            raise errors.of(self.name, error) from None
        try:
            return env.begin()
        except lmdb.ReadersFullError:  # 510 readers: wait for the writer lock
            with self.writer_lock():
                return self._begin(env)
        except lmdb.Error as error:
            raise errors.of(self.name, error) from None

    def viewing(self) -> lmdb.Transaction[memoryview]:
        """Begin a read transaction that returns views of the map, and never waits for a writer."""
        try:
            return (self.env or self._reopen()).begin(buffers=True)
        except lmdb.Error as error:
            raise errors.of(self.name, error) from None

    def writer_lock(self, *, long: bool = False, wait: bool = True) -> contextlib.AbstractContextManager[object]:
        """Take the writer lock if it is needed: ``with store.writer_lock(): txn = store.writing()``.

        With `long` the change may take long: others then wait for this lock, where Ctrl-C ends the wait.
        """
        if not (long or self.words[lmdb_pages.LOCK_FIRST]):
            return _AT_ONCE
        return HeldWriterLock(self.lock, long=long, wait=wait)

    def writing(self) -> Txn:
        """Begin a write transaction; waits until no other process writes."""
        env = self.env or self._reopen()
        txn = self._begin(env)
        try:
            self.reservation.begin(env)
            left, self.array_files = self.array_files, ArrayFiles(self.home)
            if left.interrupted():
                self.array_files.sweep(entries.files(txn))
        except BaseException:
            txn.abort()
            raise
        return txn

    def new_block(self, entry: Entry) -> Block:
        """Make a transaction of several changes. It begins after the caller has taken the writer lock."""
        self.env or self._reopen()  # here, since the keeper must not wait for _guard
        return Block(self, entry)

    def entered(self, block: Block) -> None:
        """Make a block the open transaction, which its owner then uses."""
        self.block, self.cache = block, Cache(NOTHING)

    def current_block(self) -> Block | None:
        """Return the open transaction if the caller is its owner, else None."""
        block = self.block
        return block if block is not None and block.is_mine() else None

    def fill(self, keys: list[bytes], content: list[bytes], progress: Callable[[int], None]) -> None:
        """Write entries, sorted by key, to an empty store that no other process has open."""
        for at in range(0, len(keys), _PORTION):
            self._append(keys[at : at + _PORTION], content[at : at + _PORTION], progress)

    def _append(self, keys: list[bytes], content: list[bytes], progress: Callable[[int], None]) -> None:
        size = sum(map(len, content)) + sum(map(len, keys))
        if size > CHECKED and len(keys) > 1:
            half = len(keys) // 2
            self._append(keys[:half], content[:half], progress)
            self._append(keys[half:], content[half:], progress)
            return
        txn = self.writing()
        try:
            self.reservation.need_for(len(keys), size, max(map(len, content)))
            txn.cursor().putmulti(zip(keys, content, strict=True), append=True)
            txn.commit()
        except lmdb.Error as error:
            raise errors.of(self.name, error) from None
        finally:
            txn.abort()
        progress(size)

    def write(self, step: Callable[[Txn], T]) -> T:
        """Make a change in a transaction of its own.

        No bytecode where Ctrl-C can strike lies between a begin and its ``try``; the calls that end it are C code.
        """
        resized, words, number, generation = self.resized, self.words, _NEVER, fork.generation
        txn = self.writing()
        try:
            number = txn.id()
            result = step(txn)
            txn.commit()
        except lmdb.Error as error:
            number = _NEVER
            raise errors.of(self.name, error) from None
        finally:
            if generation == fork.generation:  # else `step` has forked: the transaction is the parent's
                stored = number <= words[_FIRST] or number <= words[_SECOND]  # even if Ctrl-C came right after it
                self.array_files.stored = stored
                if not stored:
                    self.resized = resized
                txn.abort()
                self._after(stored)
        return result

    def commit(self, txn: Txn) -> None:
        """Commit a transaction of several changes; called by the keeper."""
        stored = False
        try:
            txn.commit()
            self.array_files.stored = stored = True
        except lmdb.Error as error:
            raise errors.of(self.name, error) from None
        finally:
            txn.abort()
            self._after(stored)

    def abort(self, txn: Txn) -> None:
        """Abort a transaction of several changes; called by the keeper."""
        txn.abort()
        self._after(stored=False)

    def _after(self, stored: bool) -> None:
        self.array_files.end()
        if stored and self.words[lmdb_pages.LISTENED]:
            self.announce_change()

    def announce_change(self) -> None:
        """Publish the change, unless the dict was unlinked or replaced."""
        if self.on_change and os.path.exists(self.home):
            with contextlib.suppress(OSError):  # the commit stands even if publishing fails
                self.on_change(self.name)

    def sweep_array_files(self) -> None:
        """Delete array files without references, which a writer left that died with the lock."""
        if self.array_files.marked() and self.current_block() is None:
            with contextlib.suppress(BlockingIOError), self.writer_lock(long=True, wait=False):  # its writer lives
                txn = self.writing()
                try:
                    self.array_files.sweep(entries.files(txn))
                finally:
                    txn.abort()

    def free(self) -> None:
        """Commit without a change: only the next transaction can use the pages that the last one freed."""
        txn = self.writing()
        try:
            self.reservation.need(txn, 0, kept=0)
            cursor = txn.cursor()
            if cursor.first():
                txn.put(*cursor.item())
            else:
                txn.put(b"\xfe", b"")
                txn.delete(b"\xfe")
            txn.commit()
        finally:
            txn.abort()

    def clear(self, txn: Txn) -> None:
        """Remove all entries."""
        for file in entries.files(txn) if self.array_files.any() else ():
            self.array_files.delete_after_commit(file)
        self.reservation.need_to_clear(txn)
        self.resized -= lmdb_pages.count(self.words) if self.block is None else txn.stat()["entries"] // 2
        if self.env:
            txn.drop(self.env.open_db(None, txn), delete=False)

    def leave(self) -> None:
        """Drop what this child has inherited from the fork, without closing it.

        Closing the environment would wait for calls of threads that the child does not have. Closing its lock file
        would drop the locks that the child takes later. So both are leaked until the child ends.
        """
        if self.env:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self.env))
        if self.block is not None:
            self.left_to_parent += sum(entry.explicit for entry in self.block.entries)
        self.env = self._files.env = self.block = None
        self.array_files, self.cache = ArrayFiles(self.home), Cache(NOTHING)

    def _begin(self, env: lmdb.Environment) -> Txn:
        try:
            return env.begin(write=True)
        except lmdb.Error as error:
            raise errors.of(self.name, error) from None

    def _open(self) -> lmdb.Environment:
        errors.check_engine()
        assert self._fd is not None
        errors.check_owner(self.name, self._fd)
        if not self.lock.sealed() and not verify.vouched(self.home, self.words):
            verify.check(self.home, self.name, self.words)
        try:
            descriptors.take_streams()
            env = self._environment()
            self.lock.seal()
            env.reader_check()
        except FileNotFoundError:
            raise errors.gone(self.name) from None
        except lmdb.Error as error:
            raise errors.of(self.name, error) from None
        return env

    def _environment(self) -> lmdb.Environment:
        """Open the file in LMDB, once another thread that is about to close it has done so."""
        end = time.monotonic() + writer_lock.PATIENCE
        while True:
            known = _opened.get(self.home)
            closed = known is None or known() is None
            if closed or time.monotonic() > end:
                if closed:
                    verify.check_readers(self.home, self.name)
                try:
                    env = lmdb.open(
                        os.fsencode(self.home), map_size=MAP, create=False, mode=0o600, writemap=True, sync=False,
                        metasync=False, lib_version=0,
                    )  # fmt: skip
                except lmdb.Error as error:
                    if not errors.is_open(error) or time.monotonic() > end:
                        raise
                else:
                    _opened[self.home] = weakref.ref(env)
                    return env
            time.sleep(_NAP)

    def _join(self) -> None:
        """Make all writers take the writer lock if processes of several pid namespaces use the store."""
        namespace = identity.pid_namespace()
        if self.words[lmdb_pages.SPACE] != namespace:
            if self.words[lmdb_pages.SPACE]:
                self.lock.mark(lmdb_pages.LOCK_FIRST, b"\1", at=1)
            else:
                self.lock.mark(lmdb_pages.SPACE, namespace.to_bytes(8, "little"))

    def _reopen(self) -> lmdb.Environment:
        with _guard:
            if self.env is None:
                self.env = self._files.env = self._open()
            return self.env


def _inside(home: str) -> list[str]:
    """Return the names of other dicts in which the caller has an open transaction."""
    return [other.name for other in list(_stores.values()) if other.home != home and other.current_block() is not None]


def _keys(path: str | bytes, subdir: bool) -> tuple[object, ...]:
    """Return py-lmdb's keys for open environments; none for inherited ones, which the child may open again."""
    keys: tuple[object, ...] = () if os.fsdecode(path) in _inherited else _env_keys(path, subdir)  # type: ignore[no-untyped-call]  # lmdb
    return keys


def connect(home: str, mapping: mmap.mmap, name: str, *, new: bool = False) -> Store:
    """Return the one Store of this folder in this process; `new` if the caller has just made its file."""
    with _guard:
        store = _stores.get(home)
        if store is None:
            store = _stores[home] = Store(home, mapping, name, new=new)
        return store


def _after_fork() -> None:
    _guard.in_child()
    if _opened:  # also what another thread of the parent was about to close
        _inherited.update(_opened)
        _opened.clear()
        _envid.env_keys = _keys
    for store in list(_stores.values()):
        store.leave()


fork.on("stores", before=_guard.before_fork, in_parent=_guard.in_parent, in_child=_after_fork)
