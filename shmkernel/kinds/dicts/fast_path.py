"""The fast path of a dict: one value of up to 64 KiB, stored in a transaction of its own.

Such a change needs no file for an array, no pages beyond the reserved ones, no writer lock, and no open transaction to
join. So it takes LMDB's mutex at once, uses what the last commit of this process left in the cache, and takes a quarter
of the time. If one of these conditions does not hold, `put` returns False before it changes anything, and the caller
uses `Access._change`, the slow path.

Both paths store the same bytes: `tests/unit/test_dict_fast_path.py` compares the files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import lmdb

from shmkernel.kinds.dicts import entries, errors, lmdb_pages
from shmkernel.kinds.dicts.cache import LIMIT, NOTHING, Cache
from shmkernel.kinds.dicts.lmdb_pages import LAST, LISTENED, LOCK_FIRST, OTHER

if TYPE_CHECKING:
    from shmkernel.kinds.dicts.store import Store

LONGEST = 1 << 16  # bytes of a value: 16 pages
_FIRST, _SECOND = lmdb_pages.NUMBERS
_NEVER = 1 << 65  # in place of a tag: no commit reaches it


def put(store: Store, raw: bytes, data: bytes, key: object, cached: object) -> bool:
    """Store an encoded pair; return False if that needs the slow path. `cached` is what `get` may find in the cache."""
    if store.array_files.interrupted():  # the slow path sweeps them
        return False
    env, words = store.env, store.words
    if (
        env is None or store.block is not None or words[LOCK_FIRST]
    ):  # no other thread here runs between this and `begin`
        return False
    try:
        txn = env.begin(None, None, True)  # positional: keywords take 0.1 us
    except lmdb.Error as error:
        raise errors.of(store.name, error) from None
    new, tag = False, _NEVER
    try:
        first, second = words[_FIRST], words[_SECOND]
        if words[LAST if first > second else OTHER + LAST] > store.reservation.safe_last_page:
            return False
        before, tag = store.cache, first + second
        cache = before if before.tag == tag else Cache(NOTHING)  # another tag: others have written since
        head, last = cache.heads.get(raw, b""), cache.last
        if not head:
            entry = None if cache.inserted else txn.get(raw)
            if entry is None:
                last = (entries.last(txn) if last is None else last) + 1
                txn.put(entries.place(last), raw)
                cache.inserted = new = txn.put(raw, entries.head(last) + data, True, False)  # False if the key exists
                if not new:
                    txn.delete(entries.place(last))
                    last, entry = last - 1, txn.get(raw)
            if entry is not None:
                if entries.is_file(entry):
                    return False
                head = entries.head_of(entry)
                if len(cache.heads) >= LIMIT:
                    cache = Cache(NOTHING)
        if not new:
            cache.inserted = False
            txn.put(raw, head + data)
        txn.commit()
    except lmdb.BadValsizeError:  # the key is empty or long
        return False
    except lmdb.Error as error:
        raise errors.of(store.name, error) from None
    except entries.WrongError as error:
        raise errors.wrong(store.name, error, key) from None
    except BaseException:  # Ctrl-C, perhaps right after the commit
        if words[_FIRST] + words[_SECOND] > tag:
            _stored(store, new=new)
        raise
    finally:
        txn.abort()
    if new or words[LISTENED]:
        _stored(store, new=new)
    if not new:
        cache.values[key], cache.heads[raw] = cached, head
    cache.last = last
    cache.tag = tag + 2
    if cache is not before and store.cache is before and store.block is None:
        store.cache = cache
    return True


def _stored(store: Store, *, new: bool) -> None:
    store.resized += new
    if store.words[LISTENED]:
        store.announce_change()


def remember(store: Store, tag: int, key: object, cached: object) -> None:
    """Add to the cache what was read in the snapshot with this tag."""
    cache = store.cache
    if cache.tag == tag and len(cache.values) < LIMIT:
        cache.values.setdefault(key, cached)
    elif tag >= cache.tag:
        before, cache = cache, Cache(tag)
        cache.values[key] = cached
        if store.cache is before and store.block is None:
            store.cache = cache
