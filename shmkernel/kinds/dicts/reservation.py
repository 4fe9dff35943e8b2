"""Pages reserved before LMDB writes to them: a store through a mapping into a full memory ends the process by SIGBUS.

They are as many as the next change can need behind the last one, and 1 MiB that only deleting may use. Where the
memory is full, the pages that are free inside the file have to do; LMDB's list of them says how many it can use.
"""

from __future__ import annotations

import errno
import os

import lmdb

from shmkernel._core import capacity, descriptors, folders
from shmkernel.kinds.dicts import errors, freelist, lmdb_pages
from shmkernel.kinds.dicts.lmdb_pages import MAP, PAGE

KEPT = (1 << 20) // PAGE  # pages behind all others, for deleting in a full memory
_LOCKS = 32 << 10  # bytes: 510 readers
_STEP = 64 << 20  # the most that is reserved beyond what is needed
CHECKED = 16 << 20  # bytes of one change, before which it is tried whether they fit
_BATCH = 64  # changes in one transaction between two looks at how it has grown
_QUICK = 64  # pages, more than a single short change can need
_SLACK = 64  # pages for LMDB's own list of free ones
_INLINE = PAGE // 2 - 32  # a longer value gets pages of its own


class Reservation:
    """What of a store's file is reserved. Up to ``safe_last_page`` a short change needs no more."""

    __slots__ = (
        "_changes",
        "_code",
        "_env",
        "_known",
        "_long",
        "_start",
        "_tried",
        "_words",
        "fd",
        "name",
        "reserved",
        "safe_last_page",
    )

    def __init__(self, name: str, words: memoryview) -> None:
        self.name, self._words = name, words
        self.fd = self.safe_last_page = self._tried = -1
        self.reserved = 0
        self._code = errno.ENOSPC

    def begin(self, env: lmdb.Environment) -> None:
        """Note where the file ends at the beginning of a transaction that writes."""
        words = self._words
        at = lmdb_pages.current(words)
        self._env = env
        self._start = (
            words[at + lmdb_pages.LAST] + 1,
            words[at + lmdb_pages.BRANCHES] + words[at + lmdb_pages.LEAVES],
            words[at + lmdb_pages.DEPTH] >> 48,
        )
        self._known = self._changes = self._long = 0

    def need(self, txn: lmdb.Transaction[bytes], size: int, kept: int = KEPT) -> None:
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
        if (end + single + run + kept) * PAGE > self.reserved:
            self._reserve((end + single + run + kept) * PAGE, (end + run) * PAGE, single + kept)
        elif kept and self._tried < end - 1 > self.safe_last_page:
            # enough for this change, too little for the next short one
            self._tried = end
            self._allocate(self.reserved, self.reserved + 2 * _QUICK * PAGE)

    def need_to_clear(self, txn: lmdb.Transaction[bytes]) -> None:
        """Reserve what the list of the pages takes that become free."""
        self.need(txn, self._start[1] * 8, kept=0)

    def need_for(self, count: int, size: int, longest: int) -> None:
        """Reserve what so many new entries can need, of `size` bytes in all."""
        apart = PAGE * count if longest > _INLINE else 0
        end = self._start[0] * PAGE + 2 * size + apart + 32 * count + (_SLACK + KEPT) * PAGE
        self._reserve(end, end, 0)

    def _reserve(self, end: int, least: int, single: int) -> None:
        """Reserve the file up to `end`, with some more while there is plenty.

        Where there is no room, `least` suffices if so many single pages are free inside.
        """
        start = max(self.reserved, self._start[0] * PAGE)
        more = min(max(end >> 3, 1 << 18), _STEP)
        self._env.reader_check()  # what the dead still seem to read is not used again: the file would only grow
        if self._allocate(start, end + more) or self._allocate(start, end):
            return
        if self._allocate(start, least) and self._reusable() >= single:
            return
        raise errors.full(self.name, end - start, self._code)

    def _allocate(self, start: int, end: int) -> bool:
        if end > start:
            self._code = errno.ENOSPC
            if capacity.lacks(end - start):
                return False
            try:
                changed = os.fstat(self.fd).st_mtime_ns
                os.posix_fallocate(self.fd, start, end - start)
                os.utime(self.fd, ns=(changed, changed))  # the file is no other by that: verify.py
            except OSError as error:
                if error.errno not in errors.NO_ROOM:
                    raise
                self._code = error.errno
                return False
            self.reserved = end
            self.safe_last_page = end // PAGE - KEPT - _SLACK - _QUICK
        return True

    def _reusable(self) -> int:
        """Return how many free pages LMDB can use now: those freed before the last change and all that is read."""
        words = self._words
        at = lmdb_pages.current(words)
        limit = min(int(words[at + lmdb_pages.NUMBER]), freelist.oldest(self._env.readers()))
        freed = freelist.records(lambda page: os.pread(self.fd, PAGE, page * PAGE), words[at + lmdb_pages.FREE])
        return sum(count for number, count in freed if number < limit)


def make(home: str, name: str) -> None:
    """Make a store of the empty file in a new folder."""
    errors.check_engine()
    capacity.check_file_size(name, MAP)
    try:
        descriptors.take_streams()
        path = os.fsencode(home)  # py-lmdb would encode a text as UTF-8, which not every path is
        lmdb.open(path, map_size=MAP, create=False, mode=0o600, writemap=True, lock=False, lib_version=0).close()
    except lmdb.Error as error:
        raise errors.of_new(name, error) from None
    lock = folders.open_(f"{home}/lock.mdb", os.O_RDWR | os.O_CREAT | os.O_EXCL)
    try:
        os.posix_fallocate(lock, 0, _LOCKS)
    finally:
        os.close(lock)
