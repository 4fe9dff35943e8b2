"""Tables in objects: each is a buffer that holds an Arrow file, which the table kind writes and reads."""

from __future__ import annotations

from typing import Any

from shmkernel import kinds
from shmkernel.errors import DamagedError, RangeError, UnsupportedError
from shmkernel.kinds.objects.layout import Buffer
from shmkernel.kinds.values import NoValueError

_LIBRARIES = ("pandas", "polars", "pyarrow")
_OTHERS = ("LazyFrame", "RecordBatchReader")  # they would come back as tables


def is_table(value: object) -> bool:
    """Return whether a value is a table that comes back with the type it has."""
    made = type(value)
    library = made.__module__.partition(".")[0]
    return library in _LIBRARIES and made.__name__ not in _OTHERS and kinds.named("table").recognises(value, {})


def pack(value: object) -> Buffer:
    """Return the Arrow file of a table, which refers to the table's memory; NoValueError if it has none."""
    try:
        pieces = [piece for piece in kinds.named("table").plan("", value, {}).pieces() if len(piece)]
    except (UnsupportedError, RangeError) as error:
        raise NoValueError(value, error.what.removeprefix("'': ")) from None
    except DamagedError as error:  # nothing else may look at it
        raise error.reworded(error.what.removeprefix("'': ")) from None
    return Buffer(sum(map(len, pieces)), lambda: iter(pieces))


def unpack(buffer: memoryview, *, trusted: bool) -> Any:
    """Return the table in a buffer; ValueError if it is damaged."""
    kind: Any = kinds.named("table")
    return kind.open_as(buffer, "", "c", None, trusted=trusted)
