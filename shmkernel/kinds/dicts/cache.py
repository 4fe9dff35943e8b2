"""Values that a process remembers, as they were after a commit.

No lock guards it: a lock costs as much as what it would guard, and on Python 3.14 Ctrl-C may leave it taken. Instead

    who reads     adds what is not there, in one step (`dict.setdefault`), and never replaces anything
    who writes    stores the new value first and names the commit last: until then `tag` fits nobody's question

so that a value read before a commit cannot overwrite one that was stored by it. A cache is replaced only by a thread
that finds the one it began with; CPython switches threads at calls, not between that look and the assignment.

It is asked for texts and whole numbers alone. Python finds other keys under what is equal to them, 1.0 and Decimal(1)
under 1, and what a lookup finds must not depend on what was read before.
"""

from __future__ import annotations

LIMIT = 1 << 16  # values that are remembered
KEYS: frozenset[type] = frozenset({str, int})  # among themselves equal only if they are the same key


class Cache:
    """``tag`` is the sum of both pages' numbers after the commit."""

    __slots__ = ("heads", "last", "tag", "values")

    def __init__(self, tag: int) -> None:
        self.tag = tag
        self.values: dict[object, object] = {}
        self.heads: dict[bytes, bytes] = {}  # what precedes the value in the entry of a key
        self.last: int | None = None  # the greatest number in the order

    def note(self, raw: bytes, key: object, value: object, head: bytes, last: int | None, tag: int) -> None:
        """Note what a commit has stored, its tag last."""
        self.values[key] = value
        self.heads[raw] = head
        self.last = last
        self.tag = tag


NOTHING = -1  # the tag of a cache that answers nobody
