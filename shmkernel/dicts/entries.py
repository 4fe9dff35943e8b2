"""The entries of a store: which bytes stand for a key, its place in the order, and its value.

Pure functions over bytes and a transaction; the layout is in the package's own text.
"""

from __future__ import annotations

import contextlib
import itertools
import struct
from typing import TYPE_CHECKING, Any

from shmkernel.dicts import keys, values

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import lmdb

    Txn = lmdb.Transaction[bytes]
    Walk = list[tuple[int, bytes]]  # numbers and values of entries of the order

_PLACE = struct.Struct(">BQ")  # the key of an entry of the order
_HEAD = struct.Struct(">HQ")  # what precedes a value: MessagePack's list of two, and the number
_HEADS = {0xCC: 3, 0xCD: 4, 0xCE: 6, 0xCF: 10}  # its length, by how the number is written; else 2
_LIST, _MAP = 0x92CF, bytes([keys.ORDER])
_FILE = values.pack(values.File("0" * 16))[:2]


def all_of(
    content: Mapping[Any, object],
    raw_of: Callable[[object], tuple[bytes, bool]],
    pack: Callable[[object, object], bytes],
) -> list[tuple[bytes, bytes]]:
    """Return the sorted entries of a new store."""
    given = list(content)
    if set(map(type, given)) <= {str} and set(map(type, content.values())) <= values.SCALARS:
        with contextlib.suppress(OverflowError, UnicodeEncodeError):
            raws = list(map(str.encode, given))
            if all(raws) and max(map(len, raws), default=0) <= keys.LONGEST:
                data = list(map(values.encode, enumerate(content.values())))
                return _sorted(given, raws, data, raws)
    raws, data, order = [], [], []
    for number, (key, value) in enumerate(content.items()):
        raw, exact = raw_of(key)
        raws.append(raw)
        data.append(head(number) + pack(key, value))
        order.append(place_value(key, raw, exact=exact))
    return _sorted(raws, raws, data, order)


def _sorted(by: list[Any], raws: list[bytes], data: list[bytes], order: list[bytes]) -> list[tuple[bytes, bytes]]:
    """Sort by the keys, as texts where they are: Python compares those twice as fast, to the same order."""
    places = [_PLACE.pack(keys.ORDER, at) for at in range(len(raws))]
    if by is raws:
        return [*sorted(zip(raws, data, strict=True)), *zip(places, order, strict=True)]
    found = sorted(zip(by, raws, data, strict=True))
    return [*((raw, one) for _, raw, one in found), *zip(places, order, strict=True)]


def head(number: int) -> bytes:
    """Return what precedes the value in the entry of a key."""
    return _HEAD.pack(_LIST, number)


def head_of(entry: bytes) -> bytes:
    """Return what precedes the value in this entry."""
    return entry[: _HEADS.get(entry[1], 2)]


def value_of(entry: bytes) -> Any:  # noqa: ANN401
    """Read the value of a key's entry."""
    return values.decode(entry)[1]


def number_of(entry: bytes) -> int:
    """Read the place in the order of a key's entry."""
    return int(values.decode(head_of(entry) + b"\xc0")[0])


def is_file(entry: bytes) -> bool:
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
    return int(_PLACE.unpack(cursor.key())[1])


def walk(txn: Txn, start: int | None, count: int | None, *, backwards: bool = False) -> Walk:
    """Return up to `count` entries of the order, from number `start` on."""
    cursor = txn.cursor()
    if backwards:
        behind = start is not None and cursor.set_range(place(start + 1))
        found = cursor.prev() if behind else cursor.last()
        steps = cursor.iterprev() if found else iter(())
    else:
        steps = cursor.iternext() if cursor.set_range(place(start or 0)) else iter(())
    return [
        (_PLACE.unpack(at)[1], value)
        for at, value in itertools.takewhile(lambda step: step[0][0] == keys.ORDER, itertools.islice(steps, count))
    ]


def read(txn: Txn, raws: list[bytes]) -> list[Any]:
    """Return the values of these keys, in this order; KeyError if one is not there."""
    found = txn.cursor().getmulti(raws)
    if len(found) != len(raws):
        raise KeyError
    return [value[1] for value in map(values.decode, [entry for _, entry in found])]
