"""Encode values of dicts and objects as MessagePack, so that each is decoded with the type it had.

MessagePack has numbers, texts, bytes, lists and maps. Other types are extensions: a code, and data that is mostly
MessagePack too. Nothing is pickled. A value that would be decoded as another value or type is refused.

A kind can add extensions of its own: `pack` takes a `More`, and `reader` a function for each code.
"""

from __future__ import annotations

import ast
import collections.abc
import datetime as dt
import decimal
import enum
import functools
import math
import struct
import uuid
import zoneinfo
from typing import TYPE_CHECKING, Any, Protocol, cast

import msgspec
import numpy as np
from numpy.lib import format as npy

from shmkernel._core import limits
from shmkernel.kinds import dtypes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from numpy.typing import NDArray

    Decode = Callable[[bytes | memoryview], Any]

OWN = 32  # the lowest code of a kind's own extensions
Ext = msgspec.msgpack.Ext
SCALARS: frozenset[type] = frozenset({str, int, float, bool, bytes, type(None)})  # types that MessagePack has
NUMBERS: frozenset[type] = frozenset({int, float, bool, type(None)})  # each in 9 bytes at most
_NATIVE: frozenset[type] = SCALARS - {str, int}  # types of which MessagePack has all values
(
    _TUPLE, _SET, _FROZENSET, _MAP, _INT, _TEXT, _COMPLEX, _DATETIME, _DATE, _TIME, _SPAN, _DECIMAL, _UUID, _SCALAR,
    _ARRAY, _FILE,
) = range(1, 17)  # fmt: skip
_PARTS: dict[type, int] = {list: 0, tuple: _TUPLE, set: _SET, frozenset: _FROZENSET}
_SMALLEST, _GREATEST = -(1 << 63), (1 << 64) - 1
_LONGEST = 1 << 16  # characters in the text of a dtype
_SHORT = 80  # characters of it in an error
_NAME = 16  # hexadecimal digits: secrets.token_hex(8)
_LEVELS = 20  # of lists and dicts inside each other that are checked fast
_FEW = 8  # items that a loop checks faster than a set of their types
_PAIR = struct.Struct(">dd")


class NoValueError(Exception):
    """A value that cannot be stored: ``path`` leads to it, ``why`` gives reason and cure; ``reason`` may be empty."""

    def __init__(self, value: object, why: str = "") -> None:
        super().__init__()
        self.type, self.reason, self.why = type(value), why, why or _cure(value)
        self.path: tuple[object, ...] = ()


class File(str):
    """A reference to the file of a large array."""

    __slots__ = ()


class More(Protocol):
    """A kind's own extensions, from `OWN` upwards."""

    def __call__(self, value: Any, parts: Callable[[object], bytes]) -> msgspec.msgpack.Ext | None:
        """Return the value as an extension, None for one that is none of its own; `parts` encodes what it holds."""

    def restart(self) -> None:
        """Forget what was noted: all is encoded again."""


def pack(value: object, more: More | None = None) -> bytes:
    """Encode a value. `more` is asked first about all but numbers, texts, bytes, lists, tuples, sets and dicts.

    Raises
    ------
    NoValueError
        If it would be decoded as another value or type.

    Examples
    --------
    >>> unpack(pack([(1, 2), {3}, 2**70, 1j]))
    [(1, 2), {3}, 1180591620717411303424, 1j]
    """
    try:
        try:
            return encode(value if type(value) in SCALARS or is_plain(value) else _lower(value, SCALARS, more))
        except (OverflowError, UnicodeEncodeError):  # large numbers and lone surrogates are rare
            if more:
                more.restart()
            return encode(_lower(value, _NATIVE, more))
    except RecursionError:
        raise NoValueError(value, "it is nested too deep, or contains itself") from None


def unpack(data: bytes | memoryview) -> Any:
    """Decode a value; a list, dict or array is a new object each time. ValueError if the bytes are damaged."""
    try:
        return decode(data)
    except (MemoryError, ZoneError):
        raise
    except Exception as error:  # noqa: BLE001  numpy, msgspec and datetime raise many types
        limits.raise_told(error)  # the file of a time zone could not be opened
        raise ValueError(str(error) or type(error).__name__) from None


