"""`SharedDict`: the mapping that all kernels share."""

from __future__ import annotations

import itertools
from collections.abc import ItemsView, Iterator, KeysView, Mapping, MutableMapping, ValuesView
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np

from shmkernel.kinds import values
from shmkernel.kinds.dicts import entries, fast_path, lmdb_pages
from shmkernel.kinds.dicts.cache import KEYS, MISSING, SHORT, Encoded
from shmkernel.kinds.dicts.operations import (
    AT_ONCE,
    Access,
    GoneError,
    inside,
    is_large,
    items,
    known,
    pairs,
)
from shmkernel.kinds.dicts.transactions import Transaction
from shmkernel.kinds.dicts.views import SharedItems, SharedKeys, SharedValues

if TYPE_CHECKING:
    import lmdb

    Txn = lmdb.Transaction[bytes]

_CHANGED = "dictionary changed size during iteration"  # as a dict says
_SHOWN = 100  # items in the repr


class SharedDict(Access, MutableMapping[Any, Any]):
    """A dict that all kernels share. ``shm.create("cfg", {...})`` makes one, ``shm.attach("cfg")`` attaches it.

    It has the methods, errors and order of a dict. Keys are texts, numbers, bytes, None and tuples of these. Values may
    also be lists, tuples, sets, dicts, dates, times, Decimal, UUID, numpy scalars and arrays. Any other value raises
    TypeError, which shows where in the value the problem is. Nothing is pickled.

    Each operation is atomic for all kernels; `transaction`, `increment` and `compare_and_set` make several atomic. A
    loop over the dict may or may not see changes that other processes make meanwhile. It raises RuntimeError if this
    process inserts or removes a key, as for a dict. `to_dict` is a snapshot.

    Reading a list, dict or small array returns a copy: changing the copy does not change the dict. To change the dict,
    store the copy again, in a `transaction` if other processes write too. An array of 1 MiB or more is attached, not
    copied: all processes see changes to its elements.

    Examples
    --------
    >>> import shmkernel as shm
    >>> cfg = shm.create("cfg", {"rate": 0.1, "layers": [64, 64]})
    >>> cfg["rate"] = 0.2
    >>> cfg
    {'rate': 0.2, 'layers': [64, 64]}
    >>> cfg["layers"].append(10)     # a copy of the list
    >>> with cfg.transaction():      # this changes the dict
    ...     cfg["layers"] += [10]
    >>> cfg["layers"]
    [64, 64, 10]
    >>> shm.unlink("cfg")
    """

    __slots__ = ()

    # Reading

    def __getitem__(self, key: object) -> Any:
        value = self._get(key)
        if value is MISSING:
            raise KeyError(key)
        return value

    def get(self, key: object, default: Any = None) -> Any:
        """Return the value of the key, or `default`."""
        value = self._get(key)
        return default if value is MISSING else value

    def __contains__(self, key: object) -> bool:
        raw = known(key)
        if raw is None:
            return False
        with self._reading() as txn:
            return txn.get(raw) is not None

    def __len__(self) -> int:
        opened = self._store
        if (block := opened.current_block()) is not None:
            with block.use:
                return inside(block).stat()["entries"] // 2
        return lmdb_pages.count(opened.words)

    def __iter__(self) -> Iterator[Any]:
        return self._keys()

    def __reversed__(self) -> Iterator[Any]:
        return self._keys(backwards=True)

    def keys(self) -> KeysView[Any]:
        """Return a view of the keys."""
        return SharedKeys(self)

    def values(self) -> ValuesView[Any]:
        """Return a view of the values."""
        return SharedValues(self)

    def items(self) -> ItemsView[Any, Any]:
        """Return a view of the pairs of key and value."""
        return SharedItems(self)

    def to_dict(self) -> dict[Any, Any]:
        """Return a plain dict: a consistent snapshot, even while other processes write.

        Examples
        --------
        >>> import shmkernel as shm
        >>> shm.create("cfg", {"a": [1]}).to_dict()
        {'a': [1]}
        >>> shm.unlink("cfg")
        """
        missed = -1
        while True:
            with self._reading() as txn:
                number = txn.id()
                try:
                    return self._snapshot(txn)
                except GoneError:  # an array was replaced meanwhile: read a newer snapshot
                    if number == missed:
                        raise
                    missed = number

    def _snapshot(self, txn: Txn) -> dict[Any, Any]:
        content: dict[Any, Any] = {}
        at: int | None = 0
        while at is not None:
            placed, at = entries.walk(txn, at, AT_ONCE[1])
            keys_, values_ = items(txn, placed)
            if values.File in set(map(type, values_)):
                values_ = list(map(self._whole, values_))
            content.update(zip(keys_, values_, strict=True))
        return content

    copy = to_dict
    fromkeys = dict.fromkeys

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mapping):
            return NotImplemented
        return self.to_dict() == (other.to_dict() if isinstance(other, SharedDict) else dict(other))

    __hash__ = None  # type: ignore[assignment]  # as dict has it

    def __or__(self, other: object) -> dict[Any, Any]:
        return self.to_dict() | dict(other) if isinstance(other, Mapping) else NotImplemented

    def __ror__(self, other: object) -> dict[Any, Any]:
        return dict(other) | self.to_dict() if isinstance(other, Mapping) else NotImplemented

    def __repr__(self) -> str:
        shown = [f"{key!r}: {value!r}" for key, value in itertools.islice(self.items(), _SHOWN)]
        more = len(self) - len(shown)
        return f"{{{', '.join(shown)}{f', ... {more} more' if more > 0 else ''}}}"

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (self.to_dict(),)  # not by name: a pickle on disk outlives the segment

    # Writing

    def __setitem__(self, key: object, value: object) -> None:
        opened, scalar = self._store, type(value) in values.SCALARS
        raw = data = None
        if scalar or values.is_plain(value):
            try:
                data = values.encode(value)
                if type(key) is str and self._mode != "r" and len(data) <= SHORT:
                    raw = key.encode()
            except (OverflowError, UnicodeEncodeError, MemoryError):  # `_ready` converts it, or says what is wrong
                pass
            if raw and data and fast_path.put(opened, raw, data, key, value if scalar else Encoded(data)):
                return
        ready = self._ready(key, value, data)
        if not raw and ready.exact and not ready.file and len(ready.data) <= fast_path.LONGEST:  # not tried yet
            cached = Encoded(ready.data) if len(ready.data) <= SHORT and type(key) in KEYS else MISSING
            if fast_path.put(opened, ready.raw, ready.data, key, cached):
                return
        self._change(lambda txn: self._put(txn, ready), ready)

    def __delitem__(self, key: object) -> None:
        raw = known(key)
        if raw is None or not self._change(lambda txn: self._delete(txn, raw)):
            raise KeyError(key)

    def pop(self, key: object, default: Any = MISSING) -> Any:
        """Remove the key and return its value. If it is missing return `default`, or without one raise KeyError."""
        raw = known(key)

        def step(txn: Txn) -> Any:
            if raw is None or (entry := txn.get(raw)) is None:
                return MISSING
            value = self._whole(entries.value_of(entry))
            self._delete(txn, raw)
            return value

        value = self._change(step)
        if value is MISSING and default is MISSING:
            raise KeyError(key)
        return default if value is MISSING else value

    def popitem(self) -> tuple[Any, Any]:
        """Remove and return the pair that was inserted last."""

        def step(txn: Txn) -> tuple[Any, Any]:
            placed, _ = entries.walk(txn, None, 1, backwards=True)
            if not placed:
                raise KeyError("popitem(): dictionary is empty")
            raw, key = entries.key_of(placed[0])
            pair = key, self._whole(*entries.read(txn, [raw]))
            self._delete(txn, raw)
            return pair

        return self._change(step)

    def setdefault(self, key: object, default: Any = None) -> Any:
        """Return the value of the key; if it is missing store and return `default`."""
        ready = self._ready(key, default)

        def step(txn: Txn) -> Any:
            entry = txn.get(ready.raw)
            if entry is not None:
                return self._whole(entries.value_of(entry))
            self._put(txn, ready)
            return default

        return self._change(step, ready)

    def update(self, other: Any = (), /, **more: Any) -> None:
        """Store all pairs of a mapping or iterable, and keyword arguments, atomically."""
        content = (other.to_dict() if isinstance(other, SharedDict) else dict(other)) | more
        if any(map(is_large, content.values())):
            with self.transaction():  # writes one file after the other
                for key, value in content.items():
                    self[key] = value
            return
        ready = [self._ready(key, value) for key, value in content.items()]

        def step(txn: Txn) -> None:
            for pair in ready:
                self._put(txn, pair)

        self._change(step, *ready)

    def __ior__(self, other: Any) -> Self:  # type: ignore[misc]  # as dict has it
        self.update(other)
        return self

    def clear(self) -> None:
        """Remove all keys."""

        def step(txn: Txn) -> None:
            opened = self._store
            opened.clear(txn)

        self._change(step)

    def increment(self, key: object, by: Any = 1) -> Any:
        """Add `by` to a number atomically, and return the sum. A missing key counts as 0.

        Examples
        --------
        >>> import shmkernel as shm
        >>> cfg = shm.create("cfg", {"done": 3})
        >>> cfg.increment("done"), cfg.increment("errors", by=2)
        (4, 2)
        >>> shm.unlink("cfg")
        """
        raw, _ = self._key(key)

        def step(txn: Txn) -> Any:
            entry = txn.get(raw)
            total = by if entry is None else self._whole(entries.value_of(entry)) + by
            self._put(txn, self._ready(key, total))
            return total

        return self._change(step)

    def compare_and_set(self, key: object, old: object, new: object) -> bool:
        """Store `new` if the value equals `old`, atomically; return whether it did.

        Examples
        --------
        >>> import shmkernel as shm
        >>> cfg = shm.create("cfg", {"turn": "a"})
        >>> cfg.compare_and_set("turn", "a", "b"), cfg.compare_and_set("turn", "a", "c")
        (True, False)
        >>> shm.unlink("cfg")
        """
        ready = self._ready(key, new)

        def step(txn: Txn) -> bool:
            entry = txn.get(ready.raw)
            if entry is None or not _same(self._whole(entries.value_of(entry)), old):
                return False
            self._put(txn, ready)
            return True

        return self._change(step, ready)

    def transaction(self, timeout: float | None = None) -> Transaction:
        """Return a context manager that makes all changes in its block atomic. If the block raises, none is stored.

        Until the block ends, others read the old state, and wait to write: so keep it short. A transaction inside
        another one of the same dict joins it. It belongs to the thread that entered it, and in a running event loop to
        the asyncio task. ``async with d.transaction():`` waits without blocking the event loop.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait until TimedOutError. By default it waits until Ctrl-C; inside a transaction of another dict
            10 s, since two transactions could wait for each other for ever.

        Examples
        --------
        >>> import shmkernel as shm
        >>> cfg = shm.create("cfg", {"from": 10, "to": 0})
        >>> with cfg.transaction():
        ...     cfg["from"] -= 4
        ...     cfg["to"] += 4
        >>> cfg
        {'from': 6, 'to': 4}
        >>> shm.unlink("cfg")
        """
        self._check_writable()
        return Transaction(self, self._store, timeout)

    def _keys(self, *, backwards: bool = False) -> Iterator[Any]:
        opened = self._store
        size = opened.resized
        for batch in self._batches(_keys, backwards=backwards):
            for key in batch:
                yield key
                if opened.resized != size:
                    raise RuntimeError(_CHANGED)

    def _pairs(self, *, backwards: bool = False) -> Iterator[tuple[Any, Any]]:
        opened = self._store
        size = opened.resized
        for batch in self._batches(pairs, backwards=backwards):
            for pair in batch:
                if type(pair[1]) is values.File:
                    whole = self._get(pair[0])
                    if whole is MISSING:  # it was removed meanwhile
                        continue
                    yield pair[0], whole
                else:
                    yield pair
                if opened.resized != size:
                    raise RuntimeError(_CHANGED)


def _keys(_: Txn, placed: list[bytes]) -> tuple[list[Any], list[bytes]]:
    raws, keys_ = entries.keys_of(placed)
    return keys_, raws


def _same(value: object, other: object) -> bool:
    if isinstance(value, np.ndarray) or isinstance(other, np.ndarray):
        return type(value) is type(other) and np.array_equal(cast("Any", value), cast("Any", other))
    return bool(value == other)
