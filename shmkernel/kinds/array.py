"""Arrays: a segment is a ``.npy`` file, its data aligned to 64 bytes.

The format is numpy's (https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html), so `numpy.load` opens a
segment. Arrays that numpy.load would refuse, or read back with another dtype, are refused when they are shared.
"""

from __future__ import annotations

import ast
import enum
import functools
import io
import itertools
import math
import os
import struct
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
from numpy.lib import format as npy

from shmkernel import kinds
from shmkernel._core import counts
from shmkernel._core.imports import importing
from shmkernel.errors import ArgumentError, DamagedError, UnsupportedError
from shmkernel.kinds import HEAD, Description, Plan, conversions, dtypes

if TYPE_CHECKING:
    import mmap
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from shmkernel.kinds.preview import Look, Preview, Source

_PIECE = 16 << 20  # bytes between two updates of the progress bar, where Ctrl-C can interrupt
_MAGIC = 12  # bytes that contain the length of the header
_LONG = 100  # characters of a dtype in a message
_LONGEST = 10_000  # bytes of header; numpy.load refuses to parse more
_PLAIN = (np.ndarray, np.memmap, np.recarray)  # other subclasses hold more than their values: a mask, units


class ArrayLayout(NamedTuple):
    """A header, checked: ``offset`` and ``nbytes`` of the data in bytes, its shape, dtype and order."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    order: str
    offset: int
    nbytes: int


class Array:
    """The array kind; see `shmkernel.kinds.Kind`."""

    name = "array"
    suffixes = (".npy",)

    def recognises(self, value: object, options: Mapping[str, object]) -> bool:
        """Take arrays, numbers, and any value with a shape, dtype, fill or order; but no stream of arrays.

        A member of an enumeration that is a number becomes an object, to stay a member.
        """
        if options.get("ring") is not None:
            return False
        if isinstance(value, (np.ndarray, np.generic, int, float, complex)) and not isinstance(value, enum.Enum):
            return True
        if any(options.get(key) is not None for key in ("shape", "dtype", "fill", "order")):
            return True
        from shmkernel.kinds import exports  # noqa: PLC0415  arrays do without

        return exports.are_numbers(value) or exports.is_dask(value)

    def plan(self, name: str, value: object, options: Mapping[str, object]) -> Plan:
        """Plan `value`, or an array of the given shape and dtype, filled with `fill`."""
        kinds.only(name, "an array", options, "shape", "dtype", "order", "fill")
        shape, fill, order = options.get("shape"), options.get("fill"), options.get("order")
        if order not in (None, "C", "F"):
            raise ArgumentError(f"{name!r}: order {order!r} is unknown: C (rows first) or F (columns first)", name=name)
        if value is not None and (shape is not None or fill is not None):
            raise ArgumentError(f"{name!r}: give a value, or a shape with a fill, not both", name=name)
        if value is None and shape is None:
            raise ArgumentError(f"{name!r}: nothing to share: give a value, or a shape", name=name)
        dtype = None if options.get("dtype") is None else _dtype(name, options["dtype"])
        if dtype is not None and dtype.subdtype is not None:
            own = f"dtype {dtype} has a shape of its own. Give dtype={str(dtype.base)!r} and the whole shape"
            raise ArgumentError(f"{name!r}: {own}", name=name, dtype=dtype)
        if value is None:
            source = _filled(name, shape, dtype, fill)
            blank = fill is None or not _once(source).tobytes().strip(b"\0")
            return self._lay_out(name, source, source.dtype, str(order or "C"), blank=blank)
        if not isinstance(value, np.ndarray) and (planned := self._of_dask(name, value, dtype, str(order or "C"))):
            return planned
        source = _sharable(name, value, dtype)
        fortran = order == "F" or (order is None and source.flags.f_contiguous and not source.flags.c_contiguous)
        return self._lay_out(name, source, dtype or source.dtype, "F" if fortran else "C")

    def _of_dask(self, name: str, value: object, dtype: np.dtype[Any] | None, order: str) -> Plan | None:
        """Plan an array that Dask's workers compute into the segment; None if the value is no collection of Dask's."""
        from shmkernel.kinds import exports  # noqa: PLC0415  arrays do without

        if not exports.is_dask(value):
            return None
        with importing:
            from shmkernel.kinds.dask import arrays, blocks  # noqa: PLC0415  Dask alone needs them

        blank = arrays.blank(name, value, dtype)
        plan = self._lay_out(name, blank, blank.dtype, order, blank=True)
        (head,) = map(bytes, plan.pieces())
        said = np.dtype(cast("Any", value).dtype)
        layout = blocks.Layout(name, blank.shape, blank.dtype, said, order, len(head), plan.size)
        return Plan(plan.size, lambda: iter(()), compute=functools.partial(arrays.compute, value, layout, head))

    def _lay_out(
        self, name: str, source: NDArray[Any], dtype: np.dtype[Any], order: str, *, blank: bool = False
    ) -> Plan:
        _check_dtype(name, dtype)
        if why := dtypes.unbounded(source.shape, dtype):
            raise UnsupportedError(f"{name!r} has the shape {source.shape}: {why}", name=name, shape=source.shape)
        head = encode(source.shape, dtype, order)
        if len(head) > _LONGEST:
            message = f"{name!r}: its dtype needs a header of {len(head)} bytes, and numpy.load reads {_LONGEST}"
            raise UnsupportedError(message, name=name)
        rows = source.T if order == "F" else source
        size = len(head) + math.prod(source.shape) * dtype.itemsize
        return Plan(size, lambda: itertools.chain((memoryview(head),), () if blank else _pieces(name, rows, dtype)))

    def load(self, name: str, path: str) -> Plan:
        """Plan the content of a ``.npy`` file, copied 16 MiB at a time."""
        with open(path, "rb") as file:
            start = file.read(HEAD)
            size = os.fstat(file.fileno()).st_size
        try:
            layout = decode(start, size)
        except ValueError as error:
            message = f"{path} cannot be loaded: {error}. It has to be a .npy file, as numpy.save writes it"
            raise DamagedError(message, name=name, path=path) from None
        head = encode(layout.shape, layout.dtype, layout.order)
        size = len(head) + layout.nbytes
        return Plan(size, lambda: itertools.chain((memoryview(head),), kinds.read(path, layout.offset, layout.nbytes)))

    def layout(self, head: bytes, size: int) -> ArrayLayout:
        """Return the layout that the header of a ``.npy`` file says, for files that consist of such."""
        return decode(head, size)

    def matches(self, head: bytes) -> bool:
        """Return whether these are the first bytes of a ``.npy`` file."""
        return head.startswith(npy.MAGIC_PREFIX)

    def open(self, mapping: mmap.mmap, path: str, mode: str) -> NDArray[Any]:
        """Return a plain array over the mapping."""
        shape, dtype, order, offset, _ = _whole(_parse(mapping[: _length(mapping[:_MAGIC])]), len(mapping))
        if dtype.names is not None:  # a new dtype each time: `x.dtype.names = ...` would change the cached one
            dtype = npy.descr_to_dtype(npy.dtype_to_descr(dtype))
        if order == "F":
            return np.ndarray(shape, dtype, mapping, offset, order="F")
        return np.ndarray(shape, dtype, mapping, offset)  # order="C" would take 0.2 us

    def describe(self, head: bytes, size: int) -> Description:
        """Describe dtype and shape."""
        layout = _whole(_parse(head[: _length(head)]), size)
        dtype = str(layout.dtype) if layout.dtype.names is None else f"struct[{len(layout.dtype.names)}]"
        return Description(f"{dtype} {layout.shape}", str(layout.dtype), layout.shape, layout.order)

    def preview(self, source: Source, look: Look) -> Preview:
        """Preview numbers as a picture, other values as a grid."""
        head = source.read(0, HEAD)
        layout = decode(head, source.size)
        with importing:
            from shmkernel.kinds.preview import arrays  # noqa: PLC0415  only the monitor shows previews

        steps = arrays.strides(layout.shape, layout.dtype.itemsize, layout.order)
        return arrays.preview(source, arrays.Shape(layout.dtype, layout.shape, steps, layout.offset), look)


KIND = Array()


def encode(shape: tuple[int, ...], dtype: np.dtype[Any], order: str) -> bytes:
    """Return the header of a ``.npy`` file.

    Examples
    --------
    >>> head = encode((2, 3), np.dtype("<i2"), "C")
    >>> len(head), decode(head, len(head) + 12).shape
    (128, (2, 3))
    """
    fields = {"descr": npy.dtype_to_descr(dtype), "fortran_order": order == "F", "shape": shape}
    text = io.BytesIO()
    try:
        npy.write_array_header_1_0(text, fields)
    except ValueError:  # longer than 64 KiB, or field names beyond latin-1: version 3
        line = repr(fields).encode()
        line += b" " * (-(len(line) + 13) % 64) + b"\n"
        return npy.magic(3, 0) + struct.pack("<I", len(line)) + line
    return text.getvalue()


@functools.lru_cache(maxsize=1024)
def _parse(head: bytes) -> ArrayLayout:
    if not head.startswith(npy.MAGIC_PREFIX) or len(head) < _length(head):
        raise ValueError("its first bytes are not those of a .npy file, or stop short")
    if len(head) > _LONGEST:
        raise ValueError(f"its header takes {len(head)} bytes")
    text = head[10 if head[6] == 1 else 12 :].decode("utf-8" if head[6] == 3 else "latin-1")  # noqa: PLR2004  versions
    try:
        fields = ast.literal_eval(text.strip())
        descr, fortran, shape = fields["descr"], fields["fortran_order"], fields["shape"]
        dtype = npy.descr_to_dtype(descr)
    except Exception as error:  # noqa: BLE001  crafted bytes can raise any
        raise ValueError(f"its header cannot be read ({type(error).__name__})") from None
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    sound = isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape) and type(fortran) is bool
    if not sound or len(fields) != 3 or dtypes.unfit(dtype) or dtype.subdtype:  # noqa: PLR2004  the three read above
        raise ValueError("its header makes no sense")
    if why := dtypes.unbounded(shape, dtype):
        raise ValueError(f"its header makes no sense: {why}")
    return ArrayLayout(shape, dtype, "F" if fortran else "C", len(head), math.prod(shape) * dtype.itemsize)


def decode(head: bytes, size: int) -> ArrayLayout:
    """Return the layout in the header of a ``.npy`` file of `size` bytes; ValueError if it is damaged."""
    return _whole(_parse(head[: _length(head)]), size)


def _whole(layout: ArrayLayout, size: int) -> ArrayLayout:
    if layout.offset + layout.nbytes > size:
        raise ValueError(f"its header promises {layout.offset + layout.nbytes} bytes, the file holds {size}")
    return layout


def _check_dtype(name: str, dtype: np.dtype[Any]) -> None:
    if why := dtypes.unsaved(dtype):
        raise UnsupportedError(f"{name!r} has dtype {_short(dtype)}: {why}", name=name, dtype=str(dtype))


def _short(dtype: np.dtype[Any]) -> str:
    text = str(dtype)
    return text if len(text) <= _LONG else f"{text[:_LONG]}..."


def _dtype(name: str, wanted: object) -> np.dtype[Any]:
    try:
        dtype: np.dtype[Any] = np.dtype(cast("Any", wanted))
    except (TypeError, ValueError, SyntaxError):
        message = f"{name!r}: {wanted!r} is not a dtype. Examples: float64, int16, uint8, bool, <U20, datetime64[ns]"
        raise ArgumentError(message, name=name, dtype=wanted) from None
    return dtype


def _filled(name: str, shape: object, dtype: np.dtype[Any] | None, fill: object) -> NDArray[Any]:
    """Return an array of the shape that takes the memory of one element: it is broadcast."""
    try:
        lengths = counts.lengths(shape)
    except (TypeError, ValueError):
        raise ArgumentError(f"{name!r}: {shape!r} is not a shape. Examples: 10, (3, 4)", name=name) from None
    if dtype is None and isinstance(fill, (np.datetime64, np.timedelta64)):
        raise ArgumentError(f"{name!r}: cannot fill float64 with {fill!r}: give dtype={fill.dtype.str!r}", name=name)
    dtype = dtype or np.dtype(float)
    try:
        element = np.zeros((), dtype) if fill is None else conversions.convert(fill, dtype)
    except (TypeError, ValueError, OverflowError) as error:
        raise ArgumentError(f"{name!r}: cannot fill {dtype} with {fill!r}: {error}", name=name) from None
    try:
        if why := dtypes.unbounded(lengths, element.dtype):
            raise ValueError(why)  # noqa: TRY301  handled below
        return np.broadcast_to(element, lengths)
    except ValueError as error:  # too many or too long dimensions for numpy
        raise ArgumentError(f"{name!r}: no array can have the shape {lengths} here: {error}", name=name) from None


def _once(array: NDArray[Any]) -> NDArray[Any]:
    """Return the elements that a broadcast array repeats."""
    return array[tuple(slice(None if stride else 1) for stride in array.strides)]


def _sharable(name: str, value: object, dtype: np.dtype[Any] | None) -> NDArray[Any]:
    """Return the value as an array; an array is not copied."""
    if isinstance(value, np.ndarray):
        if type(value) not in _PLAIN:
            what = "its mask would be lost" if conversions.is_masked(value) else "only its values would be shared"
            raise UnsupportedError(f"{name!r} is {kinds.a_type(value)}: {what}", name=name, type=type(value).__name__)
        return value.view(np.ndarray)
    from shmkernel.kinds import exports  # noqa: PLC0415  arrays do without

    value = exports.taken(name, value)
    if isinstance(value, int) and dtype is None and not -(1 << 63) <= value < 1 << 64:
        message = f"{name!r}: an int of {value.bit_length()} bits does not fit into an array: its ints have at most 64"
        raise UnsupportedError(message, name=name, type=type(value).__name__)
    try:
        array = conversions.natural(value) if dtype is None else conversions.convert(value, dtype)
    except (TypeError, ValueError, OverflowError) as error:
        made = "array" if dtype is None else f"array of {dtype}"
        what = f"{name!r}: no {made} can be made of {kinds.a_type(value)}: {error}"
        if dtype is None:
            raise UnsupportedError(what, name=name, type=type(value).__name__) from None
        raise ArgumentError(what, name=name) from None
    if array.dtype.hasobject:
        what = f"{name!r}: {kinds.a_type(value)} would become an array of objects: {dtypes.unfit(array.dtype)}"
        raise UnsupportedError(what, name=name, type=type(value).__name__)
    return array


def _pieces(name: str, rows: NDArray[Any], dtype: np.dtype[Any]) -> Iterator[memoryview]:
    """Yield consecutive parts of an array in C order, each converted and contiguous."""
    if rows.size == 0 or dtype.itemsize == 0:
        return
    row = rows[:1].size * dtype.itemsize if rows.ndim else 0
    if row > _PIECE:
        for part in rows:
            yield from _pieces(name, part, dtype)
        return
    step = max(_PIECE // row, 1) if row else 1
    for start in range(0, len(rows) if rows.ndim else 1, step):
        part = rows[start : start + step] if rows.ndim else rows
        try:
            flat = np.ascontiguousarray(conversions.convert(part, dtype)).reshape(-1)
        except (TypeError, ValueError, OverflowError) as error:
            message = f"{name!r}: no array of {dtype} can be made of it: {error}"
            raise ArgumentError(message, name=name, dtype=str(dtype)) from None
        yield flat.view(np.uint8).data


def _length(head: bytes) -> int:
    """Return the size of the header in bytes, with its magic; at most one more than the limit."""
    if len(head) < _MAGIC or head[6] not in (1, 2, 3):
        raise ValueError("its first bytes are not those of a .npy file")
    size = 10 + head[8] + (head[9] << 8) if head[6] == 1 else 12 + int.from_bytes(head[8:12], "little")
    return min(size, _LONGEST + 1)
