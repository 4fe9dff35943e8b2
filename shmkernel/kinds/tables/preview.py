"""Preview a table: a page of its rows, and of each column what it holds and takes. Only these rows are read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from shmkernel._core import capacity
from shmkernel.kinds import Description, preview
from shmkernel.kinds.tables import arrow_file, metadata, values

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shmkernel.kinds.preview import Look, Preview, Source
    from shmkernel.kinds.tables.metadata import Batch, Field

_SHOWN = 32  # columns
_FIELDS = 500  # of a table with more only the first are read: its index, which comes last, is not shown
_BATCHES = 1000  # of which the rows are counted: 10 ms
_SUMMED = 64  # batches whose buffers and missing values are summed up
_STRETCHES, _STRETCH = 8, 128  # rows of the sample
_ALL = 1024  # rows that are all taken
_MEAN = (metadata.INT, metadata.FLOAT, metadata.BOOL)


class Table:
    """What the footer and the summary say of a table."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._batches: dict[int, Batch] = {}
        self._columns: dict[int, list[values.Column]] = {}
        self.schema = metadata.schema(source, _FIELDS, _SHOWN)
        self.count = min(len(self.schema.batches), _BATCHES)
        summary = arrow_file.summary(source)
        self.levels: frozenset[str] = summary.levels if summary else frozenset()
        order = sorted(range(len(self.schema.fields)), key=lambda at: self.schema.fields[at].name not in self.levels)
        self.shown = order[:_SHOWN]  # the index first
        self.columns = summary.columns if summary else self.schema.columns
        self.rows = summary.rows if summary else sum(self.batch(at).rows for at in range(self.count))
        self.whole = summary is not None or self.count == len(self.schema.batches)

    def batch(self, number: int) -> Batch:
        """Return a record batch."""
        if number not in self._batches:
            self._batches[number] = metadata.batch(self.source, self.schema.batches[number])
        return self._batches[number]

    def titles(self) -> list[tuple[str, str]]:
        """Return names and types of the columns that are shown."""
        fields = (self.schema.fields[at] for at in self.shown)
        return [("index" if _unnamed(field, self.levels) else field.name, field.text) for field in fields]

    def columns_of(self, number: int) -> list[values.Column]:
        """Return the shown columns of a batch."""
        if number not in self._columns:
            batch = self.batch(number)
            if batch.compressed:
                raise ValueError("its columns are compressed")
            found = values.columns(self.schema.fields, batch)
            self._columns[number] = [found[at] for at in self.shown]
        return self._columns[number]


def _unnamed(field: Field, levels: frozenset[str]) -> bool:
    return field.name in levels and field.name.startswith("__index_level_")


def description(source: Source) -> Description:
    """Describe rows, columns and types."""
    table = Table(source)
    rows = f"{table.rows:,} row{'s' * (table.rows != 1)}"
    text = f"{rows if table.whole else 'rows'} x {table.columns:,} column{'s' * (table.columns != 1)}"
    types = [f"{name}: {type_}" for name, type_ in table.titles()]
    more = ["..."] if len(table.shown) < table.schema.columns else []
    return Description(text, ", ".join(types + more), (table.rows, table.columns) if table.whole else None)


class _Dictionaries:
    """Values of dictionaries, read one by one."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._known: dict[tuple[int, int], str] = {}
        self._batches: dict[int, list[Batch]] | None = None

    def batches(self, key: int | None) -> list[Batch]:
        """Return the parts of a dictionary."""
        if self._batches is None:
            self._batches = {}
            for block in self._table.schema.dictionaries[:_BATCHES]:
                batch = metadata.batch(self._table.source, block)
                if batch.dictionary is not None:
                    self._batches.setdefault(batch.dictionary, []).append(batch)
        return self._batches.get(-1 if key is None else key, [])

    def columns(self, field: Field) -> list[values.Column]:
        """Return the values of a field's dictionary."""
        return [
            values.Column(field._replace(dictionary=None), batch, 0, 0, 0) for batch in self.batches(field.dictionary)
        ]

    def lookup(self, field: Field, code: int) -> str:
        """Return a value as text."""
        key = field.dictionary or 0, code
        if key not in self._known:
            self._known[key] = preview.short(self._read(field, code))  # others may repeat it, ten times each
        return self._known[key]

    def _read(self, field: Field, code: int) -> str:
        for column in self.columns(field):
            if 0 <= code < column.batch.rows:
                return values.texts(column, code, code + 1, self.lookup)[0]
            code -= column.batch.rows
        raise ValueError("a value is not in its dictionary")


