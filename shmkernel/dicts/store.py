"""The LMDB file under a shared dict: open it, read in it, take the writers' turn.

The map has one size for everybody, far beyond what there is: whoever opens the file with a smaller one cuts it off
under the others. The lock file is made (room.py) whole, before LMDB sees it, and never opened again: closing any
descriptor of it would drop LMDB's locks.

Whoever waits for LMDB's mutex does not hear Ctrl-C, and his death there frees it from a holder whose thread has the
same number in another pid namespace. So a turn that may take long is announced (meta.GATE), and taken under a byte
lock of the file, as is every turn once processes of two namespaces have it open. Whoever finds it announced waits
for the byte lock first. What excludes writers is the mutex, so nothing depends on the lock being held to the end.

A forked child can use nothing of this; it lets go of all, and opens the store for itself when it needs it.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import io
import os
import struct
import threading
import weakref
from threading import get_ident
from typing import TYPE_CHECKING, TypeVar

import lmdb
from lmdb import _envid

from shmkernel import fork, frames, identity, interrupts, memory
from shmkernel.dicts import entries, failures, meta
from shmkernel.dicts.beside import Beside
from shmkernel.dicts.meta import LAST, MAP, OTHER, PAGE
from shmkernel.dicts.room import CHECKED, Room

if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable
    from types import FrameType

    Txn = lmdb.Transaction[bytes]

T = TypeVar("T")

_PORTION = 1 << 14  # entries that are written at once
_CACHED = 1 << 16  # values that are remembered
SHORT = 1 << 10  # bytes of the longest
_FIRST, _SECOND = meta.NUMBERS
_TURN = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0)  # a struct flock for the first byte
_stores: weakref.WeakValueDictionary[str, Store] = weakref.WeakValueDictionary()
_guard = interrupts.Guard()
_env_keys = _envid.env_keys
_NEVER = 1 << 64  # the number of a transaction that is not stored
_AT_ONCE: contextlib.nullcontext[None] = contextlib.nullcontext()
_turns: weakref.WeakSet[io.FileIO] = weakref.WeakSet()
_inherited: set[str] = set()  # folders of the stores that an ancestor of this process had open when it forked


class Cache:
    """Values that do not change, as they were after a commit. ``tag`` is the sum of both pages' numbers then."""

    __slots__ = ("heads", "last", "tag", "values")

    def __init__(self, tag: int) -> None:
        self.tag = tag
        self.values: dict[object, object] = {}
        self.heads: dict[bytes, bytes] = {}  # what precedes the value in the entry of a key
        self.last: int | None = None  # the greatest number in the order


