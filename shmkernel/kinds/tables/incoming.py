"""What becomes a table: recognised by Arrow's interface or by a module that is loaded, never by an import.

The interface is the Arrow PyCapsule interface (https://arrow.apache.org/docs/format/CDataInterface/
PyCapsuleInterface.html). A stream is read batch by batch, so it takes the memory of one batch beside the segment.
"""

from __future__ import annotations

import functools
import json
import mmap
import os
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from shmkernel._core import capacity, limits
from shmkernel._core.imports import importing
from shmkernel.errors import DamagedError, UnsupportedError
from shmkernel.kinds import a_type, said
from shmkernel.kinds.tables import arrow_file, frames, origin, parquet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import pyarrow as pa

SUFFIXES = (".parquet", ".csv", ".feather", ".arrow")
_SOUND = ("polars", "duckdb")  # libraries that make each column themselves
_CHANGED = {"time with time zone": "time_tz", "bit": "bit", "uhugeint": "uhugeint"}  # DuckDB's types, by two names
_NESTED = ("list", "struct", "map", "array", "union")
_ADDRESSES = 64 << 20  # bytes of addresses for the stacks of two threads, and what they read ahead
_MORE = ("xarray",)  # libraries whose values have the interface, and are more than a table


class Incoming(NamedTuple):
    """A table to write. ``size`` in bytes is an estimate, 0 for a stream."""

    schema: pa.Schema
    batches: Iterable[pa.RecordBatch]
    size: int = 0


def recognises(value: object) -> bool:
    """Return whether a value is a table."""
    kind = type(value)
    if kind.__module__.partition(".")[0] in _MORE:
        return False
    return (
        hasattr(kind, "__arrow_c_stream__")
        or hasattr(kind, "__arrow_c_array__")
        or _is(value, "pandas", "DataFrame", "Series")
        or is_dask(value)
        or _is(value, "polars", "LazyFrame")
        or _is(value, "pyarrow", "RecordBatchReader")
    )


def is_dask(value: object) -> bool:
    """Return whether a value is a frame of Dask, or a column of one."""
    return _is(value, "dask.dataframe", "DataFrame", "Series") and not _is(value, "dask.dataframe", "Index")


def dask(name: str, value: Any) -> tuple[int, Callable[[int, Callable[[int], None]], None]]:
    """Return how large the beginning of a file is, and the function that has a frame of Dask computed into it."""
    arrow = arrow_file.library(name)
    with importing:
        from shmkernel.kinds.tables import dask_frames  # noqa: PLC0415  Dask alone needs it

    frame, empty = dask_frames.plan(name, value, lambda facts, said: _origin(name, said, "pandas", facts, arrow))
    return len(dask_frames.front(frame, empty)), functools.partial(dask_frames.compute, value, frame, empty)


def _is(value: object, module: str, *names: str) -> bool:
    """Return whether a value is an instance of a class of a module that is loaded."""
    loaded = sys.modules.get(module)
    classes = (getattr(loaded, name, None) for name in names)
    return any(isinstance(one, type) and isinstance(value, one) for one in classes)


def table(name: str, value: Any) -> Incoming:
    """Return the value as record batches; UnsupportedError if it has columns that no table has."""
    arrow = arrow_file.library(name)
    if _is(value, "pandas", "DataFrame", "Series"):
        made, facts = frames.to_arrow(name, value, arrow)
        return _whole(name, made, "pandas", arrow, **facts)
    if _is(value, "polars", "LazyFrame"):
        value = value.collect()
    if _is(value, "polars", "Series"):
        return _stream(name, _polars(name, value.to_frame(), arrow), "polars", arrow, column=True)
    if _is(value, "polars", "DataFrame"):
        return _stream(name, _polars(name, value, arrow), "polars", arrow)
    if isinstance(value, arrow.Table):
        return _whole(name, value, "arrow", arrow)
    if isinstance(value, arrow.RecordBatch):
        return _whole(name, arrow.Table.from_batches([value]), "arrow", arrow, batch=True)
    if isinstance(value, (arrow.Array, arrow.ChunkedArray)):
        alone = isinstance(value, arrow.Array)
        return _whole(name, arrow.table({"": value}), "arrow", arrow, column=True, array=alone)
    if isinstance(value, arrow.RecordBatchReader) or hasattr(value, "__arrow_c_stream__"):
        made_by = type(value).__module__.partition(".")[0].strip("_")
        if made_by == "duckdb":
            return _stream(name, _duckdb(name, value, arrow), "duckdb", arrow)
        return _stream(name, value, "arrow", arrow)
    if not hasattr(value, "__arrow_c_array__"):
        what = f"{a_type(value)} is no table, which pandas, polars and pyarrow make, and others with Arrow's interface"
        raise UnsupportedError(f"{name!r}: {what}", name=name, type=type(value).__name__)
    try:
        batch = arrow.record_batch(value)
    except arrow.ArrowInvalid:  # an array
        return _whole(name, arrow.table({"": arrow.array(value)}), "arrow", arrow, column=True, array=True)
    return _whole(name, arrow.Table.from_batches([batch]), "arrow", arrow)


