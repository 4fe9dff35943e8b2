"""Cache of a dict's values in one process, as they were after a commit.

It has no lock, which would cost as much as a lookup, and which Ctrl-C may leave locked on Python 3.14. Instead

    a reader      adds missing values atomically (`dict.setdefault`), and never replaces one
    a writer      stores the new value first, then the tag of the commit: until then no reader's tag matches

So a value that was read before a commit cannot overwrite one of that commit. A thread replaces the cache only if it is
still the one that the thread began with. CPython switches threads at calls, not between that check and the assignment.

Only texts and ints are looked up. Python also finds other keys under an equal one, 1.0 and Decimal(1) under 1, and the
result of a lookup must not depend on earlier reads.
"""

from __future__ import annotations

from typing import Any

MISSING: Any = object()  # in place of a value that is not there
SHORT = 1 << 10  # bytes of the longest value in the cache
LIMIT = 1 << 16  # values in the cache
FROZEN = frozenset({str, int, float, bool, bytes, type(None), complex})  # immutable, so readers may share the value
KEYS: frozenset[type] = frozenset({str, int})  # two keys of these types are equal only if they are the same key


class Cache:
    """``tag`` identifies the commit: the sum of the transaction numbers in the first two pages after it."""

    __slots__ = ("heads", "inserted", "last", "tag", "values")

    def __init__(self, tag: int) -> None:
        self.tag = tag
        self.values: dict[object, object] = {}
        self.heads: dict[bytes, bytes] = {}  # the bytes before the value in the entry of a key
        self.last: int | None = None  # the greatest number in the order
        self.inserted = False  # whether the key of the last change was new: then the next one probably is too


class Encoded:
    """The bytes of a value that can be changed: each reader decodes a new one."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data


NOTHING = -1  # a tag that matches no commit
