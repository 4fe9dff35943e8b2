"""Read Parquet files batch by batch, each in bounded memory.

A column of texts names each text once, in the dictionary of its row group: a file of a few kilobytes may repeat a text
of a megabyte a million times. Therefore the dictionaries are read first, one row group at a time, and a batch has only
so many rows that all of them may have the longest text. Batches that turn out to be small are put together.

    row group   for each column: dictionary | pages of positions in it, or of values
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import numpy as np

from shmkernel._core import capacity
from shmkernel._core.imports import importing

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

ROWS = 1 << 16  # of a batch at most
_WIDEST = 128 << 20  # bytes of a batch if each row had the longest texts
OPTIONS = {"use_compliant_nested_type": False}  # for writing: the names of items in lists stay as they are
_BUFFER = 1 << 16  # bytes that are read at once; by default a whole column of a row group


def open_(path: str) -> Any:
    """Open a Parquet file; pyarrow's errors if it is damaged."""
    with importing:
        import pyarrow.parquet  # noqa: PLC0415  slow

    return pyarrow.parquet.ParquetFile(path)


def as_read(arrow: Any, schema: pa.Schema) -> pa.Schema | None:
    """Return the schema that a file of this schema has when it is read; None if there is no such file."""
    with importing:
        import pyarrow.parquet  # noqa: PLC0415  slow

    sink = arrow.BufferOutputStream()
    try:
        pyarrow.parquet.write_table(arrow.Table.from_batches([], schema.remove_metadata()), sink, **OPTIONS)
        return pyarrow.parquet.read_schema(arrow.BufferReader(sink.getvalue()))
    except arrow.ArrowException:
        return None


def batches(arrow: Any, path: str, file: Any, *, keeps: bool) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a file; LimitError if who `keeps` all dictionaries would have no memory for them."""
    facts = file.metadata
    texts = [number for number in range(facts.num_columns) if _is_text(facts.schema.column(number))]
    width = 0
    if texts:
        names = [facts.schema.column(number).path for number in texts]
        only_texts = type(file)(path, read_dictionary=texts, buffer_size=_BUFFER, **_as_texts(type(file)))
        width = _width(arrow, path, only_texts, names, keeps=keeps) * max(_per_row(facts, number) for number in texts)
    rows = min(max(_WIDEST // max(width, 1), 1), ROWS)
    yield from file.iter_batches(rows) if rows == ROWS else _joined(arrow, file.iter_batches(rows))


def _as_texts(reader: type) -> dict[str, bool]:
    """Return the options by which texts of an extension, such as JSON, are read as texts."""
    option = "arrow_extensions_enabled"
    return {option: False} if option in inspect.signature(reader).parameters else {}


def _is_text(column: Any) -> bool:
    return bool(column.physical_type == "BYTE_ARRAY" and column.logical_type.type != "DECIMAL")


def _per_row(facts: Any, number: int) -> int:
    """Return how many texts a row has in a column, on average in the row group where it has most."""
    if not facts.schema.column(number).max_repetition_level:
        return 1
    groups = map(facts.row_group, range(facts.num_row_groups))
    return max((group.column(number).num_values // max(group.num_rows, 1) for group in groups), default=1) or 1


def _width(arrow: Any, path: str, file: Any, texts: list[str], *, keeps: bool) -> int:
    """Return the bytes that the texts of a row can have together: the first row of a group has its dictionaries."""
    width = total = 0
    left = capacity.memory()
    for number in range(file.num_row_groups):
        for batch in file.iter_batches(1, row_groups=[number], columns=texts, use_threads=False):
            found = [one for column in batch.columns for one in _dictionaries(column, arrow)]
            width = max(width, sum(map(_longest, found)))
            total += sum(one.nbytes for one in found)
            break
        if keeps and total > left:
            capacity.check_memory(f"{path} takes at least", total, path=path)
    return width


def _dictionaries(column: pa.Array, arrow: Any) -> list[pa.Array]:
    kind = column.type
    if arrow.types.is_dictionary(kind):
        return [column.dictionary]
    if not kind.num_fields:  # numbers in a column of the same name, or JSON before pyarrow 21
        return []
    parts = [column.values] if hasattr(column, "values") else map(column.field, range(kind.num_fields))
    return [one for part in parts for one in _dictionaries(part, arrow)]


def _longest(texts: pa.Array) -> int:
    """Return the bytes of the longest text."""
    _, ends, _ = texts.buffers()
    return int(np.diff(np.frombuffer(ends, "<i4")[texts.offset :][: len(texts) + 1]).max()) if len(texts) else 0


def _joined(arrow: Any, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Yield the rows of small batches in larger ones."""
    held: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in batches:
        if held and (rows + batch.num_rows > ROWS or size + batch.nbytes > _WIDEST):
            yield arrow.concat_batches(held) if len(held) > 1 else held[0]
            held, rows, size = [], 0, 0
        held.append(batch)
        rows, size = rows + batch.num_rows, size + batch.nbytes
    if held:
        yield arrow.concat_batches(held)