def _polars(name: str, frame: Any, arrow: Any) -> Any:
    """Return the frame; UnsupportedError names a column that Arrow has no type for, or would give back as addresses."""
    for column, kind in frame.schema.items():
        if why := _unfit(column, kind):
            raise _refused(name, column, kind, why)
    empty = frame.clear()
    try:
        arrow.RecordBatchReader.from_stream(empty)
    except (arrow.ArrowException, NotImplementedError):
        for column, kind in frame.schema.items():
            try:
                arrow.RecordBatchReader.from_stream(empty.select(column))
            except (arrow.ArrowException, NotImplementedError):
                raise _refused(name, column, kind, "Arrow has no such type") from None
        raise
    return frame


def _duckdb(name: str, relation: Any, arrow: Any) -> Any:
    """Return the relation; UnsupportedError names a column of which DuckDB gives Arrow other values."""
    pairs = zip(getattr(relation, "columns", ()), getattr(relation, "types", ()), strict=True)
    changed = {column: kind for column, kind in pairs if any(_changed(kind))}
    if not changed:
        return relation
    given = arrow.RecordBatchReader.from_stream(relation.limit(0)).read_all()  # an open result bars the next one
    told = dict(zip(relation.columns, map(str, given.schema.types), strict=True))
    for column, kind in changed.items():
        kept = all(f"type_name={id_}," in told[column] for id_ in _changed(kind))  # with `arrow_lossless_conversion`
        if not kept:
            ids = ['"{}"'.format(each.replace('"', '""')) for each in changed]
            replaced = f"* replace ({', '.join(f'{each}::varchar as {each}' for each in ids)})"
            cure = f"{name if name.isidentifier() else 'x'}.project({replaced!r})"
            error = _refused(name, column, kind, f"DuckDB gives other values of it to Arrow. As text: {cure}")
            raise error.reworded(error.what, expression=cure)
    return relation


def _changed(kind: Any) -> Iterator[str]:
    """Yield the names of the types in a type of DuckDB whose values Arrow's plain types do not keep."""
    if kind.id in _CHANGED:
        yield _CHANGED[kind.id]
    elif kind.id in _NESTED:
        for _, part in kind.children:
            if hasattr(part, "id"):  # the other is the size of an array
                yield from _changed(part)


def _unfit(name: str, kind: Any) -> str | None:
    """Return why polars must not be asked for a column: it would give addresses, nothing, or end the process."""
    if "\0" in name:
        return "there is a NUL in a name"
    if type(kind).__name__ == "Object":
        return "it holds Python objects"
    if getattr(kind, "size", None) == 0:
        return "polars cannot read arrays of no items"
    inner = [(name, kind.inner)] if getattr(kind, "inner", None) else []
    fields = [(field.name, field.dtype) for field in getattr(kind, "fields", ())]
    return next(filter(None, (_unfit(*part) for part in (*inner, *fields))), None)


def _refused(name: str, column: str, kind: object, why: str) -> UnsupportedError:
    return UnsupportedError(
        f"{name!r}: column {column!r} ({kind}) cannot be in a table: {why}", name=name, column=column
    )


