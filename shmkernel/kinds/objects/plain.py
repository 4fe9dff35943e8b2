"""Plain objects: values that are put together again without running code of theirs. Nothing is pickled.

The stream is MessagePack, as in dicts (`shmkernel.kinds.values`), with these extensions:

    array      [number of the buffer, dtype, shape, order]     an array of 512 bytes or more, which is not copied
    dataclass  [module, name, field, value, field, value ...]  an instance of a class that the reader has loaded
    adapted    [name of the adapter, parts]                    see `adapters`

A class is looked up among the modules that are loaded, never imported: a file that says which module to import would
run its code. Neither ``__init__`` nor ``__post_init__`` is called. An array that occurs twice is stored once. Of any
other value that occurs twice there are two afterwards.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from shmkernel.errors import UnsupportedError
from shmkernel.kinds import dtypes, values
from shmkernel.kinds.objects import adapters
from shmkernel.kinds.objects.layout import PIECE, Buffer, whole
from shmkernel.kinds.values import NoValueError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import msgspec
    from numpy.typing import NDArray

_ARRAY, _DATACLASS, _ADAPTED = range(values.OWN, values.OWN + 3)
_SMALL = 512  # bytes: to copy an array of fewer is faster than to refer to it


class Attribute(str):
    """The name of an attribute, in the path to a value."""

    __slots__ = ()


class _Buffers:
    """What `values.pack` asks about all but the simplest types: it collects the memory of arrays."""

    def __init__(self) -> None:
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
            return self._array(value) if value.nbytes >= _SMALL and not dtypes.unsaved(value.dtype) else None
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return values.Ext(_DATACLASS, _named_parts(parts, _fields(value)))
        if (name := adapters.name_of(value)) is not None:
            taken = adapters.named(name).to_parts(value)
            return None if taken is None else values.Ext(_ADAPTED, parts([name, taken]))
        return None

    def _array(self, value: NDArray[Any]) -> msgspec.msgpack.Ext:
        if id(value) in self._seen:
            return self._seen[id(value)][1]
        order = "F" if value.flags.f_contiguous and not value.flags.c_contiguous else "C"
        description = values.describe(value, value.dtype)
        made = values.Ext(_ARRAY, values.encode([len(self.buffers), description, list(value.shape), order]))
        self.buffers.append(_buffer(value.T if order == "F" else value.view()))
        self._seen[id(value)] = value, made
        return made


def _buffer(rows: NDArray[Any]) -> Buffer:
    """Return the bytes of an array in C order; one that has another order is copied when it is written."""
    if rows.flags.c_contiguous:
        return whole(rows.reshape(-1).view(np.uint8).data)
    step = max(1, PIECE * len(rows) // rows.nbytes)

    def pieces() -> Iterator[memoryview]:
        for begin in range(0, len(rows), step):
            yield np.ascontiguousarray(rows[begin : begin + step]).reshape(-1).view(np.uint8).data

    return Buffer(rows.nbytes, pieces)


def pack(value: object) -> tuple[bytes, list[Buffer]]:
    """Return a stream and the buffers of the arrays in it; `NoValueError` if the value is not plain."""
    more = _Buffers()
    return values.pack(value, more), more.buffers


def unpack(stream: bytes, buffers: Sequence[memoryview], *, trusted: bool) -> Any:
    """Return the value of a stream. The arrays lie in the buffers.

    Raises
    ------
    ValueError
        If the stream is damaged.
    UnsupportedError
        If it needs a class or package that is not there.
    """
    views = list(buffers)
    decode = values.reader({
        _ARRAY: lambda parts: _new_array(views, *parts),
        _DATACLASS: lambda parts: _instance(*parts),
        _ADAPTED: lambda parts: adapters.made(*parts, trusted=trusted),
    })  # fmt: skip
    try:
        return decode(stream)
    except (MemoryError, values.ZoneError, UnsupportedError):
        raise
    except Exception as error:  # noqa: BLE001  numpy, msgspec, datetime and adapters raise many types
        raise ValueError(str(error) or type(error).__name__) from None
    finally:
        views.clear()  # the decoder is in a reference cycle, which would hold the segment


def _new_array(buffers: Sequence[memoryview], number: int, text: str, shape: list[int], order: Any) -> NDArray[Any]:
    dtype = values.dtype_of(text)
    if not 0 <= number < len(buffers) or min(shape, default=0) < 0 or not dtype.itemsize:
        raise ValueError("an array of it has no buffer")
    buffer = buffers[number]
    if math.prod(shape) * dtype.itemsize != buffer.nbytes:
        raise ValueError(f"{buffer.nbytes} bytes are no array of {dtype} with the shape {tuple(shape)}")
    return np.ndarray(tuple(shape), dtype, buffer, order=order)


def _fields(value: Any) -> list[object]:
    """Return class, field names and values of an instance of a dataclass; NoValueError if that is not all of it."""
    kind = type(value)
    if _found(kind.__module__, kind.__qualname__) is not kind:
        raise NoValueError(value, f"its class {kind.__qualname__} is not found in its module {kind.__module__}")
    names = [field.name for field in dataclasses.fields(value)]
    more = sorted(vars(value).keys() - {*names}) if hasattr(value, "__dict__") else ()
    if more or isinstance(value, (dict, list, tuple, str, bytes, int, float, set, frozenset, BaseException)):
        raise NoValueError(value, f"it has more than its fields: {', '.join(more) or 'the value of its base'}")
    if missing := [name for name in names if not hasattr(value, name)]:
        raise NoValueError(value, f"its field {missing[0]} has no value")
    return [kind.__module__, kind.__qualname__, *(part for name in names for part in (name, getattr(value, name)))]


def _named_parts(parts: Callable[[object], bytes], fields: list[object]) -> bytes:
    """Encode the fields; an error says which of them it was."""
    try:
        return parts(fields)
    except NoValueError as error:
        error.path = (Attribute(fields[cast("int", error.path[0]) - 1]), *error.path[1:])
        raise


def _found(module: str, name: str) -> Any:
    """Return the class of this name in a module that is loaded, or None."""
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, "__dict__", {}).get(part)
    return found


def _instance(module: str, name: str, *parts: Any) -> Any:
    """Return an instance of a dataclass with these fields, without calling its code."""
    kind = _found(module, name)
    if not isinstance(kind, type) or not dataclasses.is_dataclass(kind):
        first = f"first import {module}" if module != "__main__" else "define it here first, as where it was made"
        raise UnsupportedError(f"it holds an instance of the class {module}.{name}, which is not loaded here: {first}")
    names, given = parts[::2], parts[1::2]
    if names != tuple(field.name for field in dataclasses.fields(kind)) or len(names) != len(given):
        raise UnsupportedError(
            f"it holds an instance of a class {module}.{name} with the fields {', '.join(map(str, names))}; "
            f"here that class has {', '.join(field.name for field in dataclasses.fields(kind))}"
        )
    made = object.__new__(kind)
    for field, value in zip(names, given, strict=True):
        object.__setattr__(made, field, value)
    return made
