"""Encode the keys of a shared dict as bytes: keys that are equal in Python have equal bytes.

A text is encoded as UTF-8, so that other programs can read it. Every other key begins with a byte that begins no UTF-8
text. Equal numbers are one key whatever their type, as in a dict: 1, 1.0 and True. If the bytes do not determine the
key (True, numpy's 1, or one too long for a key of LMDB) they are not `exact`, and the key itself is stored beside them.

A key whose type would not be read back is refused: a member of an enumeration, a named tuple, any other subclass. A
lookup accepts such a key, and finds an equal one, unless its class redefines equality.
"""

from __future__ import annotations

import enum
import hashlib
import math
import struct
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

LONGEST = 511  # bytes of LMDB's longest key
_SURELY_SHORT = LONGEST // 4 + 1  # characters: UTF-8 takes 4 bytes for one at most
ORDER = 0xFF  # first byte of the entries of the order, which follow all keys
OTHERS = 0xF8  # lowest first byte of keys other than texts
_TEXT, _INT, _FLOAT, _NONE, _BYTES, _TUPLE, _DIGEST = (bytes([OTHERS + n]) for n in range(7))
_PLAIN: dict[object, None] = {}
_TYPES = (str, bool, int, float, bytes, tuple)  # and None
_BASES: dict[type, Callable[[Any], object]] = {  # the base class's methods, whatever a subclass overrides
    str: lambda key: str.__str__(key) if type(key) is str else "".join(str.__iter__(key)),
    int: int.__int__,
    float: float.__float__,
    bytes: lambda key: bytes.__getitem__(key, slice(None)),
    tuple: lambda key: tuple(tuple.__iter__(key)),
}
_DOUBLE = struct.Struct(">d")
_LENGTH = struct.Struct(">I")


class NoKeyError(Exception):
    """A key that cannot be stored: its ``type``, its position ``at`` in a tuple, and a ``cure``."""

    def __init__(self, wrong: object, cure: str = "", at: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.type, self.cure, self.at = type(wrong), cure, at


def encode(key: object) -> tuple[bytes, bool]:
    """Return the bytes of a key to store, and whether they are exact.

    Raises
    ------
    NoKeyError
        If keys of this type cannot be stored.
    TypeError
        If the key is not hashable.

    Examples
    --------
    >>> encode("speed"), encode(1) == encode(1.0), encode(1)[0] == encode(True)[0]
    ((b'speed', True), False, True)
    """
    if type(key) is str and 0 < len(key) < _SURELY_SHORT:
        try:
            return key.encode(), True
        except UnicodeEncodeError:
            pass
    return _whole_key(key, stored=True)


def look_up(key: object) -> bytes:
    """Return the bytes under which an equal key is stored; errors as for `encode`.

    Examples
    --------
    >>> import http
    >>> look_up(http.HTTPStatus.OK) == encode(200)[0]
    True
    """
    if type(key) is str and 0 < len(key) < _SURELY_SHORT:
        try:
            return key.encode()
        except UnicodeEncodeError:
            pass
    return _whole_key(key, stored=False)[0]


def _whole_key(key: object, *, stored: bool) -> tuple[bytes, bool]:
    _PLAIN.get(key)  # raises this Python's TypeError for keys that are not hashable
    raw, exact = _encode(key, stored)
    if len(raw) > LONGEST:
        return _DIGEST + hashlib.blake2b(raw, digest_size=32).digest(), False
    return raw, exact


def decode(raw: bytes) -> object:
    """Return the key of exact bytes.

    Examples
    --------
    >>> decode(encode(("a", 7, None))[0])
    ('a', 7, None)
    """
    tag, rest = raw[:1], raw[1:]
    if tag < _TEXT:
        return raw.decode()
    if tag == _TEXT:
        return rest.decode("utf-8", "surrogatepass")
    if tag == _INT:
        return int.from_bytes(rest, "big", signed=True)
    if tag == _FLOAT:
        return _DOUBLE.unpack(rest)[0]
    if tag == _NONE:
        return None
    if tag == _BYTES:
        return rest
    if tag != _TUPLE:
        raise ValueError(f"a key begins with the byte {raw[0]:#x}")
    parts, at = [], 0
    while at < len(rest):
        (length,) = _LENGTH.unpack_from(rest, at)
        at += _LENGTH.size
        parts.append(decode(rest[at : at + length]))
        at += length
    return tuple(parts)


def _encode(key: object, stored: bool) -> tuple[bytes, bool]:
    if key is None:
        return _NONE, True
    plain = _plain(key, stored)
    if isinstance(plain, tuple):
        return _tuple(plain, stored)
    raw, exact = _one(plain)
    return raw, exact and plain is key


def _plain(key: object, stored: bool) -> object:
    """Return the key if its type can be stored, else an equal key of such a type."""
    if type(key) in _TYPES:
        return key
    if isinstance(key, np.generic):
        return _of_numpy(key, stored)
    base = next((base for base in _TYPES if isinstance(key, base)), None)
    if base is None:
        raise NoKeyError(key)
    if stored or type(key).__hash__ is not base.__hash__ or type(key).__eq__ is not base.__eq__:
        text = isinstance(key, enum.Enum) and base is str  # its str() may be the member's name
        raise NoKeyError(key, "give its .value" if text else f"give {base.__name__}(...) of it")
    return _BASES[base](key)


def _of_numpy(key: np.generic, stored: bool) -> object:
    if isinstance(key, (np.bytes_, np.str_)):
        base: type = bytes if isinstance(key, np.bytes_) else str
        if stored and key[-1:] in (b"\0", "\0"):  # numpy strips NULs at the end
            raise NoKeyError(key, f"give {base.__name__}(...) of it")
        return _BASES[base](key)
    plain = key.item()
    if key.dtype.kind not in "?biuf" or type(plain) not in _TYPES:
        raise NoKeyError(key, "give str(...) of it" if key.dtype.kind in "mM" else "")
    return plain


def _one(key: Any) -> tuple[bytes, bool]:
    if isinstance(key, str):
        try:
            raw = str.encode(key)
        except UnicodeEncodeError:
            raw = b""
        return raw or _TEXT + str.encode(key, "utf-8", "surrogatepass"), True
    if isinstance(key, int):
        return _whole(int(key)), not isinstance(key, bool)
    if isinstance(key, bytes):
        return _BYTES + key, True
    if math.isfinite(key) and key == int(key):
        return _whole(int(key)), False
    return _FLOAT + _DOUBLE.pack(math.nan if key != key else key), True  # noqa: PLR0124  every NaN is one key


def _tuple(key: tuple[object, ...], stored: bool) -> tuple[bytes, bool]:
    raw, exact = _TUPLE, True
    for at, part in enumerate(key):
        try:
            raw_part, exact_part = _encode(part, stored)
        except NoKeyError as error:
            error.at = (at, *error.at)
            raise
        raw += _LENGTH.pack(len(raw_part)) + raw_part
        exact &= exact_part
    return raw, exact


def _whole(number: int) -> bytes:
    return _INT + number.to_bytes((number.bit_length() + 8) // 8, "big", signed=True)
