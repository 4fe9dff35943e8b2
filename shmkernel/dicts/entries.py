"""The entries of a store: which bytes stand for a key, its place in the order, and its value.

Pure functions over bytes and a transaction; the layout is in the package's own text.
"""

from __future__ import annotations

import contextlib
import itertools
import struct
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np

from shmkernel.dicts import keys, values

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import lmdb

    Txn = lmdb.Transaction[bytes]

B = TypeVar("B", bytes, memoryview)  # of a transaction: copies, or views of the map

_PLACE = struct.Struct(">BQ")  # the key of an entry of the order
_HEAD = struct.Struct(">HQ")  # what precedes a value: MessagePack's list of two, and the number
_HEADS = {0xCC: 3, 0xCD: 4, 0xCE: 6, 0xCF: 10}  # its length, by how the number is written; else 2
_LIST, _MAP = 0x92CF, bytes([keys.ORDER])
_FILE = values.pack(values.File("0" * 16))[:2]


def all_of(
    content: Mapping[Any, object],
    raw_of: Callable[[object], tuple[bytes, bool]],
    pack: Callable[[object, object], bytes],
) -> tuple[list[bytes], list[bytes]]:
    """Return the entries of a new store: their keys, sorted, and their values."""
    order = list(content)
    places = _places(len(order))
    if set(map(type, order)) <= {str} and set(map(type, content.values())) <= values.SCALARS:
        with contextlib.suppress(OverflowError, UnicodeEncodeError):
            raws = list(map(str.encode, order))
            data = list(map(values.encode, enumerate(content.values())))
            if all(raws) and max(map(len, raws), default=0) <= keys.LONGEST:
                found = sorted(zip(order, raws, data, strict=True))  # twice as fast as by bytes, to the same order
                return [*(raw for _, raw, _ in found), *places], [*(one for *_, one in found), *raws]
    placed, entry_of = [], {}
    for number, (key, value) in enumerate(content.items()):
        raw, exact = raw_of(key)
        placed.append(place_value(key, raw, exact=exact))
        entry_of[raw] = head(number) + pack(key, value)
    raws = sorted(entry_of)
    return [*raws, *places], [*map(entry_of.__getitem__, raws), *placed]


def _places(count: int) -> list[bytes]:
    """Return the keys of so many entries of the order."""
    found = np.empty(count, [("tag", "u1"), ("number", ">u8")])
    found["tag"], found["number"] = keys.ORDER, np.arange(count)
    return cast("list[bytes]", found.view("V9").tolist())


def head(number: int) -> bytes:
    """Return what precedes the value in the entry of a key."""
    return _HEAD.pack(_LIST, number)


def head_of(entry: B) -> B:
    """Return what precedes the value in this entry."""
    return entry[: _HEADS.get(entry[1], 2)]


def value_of(entry: bytes) -> Any:  # noqa: ANN401
    """Read the value of a key's entry."""
    return values.decode(entry)[1]


def number_of(entry: bytes) -> int:
    """Read the place in the order of a key's entry."""
    return int(values.decode(head_of(entry) + b"\xc0")[0])


def is_file(entry: bytes | memoryview) -> bool:
    """Say whether the value is a reference to a file."""
    at = _HEADS.get(entry[1], 2)
    return entry[at : at + 2] == _FILE


def place(number: int) -> bytes:
    """Return the key of an entry of the order."""
    return _PLACE.pack(keys.ORDER, number)


def place_value(key: object, raw: bytes, *, exact: bool) -> bytes:
    """Return the value of an entry of the order."""
    return raw if exact else _MAP + values.pack([raw, key])


def key_of(placed: bytes) -> tuple[bytes, Any]:
    """Read the value of an entry of the order: the bytes of the key, and the key."""
    if placed[0] == keys.ORDER:
        raw, key = values.decode(placed[1:])
        return raw, key
    return placed, placed.decode() if placed[0] < keys.OTHERS else keys.decode(placed)


def last(txn: Txn) -> int:
    """Return the greatest number in the order, or -1."""
    cursor = txn.cursor()
    if not cursor.last() or cursor.key()[0] != keys.ORDER:
        return -1
    return number_at(cursor.key())


def walk(
    txn: lmdb.Transaction[B], start: int | None, count: int, *, backwards: bool = False
) -> tuple[list[B], int | None]:
    """Return up to `count` values of the order, from number `start` on, and where to go on."""
    cursor = txn.cursor()
    if not backwards:  # nothing comes after the order
        steps = cursor.iternext(keys=False) if cursor.set_range(place(start or 0)) else iter(())
        placed = list(itertools.islice(steps, count))
        return placed, number_at(cursor.key()) + 1 if len(placed) == count else None
    behind = start is not None and cursor.set_range(place(start + 1))
    back = cursor.iterprev() if (cursor.prev() if behind else cursor.last()) else iter(())
    found = list(itertools.takewhile(lambda step: step[0][0] == keys.ORDER, itertools.islice(back, count)))
    return [value for _, value in found], number_at(found[-1][0]) - 1 if len(found) == count else None


def files(txn: Txn) -> set[str]:
    """Return all files that values refer to."""
    return {value_of(entry) for key, entry in txn.cursor() if key[0] != keys.ORDER and is_file(entry)}


def keys_of(placed: list[bytes]) -> tuple[list[bytes], list[Any]]:
    """Read values of the order: the bytes of the keys, and the keys."""
    if max(placed, default=b"") < bytes([keys.OTHERS]):  # all of them texts
        return placed, list(map(bytes.decode, placed))
    pairs = list(map(key_of, placed))
    return [raw for raw, _ in pairs], [key for _, key in pairs]


def read(txn: Txn, raws: list[bytes]) -> list[Any]:
    """Return the values of these keys, which are there."""
    found = cast("Iterator[bytes]", map(txn.get, raws))  # twice as fast as getmulti
    return [value[1] for value in map(values.decode, found)]


def number_at(place: bytes | memoryview) -> int:
    """Read the key of an entry of the order."""
    return int(_PLACE.unpack(place)[1])
