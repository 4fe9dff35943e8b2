"""Read LMDB's list of free pages, which its API does not give.

The list is a second tree in the file: each transaction's number is a key, its value the pages that it freed. The layout
is that of MDB_page and MDB_node in mdb.c (LMDB 0.9). It is read only if memory is full.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NONE = (1 << 64) - 1  # the root of an empty tree
_LEAF, _ELSEWHERE = 0x02, 0x01  # flags of a page, and of a node whose data is on pages of its own
_PAGE = struct.Struct("<8xHHHH")  # in the head of a page: pad, flags, lower, upper
_HEAD = 16
_NODE = struct.Struct("<HHHH")  # size or page, its upper half, flags or more of the page, length of the key
_NUMBER = struct.Struct("<Q")


def records(read: Callable[[int], bytes], root: int) -> Iterator[tuple[int, int]]:
    """Yield the number of each transaction in the tree, and the count of pages that it freed; `read` returns a page."""
    if root == NONE:
        return
    page = read(root)
    _, flags, lower, _ = _PAGE.unpack_from(page)
    for (at,) in struct.iter_unpack("<H", page[_HEAD:lower]):
        low, high, node, key = _NODE.unpack_from(page, at)
        if not flags & _LEAF:
            yield from records(read, low | high << 16 | node << 32)
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
    _, flags, lower, upper = _PAGE.unpack_from(page)
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


def oldest(readers: str) -> int:
    r"""Return the number of the oldest snapshot in use, from the text of `Environment.readers`.

    Examples
    --------
    >>> oldest("    pid     thread     txnid\n  41 7f00 -\n  42 7f00 17\n") == 17
    True
    """
    words = (line.split() for line in readers.splitlines()[1:])
    return min((int(parts[-1]) for parts in words if parts and parts[-1].isdigit()), default=NONE)
