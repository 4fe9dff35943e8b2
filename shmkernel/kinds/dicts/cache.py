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

LIMIT = 1 << 16  # values in the cache
KEYS: frozenset[type] = frozenset({str, int})  # two keys of these types are equal only if they are the same key


class Cache:
    """``tag`` identifies the commit: the sum of the transaction numbers in the first two pages after it."""

    __slots__ = ("heads", "last", "tag", "values")

    def __init__(self, tag: int) -> None:
        self.tag = tag
        self.values: dict[object, object] = {}
        self.heads: dict[bytes, bytes] = {}  # the bytes before the value in the entry of a key
        self.last: int | None = None  # the greatest number in the order

    def note(self, raw: bytes, key: object, value: object, head: bytes, last: int | None, tag: int) -> None:
        """Add a value that a commit has stored; the tag is set last."""
        self.values[key] = value
        self.heads[raw] = head
        self.last = last
        self.tag = tag


NOTHING = -1  # a tag that matches no commit
