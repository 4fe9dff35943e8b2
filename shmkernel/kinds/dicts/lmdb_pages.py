"""The first two pages of an LMDB file, which say where all else is: MDB_meta in mdb.c (LMDB 0.9).

Each commit writes the older of the two, its number last; the page with the greater number counts. They are read as
words of 8 bytes, through a mapping, without asking LMDB: that takes a tenth of the time. Words of ours stand behind:

    LISTENED     somebody waits for changes of this dict: writers publish them
    LOCK_FIRST   take the writer lock before LMDB's mutex: somebody holds it for long (first byte), or processes of
                 several pid namespaces have the file open (second byte)
    SEAL         the time of change that the file has as long as nobody writes to it (verify.py)
    SPACE        the pid namespace of the first process that had it open
"""

from __future__ import annotations

import contextlib
import mmap
import os

from shmkernel._core import descriptors, folders, paths

PAGE = mmap.PAGESIZE
MAP = 64 << 30  # bytes that a dict can have: the one size of everybody's map
OTHER = PAGE // 8  # where the second page begins, in words
FREE, DEPTH, BRANCHES, LEAVES, ENTRIES, ROOT, LAST, NUMBER = 10, 11, 12, 13, 15, 16, 17, 18  # positions in a page
NUMBERS = NUMBER, OTHER + NUMBER
LISTENED, LOCK_FIRST, SPACE, SEAL = (
    OTHER - 1,
    OTHER - 2,
    OTHER - 3,
    OTHER - 4,
)  # ours: LMDB leaves the rest of these pages alone
_MAGIC, _VERSION = 0xBEEFC0DE, 1


def current(words: memoryview) -> int:
    """Return where the page that counts begins."""
    return 0 if words[NUMBER] > words[OTHER + NUMBER] else OTHER


def listen(inode: int) -> None:
    """Have those who write to the dict with this inode, if it is one, say so: publish, for its name's version."""
    with contextlib.suppress(FileNotFoundError):
        fd = folders.open_(paths.runtime("dicts", str(inode), "data.mdb"), os.O_RDWR)
        try:
            descriptors.take_streams()
            if os.fstat(fd).st_size >= 2 * PAGE:
                with mmap.mmap(fd, 2 * PAGE) as page:
                    page[LISTENED * 8] = 1
        finally:
            os.close(fd)


def count(words: memoryview) -> int:
    """Return how many keys the dict has: half of the entries."""
    return int(words[current(words) + ENTRIES]) // 2


def count_in(head: bytes) -> int | None:
    """Return how many keys a dict has that begins like this; None if that is no LMDB file."""
    words = memoryview(head[: len(head) // 8 * 8]).cast("Q")
    if len(words) <= OTHER + NUMBER or words[2] & 0xFFFFFFFF != _MAGIC or words[2] >> 32 != _VERSION:
        return None
    return count(words)
