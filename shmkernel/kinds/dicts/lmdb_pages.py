"""Read the first two pages of an LMDB file, the meta pages: MDB_meta in mdb.c (LMDB 0.9).

Each commit writes the older page, its transaction number last; the page with the greater number is current. They are
read as words of 8 bytes through a mapping, in a tenth of the time of a call to LMDB. LMDB leaves the rest of these
pages free; the end of the first one holds words of this package:

    LISTENED     1 if a process waits for changes of this dict: writers then publish
    LOCK_FIRST   take the writer lock before LMDB's mutex: a process holds it for long (first byte), or processes of
                 several pid namespaces have the file open (second byte)
    SEAL         the modification time of the file while no process writes to it (verify.py)
    SPACE        the pid namespace of the first process that opened the file
"""

from __future__ import annotations

import contextlib
import mmap
import os

from shmkernel._core import descriptors, folders

PAGE = mmap.PAGESIZE
MAP = 64 << 30  # bytes of the largest dict; all processes must map the same size
OTHER = PAGE // 8  # the word where the second page begins
FREE, DEPTH, BRANCHES, LEAVES, ENTRIES, ROOT, LAST, NUMBER = 10, 11, 12, 13, 15, 16, 17, 18  # positions in a page
NUMBERS = NUMBER, OTHER + NUMBER
LISTENED, LOCK_FIRST, SPACE, SEAL = (
    OTHER - 1,
    OTHER - 2,
    OTHER - 3,
    OTHER - 4,
)  # words of this package: LMDB does not use the rest of these pages
_MAGIC, _VERSION = 0xBEEFC0DE, 1


def current(words: memoryview) -> int:
    """Return the word where the current page begins."""
    return 0 if words[NUMBER] > words[OTHER + NUMBER] else OTHER


def listen(path: str) -> None:
    """Make writers of this store publish their changes; do nothing if it was unlinked."""
    with contextlib.suppress(FileNotFoundError):
        fd = folders.open_(path, os.O_RDWR)
        try:
            descriptors.take_streams()
            if os.fstat(fd).st_size >= 2 * PAGE:
                with mmap.mmap(fd, 2 * PAGE) as page:
                    page[LISTENED * 8] = 1
        finally:
            os.close(fd)


def count(words: memoryview) -> int:
    """Return the number of keys of the dict, half of its entries."""
    return int(words[current(words) + ENTRIES]) // 2


def count_in(head: bytes) -> int | None:
    """Return the number of keys of a dict whose first bytes are `head`; None if it is no LMDB file."""
    words = memoryview(head[: len(head) // 8 * 8]).cast("Q")
    if len(words) <= OTHER + NUMBER or words[2] & 0xFFFFFFFF != _MAGIC or words[2] >> 32 != _VERSION:
        return None
    return count(words)