def of(source: Source, look: Look) -> Preview:
    """Return a grid of the page of rows that `look` asks for."""
    table = Table(source)
    known = _Dictionaries(table)
    wanted = preview.page(look, table.rows)
    lines = list(_rows(table, known, wanted))
    about, note = _about(table, known)
    if lines[len(wanted) :] or len(lines) < len(wanted):
        note = f"only the first {table.count:,} record batches are shown; {note}"
    hidden = table.columns - len([at for at in table.shown if table.schema.fields[at].name not in table.levels])
    more = f"{hidden:,} more columns" if hidden > 0 else ""
    return preview.grid(
        table.titles(), map(str, wanted), lines, wanted.start, table.rows, note="; ".join(filter(None, (note, more))),
        about=about,
    )  # fmt: skip


def _rows(table: Table, known: _Dictionaries, wanted: range) -> Iterator[list[str]]:
    """Yield the texts of the wanted rows."""
    at = 0
    for number in range(table.count):
        if at >= wanted.stop:
            return
        rows = table.batch(number).rows
        first, last = max(wanted.start - at, 0), min(wanted.stop - at, rows)
        at += max(rows, 0)
        if first < last:
            texts = [values.texts(column, first, last, known.lookup) for column in table.columns_of(number)]
            yield from map(list, zip(*texts, strict=True)) if texts else ([] for _ in range(first, last))


class _Sample(NamedTuple):
    """Stretches of rows: numbers of a batch, first and last row."""

    stretches: list[tuple[int, int, int]]
    rows: int


def _sample(table: Table) -> _Sample:
    if table.rows <= _ALL and table.count <= _STRETCHES:
        stretches = [(number, 0, min(table.batch(number).rows, _ALL)) for number in range(table.count)]
    else:
        stretches = []
        for at in range(_STRETCHES):
            place = at * table.count / (_STRETCHES - 1)  # from the first row to the last
            number = min(int(place), table.count - 1)
            rows = table.batch(number).rows
            first = int((place - number) * max(rows - _STRETCH, 0))
            stretches.append((number, first, min(first + _STRETCH, rows)))
    stretches = [stretch for stretch in {*stretches} if stretch[1] < stretch[2]]
    return _Sample(stretches, sum(last - first for _, first, last in stretches))


def _about(table: Table, known: _Dictionaries) -> tuple[list[tuple[str, list[str]]], str]:
    """Return lines on the columns, and which rows they are of."""
    sample = _sample(table) if table.count else _Sample([], 0)
    parts = [[one[at] for one in _figures(table, sample)] for at in range(3)]
    summed = range(0, table.count, -(-table.count // _SUMMED) or 1)
    some = len(summed) < len(table.schema.batches)
    factor = len(table.schema.batches) / len(summed) if some else 1
    sign = "≈ " if some else ""
    missing, memory = [0] * len(table.shown), [0] * len(table.shown)
    for number in summed:
        for at, column in enumerate(table.columns_of(number)):
            missing[at] += column.nulls()
            memory[at] += column.memory()
    for at, place in enumerate(table.shown):
        field = table.schema.fields[place]
        memory[at] = round(memory[at] * factor)
        if field.dictionary is not None:
            memory[at] += sum(column.memory() for column in known.columns(field))
    lines = [
        *zip(("min", "max", "mean"), parts, strict=True),
        ("missing", [f"{sign}{round(count * factor):,}" for count in missing]),
        ("memory", [f"{sign}{capacity.human(size)}" for size in memory]),
    ]
    whole = sample.rows >= table.rows
    note = f"min, max and mean of {'all' if whole else f'{sample.rows:,} of'} {table.rows:,} rows"
    lines = [(label, texts) for label, texts in lines if any(texts)]
    return lines, note if any(map(any, parts)) else ""


def _figures(table: Table, sample: _Sample) -> list[tuple[str, str, str]]:
    """Return min, max and mean of each column that is shown, of the rows of a sample."""
    found: list[list[Any]] = [[] for _ in table.shown]
    for number, first, last in sample.stretches:
        for held, column in zip(found, table.columns_of(number), strict=True):
            part = values.numbers(column, first, last)
            held.extend([] if part is None else [part])
    fields = [table.schema.fields[at] for at in table.shown]
    return [_figure(field, held) for field, held in zip(fields, found, strict=True)]


def _figure(field: Field, parts: list[Any]) -> tuple[str, str, str]:
    held = np.concatenate(parts) if parts else np.empty(0)
    if field.type == metadata.FLOAT:
        held = held[~np.isnan(held)].astype(float)
    if not len(held):
        return "", "", ""
    with np.errstate(all="ignore"):
        mean = f"{float(np.mean(held, dtype=float)):.6g}" if field.type in _MEAN else ""
    if field.type == metadata.BOOL:
        return "", "", mean
    low, high = (values.number(field, end.item()) for end in (held.min(), held.max()))
    return low, high, mean
