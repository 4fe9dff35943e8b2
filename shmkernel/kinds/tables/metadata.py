"""Read an Arrow file's metadata without pyarrow: its columns, and where each lies in a record batch.

    footer         the schema, and the places of the dictionaries and of the record batches
    record batch   for each column, in the order of the schema: nodes (rows, nulls) and buffers (offset, length)

Previews use it. Importing pyarrow would take 0.2 s, its record batches are read whole, and a wrong offset in a file
would end the process. Here wrong bytes raise ValueError.

The metadata are FlatBuffers (https://flatbuffers.dev/internals/): a table begins with the distance to a list of where
its fields lie; texts, vectors and other tables lie further on. Numbers of fields are those of Arrow's Message.fbs,
Schema.fbs and File.fbs.
"""

from __future__ import annotations

import contextlib
import itertools
import struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shmkernel.kinds.preview import Source

MAGIC = b"ARROW1"
TAIL = 4 + len(MAGIC)  # bytes: the size of the footer, the magic
LONGEST = 64 << 20  # bytes of a footer, or of a batch's metadata: those of 10,000 columns take 3 MiB
_DEEPEST = 64  # fields in fields: pyarrow neither writes nor reads more
_MOST = 5000  # fields, of which wrong bytes could promise any number: 60 ms
_BLOCK, _PAIR = 24, 16  # bytes: the place of a batch; a node or buffer
_CONTINUES = 0xFFFFFFFF  # in front of the size of a message
NULL, INT, FLOAT, BINARY, UTF8, BOOL, DECIMAL, DATE, TIME, TIMESTAMP, INTERVAL, LIST, STRUCT = range(1, 14)
FIXED_BINARY, FIXED_LIST, MAP, DURATION, LARGE_BINARY, LARGE_UTF8, LARGE_LIST, RUNS, BINARY_VIEW, UTF8_VIEW = (
    15, 16, 17, 18, 19, 20, 21, 22, 23, 24,
)  # fmt: skip
UNION, LIST_VIEW, LARGE_LIST_VIEW = 14, 25, 26
VIEWS = (BINARY_VIEW, UTF8_VIEW)
OFFSETS = {UTF8: 4, BINARY: 4, LIST: 4, MAP: 4, LARGE_UTF8: 8, LARGE_BINARY: 8, LARGE_LIST: 8}  # bytes of one
UNITS = ("s", "ms", "us", "ns")
_LENGTH = struct.Struct("<q")  # in front of a compressed buffer
_NAMES = {
    NULL: "null", BINARY: "bytes", UTF8: "text", BOOL: "bool", DECIMAL: "decimal", TIME: "time", INTERVAL: "interval",
    LIST: "list", STRUCT: "struct", UNION: "union", FIXED_BINARY: "bytes", FIXED_LIST: "list", MAP: "map",
    LARGE_BINARY: "bytes", LARGE_UTF8: "text", LARGE_LIST: "list", RUNS: "runs", BINARY_VIEW: "bytes",
    UTF8_VIEW: "text", LIST_VIEW: "list", LARGE_LIST_VIEW: "list",
}  # fmt: skip


class Field(NamedTuple):
    """A column, or a part of one. ``dtype`` is that of its values in memory as numpy names it, if they are numbers."""

    name: str
    type: int
    text: str  # its type, for people
    dtype: str = ""
    size: int = 0  # of a value, in bytes; of a list of fixed size, in values
    unit: str = ""
    scale: int = 0  # of a decimal
    zone: str = ""
    children: tuple[Field, ...] = ()
    dictionary: int | None = None  # the values are positions in it, of the type `codes`
    codes: str = ""

    @property
    def buffers(self) -> int:
        """How many buffers it has itself; those of a view are more."""
        if self.dictionary is not None:
            return 2
        if self.type in (NULL, RUNS):
            return 0
        if self.type in (STRUCT, FIXED_LIST):
            return 1
        if self.type == UNION:
            return 1 + self.size
        return (
            3 if self.type in {*OFFSETS} - {LIST, MAP, LARGE_LIST} or self.type in (LIST_VIEW, LARGE_LIST_VIEW) else 2
        )


class Schema(NamedTuple):
    """What the footer says. ``fields`` are the first of `columns`; batches are given by offset, metadata and body."""

    fields: list[Field]
    columns: int
    dictionaries: list[tuple[int, int, int]]
    batches: list[tuple[int, int, int]]


