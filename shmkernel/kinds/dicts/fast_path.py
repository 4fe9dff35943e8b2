"""The fast path of a dict: one short value under a text key, stored in a transaction of its own.

Such a change needs no file for an array, no pages beyond the reserved ones, no writer lock, and no open transaction to
join. So it takes LMDB's mutex at once, uses what the last commit of this process left in the cache, and takes a third
of the time. If one of these conditions does not hold, `put` returns False before it changes anything, and the caller
uses `Access._change`, the slow path.

Both paths store the same bytes: `tests/unit/test_dict_fast_path.py` compares the files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import lmdb

from shmkernel.kinds.dicts import entries, errors, lmdb_pages
from shmkernel.kinds.dicts.cache import LIMIT, NOTHING, Cache
from shmkernel.kinds.dicts.lmdb_pages import LAST, OTHER

if TYPE_CHECKING:
    from shmkernel.kinds.dicts.store import Store

SHORT = 1 << 10  # bytes of the longest value in the cache
_FIRST, _SECOND = lmdb_pages.NUMBERS
_NEW: Any = object()  # in place of a missing entry


def put(store: Store, raw: bytes, data: bytes, key: object, value: object) -> bool:
    """Store a short value; return False if that needs the slow path."""
    env = store.env
    if env is None or store.words[lmdb_pages.LOCK_FIRST]:  # until `begin` has the mutex, no other thread here runs
        return False
    try:
        txn = env.begin(None, None, True)  # positional: keywords take 0.1 us
    except lmdb.Error as error:
        raise errors.of(store.name, error) from None
    try:
        words = store.words
        first, second = words[_FIRST], words[_SECOND]
        if words[LAST if first > second else OTHER + LAST] > store.reservation.safe_last_page:
            return False
        cache, tag = store.cache, first + second
        head, last = (cache.heads.get(raw), cache.last) if cache.tag == tag else (None, None)
        entry: Any = None
        if head is None:
            entry = txn.get(raw, _NEW)
            if entry is _NEW:
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
        raise errors.of(store.name, error) from None
    except entries.WrongError as error:
        raise errors.wrong(store.name, error, key) from None
    finally:
        txn.abort()
    if entry is _NEW:
        store.resized += 1
    if words[lmdb_pages.LISTENED]:
        store.announce_change()
    if cache.tag != tag or len(cache.heads) >= LIMIT:  # others have written since: the cache may be stale
        before, cache = cache, Cache(NOTHING)
        cache.note(raw, key, value, head, last, tag + 2)
        if store.cache is before and store.block is None:
            store.cache = cache
    else:
        cache.note(raw, key, value, head, last, tag + 2)
    return True


def remember(store: Store, tag: int, key: object, value: object) -> None:
    """Add a value to the cache that was read in the snapshot with this tag."""
    cache = store.cache
    if cache.tag == tag and len(cache.values) < LIMIT:
        cache.values.setdefault(key, value)
    elif tag >= cache.tag:
        before, cache = cache, Cache(tag)
        cache.values[key] = value
        if store.cache is before and store.block is None:
            store.cache = cache
