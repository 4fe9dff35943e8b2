"""What becomes a table: recognised by Arrow's interface or by a module that is loaded, never by an import.

The interface is the Arrow PyCapsule interface (https://arrow.apache.org/docs/format/CDataInterface/
PyCapsuleInterface.html). A stream is read batch by batch, so it takes the memory of one batch beside the segment.
"""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from shmkernel.errors import DamagedError, UnsupportedError
from shmkernel.kinds.tables import arrow_file, frames

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import pyarrow as pa

SUFFIXES = (".parquet", ".csv", ".feather", ".arrow")
ORIGIN = b"shmkernel"  # key in the schema's metadata: what was shared
_BATCH = 1 << 16  # rows of a batch of a Parquet file


class Incoming(NamedTuple):
    """A table to write. ``size`` in bytes is an estimate, 0 for a stream."""

    schema: pa.Schema
    batches: Iterable[pa.RecordBatch]
    size: int = 0


def recognises(value: object) -> bool:
    """Return whether a value is a table."""
    kind = type(value)
    return (
        hasattr(kind, "__arrow_c_stream__")
        or hasattr(kind, "__arrow_c_array__")
        or _is(value, "pandas", "DataFrame", "Series")
        or _is(value, "polars", "LazyFrame")
        or _is(value, "pyarrow", "RecordBatchReader")
    )


def _is(value: object, module: str, *names: str) -> bool:
    """Return whether a value is an instance of a class of a module that is loaded."""
    loaded = sys.modules.get(module)
    classes = (getattr(loaded, name, None) for name in names)
    return any(isinstance(one, type) and isinstance(value, one) for one in classes)


def table(name: str, value: Any) -> Incoming:
    """Return the value as record batches; UnsupportedError if it has columns that no table has."""
    arrow = arrow_file.library(name)
    try:
        made = _table(name, value, arrow)
        _check(made.schema)
    except (arrow.ArrowException, NotImplementedError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UnsupportedError(f"{name!r}: no table can be made of it: {error}", name=name) from None
    return made


def _table(name: str, value: Any, arrow: Any) -> Incoming:
    if _is(value, "pandas", "DataFrame", "Series"):
        made, facts = frames.to_arrow(name, value, arrow)
        return _whole(made, "pandas", arrow, **facts)
    if _is(value, "polars", "LazyFrame"):
        value = value.collect()
    if _is(value, "polars", "Series"):
        return _stream(value.to_frame(), "polars", arrow, column=True)
    if _is(value, "polars", "DataFrame"):
        return _stream(value, "polars", arrow)
    if isinstance(value, arrow.Table):
        return _whole(value.unify_dictionaries(), "arrow", arrow)
    if isinstance(value, arrow.RecordBatch):
        return _whole(arrow.Table.from_batches([value]), "arrow", arrow, batch=True)
    if isinstance(value, (arrow.Array, arrow.ChunkedArray)):
        return _whole(arrow.table({"": value}).unify_dictionaries(), "arrow", arrow, column=True)
    if isinstance(value, arrow.RecordBatchReader) or hasattr(value, "__arrow_c_stream__"):
        return _stream(
            value, "duckdb" if type(value).__module__.partition(".")[0].strip("_") == "duckdb" else "arrow", arrow
        )
    return _whole(arrow.Table.from_batches([arrow.record_batch(value)]), "arrow", arrow)


def _origin(schema: pa.Schema, library: str, facts: dict[str, object]) -> pa.Schema:
    text = json.dumps({"library": library} | facts)
    return schema.with_metadata({**(schema.metadata or {}), ORIGIN: text.encode()})


def _whole(made: pa.Table, library: str, arrow: Any, **facts: object) -> Incoming:
    schema = _origin(made.schema, library, facts)
    batches = made.replace_schema_metadata(schema.metadata).to_batches()
    if not batches and all(column.num_chunks for column in made.columns):  # an empty one holds the dictionaries
        batches = [arrow.RecordBatch.from_arrays([column.chunk(0) for column in made.columns], schema=schema)]
    return Incoming(schema, batches, made.nbytes)


def _stream(value: Any, library: str, arrow: Any, **facts: object) -> Incoming:
    reader = value if isinstance(value, arrow.RecordBatchReader) else arrow.RecordBatchReader.from_stream(value)
    return Incoming(_origin(reader.schema, library, facts), reader)


def file(name: str, path: str) -> Incoming:
    """Return the rows of a Parquet, CSV, Feather or Arrow file; a damaged file is a DamagedError."""
    arrow = arrow_file.library(name)
    try:
        schema, batches = _read(arrow, path)
        _check(schema)
    except (arrow.ArrowException, MemoryError, OverflowError, ValueError) as error:
        raise _damaged(name, path, error) from None
    return Incoming(_plain(schema), _batches(name, path, batches, arrow), os.path.getsize(path))


def _check(schema: pa.Schema) -> None:
    """Read the names of the columns, and what is said of an index; ValueError if they are no text or no JSON."""
    said = schema.names and schema.pandas_metadata
    if said and not (isinstance(said, dict) and isinstance(said.get("index_columns", []), list)):
        raise ValueError("what it says of a pandas index makes no sense")


def _batches(name: str, path: str, batches: Any, arrow: Any) -> Iterator[pa.RecordBatch]:
    try:
        yield from batches
    except (arrow.ArrowException, OverflowError, ValueError) as error:
        raise _damaged(name, path, error) from None


def _damaged(name: str, path: str, error: Exception) -> DamagedError:
    message = f"{path} cannot be loaded: {error}. It has to be a {', '.join(SUFFIXES)} file"
    return DamagedError(message, name=name, path=path)


def _plain(schema: pa.Schema) -> pa.Schema:
    """Return the schema of a file with its own facts, or as a plain Arrow table: a pandas frame only if it says so."""
    known = schema.metadata or {}
    if ORIGIN in known:
        return schema
    return _origin(schema, "pandas" if b"pandas" in known else "arrow", {})


def _read(arrow: Any, path: str) -> tuple[Any, Any]:
    if path.endswith(".parquet"):
        import pyarrow.parquet  # noqa: PLC0415  slow

        parquet = pyarrow.parquet.ParquetFile(path)
        return parquet.schema_arrow, parquet.iter_batches(_BATCH)
    if path.endswith(".csv"):
        import pyarrow.csv  # noqa: PLC0415  slow

        reader = pyarrow.csv.open_csv(path)
        return reader.schema, reader
    reader = arrow.ipc.open_file(path)
    return reader.schema, _checked(reader)


def _checked(reader: Any) -> Any:
    for index in range(reader.num_record_batches):
        batch = reader.get_batch(index)
        batch.validate(full=True)
        yield batch
