"""Give a mapped table the form of a library, without a copy where the library allows it, and save it to files."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from shmkernel._core.imports import importing, loaded
from shmkernel.errors import ArgumentError, UnsupportedError
from shmkernel.kinds.tables import arrow_file, frames
from shmkernel.kinds.tables.incoming import ORIGIN

if TYPE_CHECKING:
    import mmap
    from collections.abc import Iterator

    import pyarrow as pa

_ROWS = 1 << 16  # of a batch in a file
FORMS = ("arrow", "pandas", "polars", "duckdb")


def value(table: pa.Table, mapping: mmap.mmap, form: str | None, *, trusted: bool) -> Any:
    """Return the table as what was shared, or as what `form` names; ArgumentError if its library is not installed."""
    origin = _origin(table)
    as_it_was = form in (None, origin["library"])
    library = form or origin["library"]
    if library == "arrow":
        return _arrow(table, origin) if form is None else table
    try:
        if not loaded(library):
            with importing:
                __import__(library)
    except ImportError:
        if form is None:  # shared from an environment that has it
            return table
        message = f"as_={form!r} needs {form}, which is not installed. Without it: as_='arrow'"
        raise ArgumentError(message, form=form) from None
    if library == "pandas":
        return frames.from_arrow(table, mapping, origin if as_it_was else {}, trusted=trusted)
    if library == "polars":
        frame = _polars(table, trusted=trusted)
        return frame.to_series() if origin.get("column") and as_it_was else frame
    return sys.modules["duckdb"].from_arrow(table)


class _Rows:
    """The rows of a table, for a library that would recognise a table of pyarrow."""

    def __init__(self, rows: pa.ChunkedArray) -> None:
        self._rows = rows

    def __arrow_c_stream__(self, schema: object = None) -> object:
        return self._rows.__arrow_c_stream__(schema)


def _polars(table: pa.Table, *, trusted: bool) -> Any:
    """Return a frame. Made by `polars.from_arrow` it would take polars' threads, which a forked child has not."""
    try:
        return sys.modules["polars"].Series(_Rows(table.to_struct_array())).struct.unnest()
    except BaseException as error:  # what its Rust code panics about is no Exception
        if type(error).__name__ != "PanicException":
            raise
        message = f"polars cannot read it: {error}. Attach it as_='arrow'"
        raise (UnsupportedError(message) if trusted else ValueError(message)) from None


def _origin(table: pa.Table) -> dict[str, Any]:
    """Return what was shared, as the schema says; the metadata of another program may say anything."""
    try:
        origin = json.loads((table.schema.metadata or {})[ORIGIN])
        if origin["library"] in FORMS:
            return dict(origin)
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    return {"library": "arrow"}


def _arrow(table: pa.Table, origin: dict[str, Any]) -> Any:
    plain = table.replace_schema_metadata(
        {k: v for k, v in (table.schema.metadata or {}).items() if k != ORIGIN} or None
    )
    if origin.get("column") and plain.num_columns == 1:
        column = plain.column(0)
        return column.chunk(0) if origin.get("array") and column.num_chunks == 1 else column
    batches = plain.to_batches() or [arrow_file.empty(plain, plain.schema)]
    return batches[0] if origin.get("batch") and len(batches) == 1 else plain


class _Copies(arrow_file.Sink):
    """Notes copies: pyarrow's CSV writer uses its buffer again."""

    def write(self, data: Any) -> int:
        """Note what is written."""
        return super().write(bytes(data))


def save(given: Any, path: str) -> Iterator[bytes] | None:
    """Yield a Parquet, CSV or Feather file of an Arrow table batch by batch; None for the Arrow file as it is."""
    arrow = arrow_file.library(path)
    sink = _Copies()
    file = arrow.PythonFile(sink, mode="w")
    if path.endswith(".parquet"):
        import pyarrow.parquet  # noqa: PLC0415  slow

        origin = _origin(given)
        if "forms" in origin:
            text = json.dumps(frames.to_file(given, origin, arrow))
            given = given.replace_schema_metadata({**given.schema.metadata, ORIGIN: text.encode()})
        return _written(given, sink, pyarrow.parquet.ParquetWriter(file, given.schema, use_compliant_nested_type=False))
    if path.endswith(".csv"):
        import pyarrow.csv  # noqa: PLC0415  slow

        return _written(given, sink, pyarrow.csv.CSVWriter(file, given.schema))
    if path.endswith(".feather"):
        options = arrow.ipc.IpcWriteOptions(compression="lz4")
        return _written(given, sink, arrow.ipc.new_file(file, given.schema, options=options))
    return None


def _written(given: pa.Table, sink: arrow_file.Sink, writer: Any) -> Iterator[bytes]:
    for batch in given.to_batches(max_chunksize=_ROWS) or [arrow_file.empty(given, given.schema)]:
        writer.write_batch(batch)
        yield from map(bytes, sink.take())
    writer.close()
    yield from map(bytes, sink.take())
