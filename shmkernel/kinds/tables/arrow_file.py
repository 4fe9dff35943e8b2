"""Write tables as Arrow IPC files, and map such files.

    ARROW1 | schema | record batches | summary | footer | size of the footer | ARROW1

The format is Apache Arrow's (https://arrow.apache.org/docs/format/Columnar.html#ipc-file-format): readers find each
record batch by its offset in the footer, so they do not see the summary in front of it. The summary is ours: JSON with
the number of rows, so that a listing need not look at each batch, and which columns are the index of a pandas frame.

    summary   JSON | its length, 4 bytes | "shmk"

What is read from a file is checked in full before it is used, unless this library wrote it: a wrong offset in it would
end the process.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from shmkernel._core import capacity, limits
from shmkernel.errors import DamagedError, LimitError, UnsupportedError
from shmkernel.kinds.preview import Source
from shmkernel.kinds.tables import libraries, metadata

if TYPE_CHECKING:
    import mmap
    from collections.abc import Iterable, Iterator

    import pyarrow as pa
    from numpy.typing import NDArray

_MARK = b"shmk"
_SMALL = 1 << 16  # bytes: smaller parts are written together
_PIECE = 16 << 20  # bytes between two updates of the progress bar, where Ctrl-C can interrupt
_SUMMARY = 48 << 10  # bytes
_TEXT = 64  # characters of another library's error


class Summary(NamedTuple):
    """What the file's own metadata do not tell, or only batch by batch."""

    rows: int
    columns: int
    levels: frozenset[str]  # names of the columns that are an index


def library(name: str) -> Any:
    """Import pyarrow; UnsupportedError says how to install it."""
    try:
        return libraries.ready("pyarrow")
    except ModuleNotFoundError:
        message = f"{name!r}: a table needs pyarrow. Install it, in a terminal: pip install 'shmkernel[tables]'"
        raise UnsupportedError(message, name=name) from None
    except UnsupportedError as error:
        raise UnsupportedError(f"{name!r}: {error.what}", name=name) from error.__cause__


class Sink:
    """A file for pyarrow that notes the buffers that it is handed: none of them is copied."""

    closed = False

    def __init__(self) -> None:
        self._noted: list[Any] = []

    def write(self, data: Any) -> int:
        """Note a buffer."""
        self._noted.append(data)
        return len(data)

    def flush(self) -> None:
        """Do nothing: pyarrow calls it."""

    def close(self) -> None:
        """Do nothing: pyarrow calls it."""

    def take(self) -> Iterator[memoryview]:
        """Yield what was written since the last call, small parts together and large ones in pieces."""
        noted, self._noted = self._noted, []
        small = bytearray()
        for data in noted:
            if len(data) < _SMALL:
                small += data
                continue
            yield memoryview(bytes(small))
            small.clear()
            view = memoryview(data)
            yield from (view[start : start + _PIECE] for start in range(0, len(view), _PIECE))
        yield memoryview(bytes(small))


