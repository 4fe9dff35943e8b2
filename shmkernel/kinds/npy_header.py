"""Describe a plain array from the header of its ``.npy`` file, without numpy, whose import takes 100 ms.

This is for `shmkernel list`. It knows the headers that numpy writes for numbers in the machine's byte order; of any
other it knows nothing, and the kind itself reads it. A test holds the two equal.
"""

from __future__ import annotations

import math
import re
import sys

from shmkernel.kinds import Description

_TYPES = {  # of the dtypes that numpy has by itself: the name
    "i1": "int8", "i2": "int16", "i4": "int32", "i8": "int64", "u1": "uint8", "u2": "uint16",
    "u4": "uint32", "u8": "uint64", "f2": "float16", "f4": "float32", "f8": "float64", "c8": "complex64",
    "c16": "complex128", "b1": "bool",
}  # fmt: skip
_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00(..)\{'descr': '([<|])([a-z]\d{1,2})', 'fortran_order': (True|False), "
    rb"'shape': \((?:([1-9]\d{0,18}),|([1-9]\d{0,18}(?:, [1-9]\d{0,18}){1,9}))?\), \} {0,128}\n",
    re.DOTALL,
)
_SMALL = 10  # bytes before the text of the header


def describe(head: bytes, size: int) -> Description | None:
    """Describe dtype and shape, or return None: this needs the kind itself.

    Examples
    --------
    >>> import io, numpy
    >>> numpy.save(file := io.BytesIO(), numpy.zeros((2, 3)))
    >>> describe(file.getvalue(), 128 + 48).text
    'float64 (2, 3)'
    """
    found = _HEADER.match(head)
    if found is None or sys.byteorder != "little":
        return None
    name = _TYPES.get(found[3].decode())
    length = int.from_bytes(found[1], "little") + _SMALL
    shape = tuple(map(int, (found[5] or found[6] or b"").replace(b",", b" ").split()))
    one = 1 if name == "bool" else int(found[3][1:])
    if name is None or length != found.end() or (found[2] == b"|") != (one == 1):
        return None
    if length + math.prod(shape) * one > size:
        return None
    return Description(f"{name} {shape}", name, shape, "F" if found[4] == b"True" else "C")