class Batch(NamedTuple):
    """A record batch, or the values of a dictionary, of which nothing but the metadata has been read."""

    source: Source
    start: int  # of the body, in the file
    size: int
    header: _Table
    dictionary: int | None = None

    @property
    def rows(self) -> int:
        """The number of rows."""
        return self.header.number(0, "<q")

    @property
    def compressed(self) -> bool:
        """Whether its buffers are compressed."""
        return self.header.place(3) != 0

    def node(self, number: int) -> tuple[int, int]:
        """Return the rows and nulls of a node."""
        return self._pair(1, number)

    def buffer(self, number: int) -> tuple[int, int]:
        """Return the offset of a buffer in the file, and its size."""
        offset, size = self._pair(2, number)
        if size < 0 or not 0 <= offset <= self.size - size:
            raise ValueError("a buffer lies outside its record batch")
        return self.start + offset, size

    def views(self, number: int) -> int:
        """Return how many buffers a column of views has beyond the first two."""
        start, count = self.header.vector(4, 8)
        if number >= count:
            raise ValueError("a count of buffers is missing")
        return _unpacked("<q", self.header.data, start + 8 * number)[0]

    def _pair(self, vector: int, number: int) -> tuple[int, int]:
        start, count = self.header.vector(vector, _PAIR)
        if not 0 <= number < count:
            raise ValueError("a record batch has fewer columns than the schema")
        first, second = _unpacked("<qq", self.header.data, start + _PAIR * number)
        return first, second


def footer(source: Source) -> tuple[int, int]:
    """Return where the footer begins, and its size."""
    tail = source.read(max(source.size - TAIL, 0), TAIL)
    size = int.from_bytes(tail[:4], "little")
    if len(tail) != TAIL or tail[4:] != MAGIC or size + 2 * TAIL > source.size or size > LONGEST:
        raise ValueError("it does not end as an Arrow file does")
    return source.size - TAIL - size, size


def schema(source: Source, most: int, fewer: int) -> Schema:
    """Read the footer: all fields if they are at most `most`, else the first `fewer`, up to one that nests too far."""
    root = _root(source.read(*footer(source)))
    said = root.table(1)
    if said.number(0, "<h"):
        raise ValueError("its numbers begin with the greatest byte")
    _, columns = said.vector(1, 4)
    budget = iter(range(_MOST))
    wanted = itertools.islice(said.tables(1), columns if columns <= most else fewer)
    fields: list[Field] = []
    with contextlib.suppress(_TooNestedError):
        fields.extend(_field(child, budget) for child in wanted)
    return Schema(fields, columns, _blocks(root, 2), _blocks(root, 3))


def with_batches(end: bytes, places: list[tuple[int, int, int]]) -> bytes:
    """Return the end of a file with other places of its record batches: as many as it has."""
    size = int.from_bytes(end[-TAIL : -len(MAGIC)], "little")
    begin = len(end) - TAIL - size
    start, count = _root(end[begin : begin + size]).vector(3, _BLOCK)
    assert count == len(places), "a place for each"
    made = bytearray(end)
    for number, place in enumerate(places):
        struct.pack_into("<qi4xq", made, begin + start + _BLOCK * number, *place)
    return bytes(made)


def batch(source: Source, block: tuple[int, int, int]) -> Batch:
    """Read the metadata of a record batch or dictionary."""
    offset, size, body = block
    if size < 8 or size > LONGEST or body < 0 or not 0 <= offset <= source.size - size - body:  # noqa: PLR2004  a word
        raise ValueError("a record batch lies outside the file")
    data = source.read(offset, size)
    begin = 8 if _unpacked("<I", data, 0)[0] == _CONTINUES else 4
    message = _root(data[begin:])
    header = message.table(2)
    if message.number(1, "<B") == 2:  # noqa: PLR2004  a dictionary
        return Batch(source, offset + size, body, header.table(1), header.number(0, "<q"))
    return Batch(source, offset + size, body, header)


def expanded(source: Source) -> int:
    """Return how many bytes the compressed buffers of a file say that they take when they are read."""
    root, total = _root(source.read(*footer(source))), 0
    for block in (*_blocks(root, 2), *_blocks(root, 3)):
        part = batch(source, block)
        if part.compressed:
            _, count = part.header.vector(2, _PAIR)
            for at, size in map(part.buffer, range(count)):
                if size >= _LENGTH.size:  # an empty buffer has none
                    total += max(_LENGTH.unpack(source.read(at, _LENGTH.size))[0], 0)  # -1: it is not compressed
    return total


def _blocks(footer: _Table, number: int) -> list[tuple[int, int, int]]:
    start, count = footer.vector(number, _BLOCK)
    return list(struct.iter_unpack("<qi4xq", footer.data[start : start + _BLOCK * count]))