def _origin(name: str, schema: pa.Schema, library: str, facts: dict[str, object], arrow: Any) -> pa.Schema:
    """Return the schema with what was shared; UnsupportedError for a column that no file gives back."""
    for field in schema:
        if _is_lost(field.type, arrow):
            raise _refused(name, field.name, field.type, "Arrow files hold no such dictionary")
    return origin.noted(schema, {"library": library} | facts)


def _parts(kind: pa.DataType, arrow: Any) -> list[pa.DataType]:
    """Return the types that a type is made of."""
    if arrow.types.is_dictionary(kind):
        return [kind.value_type]
    storage = getattr(kind, "storage_type", None)
    return [storage] if storage else [kind.field(number).type for number in range(kind.num_fields)]


def _has_dictionary(kind: pa.DataType, arrow: Any) -> bool:
    return arrow.types.is_dictionary(kind) or any(_has_dictionary(part, arrow) for part in _parts(kind, arrow))


def _is_lost(kind: pa.DataType, arrow: Any) -> bool:
    """Return whether a dictionary has values of an extension type or of dictionaries: no reader gives them back."""
    if arrow.types.is_dictionary(kind):
        inner = kind.value_type
        return hasattr(inner, "extension_name") or _has_dictionary(inner, arrow)
    return any(_is_lost(part, arrow) for part in _parts(kind, arrow))


def _whole(name: str, made: pa.Table, library: str, arrow: Any, **facts: object) -> Incoming:
    if library not in _SOUND:
        arrow_file.check_columns(name, made)
    if library != "pandas":
        made = _unified(name, made, arrow)
    schema = _origin(name, made.schema, library, facts, arrow)
    batches = arrow_file.with_metadata(made, schema.metadata).to_batches()
    return Incoming(schema, batches or [arrow_file.empty(made, schema)], made.nbytes)


def _stream(name: str, value: Any, library: str, arrow: Any, **facts: object) -> Incoming:
    try:
        reader = value if isinstance(value, arrow.RecordBatchReader) else arrow.RecordBatchReader.from_stream(value)
    except arrow.ArrowInvalid:  # a stream of arrays
        return _whole(name, arrow.table({"": arrow.chunked_array(value)}), library, arrow, column=True)
    if any(_has_dictionary(kind, arrow) for kind in reader.schema.types):  # each batch may have its own
        made = _whole(name, reader.read_all(), library, arrow, **facts)
        return made._replace(batches=[*_valid(name, made.batches, arrow)])
    rows = _valid(name, _rows(name, reader, value), arrow)
    if library not in _SOUND:
        rows = (arrow_file.check_columns(name, batch) for batch in rows)
    return Incoming(_origin(name, reader.schema, library, facts, arrow), rows)


def _rows(name: str, reader: pa.RecordBatchReader, value: object) -> Iterator[pa.RecordBatch]:
    """Yield the batches of a stream; what the value raises on the way becomes an UnsupportedError."""
    try:
        yield from reader
    except MemoryError:
        raise
    except Exception as error:
        limits.raise_told(error)
        what = f"{name!r}: {a_type(value)} has ended in an error: {said(error)}"
        raise UnsupportedError(what, name=name, type=type(value).__name__) from error


def _valid(name: str, batches: Iterable[pa.RecordBatch], arrow: Any) -> Iterator[pa.RecordBatch]:
    """Yield batches; UnsupportedError for a value that its type does not hold: no file with it could be loaded."""
    for batch in batches:
        for field, column in zip(batch.schema, batch.columns, strict=True):
            if arrow.types.is_decimal(field.type) or arrow.types.is_time(field.type):  # DuckDB's have a wider range
                try:
                    column.validate(full=True)
                except arrow.ArrowInvalid as error:
                    raise _refused(name, field.name, field.type, str(error)) from None
        yield batch


def _unified(name: str, made: pa.Table, arrow: Any) -> pa.Table:
    """Return a table in which a column has one dictionary; UnsupportedError names the column that cannot have one."""
    try:
        return made.unify_dictionaries()
    except arrow.ArrowInvalid as error:
        for field, column in zip(made.schema, made.columns, strict=True):
            try:
                column.unify_dictionaries()
            except arrow.ArrowInvalid:
                raise _refused(name, field.name, field.type, str(error)) from None
        raise


