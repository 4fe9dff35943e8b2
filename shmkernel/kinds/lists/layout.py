"""Encode and decode the layout of the standard library's ShareableList, as pure functions.

    q: N | (N+1) x q: where each slot begins, and their end | slots | N x 8 bytes: struct formats | N x b: codes

Slots are multiples of 8 bytes. The bytes differ from the standard library's in two cases, which it can read. A text
that it would cut gets a slot of its encoded length. A value that ends in NUL, which it would strip, has its exact
length and a blank as format (``b"3s "``): struct ignores the blank, and the library's next store replaces the format.
"""

from __future__ import annotations

import array
import contextlib
import functools
import itertools
import operator
import re
import reprlib
import struct
import sys
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from shmkernel import kinds
from shmkernel._core.imports import importing
from shmkernel.errors import ArgumentError, RangeError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Value = int | float | bool | str | bytes | None
    Item = tuple[bytes, int, bytes]  # format, code, the bytes of the slot

WORD = 8
NUMBER, TEXT, BYTES, NOTHING = range(4)  # the codes
INT, FLOAT, BOOL, NONE = (text.ljust(WORD, b"\0") for text in (b"q", b"d", b"xxxxxxx?", b"xxxxxx?x"))
_FALSE, _TRUE = bytes(WORD), bytes(WORD - 1) + b"\1"
_LONGEST, _LONGEST_EXACT = 9_999_999, 999_999  # bytes of a text: a format has 8 characters
_FORMAT = re.compile(rb"(\d{1,7})s( ?)\0*")
_pack_int, _pack_float = struct.Struct("q").pack, struct.Struct("d").pack


class ListLayout(NamedTuple):
    """The parts of a list, checked: the number of items, and the offsets in bytes."""

    length: int
    slots: int
    formats: int
    codes: int


def encode(values: Iterable[object]) -> list[memoryview]:
    """Encode a list; return the consecutive pieces of its segment.

    Examples
    --------
    >>> b"".join(encode([b"a"])).hex(" ", -8)
    '0100000000000000 0000000000000000 0800000000000000 6100000000000000 3873000000000000 02'
    """
    with importing:
        import numpy as np  # noqa: PLC0415  most of the command line does without

    items = list(values)
    types = set(map(type, items))
    if types <= {int} or types == {float}:
        try:
            data = array.array("d" if float in types else "q", cast("list[Any]", items))
        except OverflowError:
            raise _too_large(next(item for item in cast("list[int]", items) if not fits(item))) from None
        slots = memoryview(data)
        formats, codes = (FLOAT if float in types else INT) * len(items), bytes(len(items))
        ends = np.arange(0, WORD * len(items) + 1, WORD, dtype=np.int64).data
    else:
        every_format, every_code, every_slot = [], bytearray(), []
        for item in items:  # no list of tuples: the garbage collector would scan it
            format_, code, slot = lay(item)
            every_format.append(format_)
            every_code.append(code)
            every_slot.append(slot)
        slots, formats, codes = memoryview(b"".join(every_slot)), b"".join(every_format), bytes(every_code)
        ends = memoryview(array.array("q", itertools.accumulate(map(len, every_slot), initial=0)))
    pieces = (memoryview(_pack_int(len(items))), ends, slots, memoryview(formats), memoryview(codes))
    return [piece.cast("B") for piece in pieces if len(piece)]


def decode(data: Any) -> ListLayout:
    """Return the parts of a list in its bytes; ValueError if they are damaged."""
    with importing:
        import numpy as np  # noqa: PLC0415  slow

    length = count(data[:WORD], len(data))
    slots = WORD * (length + 2)
    ends = np.frombuffer(data, np.int64, length + 1, WORD)
    formats = slots + int(ends[-1])
    if ends[0] or ends.min() < 0 or (ends & (WORD - 1)).any() or (np.diff(ends) < WORD).any():
        raise ValueError("it is no list: the offsets of its items make no sense")
    if formats + (WORD + 1) * length > len(data):
        raise ValueError(f"its {length} items take {formats + (WORD + 1) * length} bytes, the file holds {len(data)}")
    return ListLayout(length, slots, formats, formats + WORD * length)


def count(head: bytes, size: int) -> int:
    """Return the number of items of a list of `size` bytes that begins with `head`; ValueError if it is no list."""
    if size < 2 * WORD:
        raise ValueError(f"it is no list: {size} bytes hold none")
    length = word(head[:WORD])
    if not 0 <= length <= (size - 2 * WORD) // (2 * WORD + WORD + 1):
        raise ValueError(f"it is no list, or was cut: it promises {length} items, and has {size} bytes")
    return length


def word(data: bytes) -> int:
    """Return 8 bytes as a number, as `memoryview.cast("q")` does."""
    return int.from_bytes(data, sys.byteorder, signed=True)


def text(number: int) -> bytes:
    """Return the format that was read as this number, without its padding."""
    return number.to_bytes(WORD, sys.byteorder, signed=True).rstrip(b"\0")


@functools.lru_cache(1024)
def reader(format_: int) -> tuple[Callable[[Any, int], tuple[bytes]], bool] | None:
    """Return a function that unpacks a text of this format, and whether to keep NULs at its end; None for numbers."""
    match = _FORMAT.fullmatch(text(format_))
    return (cast("Any", struct.Struct(f"{int(match[1])}s").unpack_from), bool(match[2])) if match else None