class Store:
    """One LMDB file, open once in a process. ``words`` are its first two pages, as they are now."""

    __slots__ = (
        "__weakref__", "_env", "_fd", "_frame", "_turn", "beside", "cache", "failed", "guard", "home", "mapping",
        "name", "owner", "room", "told", "touched", "txn", "words",
    )  # fmt: skip

    def __init__(self, home: str, mapping: mmap.mmap, name: str) -> None:
        self.home, self.mapping, self.name = home, mapping, name
        self.words = memoryview(mapping)[: 2 * PAGE].cast("Q")
        self.owner: int | None = None  # the thread that is inside `transaction`
        self.txn: Txn | None = None
        self._frame: FrameType | None = None  # whose block it is
        self._turn: contextlib.AbstractContextManager[object] = _AT_ONCE
        self.failed = self.touched = False  # what it did so far is not whole; whether it did anything
        self.beside, self.room = Beside(home), Room(name, self.words)
        self.cache = Cache(-1)
        self.told: Callable[[str], object] | None = None  # called after a change, where somebody listens
        self._fd = -1
        self.guard = threading.Lock()  # of what is remembered
        self._env: lmdb.Environment | None = self._open()
        self._join()

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    def reading(self) -> Txn:
        """Begin to read: a snapshot, until the transaction is aborted. In a transaction of this thread, that."""
        env = self._env or self._reopen()
        try:
            return env.begin()
        except lmdb.ReadersFullError:
            env.reader_check()
        except lmdb.Error as error:
            raise failures.of(self.name, error) from None
        try:
            return env.begin()
        except lmdb.ReadersFullError:  # 510 of them: wait for the writers' turn
            with self.turn():
                return self._begin(env)

    def viewing(self) -> lmdb.Transaction[memoryview]:
        """Begin to look: as `reading`, but what is read are views into the map, and it never waits for a writer."""
        try:
            return (self._env or self._reopen()).begin(buffers=True)
        except lmdb.Error as error:
            raise failures.of(self.name, error) from None

    def turn(self, *, long: bool = False, wait: bool = True) -> contextlib.AbstractContextManager[object]:
        """Wait for the writers' turn where Ctrl-C is heard: ``with store.turn(): txn = store.writing()``.

        It is a file that closes itself, in C, and so lets go however early Ctrl-C comes. `long`: tell the others.
        """
        if not (long or self.words[meta.GATE]):
            return _AT_ONCE
        if self._env is None:
            self._reopen()
        file = None
        try:
            with memory.no_fork:
                file = io.FileIO(f"/proc/self/fd/{self._fd}", "r+")
                _turns.add(file)
            fcntl.fcntl(file, fcntl.F_OFD_SETLKW if wait else fcntl.F_OFD_SETLK, _TURN)
            os.pwrite(self._fd, b"\1" if long else b"\0", meta.GATE * 8)
        except BaseException:
            if file is not None:
                file.close()
            raise
        return file

    def turned(self) -> None:
        """Tell the others that a long turn is over."""
        os.pwrite(self._fd, b"\0", meta.GATE * 8)

    def writing(self) -> Txn:
        """Begin to write; waits until no other process does."""
        env = self._env or self._reopen()
        txn = self._begin(env)
        try:
            self.room.begin(env)
            self.beside = Beside(self.home)
        except BaseException:
            txn.abort()
            raise
        return txn

    def enter(self, frame: FrameType) -> Txn:
        """Begin a transaction that is this thread's until `write` or `undo`, on behalf of a frame."""
        me, cache = get_ident(), Cache(-1)
        turn = self.turn(long=True)
        try:
            txn = self.writing()
        except BaseException:
            turn.__exit__(None, None, None)
            raise
        self.txn, self.owner, self._frame, self._turn, self.cache, self.failed = txn, me, frame, turn, cache, False
        return txn

    def mine(self) -> Txn | None:
        """Return the transaction that this thread is inside of; one whose block Ctrl-C has ended is undone."""
        if self.owner != get_ident():
            return None
        if frames.ended(self._frame):
            self.undo()
        return self.txn

    def undo(self) -> None:
        """Undo the transaction that this thread is inside of."""
        if self.txn is not None:
            self.txn.abort()
            self.beside.end()
            self._leave_block()

    def _leave_block(self) -> None:
        self.turned()
        self._turn.__exit__(None, None, None)
        self.txn = self.owner = self._frame = None  # last: until then `mine` ends what Ctrl-C has not let end

    def set(self, raw: bytes, data: bytes, key: object, value: object) -> bool:
        """Store a short value in a transaction of its own; False if it takes the longer way."""
        env = self._env
        if env is None or self.words[meta.GATE]:
            return False
        txn = env.begin(None, None, True)  # keywords take a tenth of a microsecond
        try:
            words = self.words
            first, second = words[_FIRST], words[_SECOND]
            if words[LAST if first > second else OTHER + LAST] > self.room.calm:
                return False
            cache, tag = self.cache, first + second
            head, last = (cache.heads.get(raw), cache.last) if cache.tag == tag else (None, None)
            if head is None:
                entry = txn.get(raw)
                if entry is None:
                    last = (entries.last(txn) if last is None else last) + 1
                    txn.put(entries.place(last), raw)
                    head = entries.head(last)
                elif entries.is_file(entry):
                    return False
                else:
                    head = entries.head_of(entry)
            txn.put(raw, head + data)
            txn.commit()
        except lmdb.Error as error:
            raise failures.of(self.name, error) from None
        finally:
            txn.abort()
        if words[meta.LISTENED]:
            self._tell()
        with self.guard:
            if cache.tag != tag or len(cache.heads) >= _CACHED:  # others wrote since: what was remembered may be old
                if self.cache is not cache or self.owner is not None:
                    return True
                cache = self.cache = Cache(tag)
            cache.values[key] = value
            cache.heads[raw] = head
            cache.last = last
            cache.tag = tag + 2
        return True

    def remember(self, tag: int, key: object, value: object) -> None:
        """Remember a value that was read in the snapshot of this tag."""
        with self.guard:
            cache = self.cache
            if cache.tag != tag or len(cache.values) >= _CACHED:
                if tag < cache.tag or self.owner is not None:
                    return
                cache = self.cache = Cache(tag)
            cache.values[key] = value

    def fill(self, keys: list[bytes], content: list[bytes], progress: Callable[[int], None]) -> None:
        """Write entries, sorted by their keys, into a store that is empty, and that nobody else has open."""
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
            self.room.need_for(len(keys), size, max(map(len, content)))
            txn.cursor().putmulti(zip(keys, content, strict=True), append=True)
            txn.commit()
        except lmdb.Error as error:
            raise failures.of(self.name, error) from None
        finally:
            txn.abort()
        progress(size)

    def write(self, step: Callable[[Txn], T]) -> T:
        """Make a change everybody's: of a transaction of its own, or as the last of the one this thread is inside of.

        Nothing that Ctrl-C may end stands between a beginning and its ``try``, and ends that have to come are C's.
        """
        txn = self.txn if self.txn is not None and self.owner == get_ident() else self.writing()
        words, beside, number = self.words, self.beside, _NEVER
        try:
            number = txn.id()
            result = step(txn)
            txn.commit()
        except lmdb.Error as error:
            number = _NEVER
            raise failures.of(self.name, error) from None
        finally:
            beside.stored = number <= words[_FIRST] or number <= words[_SECOND]  # though Ctrl-C came right after it
            txn.abort()
            beside.end()
            if txn is self.txn:
                self._leave_block()
            if beside.stored and words[meta.LISTENED]:
                self._tell()
        return result

    def _tell(self) -> None:
        """Tell who waits for it that it has changed, unless another has its name by now."""
        if self.told and os.path.exists(self.home):
            with contextlib.suppress(OSError):  # it is stored, whether they hear of it or not
                self.told(self.name)

    def settle(self) -> None:
        """Remove what lies beside the store and no value refers to, if a writer died in his turn."""
        if self.beside.marked():
            with contextlib.suppress(BlockingIOError), self.turn(long=True, wait=False):  # else he lives
                txn = self.writing()
                try:
                    self.beside.settle(entries.files(txn))
                finally:
                    txn.abort()
                    self.turned()

    def free(self) -> None:
        """Commit a change that changes nothing: only the one after it can use the pages that the last one freed."""
        txn = self.writing()
        try:
            self.room.need(txn, 0, kept=0)
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
        for file in entries.files(txn) if self.beside.any() else ():
            self.beside.doom(file)
        self.room.need_to_clear(txn)
        self.touched = True
        if self._env:
            txn.drop(self._env.open_db(None, txn), delete=False)

    def leave(self) -> None:
        """Let go of all that was inherited through a fork, without closing any of it.

        To close an environment is to wait for the calls that other threads were in, and they are not in the child. To
        close its lock file would drop the locks that the child takes later. So both are leaked, beyond the child's end.
        """
        if self._env:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._env))
            _inherited.add(self.home)
            _envid.env_keys = _keys
        self._env = self.txn = self.owner = self._frame = None
        self.beside = Beside(self.home)
        self.cache, self.guard = Cache(-1), threading.Lock()

    def _begin(self, env: lmdb.Environment) -> Txn:
        try:
            return env.begin(write=True)
        except lmdb.Error as error:
            raise failures.of(self.name, error) from None

    def _open(self) -> lmdb.Environment:
        try:
            if self._fd < 0:
                self._fd = self.room.fd = os.open(f"{self.home}/data.mdb", os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            env = lmdb.open(
                self.home, map_size=MAP, create=False, mode=0o600, writemap=True, sync=False, metasync=False,
                lib_version=0,
            )  # fmt: skip
        except FileNotFoundError:
            raise failures.gone(self.name) from None
        except lmdb.Error as error:
            raise failures.of(self.name, error) from None
        env.reader_check()
        return env

    def _join(self) -> None:
        """Have all take turns where Ctrl-C is heard if processes of another pid namespace are here."""
        mine = identity.pid_namespace()
        if self.words[meta.SPACE] != mine:
            if self.words[meta.SPACE]:
                os.pwrite(self._fd, b"\1", meta.GATE * 8 + 1)
            else:
                os.pwrite(self._fd, mine.to_bytes(8, "little"), meta.SPACE * 8)

    def _reopen(self) -> lmdb.Environment:
        with _guard:
            if self._env is None:
                self._env = self._open()
            return self._env


def _keys(path: str, subdir: bool) -> tuple[object, ...]:
    """Say by what py-lmdb knows that a store is open already; its list of them is the parent's after a fork."""
    found: tuple[object, ...] = () if path in _inherited else _env_keys(path, subdir)  # type: ignore[no-untyped-call]
    return found


def connect(home: str, mapping: mmap.mmap, name: str) -> Store:
    """Return this process's one Store of this folder."""
    with _guard:
        found = _stores.get(home)
        if found is None:
            found = _stores[home] = Store(home, mapping, name)
        return found


def tidy(*_: object) -> None:
    """Undo the transactions whose blocks Ctrl-C has ended, and remove what it left beside the stores."""
    for store in list(_stores.values()):
        if store.mine() is None:
            store.settle()


def _after_fork() -> None:
    _guard.in_child()
    for turn in [*_turns]:
        turn.close()
    for store in list(_stores.values()):
        store.leave()


fork.on("dicts", before=_guard.before_fork, in_parent=_guard.in_parent, in_child=_after_fork)
