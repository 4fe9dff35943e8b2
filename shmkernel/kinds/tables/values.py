"""Read some rows of a column in an Arrow file: as texts, as numbers. Only the bytes of these rows are read."""

from __future__ import annotations

import datetime as dt
import decimal
import itertools
import struct
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from shmkernel.kinds.tables import metadata

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from shmkernel.kinds.tables.metadata import Batch, Field

NOTHING = "null"
_WIDE = 256  # bytes read of a text
_TOGETHER = 64 << 10  # bytes: texts that take more are read one by one
_TEXTS = (metadata.UTF8, metadata.LARGE_UTF8, metadata.UTF8_VIEW)
_ITEMS = 500  # items of all lists of a page
_FEW = 10  # items shown of a list, parts of a struct
_EXACT = 1e15  # floats from here on are no whole numbers for people
_SHORT = 12  # bytes of a text that a view holds itself
_A_SECOND = {"s": 1, "ms": 1000, "us": 10**6, "ns": 10**9}


class Column(NamedTuple):
    """A field in a record batch, with the numbers of its first node, buffer, and count of buffers."""

    field: Field
    batch: Batch
    node: int
    buffer: int
    view: int

    def after(self) -> tuple[int, int, int]:
        """Return the numbers that the next field begins with."""
        if self.field.dictionary is not None:
            return self.node + 1, self.buffer + 2, self.view
        if self.field.type in metadata.VIEWS:
            return self.node + 1, self.buffer + 2 + self.batch.views(self.view), self.view + 1
        place = self.node + 1, self.buffer + self.field.buffers, self.view
        for child in self.field.children:
            place = Column(child, self.batch, *place).after()
        return place

    def parts(self) -> Iterator[Column]:
        """Yield the columns of its children."""
        place = self.node + 1, self.buffer + self.field.buffers, self.view
        for child in self.field.children:
            yield Column(child, self.batch, *place)
            place = Column(child, self.batch, *place).after()

    def read(self, number: int, start: int, size: int) -> bytes:
        """Read a part of a buffer."""
        offset, length = self.batch.buffer(self.buffer + number)
        if start < 0 or size < 0 or start + size > length:
            raise ValueError("a column is longer than its buffer")
        data = self.batch.source.read(offset + start, size)
        if len(data) < size:
            raise ValueError("it is shorter than it says")
        return data

    def memory(self) -> int:
        """Return the bytes of all its buffers."""
        return sum(self.batch.buffer(number)[1] for number in range(self.buffer, self.after()[1]))

    def nulls(self) -> int:
        """Return how many values are missing."""
        return self.batch.node(self.node)[1] if self.field.type != metadata.NULL else self.batch.node(self.node)[0]


def columns(fields: Sequence[Field], batch: Batch) -> list[Column]:
    """Return the columns of a record batch."""
    found, place = [], (0, 0, 0)
    for field in fields:
        found.append(Column(field, batch, *place))
        place = found[-1].after()
    return found