class ZoneError(ValueError):
    """A time in a time zone that this machine does not know."""


def reader(more: Mapping[int, Callable[[Any], Any]]) -> Decode:
    """Return a function that decodes values, `more` extensions too: each function takes the decoded parts.

    Damaged bytes may raise any error.
    """

    def raise_(code: int, data: memoryview) -> Any:
        if own := more.get(code):
            return own(inner(data))
        make = _RAISE.get(code)
        if make is None:
            raise ValueError(f"it holds a value of a later version of shmkernel (extension {code})")
        return make(data, inner)

    def decode(data: bytes | memoryview) -> Any:
        try:
            return inner(data)
        except (MemoryError, RecursionError):
            try:
                _skip(data)
            except Exception as error:  # noqa: BLE001  damage: a length beyond the bytes, or endless nesting
                raise ValueError(str(error) or type(error).__name__) from None
            raise

    inner: Decode = msgspec.msgpack.Decoder(ext_hook=raise_).decode
    return decode


_encoder = msgspec.msgpack.Encoder()
encode_short: Callable[[object], bytes] = _encoder.encode  # of up to 32 bytes, see `encode`; three times as fast
_skip: Callable[[bytes | memoryview], object] = msgspec.msgpack.Decoder(msgspec.Raw).decode
decode = reader({})


def encode(value: object) -> bytes:
    """Encode a value of types that MessagePack has.

    msgspec 0.22 ends the process where `Encoder.encode` finds no memory for more than the 32 bytes with which it
    begins. A number fits into these; for the others there is a buffer.
    """
    if type(value) in NUMBERS:
        return encode_short(value)
    buffer = bytearray()
    _encoder.encode_into(value, buffer)
    return bytes(buffer)


def is_plain(value: Any, levels: int = _LEVELS) -> bool:
    """Return whether a list or dict holds only what needs no conversion, in at most this many levels."""
    if type(value) is dict:
        for key in value:
            if type(key) is not str:
                return False
        value = value.values()
    elif type(value) is not list:
        return False
    elif len(value) > _FEW and SCALARS.issuperset(map(type, value)):
        return True
    for part in value:  # noqa: SIM110  a generator takes twice as long
        if type(part) not in SCALARS and not (levels and is_plain(part, levels - 1)):
            return False
    return True


def _lower(value: object, native: frozenset[type], more: More | None = None) -> object:
    """Return a value in types of MessagePack, or as an extension. Types in `native` need no conversion."""
    kind = type(value)
    if kind in native:
        return value
    if (code := _PARTS.get(kind)) is not None:
        parts = _items(cast("Iterable[object]", value), native, more)
        return Ext(code, encode(parts)) if code else parts
    if kind is dict:
        return _dict(cast("Mapping[Any, object]", value), native, more)
    if more and (own := more(value, lambda parts: encode(_lower(parts, native, more)))):
        return own
    if make := _LOWER.get(kind):
        return make(value)
    if isinstance(value, np.generic):
        if value.dtype.kind in "SU" and cast("bytes | str", value)[-1:] in (b"\0", "\0"):
            plain = "bytes" if value.dtype.kind == "S" else "str"
            raise NoValueError(value, f"numpy would take the zeros at its end away: give {plain}(...) of it")
        return Ext(_SCALAR, encode([describe(value, value.dtype), [], "C", value.tobytes()]))
    raise NoValueError(value)


def _items(value: Iterable[object], native: frozenset[type], more: More | None) -> list[object]:
    items = list(value)
    if not set(map(type, items)) <= native:
        for at, item in enumerate(items):
            try:
                items[at] = _lower(item, native, more)
            except NoValueError as error:
                error.path = (at, *error.path)
                raise
    return items


def _dict(value: Mapping[Any, object], native: frozenset[type], more: More | None) -> object:
    lowered: dict[Any, object] = {}
    for key, item in value.items():
        try:
            lowered[key] = _lower(item, native, more)
        except NoValueError as error:
            error.path = (key, *error.path)
            raise
    if set(map(type, lowered)) <= {str} and (str in native or all(type(_text(key)) is str for key in lowered)):
        return lowered
    return Ext(_MAP, encode([_items(lowered, _NATIVE, more), list(lowered.values())]))


