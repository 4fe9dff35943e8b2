"""Reserve pages of the file before LMDB writes to them: a store into a hole raises SIGBUS if memory is full.

It reserves what the next change can need behind the last page, and 1 MiB that only deleting may use. If memory is full,
the change has to do with free pages inside the file; LMDB's list of free pages gives their number.
"""

from __future__ import annotations

import contextlib
import errno
import os

import lmdb

from shmkernel._core import capacity, descriptors, folders, limits
from shmkernel.kinds.dicts import errors, lmdb_pages
from shmkernel.kinds.dicts.lmdb_pages import MAP, PAGE

KEPT = (1 << 20) // PAGE  # pages kept at the end for deleting when memory is full
_LOCKS = 32 << 10  # bytes: 510 readers
_STEP = 64 << 20  # bytes reserved in advance, at most
CHECKED = 16 << 20  # bytes: a larger change is split, and each part reserved
_BATCH = 64  # changes in a transaction between two readings of its size
_QUICK = 64  # pages: more than one short change can need
_SLACK = 64  # pages for LMDB's own list of free ones
_INLINE = PAGE // 2 - 32  # a longer value gets pages of its own


class Reservation:
    """The reserved part of a store's file. Up to ``safe_last_page`` a short change needs no reservation."""

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
        """Note the end of the used pages at the beginning of a write transaction."""
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
        """Reserve the pages that one more change can need, with a key and value of `size` bytes.

        `kept` is 0 for deleting, which may use the kept pages.

        Raises
        ------
        FullError
            If there is no room. The transaction can continue with smaller changes.
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
        """Reserve the pages for LMDB's list of the pages that clearing frees."""
        self.need(txn, self._start[1] * 8, kept=0)

    def need_for(self, count: int, size: int, longest: int) -> None:
        """Reserve the pages that `count` new entries of `size` bytes in all can need."""
        apart = PAGE * count if longest > _INLINE else 0
        end = self._start[0] * PAGE + 2 * size + apart + 32 * count + (_SLACK + KEPT) * PAGE
        self._reserve(end, end, 0)

    def _reserve(self, end: int, least: int, single: int) -> None:
        """Reserve the file up to `end`, and some more in advance if there is room.

        If there is no room up to `end`, reserve up to `least`, provided that `single` pages are free inside the file.
        """
        start = max(self.reserved, self._start[0] * PAGE)
        more = min(max(end >> 3, 1 << 18), _STEP)
        self._env.reader_check()  # removes dead readers: LMDB reuses no pages of their snapshots
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
            except OSError as error:
                if error.errno not in errors.NO_ROOM:
                    raise limits.explained(error, self.name) from None
                self._code = error.errno
                return False
            with contextlib.suppress(OSError):  # keeps the seal valid; without one the next open checks the file
                os.utime(self.fd, ns=(changed, changed))
            self.reserved = end
            self.safe_last_page = end // PAGE - KEPT - _SLACK - _QUICK
        return True

    def _reusable(self) -> int:
        """Return the number of free pages that LMDB can use: freed before the last commit and every open snapshot."""
        words = self._words
        at = lmdb_pages.current(words)
        limit = min(int(words[at + lmdb_pages.NUMBER]), lmdb_pages.oldest_reader(self._env.readers()))
        freed = lmdb_pages.freed(lambda page: os.pread(self.fd, PAGE, page * PAGE), words[at + lmdb_pages.FREE])
        return sum(count for number, count in freed if number < limit)


def make(home: str, name: str) -> None:
    """Make a store from the empty file in a new folder."""
    errors.check_engine()
    capacity.check_file_size(name, MAP)
    try:
        descriptors.take_streams()
        path = os.fsencode(home)  # py-lmdb would encode a str as UTF-8, which fails for some paths
        lmdb.open(path, map_size=MAP, create=False, mode=0o600, writemap=True, lock=False, lib_version=0).close()
    except lmdb.Error as error:
        raise errors.of_new(name, error) from None
    lock = folders.open_(f"{home}/lock.mdb", os.O_RDWR | os.O_CREAT | os.O_EXCL)
    os.posix_fallocate(lock, 0, _LOCKS)
    lock.close()