def file(name: str, path: str) -> Incoming:
    """Return the rows of a Parquet, CSV, Feather or Arrow file; a damaged file is a DamagedError."""
    arrow = arrow_file.library(name)
    try:
        schema, batches, rows = _read(arrow, path)
        _check(schema)
        size = max(os.path.getsize(path), rows * sum(map(_bits, schema.types)) // 8)
    except Exception as error:  # noqa: BLE001  a class of an extension reads its metadata with code of its own
        raise _damaged(name, path, error) from None
    schema, batches = _plain(name, schema, arrow), _batches(name, path, batches)
    if path.endswith(".parquet") and any(_has_dictionary(kind, arrow) for kind in schema.types):
        capacity.check_memory(f"{path} takes at least", size, name=name, path=path)
        plain = (batch.replace_schema_metadata(schema.metadata) for batch in batches)
        made = _unified(name, arrow.Table.from_batches(plain, schema), arrow)  # each batch has a dictionary of its own
        return Incoming(schema, made.to_batches() or [arrow_file.empty(made, schema)], made.nbytes)
    return Incoming(schema, batches, size)


def _bits(kind: pa.DataType) -> int:
    """Return the least number of bits that a value takes in a table, by which a small file may promise terabytes."""
    try:
        return int(kind.bit_width)
    except ValueError:  # texts, lists and others may be empty
        return 0


def _check(schema: pa.Schema) -> None:
    """Read the names of the columns, and what is said of an index; ValueError if they are no text or no JSON."""
    said = schema.names and schema.pandas_metadata
    if said and not (isinstance(said, dict) and isinstance(said.get("index_columns", []), list)):
        raise ValueError("what it says of a pandas index makes no sense")


def _batches(name: str, path: str, batches: Any) -> Iterator[pa.RecordBatch]:
    try:
        yield from batches
    except Exception as error:  # noqa: BLE001  likewise
        raise _damaged(name, path, error) from None


def _damaged(name: str, path: str, error: Exception) -> Exception:
    """Return the error to raise for a file; pyarrow has OSErrors of its own, without a number."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno is not None):
        return error
    limits.raise_told(error)
    message = f"{path} cannot be loaded: {error}. It has to be a {', '.join(SUFFIXES)} file"
    return DamagedError(message, name=name, path=path)


def _plain(name: str, schema: pa.Schema, arrow: Any) -> pa.Schema:
    """Return the schema of a file with its own facts, or as a plain Arrow table: a pandas frame only if it says so."""
    known = schema.metadata or {}
    if origin.KEY in known:
        try:
            facts = {"about": None} | json.loads(known[origin.KEY]) | {"clean": False}  # under nulls may lie anything
            return _origin(name, schema, facts.pop("library"), facts, arrow)
        except (ValueError, TypeError, KeyError, RecursionError):
            pass
    return _origin(name, schema, "pandas" if b"pandas" in known else "arrow", {}, arrow)


def _read(arrow: Any, path: str) -> tuple[Any, Any, int]:
    """Return the schema and the batches of a file, and its number of rows if it says so at its end."""
    if path.endswith(".parquet"):
        file = parquet.open_(path)
        keeps = any(_has_dictionary(kind, arrow) for kind in file.schema_arrow.types)
        return file.schema_arrow, parquet.batches(arrow, path, file, keeps=keeps), file.metadata.num_rows
    if path.endswith(".csv"):
        with importing:
            import pyarrow.csv  # noqa: PLC0415  slow

        _check_addresses()
        reader = pyarrow.csv.open_csv(path)
        return reader.schema, reader, 0
    reader = arrow.ipc.open_file(path)
    return reader.schema, _checked(reader), 0


def _check_addresses() -> None:
    """Raise LimitError if threads of pyarrow may not start, or not get memory: `open_csv` would wait for ever."""
    try:
        mmap.mmap(-1, _ADDRESSES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_READ).close()
    except OSError:
        raise limits.too_much(None) from None


def _checked(reader: Any) -> Any:
    for index in range(reader.num_record_batches):
        batch = reader.get_batch(index)
        batch.validate(full=True)
        for column in batch.columns:
            arrow_file.check_views(column)
        yield batch