def _int(value: int) -> object:
    if _SMALLEST <= value <= _GREATEST:
        return value
    return Ext(_INT, value.to_bytes((value.bit_length() + 8) // 8, "big", signed=True))


def _text(value: str) -> object:
    try:
        value.encode()
    except UnicodeEncodeError:
        return Ext(_TEXT, value.encode("utf-8", "surrogatepass"))
    return value


def _moment(code: int) -> Callable[[Any], object]:
    def lower(value: dt.datetime | dt.time) -> object:
        return Ext(code, encode([value.replace(tzinfo=None).isoformat(), value.fold, _zone(value)]))

    return lower


def _zone(value: dt.datetime | dt.time) -> object:
    zone = value.tzinfo
    if zone is None:
        return None
    if type(zone) is zoneinfo.ZoneInfo and zone.key:
        return zone.key
    if type(zone) is not dt.timezone:
        why = f"its time zone is a {type(zone).__name__}, and must be a zoneinfo.ZoneInfo or datetime.timezone"
        raise NoValueError(value, why)
    offset, name = zone.utcoffset(None), zone.tzname(None)
    unnamed = name == dt.timezone(offset).tzname(None)
    return [offset.days, offset.seconds, offset.microseconds, None if unnamed else name]


def _in_zone(kind: Any, text: str, fold: int, zone: Any) -> Any:
    tzinfo: dt.tzinfo | None = None
    if isinstance(zone, str):
        try:
            tzinfo = zoneinfo.ZoneInfo(zone)
        except zoneinfo.ZoneInfoNotFoundError as error:
            raise ZoneError(zone) from error
    elif zone is not None:
        offset = dt.timedelta(*zone[:3])
        tzinfo = dt.timezone(offset) if zone[3] is None else dt.timezone(offset, zone[3])
    return kind.fromisoformat(text).replace(tzinfo=tzinfo, fold=fold)


def _file(name: bytes) -> File:
    if len(name) != _NAME or name.strip(b"0123456789abcdef"):
        raise ValueError(f"{name!r} is no file of a dict's")
    return File(name.decode())


def _array(value: NDArray[Any]) -> object:
    order: Any = "F" if value.flags.f_contiguous and not value.flags.c_contiguous else "C"
    return Ext(_ARRAY, encode([describe(value, value.dtype), value.shape, order, value.tobytes(order)]))


def _new_array(text: str, shape: list[int], order: Any, data: bytes) -> NDArray[Any]:
    dtype = dtype_of(text)
    size = dtype.itemsize
    if not shape and _is_empty_text(dtype):  # an empty text of numpy has one character, its dtype none
        size = np.dtype(f"{dtype.kind}1").itemsize
    if not size or math.prod(shape) * size != len(data) or min(shape, default=0) < 0:
        raise ValueError(f"{len(data)} bytes are no array of {dtype} with the shape {tuple(shape)}")
    return np.ndarray(tuple(shape), dtype, bytearray(data), order=order)


def describe(value: object, dtype: np.dtype[Any]) -> str:
    """Return a dtype as text; NoValueError if it cannot be stored."""
    if not dtype.itemsize and not isinstance(value, np.generic):
        raise NoValueError(value, f"its elements ({dtype}) take no memory")
    if not _is_empty_text(dtype) and (why := dtypes.unsaved(dtype)):
        cure = f": give .view({dtype.str!r}) of it" if dtype.metadata else ""
        raise NoValueError(value, f"its dtype {dtype}: {why}{cure}")
    descr: object = npy.dtype_to_descr(dtype)
    text = descr if isinstance(descr, str) else repr(descr)
    if len(text) > _LONGEST:
        raise NoValueError(value, "its dtype is too long")
    return text


def _is_empty_text(dtype: np.dtype[Any]) -> bool:
    """Return whether it is the dtype of an empty text of numpy, which no array has."""
    return dtype.kind in "SU" and not dtype.itemsize


@functools.lru_cache(maxsize=256)
def dtype_of(text: str) -> np.dtype[Any]:
    """Return the dtype of a text."""
    if len(text) > _LONGEST:
        raise ValueError("a dtype is too long")
    descr: Any = ast.literal_eval(text) if text.startswith(("[", "(")) else text
    dtype: np.dtype[Any] = npy.descr_to_dtype(descr)
    if not _is_empty_text(dtype) and (why := dtypes.unfit(dtype)):
        raise ValueError(f"{text[:_SHORT]}: {why}")
    return dtype


_LOWER: dict[type, Callable[[Any], object]] = {
    int: _int,
    str: _text,
    complex: lambda value: Ext(_COMPLEX, _PAIR.pack(value.real, value.imag)),
    dt.datetime: _moment(_DATETIME),
    dt.date: lambda value: Ext(_DATE, value.isoformat().encode()),
    dt.time: _moment(_TIME),
    dt.timedelta: lambda value: Ext(_SPAN, encode([value.days, value.seconds, value.microseconds])),
    decimal.Decimal: lambda value: Ext(_DECIMAL, str(value).encode()),
    uuid.UUID: lambda value: Ext(_UUID, value.bytes),
    np.ndarray: _array,
    File: lambda value: Ext(_FILE, value.encode()),
}
_RAISE: dict[int, Callable[[memoryview, Decode], Any]] = {
    _TUPLE: lambda data, decode: tuple(decode(data)),
    _SET: lambda data, decode: set(decode(data)),
    _FROZENSET: lambda data, decode: frozenset(decode(data)),
    _MAP: lambda data, decode: dict(zip(*decode(data), strict=True)),
    _INT: lambda data, _: int.from_bytes(data, "big", signed=True),
    _TEXT: lambda data, _: bytes(data).decode("utf-8", "surrogatepass"),
    _COMPLEX: lambda data, _: complex(*_PAIR.unpack(data)),
    _DATETIME: lambda data, decode: _in_zone(dt.datetime, *decode(data)),
    _DATE: lambda data, _: dt.date.fromisoformat(bytes(data).decode()),
    _TIME: lambda data, decode: _in_zone(dt.time, *decode(data)),
    _SPAN: lambda data, decode: dt.timedelta(*decode(data)),
    _DECIMAL: lambda data, _: decimal.Decimal(bytes(data).decode()),
    _UUID: lambda data, _: uuid.UUID(bytes=bytes(data)),
    _SCALAR: lambda data, decode: _new_array(*decode(data))[()],
    _ARRAY: lambda data, decode: _new_array(*decode(data)),
    _FILE: lambda data, _: _file(bytes(data)),
}
NAMES = {
    _TUPLE: "tuple",
    _SET: "set",
    _FROZENSET: "frozenset",
    _MAP: "dict",
    _INT: "int",
    _TEXT: "str",
    _DECIMAL: "Decimal",
    _SCALAR: "array",
    _ARRAY: "array",
}  # fmt: skip  of extensions whose data may be long


def _cure(value: object) -> str:
    if isinstance(value, np.ndarray):
        return "give its plain values: numpy.asarray(...), or .filled(...) of a masked one"
    if hasattr(value, "tocoo"):  # a sparse matrix of scipy; a dok_matrix is a dict, without its shape
        return "give its shape, and the arrays row, col and data of its tocoo()"
    if hasattr(value, "to_dict") and isinstance(value, collections.abc.Mapping):
        return "give its to_dict(), which is a copy"
    if hasattr(value, "to_numpy"):
        return "give its to_numpy(), or to_dict()"
    if isinstance(value, enum.Enum) and isinstance(value, str):  # its str() may be the member's name
        return "give its .value"
    for plain in (bool, int, float, str, bytes, list, tuple, set, dict):
        if isinstance(value, plain) or (plain is bytes and isinstance(value, (bytearray, memoryview))):
            return f"give {plain.__name__}(...) of it"
    return "give what it consists of as numbers, texts, lists and dicts"
