"""Read pages of an LMDB file without LMDB: what its API does not give, or gives too slowly. From mdb.c (LMDB 0.9).

The first two pages are the meta pages (MDB_meta). Each commit writes the older page, its transaction number last; the
page with the greater number is current. They are read as words of 8 bytes through a mapping, in a tenth of the time of
a call to LMDB. LMDB leaves the rest of these pages free; the end of the first one holds words of this package:

    LISTENED     1 if a process waits for changes of this dict: writers then publish
    LOCK_FIRST   take the writer lock before LMDB's mutex: a process holds it for long (first byte), or processes of
                 several pid namespaces have the file open (second byte)
    SEAL         the modification time of the file while no process writes to it (verify.py)
    SPACE        the pid namespace of the first process that opened the file

The list of free pages is a second tree in the file (MDB_page, MDB_node): each transaction's number is a key, its value
the pages that it freed. It is read only if memory is full.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
from typing import TYPE_CHECKING

from shmkernel._core import descriptors, folders

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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
NONE = (1 << 64) - 1  # the root of an empty tree
_LEAF, _ELSEWHERE = 0x02, 0x01  # flags of a page, and of a node whose data is on pages of its own
_TREE_PAGE = struct.Struct("<8xHHHH")  # in the head of a page: pad, flags, lower, upper
_HEAD = 16
_NODE = struct.Struct("<HHHH")  # size or page, its upper half, flags or more of the page, length of the key
_NUMBER = struct.Struct("<Q")


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
            fd.close()


def count(words: memoryview) -> int:
    """Return the number of keys of the dict, half of its entries."""
    return int(words[current(words) + ENTRIES]) // 2


def count_in(head: bytes) -> int | None:
    """Return the number of keys of a dict whose first bytes are `head`; None if it is no LMDB file."""
    words = memoryview(head[: len(head) // 8 * 8]).cast("Q")
    if len(words) <= OTHER + NUMBER or words[2] & 0xFFFFFFFF != _MAGIC or words[2] >> 32 != _VERSION:
        return None
    return count(words)


def freed(read: Callable[[int], bytes], root: int) -> Iterator[tuple[int, int]]:
    """Yield the number of each transaction in the tree, and the count of pages that it freed; `read` returns a page."""
    if root == NONE:
        return
    page = read(root)
    _, flags, lower, _ = _TREE_PAGE.unpack_from(page)
    for (at,) in struct.iter_unpack("<H", page[_HEAD:lower]):
        low, high, node, key = _NODE.unpack_from(page, at)
        if not flags & _LEAF:
            yield from freed(read, low | high << 16 | node << 32)
            continue
        (number,) = _NUMBER.unpack_from(page, at + _NODE.size)
        data = at + _NODE.size + key
        if node & _ELSEWHERE:
            (elsewhere,) = _NUMBER.unpack_from(page, data)
            (count,) = _NUMBER.unpack_from(read(elsewhere), _HEAD)
        else:
            (count,) = _NUMBER.unpack_from(page, data)
        yield number, count


def is_filled(page: bytes, below: list[int]) -> bool:
    """Return whether the nodes of a page fill it to its end, and append its child pages to `below`."""
    _, flags, lower, upper = _TREE_PAGE.unpack_from(page)
    size = 0
    for (at,) in struct.iter_unpack("<H", page[_HEAD:lower]):
        low, high, node, key = _NODE.unpack_from(page, at)
        if not flags & _LEAF:
            below.append(low | high << 16 | node << 32)
            data = 0
        elif node & ~_ELSEWHERE:  # a tree in a tree, or several values under a key
            return False
        else:
            data = _NUMBER.size if node & _ELSEWHERE else low | high << 16
        size += (_NODE.size + key + data + 1) & ~1
    return bool(size == len(page) - upper)


def oldest_reader(readers: str) -> int:
    r"""Return the number of the oldest snapshot in use, from the text of `Environment.readers`.

    Examples
    --------
    >>> oldest_reader("    pid     thread     txnid\n  41 7f00 -\n  42 7f00 17\n") == 17
    True
    """
    words = (line.split() for line in readers.splitlines()[1:])
    return min((int(parts[-1]) for parts in words if parts and parts[-1].isdigit()), default=NONE)