class _Table(NamedTuple):
    """A table of a FlatBuffer."""

    data: bytes
    at: int

    def place(self, number: int) -> int:
        """Return where a field lies, 0 if it is absent."""
        fields = self.at - _unpacked("<i", self.data, self.at)[0]
        size = _unpacked("<H", self.data, fields)[0]
        inside = 4 + 2 * number
        offset = _unpacked("<H", self.data, fields + inside)[0] if inside < size else 0
        return self.at + offset if offset else 0

    def number(self, number: int, code: str, default: int = 0) -> int:
        """Return a field that is a number."""
        place = self.place(number)
        return int(_unpacked(code, self.data, place)[0]) if place else default

    def table(self, number: int) -> _Table:
        """Return a field that is a table; an absent one has no fields."""
        place = self.place(number)
        return _Table(self.data, self._target(place)) if place else _EMPTY

    def vector(self, number: int, size: int) -> tuple[int, int]:
        """Return where the elements of a vector begin, and their number."""
        place = self.place(number)
        if not place:
            return 0, 0
        start = self._target(place)
        count = _unpacked("<I", self.data, start)[0]
        if start + 4 + count * size > len(self.data):
            raise ValueError("a vector in its metadata is too long")
        return start + 4, count

    def tables(self, number: int) -> Iterator[_Table]:
        """Yield the tables of a vector."""
        start, count = self.vector(number, 4)
        for at in range(start, start + 4 * count, 4):
            yield _Table(self.data, self._target(at))

    def text(self, number: int) -> str:
        """Return a text."""
        start, count = self.vector(number, 1)
        return self.data[start : start + count].decode("utf-8", "replace")

    def _target(self, place: int) -> int:
        return place + int(_unpacked("<I", self.data, place)[0])


_EMPTY = _Table(bytes((0, 0, 0, 0, 4, 0, 4, 0, 4, 0, 0, 0)), 8)


def _root(data: bytes) -> _Table:
    return _Table(data, _unpacked("<I", data, 0)[0])


def _unpacked(code: str, data: bytes, at: int) -> tuple[int, ...]:
    if not 0 <= at <= len(data) - struct.calcsize(code):
        raise ValueError("its metadata are damaged")
    return struct.unpack_from(code, data, at)


class _TooNestedError(Exception):
    """A column has too many fields in fields."""


def _field(table: _Table, budget: Iterator[int], depth: int = 0) -> Field:
    if depth > _DEEPEST or next(budget, None) is None:
        raise _TooNestedError
    children = tuple(_field(child, budget, depth + 1) for child in table.tables(5))
    type_ = table.number(2, "<B")
    found = _typed(Field(table.text(0), type_, _NAMES.get(type_, "?"), children=children), table.table(3))
    for entry in table.tables(6):
        if entry.text(0) == "ARROW:extension:name":
            found = found._replace(text=entry.text(1))
    if table.place(4):
        encoding = table.table(4)
        codes = _integer(encoding.table(1)) if encoding.place(1) else "i4"
        return found._replace(text="category", dictionary=encoding.number(0, "<q"), codes=f"<{codes}")
    return found


def _integer(type_: _Table) -> str:
    bits = type_.number(0, "<i")
    if bits not in (8, 16, 32, 64):
        raise ValueError("a number in it has an odd size")
    return f"{'i' if type_.number(1, '<B') else 'u'}{bits // 8}"


def _typed(field: Field, type_: _Table) -> Field:
    """Complete a field by what its type says."""
    match field.type:
        case 2:
            code = _integer(type_)
            name = f"{'' if code[0] == 'i' else 'u'}int{8 * int(code[1:])}"
            return field._replace(text=name, dtype=f"<{code}", size=int(code[1:]))
        case 3:
            size = 2 << _among(type_.number(0, "<h"), 3)
            return field._replace(text=f"float{8 * size}", dtype=f"<f{size}", size=size)
        case 7:
            scale, bits = type_.number(1, "<i"), type_.number(2, "<i", 128)
            return field._replace(text=f"decimal({type_.number(0, '<i')}, {scale})", size=bits // 8, scale=scale)
        case 8:
            days = not type_.number(0, "<h", 1)
            return field._replace(text="date", dtype="<i4" if days else "<i8", size=4 if days else 8,
                                  unit="D" if days else "ms")  # fmt: skip
        case 9:
            size = type_.number(1, "<i", 32) // 8
            return field._replace(dtype="<i4" if size == 4 else "<i8", size=4 if size == 4 else 8,  # noqa: PLR2004  bytes
                                  unit=UNITS[_among(type_.number(0, "<h", 1), 4)])  # fmt: skip
        case 10 | 18:
            unit = UNITS[_among(type_.number(0, "<h", 0 if field.type == TIMESTAMP else 1), 4)]
            zone = type_.text(1) if field.type == TIMESTAMP else ""
            name = "datetime" if field.type == TIMESTAMP else "duration"
            return field._replace(text=f"{name}[{unit}{f', {zone}' if zone else ''}]", dtype="<i8", size=8, unit=unit,
                                  zone=zone)  # fmt: skip
        case 11:
            return field._replace(size=(4, 8, 16)[_among(type_.number(0, "<h"), 3)])
        case 14:
            return field._replace(size=_among(type_.number(0, "<h"), 2))  # whether it has offsets
        case 15 | 16:
            return field._replace(size=type_.number(0, "<i"))
    return field


def _among(number: int, count: int) -> int:
    if not 0 <= number < count:
        raise ValueError("a type in it is unknown")
    return number
