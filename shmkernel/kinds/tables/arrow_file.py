"""Write tables as Arrow IPC files, and map such files.

    ARROW1 | schema | record batches | summary | footer | size of the footer | ARROW1

The format is Apache Arrow's (https://arrow.apache.org/docs/format/Columnar.html#ipc-file-format): readers find each
record batch by its offset in the footer, so they do not see the summary in front of it. The summary is ours: JSON with
what listings and previews show, so that neither imports pyarrow, which takes 0.2 s.

    summary   JSON | its length, 4 bytes | "shmk"

What is read from a file is checked in full before it is used, unless this library wrote it: a wrong offset in it would
end the process.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from shmkernel._core.imports import importing
from shmkernel.errors import UnsupportedError

if TYPE_CHECKING:
    import mmap
    from collections.abc import Iterable, Iterator

    import pyarrow as pa

    from shmkernel.kinds.preview import Source

MAGIC = b"ARROW1"
_MARK = b"shmk"
_TAIL = 4 + len(MAGIC)  # bytes: the size of the footer, the magic
_SMALL = 1 << 16  # bytes: smaller parts are written together
_PIECE = 16 << 20  # bytes between two updates of the progress bar, where Ctrl-C can interrupt
_LONGEST = 64 << 20  # bytes of a footer: that of 10,000 columns takes 3 MiB
_SUMMARY = 48 << 10  # bytes
_SHOWN = 20  # rows and columns in the summary
_TEXT = 64  # characters of a value in the summary


def library(name: str) -> Any:
    """Import pyarrow; UnsupportedError says how to install it."""
    try:
        with importing:
            import pyarrow.ipc  # noqa: PLC0415  an extra, and slow
    except ImportError:
        message = f"{name!r}: a table needs pyarrow. Install it, in a terminal: pip install 'shmkernel[tables]'"
        raise UnsupportedError(message, name=name) from None
    return pyarrow


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
    options = arrow.ipc.IpcWriteOptions(emit_dictionary_deltas=True)
    rows, shown = 0, None
    try:
        writer = arrow.ipc.new_file(arrow.PythonFile(sink, mode="w"), schema, options=options)
        for batch in batches:
            writer.write_batch(batch)
            if shown is None and batch.num_rows:
                shown = batch.slice(0, _SHOWN)
            rows += batch.num_rows
            yield from sink.take()
        writer.close()
    except arrow.ArrowException as error:
        raise UnsupportedError(f"{name!r}: no Arrow file can hold it: {error}", name=name) from None
    tail = b"".join(map(bytes, sink.take()))
    footer = int.from_bytes(tail[-_TAIL : -len(MAGIC)], "little") + _TAIL
    yield memoryview(tail[:-footer] + _summary(schema, rows, shown) + tail[-footer:])


def _summary(schema: pa.Schema, rows: int, shown: pa.RecordBatch | None) -> bytes:
    """Encode what a listing and a preview show."""
    said: Any = schema.pandas_metadata or {}
    index = [level for level in said.get("index_columns", []) if isinstance(level, str)]
    names = [*index, *(name for name in schema.names if name not in index)][:_SHOWN]
    places = [schema.names.index(name) for name in names]
    titles = ["" if name in index and name.startswith("__index_level_") else _short(name) for name in names]
    fields = [[title, _short(str(schema.field(place).type))] for title, place in zip(titles, places, strict=True)]
    columns = [[*map(_said, shown.column(place))] for place in places] if shown is not None else []
    facts = {"rows": rows, "columns": len(schema) - len(index), "fields": fields, "first": []}
    lines = [[_short(value) for value in line] for line in zip(*columns, strict=True)]
    text = json.dumps(facts | {"first": lines}).encode()
    if len(text) > _SUMMARY:
        text = json.dumps(facts).encode()
    text += b" " * (-len(text) % 8)
    return text + len(text).to_bytes(4, "little") + _MARK


def _said(scalar: pa.Scalar) -> str:
    try:
        return str(scalar.as_py())
    except (ValueError, OverflowError):  # Python has no such date
        return str(getattr(scalar, "value", "?"))


def _short(text: str) -> str:
    return text if len(text) <= _TEXT else f"{text[: _TEXT - 1]}…"


def summary(source: Source) -> dict[str, Any] | None:
    """Return the summary in an Arrow file, None if it has none that can be read; ValueError if it is no Arrow file."""
    tail = source.read(max(source.size - _TAIL, 0), _TAIL)
    size = int.from_bytes(tail[:4], "little")
    if len(tail) != _TAIL or tail[4:] != MAGIC or size + 2 * _TAIL > source.size or size > _LONGEST:
        raise ValueError("it does not end as an Arrow file does")
    end = source.size - _TAIL - size
    mark = source.read(end - 8, 8)
    length = int.from_bytes(mark[:4], "little")
    if mark[4:] != _MARK or not 0 < length <= min(_SUMMARY, end - 16):
        return None
    try:
        facts = json.loads(source.read(end - 8 - length, length))
        rows, columns, fields, first = (facts[key] for key in ("rows", "columns", "fields", "first"))
        sound = type(rows) is int and type(columns) is int and all(type(one) is str for two in fields for one in two)
        if not sound or {*map(len, fields)} - {2} or not all(map(_is_texts, first)):
            raise TypeError  # noqa: TRY301  handled below
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return {"rows": rows, "columns": columns, "fields": fields, "first": first}


def _is_texts(line: object) -> bool:
    return isinstance(line, list) and all(type(one) is str for one in line)


def mapped(mapping: mmap.mmap, *, trusted: bool) -> pa.Table:
    """Return the table in a mapped file, without a copy; ValueError if its bytes are damaged."""
    arrow = library("")
    try:
        reader = arrow.ipc.open_file(arrow.BufferReader(arrow.py_buffer(mapping)))
        table = reader.read_all()
        if not trusted:
            table.validate(full=True)
    except (arrow.ArrowException, OSError, MemoryError, OverflowError) as error:
        raise ValueError(f"it is no whole Arrow file ({type(error).__name__}: {str(error)[:_TEXT]})") from None
    return table