def bits(column: Column, number: int, start: int, stop: int) -> NDArray[np.bool_]:
    """Return a part of a buffer of bits."""
    first = start // 8
    data = np.frombuffer(column.read(number, first, -(-stop // 8) - first), np.uint8)
    return np.unpackbits(data, bitorder="little")[start - 8 * first : stop - 8 * first].astype(bool)


def valid(column: Column, start: int, stop: int) -> NDArray[np.bool_]:
    """Return which values are not missing."""
    if column.field.type == metadata.NULL:
        return np.zeros(stop - start, bool)
    if not column.nulls() or not column.batch.buffer(column.buffer)[1]:
        return np.ones(stop - start, bool)
    return bits(column, 0, start, stop)


def fixed(column: Column, start: int, stop: int, dtype: str, number: int = 1) -> NDArray[Any]:
    """Return a part of a buffer of numbers."""
    size = np.dtype(dtype).itemsize
    return np.frombuffer(column.read(number, start * size, (stop - start) * size), dtype)


def numbers(column: Column, start: int, stop: int) -> NDArray[Any] | None:
    """Return the values of some rows that are not missing, as numbers; None for a column of something else."""
    field = column.field
    if field.dictionary is not None or not (field.dtype or field.type == metadata.BOOL):
        return None
    held = bits(column, 1, start, stop) if field.type == metadata.BOOL else fixed(column, start, stop, field.dtype)
    return held[valid(column, start, stop)]


def texts(column: Column, start: int, stop: int, lookup: Callable[[Field, int], str]) -> list[str]:
    """Return the values of some rows as texts. `lookup` gives a value of a dictionary."""
    there = valid(column, start, stop)
    found = _texts(column, start, stop, there, lookup) if there.any() else there
    return [text if here else NOTHING for text, here in zip(found, there, strict=True)]


def _texts(
    column: Column, start: int, stop: int, there: NDArray[np.bool_], lookup: Callable[[Field, int], str]
) -> Iterable[str]:
    field = column.field
    if field.dictionary is not None:
        codes = fixed(column, start, stop, field.codes)
        return [lookup(field, code) for code in np.where(there, codes, codes[there][0]).tolist()]
    if field.dtype:
        return [number(field, value) for value in fixed(column, start, stop, field.dtype).tolist()]
    if field.type in metadata.OFFSETS or field.type == metadata.FIXED_LIST:
        return _sized(column, start, stop, lookup)
    if field.type in metadata.VIEWS:
        return [_shown(field, data) for data in _viewed(column, start, stop, there)]
    if field.type == metadata.BOOL:
        return map(str, bits(column, 1, start, stop).tolist())
    if field.type in (metadata.DECIMAL, metadata.FIXED_BINARY):
        wide = min(field.size, _WIDE)
        return [_shown(field, column.read(1, at * field.size, wide)) for at in range(start, stop)]
    if field.type == metadata.STRUCT:
        return _structs(column, start, stop, lookup)
    return ["…"] * (stop - start)


def _structs(column: Column, start: int, stop: int, lookup: Callable[[Field, int], str]) -> list[str]:
    parts = list(itertools.islice(column.parts(), _FEW))
    more = ", …" if len(column.field.children) > _FEW else ""
    lines = [[f"{one.field.name}: {text}" for text in texts(one, start, stop, lookup)] for one in parts]
    return [f"{{{', '.join(line)}{more}}}" for line in zip(*lines, strict=True)] or ["{}"] * (stop - start)


def _sized(column: Column, start: int, stop: int, lookup: Callable[[Field, int], str]) -> list[str]:
    """Return texts, bytes or lists, which take an amount of their own each."""
    field = column.field
    if field.type == metadata.FIXED_LIST:
        ends = [at * field.size for at in range(start, stop + 1)]
    else:
        ends = fixed(column, start, stop + 1, f"<i{metadata.OFFSETS[field.type]}").tolist()
    if any(first > last for first, last in itertools.pairwise([0, *ends])):
        raise ValueError("a value ends before it begins")
    spans = list(itertools.pairwise(ends))
    if field.type not in (metadata.LIST, metadata.LARGE_LIST, metadata.MAP, metadata.FIXED_LIST):
        if ends[-1] - ends[0] <= _TOGETHER:
            data = column.read(2, ends[0], ends[-1] - ends[0])
            return [_shown(field, data[first - ends[0] : last - ends[0]]) for first, last in spans]
        return [_shown(field, column.read(2, first, min(last - first, _WIDE))) for first, last in spans]
    part = next(column.parts(), None)
    if part is None or ends[-1] - ends[0] > _ITEMS:
        return [f"{last - first:,} items" for first, last in spans]
    if ends[-1] > column.batch.node(part.node)[0]:
        raise ValueError("a list ends behind its items")
    items = texts(part, ends[0], ends[-1], lookup)
    return [_listed(items[first - ends[0] : last - ends[0]]) for first, last in spans]


def _listed(items: list[str]) -> str:
    return f"[{', '.join(items[:_FEW])}{', …' if len(items) > _FEW else ''}]"


def _viewed(column: Column, start: int, stop: int, there: NDArray[np.bool_]) -> Iterator[bytes]:
    """Yield the beginning of each text of a column of views: short ones lie in the view, others in a buffer."""
    data, count = column.read(1, start * 16, (stop - start) * 16), column.batch.views(column.view)
    for at, here in zip(range(0, len(data), 16), there.tolist(), strict=True):
        size, _, buffer, offset = struct.unpack_from("<4i", data, at)
        if size <= _SHORT or not here:
            yield data[at + 4 : at + 4 + min(max(size, 0), _SHORT)]
        elif 0 <= buffer < count:
            yield column.read(2 + buffer, offset, min(size, _WIDE))
        else:
            raise ValueError("a text lies in no buffer")


def _shown(field: Field, data: bytes) -> str:
    if field.type == metadata.DECIMAL:
        return str(decimal.Decimal(f"{int.from_bytes(data, 'little', signed=True)}E{-field.scale}"))  # of any scale
    return data.decode("utf-8", "replace" if field.type in _TEXTS else "backslashreplace")


def number(field: Field, value: float) -> str:
    """Return a number as people write what it stands for.

    Examples
    --------
    >>> number(metadata.Field("", metadata.TIMESTAMP, "", unit="s", zone="UTC"), 0)
    '1970-01-01 00:00:00 UTC'
    >>> number(metadata.Field("", metadata.DURATION, "", unit="ms"), 90061500)
    '1 day, 1:01:01.500000'
    >>> number(metadata.Field("", metadata.FLOAT, ""), 0.1 + 0.2)
    '0.3'
    """
    if field.type == metadata.INT or (field.type == metadata.FLOAT and abs(value) < _EXACT and value == round(value)):
        return str(round(value))
    if field.type == metadata.FLOAT:
        return f"{value:.6g}"
    try:
        if field.type in (metadata.DATE, metadata.TIMESTAMP):
            day, _, time = str(np.int64(round(value)).view(f"M8[{field.unit}]")).partition("T")
            if field.type == metadata.DATE:
                return day
            return f"{day} {time.rstrip('0').rstrip('.') if '.' in time else time}{' UTC' if field.zone else ''}"
        span = dt.timedelta(microseconds=round(value) * 10**6 // _A_SECOND[field.unit])
        return str(span)
    except (OverflowError, ValueError):
        return "out of range"
