"""Plain objects: values that are put together again without running code of theirs. Nothing is pickled.

The stream is MessagePack, as in dicts (`shmkernel.kinds.values`), with these extensions:

    array     [number of the buffer, dtype, shape, order]  an array of 512 bytes or more, which is not copied
    instance  [module, name, parts ...]                    of a class that the reader has loaded, see `instances`
    adapted   [name of the adapter, parts]                 see `adapters`
    table     [number of the buffer]                       see `tables`

An array or table that occurs twice is stored once. Of any other value that occurs twice there are two afterwards.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from shmkernel import kinds
from shmkernel._core import limits
from shmkernel.errors import LimitError, UnsupportedError
from shmkernel.kinds import dtypes, values
from shmkernel.kinds.objects import adapters, instances, tables
from shmkernel.kinds.objects.layout import PIECE, Buffer, whole
from shmkernel.kinds.values import NoValueError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import msgspec
    from numpy.typing import NDArray

_ARRAY, _INSTANCE, _ADAPTED, _TABLE = range(values.OWN, values.OWN + 4)
_SMALL = 512  # bytes: to copy an array of fewer is faster than to refer to it


class _Buffers:
    """What `values.pack` asks about all but the simplest types: it collects the memory of arrays."""

    def __init__(self, later: Mapping[int, tuple[str, Buffer]]) -> None:
        self._later = later
        self.restart()

    def restart(self) -> None:
        """Forget what was collected."""
        self.buffers: list[Buffer] = []
        self._seen: dict[int, tuple[object, msgspec.msgpack.Ext]] = {}  # with the object, since its id can be another's

    def __call__(self, value: Any, parts: Callable[[object], bytes]) -> msgspec.msgpack.Ext | None:
        """Return the value as an extension, None if it is none of these."""
        if type(value) is np.ndarray:
            if why := dtypes.unbounded(value.shape, value.dtype):
                raise NoValueError(value, why)
            return self._array(value) if lies_apart(value) else None
        if (taken := instances.encode(value, parts)) is not None:
            return values.Ext(_INSTANCE, taken)
        if (name := adapters.name_of(value)) is not None:
            split = _split(name, value)
            return None if split is None else values.Ext(_ADAPTED, _parts(value, [name, split], parts))
        return self._table(value) if tables.is_table(value) else None

    def _array(self, value: NDArray[Any]) -> msgspec.msgpack.Ext:
        if id(value) in self._seen:
            return self._seen[id(value)][1]
        order, taken = self._later.get(id(value)) or _order_and_buffer(value)
        description = values.describe(value, value.dtype)
        made = values.Ext(_ARRAY, values.encode([len(self.buffers), description, list(value.shape), order]))
        return self._noted(value, made, taken)

    def _table(self, value: object) -> msgspec.msgpack.Ext:
        if id(value) in self._seen:
            return self._seen[id(value)][1]
        return self._noted(value, values.Ext(_TABLE, values.encode([len(self.buffers)])), tables.pack(value))

    def _noted(self, value: object, made: msgspec.msgpack.Ext, taken: Buffer) -> msgspec.msgpack.Ext:
        self.buffers.append(taken)
        self._seen[id(value)] = value, made
        return made


def lies_apart(value: NDArray[Any]) -> bool:
    """Return whether an array lies in a buffer of its own, not in the stream."""
    return value.nbytes >= _SMALL and not dtypes.unsaved(value.dtype)


def _order_and_buffer(value: NDArray[Any]) -> tuple[str, Buffer]:
    order = "F" if value.flags.f_contiguous and not value.flags.c_contiguous else "C"
    return order, buffer(value.T if order == "F" else value.view())


def _split(name: str, value: object) -> Any:
    """Return what the adapter of this name makes of a value, None if it cannot."""
    try:
        return adapters.named(name).to_parts(value)
    except UnsupportedError as error:
        raise NoValueError(value, error.what) from None


def _parts(value: object, split: list[object], parts: Callable[[object], bytes]) -> bytes:
    """Encode what an adapter has made of a value; a path into that would mean nothing to a user."""
    try:
        return parts(split)
    except NoValueError as error:
        why = f": {error.reason}" if error.reason else ""
        raise NoValueError(value, f"it holds {kinds.an(error.type)}{why}") from None


def buffer(rows: NDArray[Any]) -> Buffer:
    """Return the bytes of an array in C order; one that has another order is copied when it is written."""
    if rows.flags.c_contiguous:
        return whole(rows.reshape(-1).view(np.uint8).data)
    step = max(1, PIECE * len(rows) // rows.nbytes)

    def pieces() -> Iterator[memoryview]:
        for begin in range(0, len(rows), step):
            yield np.ascontiguousarray(rows[begin : begin + step]).reshape(-1).view(np.uint8).data

    return Buffer(rows.nbytes, pieces)


def pack(value: object, later: Mapping[int, tuple[str, Buffer]] | None = None) -> tuple[bytes, list[Buffer]]:
    """Return a stream and the buffers of the arrays in it; `NoValueError` if the value is not plain.

    `later` has the order and the bytes of arrays that are still in a file, by the id of the array in their place.
    """
    more = _Buffers(later or {})
    return values.pack(value, more), more.buffers


def unpack(stream: bytes, buffers: Sequence[memoryview], *, trusted: bool) -> Any:
    """Return the value of a stream. The arrays lie in the buffers.

    Raises
    ------
    ValueError
        If the stream is damaged.
    UnsupportedError
        If it needs a class or package that is not there, or is nested too deep.
    """
    views = list(buffers)

    def array(parts: list[Any]) -> NDArray[Any]:
        number, text, shape, order = parts
        return _new_array(_the(views, number), text, shape, order)

    decode = values.reader({
        _ARRAY: array,
        _INSTANCE: lambda parts: instances.decode(*parts),
        _ADAPTED: lambda parts: adapters.made(*parts, trusted=trusted),
        _TABLE: lambda parts: tables.unpack(_the(views, *parts), trusted=trusted),
    })  # fmt: skip
    try:
        return decode(stream)
    except (MemoryError, values.ZoneError, UnsupportedError, LimitError):
        raise
    except RecursionError:
        depth = f"sys.getrecursionlimit() is {sys.getrecursionlimit()}"
        raise UnsupportedError(f"it is nested deeper than can be read here ({depth})") from None
    except Exception as error:  # noqa: BLE001  numpy, msgspec, datetime and adapters raise many types
        limits.raise_told(error)
        raise ValueError(str(error) or type(error).__name__) from None
    finally:
        views.clear()  # the decoder is in a reference cycle, which would hold the segment


def _the(buffers: Sequence[memoryview], number: int) -> memoryview:
    if not 0 <= number < len(buffers):
        raise ValueError("a part of it has no buffer")
    return buffers[number]


def _new_array(buffer: memoryview, text: str, shape: list[int], order: Any) -> NDArray[Any]:
    dtype = values.dtype_of(text)
    made: NDArray[Any] = np.ndarray(shape, dtype, buffer, order=order)  # an error if it is larger than the buffer
    if made.nbytes != buffer.nbytes or not dtype.itemsize:
        raise ValueError(f"{buffer.nbytes} bytes are no array of {dtype} with the shape {tuple(shape)}")
    return made
