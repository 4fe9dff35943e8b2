"""Values of other libraries that are arrays of numbers and no more: tensors, typed buffers.

They are recognised by the protocol by which they give their memory, and nothing is imported for them: DLPack
(https://dmlc.github.io/dlpack/latest/python_spec.html), numpy's array interface, and the buffer protocol.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from shmkernel.errors import UnsupportedError
from shmkernel.kinds import a_type

if TYPE_CHECKING:
    from numpy.typing import NDArray

_HOST = 1  # kDLCPU: memory of the machine, that numpy can read
_FORMATS = frozenset("?hHiIlLqQefdg")  # of items that are numbers, and no single bytes, texts or addresses
_MORE = ("PIL",)  # libraries whose values have the interface, and are more than numbers: an image has a palette


def are_numbers(value: object) -> bool:
    """Return whether a value is an array of numbers, wherever its memory lies.

    Examples
    --------
    >>> import array
    >>> are_numbers(array.array("d", [1.5])), are_numbers(b"abc"), are_numbers([1.5])
    (True, False, False)
    """
    kind = type(value)
    if kind in (list, dict, str, bytes, tuple):
        return False
    if hasattr(kind, "__arrow_c_stream__") or hasattr(kind, "__arrow_c_array__"):  # a table, which keeps what it lacks
        return False
    if hasattr(kind, "__dlpack__") or hasattr(kind, "__cuda_array_interface__"):
        return True
    if hasattr(kind, "__array_interface__"):
        return kind.__module__.partition(".")[0] not in _MORE
    try:
        with memoryview(cast("Any", value)) as view:
            return view.format.lstrip("@=<>!") in _FORMATS
    except (TypeError, ValueError, BufferError):
        return False


def is_dask(value: object) -> bool:
    """Return whether a value is an array of Dask, which is not imported for it."""
    module = sys.modules.get("dask.array")
    kind = getattr(module, "Array", None)
    return isinstance(kind, type) and isinstance(value, kind)


def taken(name: str, value: Any) -> NDArray[Any] | Any:
    """Return a tensor as an array over its memory, other values as they are; UnsupportedError if it is on a device."""
    kind = type(value)
    if issubclass(kind, (np.ndarray, np.generic)):
        return value
    on_host = not hasattr(kind, "__cuda_array_interface__")
    try:
        if hasattr(kind, "__dlpack_device__"):
            on_host = int(value.__dlpack_device__()[0]) == _HOST
        if on_host:
            return np.from_dlpack(value) if hasattr(kind, "__dlpack__") else value
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        what = f"{name!r}: numpy cannot take the memory of {a_type(value)}: {error}"
        raise UnsupportedError(what, name=name, type=kind.__name__) from None
    what = f"{name!r} is {a_type(value)} in the memory of a device, which no other process can read"
    raise UnsupportedError(f"{what}. Copy it to the machine's memory first", name=name, type=kind.__name__)