def lay(value: object, room: int | None = None) -> Item:
    r"""Encode one value, for a slot of `room` bytes, or for a new slot of the size that the standard library gives it.

    Raises
    ------
    UnsupportedError
        If no item can have such a value.
    ArgumentError
        If it does not fit the slot, or any slot.

    Examples
    --------
    >>> lay("abc")
    (b'8s\x00\x00\x00\x00\x00\x00', 1, b'abc\x00\x00\x00\x00\x00')
    >>> lay("é" * 5, 8)
    Traceback (most recent call last):
    shmkernel.errors.ArgumentError: exceeds available storage: its slot has 8 bytes, the value 10
    """
    layer = _LAYERS.get(type(value))
    return layer(value, room) if layer else lay(plain(value), room)


def _lay_int(value: int, _: int | None) -> Item:
    try:
        return INT, NUMBER, _pack_int(value)
    except struct.error:
        raise _too_large(value) from None


def _lay_str(value: str, room: int | None) -> Item:
    try:
        return _lay_text(len(value), value.encode(), TEXT, room)
    except UnicodeEncodeError as error:
        message = f"{value[:20]!r} cannot be encoded as UTF-8 ({error.reason})"
        raise ArgumentError(message, encoding=error.encoding) from None


def _lay_text(letters: int, data: bytes, code: int, room: int | None) -> Item:
    size = len(data)
    slot = room or max(letters + WORD & -WORD, size + WORD - 1 & -WORD)
    if size > slot:
        raise ArgumentError(f"exceeds available storage: its slot has {slot} bytes, the value {size}")
    exact = data.endswith(b"\0")
    if slot > _LONGEST or (exact and size > _LONGEST_EXACT):
        raise ArgumentError(f"{size} bytes are too many for an item. Share them by themselves, as bytes")
    return _exact_format(size) if exact else _slot_format(slot), code, data.ljust(slot, b"\0")


_LAYERS: dict[type, Callable[[Any, int | None], Item]] = {
    int: _lay_int,
    float: lambda value, _: (FLOAT, NUMBER, _pack_float(value)),
    bool: lambda value, _: (BOOL, NUMBER, _TRUE if value else _FALSE),
    str: _lay_str,
    bytes: lambda value, room: _lay_text(len(value), value, BYTES, room),
    type(None): lambda *_: (NONE, NOTHING, _FALSE),
}


@functools.lru_cache(1024)
def _slot_format(size: int) -> bytes:
    return f"{size}s".encode().ljust(WORD, b"\0")


@functools.lru_cache(1024)
def _exact_format(size: int) -> bytes:
    return f"{size}s ".encode().ljust(WORD, b"\0")


def plain(value: object) -> Value:
    """Return the value as exactly one of the types that an item can have.

    It accepts subclasses, numpy's scalars, other integers, and other numbers that equal a float.

    Examples
    --------
    >>> import numpy as np
    >>> plain(np.int16(3)), plain(np.float32(0.5)), plain(np.str_("a"))
    (3, 0.5, 'a')
    >>> from fractions import Fraction
    >>> plain(Fraction(1, 2))
    0.5
    """
    if value is None or type(value) in (int, float, bool, str, bytes):
        return cast("Value", value)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, bytes):
        return bytes(memoryview(value))
    if _is_numpy(type(value), "bool_"):
        return bool(value)
    if may_be(type(value)):
        with contextlib.suppress(TypeError, ValueError, OverflowError):  # a tensor's methods may fail
            if hasattr(value, "__index__"):
                return operator.index(value)
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            number = float(cast("float", value))
            if number == value or number != number:  # noqa: PLR0124  NaN
                return number
    kind = type(value).__name__
    shown = " ".join(reprlib.repr(value).split())
    message = f"{shown}, {kinds.a_type(value)}, cannot be an item: int, float, bool, str, bytes and None can"
    raise UnsupportedError(message, type=kind)


def may_be(kind: type) -> bool:
    """Return whether values of this type may be items; `plain` checks the value."""
    if issubclass(kind, (int, float, str, bytes, type(None))):
        return True
    if _is_numpy(kind, "ndarray", "generic"):
        return _is_numpy(kind, "bool_", "integer", "floating") and not _is_numpy(kind, "timedelta64")
    return hasattr(kind, "__index__") or hasattr(kind, "__float__")


def fits(value: int) -> bool:
    """Return whether an int fits into 64 bits."""
    return -(1 << 63) <= value < 1 << 63


def _is_numpy(kind: type, *names: str) -> bool:
    numpy = sys.modules.get("numpy")  # if it is not loaded, there are no values of its types
    return numpy is not None and issubclass(kind, tuple(getattr(numpy, name) for name in names))


def _too_large(value: int) -> RangeError:
    bits = value.bit_length() + 1
    what, cure = (f"{value} takes", f". As a text: str({value})") if bits <= 2 * 64 else ("an int takes", "")
    limit = "more than the 64 of an item: 64 bits hold -2**63 to 2**63 - 1"
    return RangeError(f"{what} {bits} bits with its sign, {limit}{cure}")
