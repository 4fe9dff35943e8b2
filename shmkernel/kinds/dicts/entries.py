"""Encode and decode the entries of a store: a key, its place in the order of insertion, and its value.

Pure functions over bytes and a transaction. The docstring of the package shows the layout.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import struct
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

import lmdb
import numpy as np

from shmkernel._core import limits
from shmkernel.kinds import values
from shmkernel.kinds.dicts import keys

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    Txn = lmdb.Transaction[bytes]

T = TypeVar("T")
P = ParamSpec("P")
B = TypeVar("B", bytes, memoryview)  # what a transaction returns: copies, or views of the map

_PLACE = struct.Struct(">BQ")  # the key of an entry of the order
_HEAD = struct.Struct(">HQ")  # the bytes before a value: MessagePack's list of two, and the number
_HEADS = {0xCC: 3, 0xCD: 4, 0xCE: 6, 0xCF: 10}  # their count, by the number's first byte; else 2
_ALL = 1 << 62  # bytes
_LIST, _MAP = 0x92CF, bytes([keys.ORDER])
_TWO, _NUMBERS = b"\x92", 1 << 63
_FILE = values.pack(values.File("0" * 16))[:2]


class WrongError(ValueError):
    """Damaged bytes of an entry. ``raw`` are the bytes of the key if they are known."""

    def __init__(self, why: object, raw: bytes | None = None) -> None:
        super().__init__(str(why) or type(why).__name__)
        self.raw = raw


def _checked(function: Callable[P, T]) -> Callable[P, T]:
    """Convert errors that damaged bytes cause to WrongError."""

    @functools.wraps(function)
    def call(*arguments: P.args, **options: P.kwargs) -> T:
        try:
            return function(*arguments, **options)
        except (WrongError, lmdb.Error, MemoryError, RecursionError, values.ZoneError):
            raise
        except Exception as error:  # noqa: BLE001  numpy, msgspec and datetime raise many types
            limits.raise_told(error)
            raise WrongError(error) from None

    return call


def all_of(
    content: Mapping[Any, object],
    raw_of: Callable[[object], tuple[bytes, bool]],
    pack: Callable[[object, object], bytes],
) -> tuple[list[bytes], list[bytes]]:
    """Return the entries of a new store: sorted keys, and their values."""
    order = list(content)
    places = _places(len(order))
    types = set(map(type, content.values()))
    if set(map(type, order)) <= {str} and types <= values.SCALARS:
        encode = values.encode_short if types <= values.NUMBERS else values.encode
        with contextlib.suppress(OverflowError, UnicodeEncodeError):
            raws = list(map(str.encode, order))
            data = list(map(encode, enumerate(content.values())))
            if all(raws) and max(map(len, raws), default=0) <= keys.LONGEST:
                triples = sorted(zip(order, raws, data, strict=True))  # the order of the bytes, twice as fast
                return [*(raw for _, raw, _ in triples), *places], [*(value for *_, value in triples), *raws]
    placed: list[bytes] = []
    entry_of: dict[bytes, bytes] = {}
    for key, value in content.items():
        raw, exact = raw_of(key)
        if raw in entry_of:  # several NaN are one key
            entry_of[raw] = head_of(entry_of[raw]) + pack(key, value)
            continue
        entry_of[raw] = head(len(placed)) + pack(key, value)
        placed.append(place_value(key, raw, exact=exact))
    raws = sorted(entry_of)
    return [*raws, *places[: len(raws)]], [*map(entry_of.__getitem__, raws), *placed]


def _places(count: int) -> list[bytes]:
    """Return the keys of the first `count` entries of the order."""
    places = np.empty(count, [("tag", "u1"), ("number", ">u8")])
    places["tag"], places["number"] = keys.ORDER, np.arange(count)
    return cast("list[bytes]", places.view("V9").tolist())


# The bytes before the value in the entry of the key with this number.
head = functools.partial(_HEAD.pack, _LIST)


def head_of(entry: B) -> B:
    """Return the bytes before the value in this entry."""
    if entry[:1] != _TWO or len(entry) < 3:  # noqa: PLR2004  the list of two, a number, and a value
        raise WrongError("an entry is no pair of number and value")
    return entry[: _HEADS.get(entry[1], 2)]


@_checked
def value_of(entry: bytes) -> Any:
    """Return the value in the entry of a key."""
    _, value = values.decode(entry)
    return value


@_checked
def number_of(entry: bytes) -> int:
    """Return the place in the order in the entry of a key."""
    (number, _) = values.decode(head_of(entry) + b"\xc0")
    if type(number) is not int or not 0 <= number < _NUMBERS:
        raise WrongError("a place in the order is no number")
    return number


def is_file(entry: bytes | memoryview) -> bool:
    """Return whether the value is a reference to a file."""
    if len(entry) < 3:  # noqa: PLR2004  as head_of
        raise WrongError("an entry is no pair of number and value")
    at = _HEADS.get(entry[1], 2)
    return entry[at : at + 2] == _FILE


# The key of the entry of the order with this number.
place = functools.partial(_PLACE.pack, keys.ORDER)


def place_value(key: object, raw: bytes, *, exact: bool) -> bytes:
    """Return the value of an entry of the order."""
    return raw if exact else _MAP + values.pack([raw, key])


@_checked
def key_of(placed: bytes) -> tuple[bytes, Any]:
    """Return the bytes of the key, and the key, in the value of an entry of the order."""
    if placed[0] == keys.ORDER:
        raw, key = values.decode(placed[1:])
        if type(raw) is not bytes or not raw:
            raise WrongError("a place in the order names no key")
        hash(key)
        return raw, key
    return placed, placed.decode() if placed[0] < keys.OTHERS else keys.decode(placed)


@_checked
def last(txn: Txn) -> int:
    """Return the greatest number in the order, or -1."""
    cursor = txn.cursor()
    if not cursor.last() or cursor.key()[0] != keys.ORDER:
        return -1
    return number_at(cursor.key())


@_checked
def walk(
    txn: lmdb.Transaction[B], start: int | None, count: int, *, backwards: bool = False
) -> tuple[list[B], int | None]:
    """Return up to `count` values of the order, from number `start` on, and the number to continue from."""
    cursor = txn.cursor()
    if not backwards:  # nothing comes after the order
        steps = cursor.iternext(keys=False) if cursor.set_range(place(start or 0)) else iter(())
        placed = list(itertools.islice(steps, count))
        return placed, number_at(cursor.key()) + 1 if len(placed) == count else None
    behind = start is not None and cursor.set_range(place(start + 1))
    back = cursor.iterprev() if (cursor.prev() if behind else cursor.last()) else iter(())
    backward = list(itertools.takewhile(lambda step: step[0][0] == keys.ORDER, itertools.islice(back, count)))
    return [value for _, value in backward], number_at(backward[-1][0]) - 1 if len(backward) == count else None


@_checked
def files(txn: Txn) -> set[str]:
    """Return all files that values refer to."""
    return {value_of(entry) for key, entry in txn.cursor() if key[0] != keys.ORDER and is_file(entry)}


@_checked
def keys_of(placed: list[bytes]) -> tuple[list[bytes], list[Any]]:
    """Return the bytes of the keys, and the keys, in values of the order."""
    if max(placed, default=b"") < bytes([keys.OTHERS]):  # all keys are texts
        return placed, list(map(bytes.decode, placed))
    pairs = list(map(key_of, placed))
    return [raw for raw, _ in pairs], [key for _, key in pairs]


def read(txn: Txn, raws: list[bytes], most: int = _ALL) -> list[Any]:
    """Return the values of existing keys; it stops after the first ones that take `most` bytes or more."""
    try:
        if most >= _ALL:
            entries = cast("Iterator[bytes]", map(txn.get, raws))  # twice as fast as getmulti
            return [value for _, value in map(values.decode, entries)]
        return _read_some(txn, raws, most)
    except (lmdb.Error, MemoryError, RecursionError, values.ZoneError):
        raise
    except Exception as error:  # noqa: BLE001  as _checked
        limits.raise_told(error)
        raise WrongError(error, next((raw for raw in raws if _is_wrong(txn, raw)), None)) from None


def _read_some(txn: Txn, raws: list[bytes], most: int) -> list[Any]:
    values_, size = [], 0
    for raw in raws:
        entry = cast("bytes", txn.get(raw))
        _, value = values.decode(entry)
        values_.append(value)
        size += len(entry)
        if size >= most:
            break
    return values_


def _is_wrong(txn: Txn, raw: bytes) -> bool:
    try:
        value_of(cast("bytes", txn.get(raw)))
    except WrongError:
        return True
    return False


@_checked
def number_at(place: bytes | memoryview) -> int:
    """Return the number in the key of an entry of the order; nobody has counted as far as 2**63."""
    number = int(_PLACE.unpack(place)[1])
    if number >= _NUMBERS:
        raise WrongError("a place in the order is no number")
    return number