def pieces(name: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> Iterator[memoryview]:
    """Yield the content of an Arrow file batch by batch."""
    arrow = library(name)
    sink = Sink()
    rows = 0
    try:
        writer = arrow.ipc.new_file(arrow.PythonFile(sink, mode="w"), schema, options=options(arrow))
        for batch in batches:
            writer.write_batch(batch)
            rows += batch.num_rows
            yield from sink.take()
        writer.close()
    except (arrow.ArrowException, OverflowError) as error:
        raise UnsupportedError(f"{name!r}: no Arrow file can hold it: {error}", name=name) from None
    yield memoryview(with_summary(b"".join(map(bytes, sink.take())), schema, rows))


def options(arrow: Any) -> Any:
    """Return how batches are written."""
    return arrow.ipc.IpcWriteOptions(emit_dictionary_deltas=True)


def with_summary(end: bytes, schema: pa.Schema, rows: int) -> bytes:
    """Return the end of a file with our summary in it."""
    footer = int.from_bytes(end[-metadata.TAIL : -len(metadata.MAGIC)], "little") + metadata.TAIL
    return end[:-footer] + _summary(schema, rows) + end[-footer:]


def _summary(schema: pa.Schema, rows: int) -> bytes:
    """Encode what a listing shows and the file's own metadata do not tell."""
    index = _index(schema)
    facts = {"rows": rows, "columns": len(schema) - len(index), "index": index}
    text = json.dumps(facts).encode()
    if len(text) > _SUMMARY:
        text = json.dumps(facts | {"index": []}).encode()
    text += b" " * (-len(text) % 8)
    return text + len(text).to_bytes(4, "little") + _MARK


def _index(schema: pa.Schema) -> list[str]:
    """Return the columns that are an index, as the schema says: that of another program may say anything."""
    try:
        said: Any = schema.pandas_metadata or {}
        return [level for level in said.get("index_columns", []) if isinstance(level, str) and level in schema.names]
    except (ValueError, TypeError, AttributeError, RecursionError):
        return []


def with_metadata(table: pa.Table, metadata: Any) -> pa.Table:
    """Return a table with other metadata; pyarrow's own method takes the rows of a table without columns."""
    made = table.replace_schema_metadata(metadata)
    if made.num_columns:
        return made
    batches = [batch.replace_schema_metadata(metadata) for batch in table.to_batches()]
    return library("").Table.from_batches(batches, made.schema)


def empty(table: pa.Table, schema: pa.Schema) -> pa.RecordBatch:
    """Return the batch of a table without rows, which holds the dictionaries."""
    arrow = library("")
    arrays = [one.chunk(0) if one.num_chunks else arrow.nulls(0, one.type) for one in table.columns]
    return arrow.RecordBatch.from_arrays(arrays, schema=schema)


def summary(source: Source) -> Summary | None:
    """Return the summary in an Arrow file, None if it has none that can be read; ValueError if it is no Arrow file."""
    end = metadata.footer(source)[0]
    mark = source.read(end - 8, 8)
    length = int.from_bytes(mark[:4], "little")
    if mark[4:] != _MARK or not 0 < length <= min(_SUMMARY, end - 16):
        return None
    try:
        facts = json.loads(source.read(end - 8 - length, length))
        rows, columns, index = facts["rows"], facts["columns"], facts["index"]
        if type(rows) is int and type(columns) is int and min(rows, columns) >= 0:
            return Summary(rows, columns, frozenset(map(str, index)))
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    return None


def mapped(mapping: mmap.mmap, *, trusted: bool) -> pa.Table:
    """Return the table in a mapped file, without a copy; ValueError if its bytes are damaged."""
    arrow = library("")
    try:
        if not trusted:
            _check_memory(Source(lambda at, count: mapping[at : at + count], len(mapping)))
        reader = arrow.ipc.open_file(arrow.BufferReader(arrow.py_buffer(mapping)))
        table = reader.read_all()
        if not trusted:
            table.validate(full=True)
            for chunk in (chunk for column in table.columns for chunk in column.chunks):
                check_views(chunk)
    except LimitError:
        raise
    except MemoryError as error:
        raise limits.too_much(None) from error
    except Exception as error:  # noqa: BLE001  a class of an extension reads its metadata with code of its own
        limits.raise_told(error)
        raise ValueError(f"it is no whole Arrow file ({type(error).__name__}: {str(error)[:_TEXT]})") from None
    return table


def _check_memory(source: Source) -> None:
    """Raise LimitError if compressed columns take more memory than is left: they are read into new memory, at once."""
    cure = "Close other programs, or read its record batches one by one: pyarrow.ipc.open_file"
    capacity.check_memory("its columns are compressed and take", metadata.expanded(source), cure)


def check_columns(name: str, made: Any) -> Any:
    """Return a table or batch; DamagedError names a column that would end the process that reads it."""
    for field, column in zip(made.schema, made.columns, strict=True):
        try:
            for part in getattr(column, "chunks", [column]):
                check(part)
        except ValueError as error:
            what = f"{name!r}: column {field.name!r} ({field.type}) is damaged: {error}"
            raise DamagedError(what, name=name, column=field.name) from None
    return made


def check(array: pa.Array) -> None:
    """Raise ValueError if an array leads out of its buffers, or has texts that are no UTF-8: polars ends at both."""
    arrow = library("")
    kind, types = array.type, arrow.types
    array.validate()
    if types.is_primitive(kind):
        return
    if types.is_string(kind) or types.is_large_string(kind):
        large = types.is_large_string(kind)
        plain = array.view(arrow.large_binary() if large else arrow.binary())
        plain.validate(full=True)  # the offsets alone: a tenth of the time
        if _is_ascii(plain, "<i8" if large else "<i4"):
            return
    if types.is_dictionary(kind) and len(array) and not array.null_count:
        check(array.dictionary)
        codes = array.indices.to_numpy()  # pyarrow's own check takes five times as long
        if codes.min() >= 0 and codes.max() < len(array.dictionary):
            return
    array.validate(full=True)
    check_views(array)


def _is_ascii(array: pa.Array, word: str) -> bool:
    _, ends, data = array.buffers()
    if data is None or not len(array):
        return True
    first, last = np.frombuffer(ends, word)[[array.offset, array.offset + len(array)]]
    return bool(np.frombuffer(data, np.int8)[first:last].min(initial=0) >= 0)


_INLINE = 12  # bytes of a text that lie in the view itself


def check_views(array: pa.Array) -> None:
    """Raise ValueError if a view leads out of its buffers: pyarrow checks none under a null, but follows some."""
    kind, name = array.type, str(array.type)
    if "view" not in name:
        return
    if hasattr(kind, "extension_name"):
        check_views(array.storage)
    elif name.startswith("dictionary"):
        check_views(array.dictionary)
    elif name in ("string_view", "binary_view"):
        _, views, *data = array.buffers()
        size, _, buffer, offset = _words(views, "<i4", array, 4).T
        sizes = np.array([one.size for one in data] or [0], np.int64)
        longs = size > _INLINE
        held = (buffer >= 0) & (buffer < len(data)) & (offset >= 0)
        ends = offset.astype(np.int64) + size
        if (size < 0).any() or not (held & (ends <= sizes[np.where(held, buffer, 0)]))[longs].all():
            raise ValueError("a text lies in no buffer")
    else:
        if "list_view" in name.partition("<")[0]:
            word = "<i8" if name.startswith("large") else "<i4"
            start, size = (_words(one, word, array, 1)[:, 0].astype(np.int64) for one in array.buffers()[1:3])
            if len(size) and (min(start.min(), size.min()) < 0 or (start > len(array.values) - size).any()):
                raise ValueError("a list lies beyond its items")
        parts = [array.values] if hasattr(array, "values") else map(array.field, range(kind.num_fields))
        for part in parts:
            check_views(part)


def _words(buffer: pa.Buffer | None, dtype: str, array: pa.Array, width: int) -> NDArray[Any]:
    """Return a buffer's numbers for the rows of an array, so many for each."""
    if buffer is None:
        return np.zeros((0, width), dtype)
    rows: NDArray[Any] = np.frombuffer(buffer, dtype)[: (array.offset + len(array)) * width].reshape(-1, width)
    return rows[array.offset :]
