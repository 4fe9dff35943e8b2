"""Keys of a shared dict as bytes, so that keys which are equal to Python are equal bytes.

A text is its UTF-8, so that other programs read it as it is. Everything else begins with a byte that no UTF-8
text begins with. Whole numbers are one key whatever their type, as in a dict: 1, 1.0 and True. Where the bytes
do not tell the key that was given (True, or one too long for a key of LMDB), they are not `exact`, and the key
itself is stored beside them.
"""

from __future__ import annotations

import hashlib
import math
import struct

import numpy as np

LONGEST = 511  # bytes of a key that LMDB takes
ORDER = 0xFF  # what the entries that keep the order begin with: after all keys
OTHERS = 0xF8  # what all other keys than texts begin with, at least
_TEXT, _INT, _FLOAT, _NONE, _BYTES, _TUPLE, _DIGEST = (bytes([OTHERS + n]) for n in range(7))
_PLAIN: dict[object, None] = {}
_DOUBLE = struct.Struct(">d")
_LENGTH = struct.Struct(">I")


class NoKeyError(Exception):
    """A key of a type that cannot be stored; ``type`` says which, ``at`` where in a tuple."""

    def __init__(self, wrong: object, at: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.type, self.at = type(wrong), at


def encode(key: object) -> tuple[bytes, bool]:
    """Return the bytes of a key, and whether they are exact.

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
    if type(key) is str and 0 < len(key) < LONGEST:
        try:
            raw, exact = key.encode(), True
        except UnicodeEncodeError:
            raw, exact = _encode(key)
    else:
        _PLAIN.get(key)  # it refuses what cannot be hashed, in the words of this Python's dict
        raw, exact = _encode(key)
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


def _encode(key: object) -> tuple[bytes, bool]:
    if isinstance(key, np.generic):
        key = key.item()
    if isinstance(key, str):
        try:
            raw = str.encode(key)
        except UnicodeEncodeError:
            raw = b""
        return raw or _TEXT + str.encode(key, "utf-8", "surrogatepass"), True
    if isinstance(key, int):  # bool, and members of an IntEnum, too
        whole = int(key)
        return _whole(whole), not isinstance(key, bool)
    if isinstance(key, float):
        if math.isfinite(key) and key == int(key):
            return _whole(int(key)), False
        return _FLOAT + _DOUBLE.pack(math.nan if key != key else key), True  # noqa: PLR0124  all that is not a number is one key
    if key is None:
        return _NONE, True
    if isinstance(key, bytes):
        return _BYTES + key, True
    if not isinstance(key, tuple):
        raise NoKeyError(key)
    raw, exact = _TUPLE, True
    for at, part in enumerate(key):
        try:
            one, sure = _encode(part)
        except NoKeyError as error:
            error.at = (at, *error.at)
            raise
        raw += _LENGTH.pack(len(one)) + one
        exact &= sure
    return raw, exact


def _whole(number: int) -> bytes:
    return _INT + number.to_bytes((number.bit_length() + 8) // 8, "big", signed=True)
