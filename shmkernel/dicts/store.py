"""The LMDB file under a shared dict: open it, read in it, write to it without ever being killed for it.

A store through a mapping into a full memory would end the process by SIGBUS, so pages are reserved before LMDB
writes to them: as many as the next change can need behind the last one, and 1 MiB that only deleting may use. The
map has one size for everybody, far beyond what there is: whoever opens the file with a smaller one cuts it off
under the others. The lock file is made here, whole, before LMDB sees it, and never opened again: closing any
descriptor of it would drop LMDB's locks.

A forked child can use nothing of this; it lets go of all, and opens the store for itself when it needs it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import weakref
from typing import TYPE_CHECKING

import lmdb

from shmkernel import limits, memory
from shmkernel.dicts import entries, freelist, meta
from shmkernel.dicts.meta import LAST, OTHER, PAGE
from shmkernel.errors import DamagedError, FullError, NotFoundError

if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable

MAP = 64 << 30
KEPT = (1 << 20) // PAGE  # pages behind all others, for deleting in a full memory
_LOCKS = 32 << 10  # bytes: 510 readers
_PORTION = 1 << 14  # entries that are written at once
_STEP = 64 << 20  # the most that is reserved beyond what is needed
_CHECKED = 16 << 20  # less is not worth a look at the machine's memory
_BATCH = 64  # changes in one transaction between two looks at how it has grown
_QUICK = 64  # pages, more than a single short change can need
_CACHED = 1 << 16  # values that are remembered
SHORT = 1 << 10  # bytes of the longest
_SLACK = 64  # pages for LMDB's own list of free ones
_INLINE = PAGE // 2 - 32  # a longer value gets pages of its own
_FIRST, _SECOND = meta.NUMBERS
_NO_ROOM = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
_stores: weakref.WeakValueDictionary[str, Store] = weakref.WeakValueDictionary()
_guard = threading.RLock()  # garbage collection may strike inside


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
        "__weakref__", "_calm", "_changes", "_env", "_fd", "_known", "_long", "_reserved", "_start", "born", "cache",
        "doomed", "failed", "guard", "home", "mapping", "name", "owner", "told", "touched", "txn", "words",
    )  # fmt: skip

    def __init__(self, home: str, mapping: mmap.mmap, name: str) -> None:
        self.home, self.mapping, self.name = home, mapping, name
        self.words = memoryview(mapping)[: 2 * PAGE].cast("Q")
        self.owner: int | None = None  # the thread that is inside `transaction`
        self.txn: lmdb.Transaction[bytes] | None = None
        self.failed = self.touched = False  # what it did so far is not whole; whether it did anything
        self.born: list[str] = []  # files that a value of this transaction refers to
        self.doomed: list[str] = []  # files that none will refer to after it
        self.cache = Cache(-1)
        self.told: Callable[[str], object] | None = None  # called after a change, where somebody listens
        self._fd = -1
        self._reserved = 0
        self._calm = -1  # the last page up to which a short change needs no more than is reserved
        self.guard = threading.Lock()  # of what is remembered
        self._env: lmdb.Environment | None = self._open()

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    def reading(self) -> lmdb.Transaction[bytes]:
        """Begin to read: a snapshot, until the transaction is aborted. In a transaction of this thread, that."""
        env = self._env or self._reopen()
        try:
            return env.begin()
        except lmdb.ReadersFullError:
            env.reader_check()
        except lmdb.Error as error:
            if error.code not in (errno.EAGAIN, errno.EACCES):
                raise self.failure(error) from None
        try:
            return env.begin()
        except lmdb.Error:  # 510 readers, or one of the same pid in another container: wait for the writers' turn
            return self._begin(env)

    def viewing(self) -> lmdb.Transaction[memoryview]:
        """Begin to look: as `reading`, but what is read are views into the map, and it never waits for a writer."""
        try:
            return (self._env or self._reopen()).begin(buffers=True)
        except lmdb.Error as error:
            raise self.failure(error) from None

    def writing(self) -> lmdb.Transaction[bytes]:
        """Begin to write; waits until no other process does."""
        txn = self._begin(self._env or self._reopen())
        words = self.words
        at = meta.current(words)
        self._start = (
            words[at + meta.LAST] + 1,
            words[at + meta.BRANCHES] + words[at + meta.LEAVES],
            words[at + meta.DEPTH] >> 48,
        )
        self._known = self._changes = self._long = 0
        self.born.clear()
        self.doomed.clear()
        return txn

    def set(self, raw: bytes, data: bytes, key: object, value: object) -> bool:
        """Store a short value in a transaction of its own; False if it takes the longer way."""
        env = self._env
        if env is None:
            return False
        txn = env.begin(None, None, True)  # keywords take a tenth of a microsecond
        try:
            words = self.words
            first, second = words[_FIRST], words[_SECOND]
            if words[LAST if first > second else OTHER + LAST] > self._calm:
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
            raise self.failure(error) from None
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

    def room(self, txn: lmdb.Transaction[bytes], size: int, kept: int = KEPT) -> None:
        """Reserve the pages that one more change of the transaction can need, with a key and value of `size` bytes.

        Deleting may use the kept ones: `kept` is 0 then.

        Raises
        ------
        FullError
            If there is no room; the transaction can go on, with less.
        """
        end, tree, depth = self._start
        if size > _INLINE:
            self._long += size // PAGE + 1
        self._changes += 1
        if self._changes % _BATCH == 0:
            now = txn.stat()
            grown = now["branch_pages"] + now["leaf_pages"] - tree
            self._known = max(self._known, grown + min(tree, self._changes * depth))  # a page is copied once
        single = self._known + self._changes % _BATCH * 2 * (depth + 2)
        run = self._long + _SLACK  # these have to follow one another
        if (end + single + run + kept) * PAGE > self._reserved:
            self._reserve((end + single + run + kept) * PAGE, (end + run) * PAGE, single + kept)

    def fill(self, keys: list[bytes], content: list[bytes], progress: Callable[[int], None]) -> None:
        """Write entries, sorted by their keys, into a store that is empty, and that nobody else has open."""
        for at in range(0, len(keys), _PORTION):
            self._append(keys[at : at + _PORTION], content[at : at + _PORTION], progress)

    def _append(self, keys: list[bytes], content: list[bytes], progress: Callable[[int], None]) -> None:
        size = sum(map(len, content)) + sum(map(len, keys))
        if size > _CHECKED and len(keys) > 1:
            half = len(keys) // 2
            self._append(keys[:half], content[:half], progress)
            self._append(keys[half:], content[half:], progress)
            return
        longest = PAGE * len(keys) if max(map(len, content)) > _INLINE else 0
        txn = self.writing()
        try:
            end = self._start[0] * PAGE + 2 * size + longest + 32 * len(keys) + (_SLACK + KEPT) * PAGE
            self._reserve(end, end, 0)
            txn.cursor().putmulti(zip(keys, content, strict=True), append=True)
            self.commit(txn)
        except lmdb.Error as error:
            raise self.failure(error) from None
        finally:
            txn.abort()
        progress(size)

    def commit(self, txn: lmdb.Transaction[bytes]) -> None:
        """Make the changes of a transaction everybody's, all at once."""
        try:
            txn.commit()
        except lmdb.Error as error:
            raise self.failure(error) from None
        remove(self.home, self.doomed)
        if self.words[meta.LISTENED]:
            self._tell()

    def _tell(self) -> None:
        """Tell who waits for it that it has changed, unless another has its name by now."""
        if self.told and os.path.exists(self.home):
            with contextlib.suppress(OSError):  # it is stored, whether they hear of it or not
                self.told(self.name)

    def abort(self, txn: lmdb.Transaction[bytes]) -> None:
        """Undo the changes of a transaction."""
        txn.abort()
        remove(self.home, self.born)

    def turn(self) -> None:
        """Commit a change that changes nothing: only the one after it can use the pages that the last one freed."""
        txn = self.writing()
        try:
            self.room(txn, 0, kept=0)
            cursor = txn.cursor()
            if cursor.first():
                txn.put(*cursor.item())
            else:
                txn.put(b"\xfe", b"")
                txn.delete(b"\xfe")
            txn.commit()
        finally:
            txn.abort()

    def has_files(self) -> bool:
        """Say whether values may refer to files."""
        try:
            return len(os.listdir(self.home)) > 2  # noqa: PLR2004  the store and its lock
        except FileNotFoundError:  # unlinked
            return False

    def clear(self, txn: lmdb.Transaction[bytes]) -> None:
        """Remove all entries."""
        self.room(txn, self._start[1] * 8, kept=0)  # the list of the pages that become free
        self.touched = True
        if self._env:
            txn.drop(self._env.open_db(None, txn), delete=False)

    def leave(self) -> None:
        """Let go of all that was inherited through a fork."""
        if self._env:
            self._env.close()
        self._env = self.txn = self.owner = None
        self.cache, self.guard = Cache(-1), threading.Lock()

    def failure(self, error: lmdb.Error) -> Exception:
        """Say what an error of LMDB means."""
        if isinstance(error, (lmdb.MapFullError, lmdb.TxnFullError)):
            message = f"{self.name!r} would need more than the {limits.human(MAP)} that a dict can have. Use several"
            return FullError(message, name=self.name, needed=MAP, free=limits.room().free)
        if error.code == errno.ENOENT:
            return self._gone()
        if error.code in _NO_ROOM:
            return self._full(PAGE)
        message = f"{self.name!r} cannot be used: {error}. Remove it: %shm_unlink {self.name}"
        return DamagedError(message, name=self.name, why=str(error))

    def _gone(self) -> NotFoundError:
        message = f"{self.name!r} was unlinked or replaced, so it is closed here. What there is: %shm_list"
        return NotFoundError(message, name=self.name, similar=[])

    def _full(self, needed: int) -> FullError:
        error = memory.full(self.name, needed, limits.room().free)
        message = f"{error.message}. Nothing was changed. Delete keys, or other segments: %shm_list"
        return FullError(message, name=self.name, **error.facts)

    def _begin(self, env: lmdb.Environment) -> lmdb.Transaction[bytes]:
        try:
            return env.begin(write=True)
        except lmdb.Error as error:
            raise self.failure(error) from None

    def _reserve(self, end: int, least: int, single: int) -> None:
        """Reserve the file up to `end`, with some more while there is plenty.

        Where there is no room, `least` suffices if so many single pages are free inside.
        """
        start = max(self._reserved, self._start[0] * PAGE)
        more = min(max(end >> 3, 1 << 18), _STEP)
        if self._env:
            self._env.reader_check()  # what the dead still seem to read is not used again: the file would only grow
        if self._allocate(start, end + more) or self._allocate(start, end):
            return
        if self._allocate(start, least) and self._reusable() >= single:
            return
        raise self._full(end - start)

    def _allocate(self, start: int, end: int) -> bool:
        if end > start:
            if end - start > _CHECKED and limits.room().free < end - start:
                return False
            try:
                os.posix_fallocate(self._fd, start, end - start)
            except OSError as error:
                if error.errno not in _NO_ROOM:
                    raise
                return False
            self._reserved = end
            self._calm = end // PAGE - KEPT - _SLACK - _QUICK
        return True

    def _reusable(self) -> int:
        """Return how many free pages LMDB can use now: those freed before the last change and all that is read."""
        words, env = self.words, self._env or self._reopen()
        at = meta.current(words)
        limit = min(int(words[at + meta.NUMBER]), freelist.oldest(env.readers()))
        found = freelist.records(lambda page: os.pread(self._fd, PAGE, page * PAGE), words[at + meta.FREE])
        return sum(count for number, count in found if number < limit)

    def _open(self) -> lmdb.Environment:
        try:
            if self._fd < 0:
                self._fd = os.open(f"{self.home}/data.mdb", os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            env = lmdb.open(
                self.home, map_size=MAP, create=False, mode=0o600, writemap=True, sync=False, metasync=False
            )
        except FileNotFoundError:
            raise self._gone() from None
        except lmdb.Error as error:
            raise self.failure(error) from None
        env.reader_check()
        return env

    def _reopen(self) -> lmdb.Environment:
        with _guard:
            if self._env is None:
                self._env = self._open()
            return self._env


def make(home: str) -> None:
    """Make a store of the empty file in a new folder."""
    lmdb.open(home, map_size=MAP, create=False, mode=0o600, writemap=True, lock=False).close()  # writes its first pages
    lock = os.open(f"{home}/lock.mdb", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(lock, 0, _LOCKS)
    finally:
        os.close(lock)


def connect(home: str, mapping: mmap.mmap, name: str) -> Store:
    """Return this process's one Store of this folder."""
    with _guard:
        found = _stores.get(home)
        if found is None:
            found = _stores[home] = Store(home, mapping, name)
        return found


def remove(home: str, files: list[str]) -> None:
    """Remove files beside the store."""
    for file in files:
        with contextlib.suppress(OSError):
            os.unlink(f"{home}/{file}")
    files.clear()


def _after_fork() -> None:
    global _guard  # noqa: PLW0603  another thread of the parent may have held it
    _guard = threading.RLock()
    for store in list(_stores.values()):
        store.leave()


os.register_at_fork(after_in_child=_after_fork)
