"""Give a mapped table the form of a library, without a copy where the library allows it, and save it to files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shmkernel._core import limits
from shmkernel._core.imports import importing
from shmkernel.errors import ArgumentError, UnsupportedError
from shmkernel.kinds.tables import arrow_file, frames, libraries, origin, parquet

if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable, Iterator

    import pyarrow as pa

_ROWS = 1 << 16  # of a batch in a file
_DECIMAL = 128  # bits of a decimal that all libraries read
_VIEWS = {"string_view": lambda arrow: arrow.large_string(), "binary_view": lambda arrow: arrow.large_binary()}
FORMS = origin.LIBRARIES


def value(table: pa.Table, mapping: mmap.mmap, form: str | None, *, trusted: bool) -> Any:
    """Return the table as what was shared, or as what `form` names; ArgumentError if its library is not installed."""
    if form == "arrow":
        return table
    facts = origin.of(table)
    as_it_was = form in (None, facts["library"])
    library = form or facts["library"]
    if library == "arrow":
        return _arrow(table, facts)
    try:
        libraries.ready(library)
    except ModuleNotFoundError:
        if form is None:  # shared from an environment that has it
            return table
        message = f"as_={form!r} needs {form}, which is not installed. Without it: as_='arrow'"
        raise ArgumentError(message, form=form) from None
    except UnsupportedError as error:
        raise error.reworded(f"{error.what}. Without it: as_='arrow'") from error.__cause__
    if library == "pandas":
        table = table if as_it_was else _retyped(table, _without_views)
        return frames.from_arrow(table, mapping, facts if as_it_was else {}, trusted=trusted)
    if library == "polars":
        frame = _polars(_retyped(table, _wide), trusted=trusted)
        return frame.to_series() if facts.get("column") and as_it_was else frame
    return libraries.to_duckdb(table)


def _retyped(table: pa.Table, change: Callable[[Any, Any], Any]) -> pa.Table:
    """Return a table with other types for those that a library cannot read; such columns are copied."""
    arrow = arrow_file.library("")
    for number, field in enumerate(table.schema):
        kind = change(field.type, arrow)
        if kind != field.type:
            table = table.set_column(number, field.with_type(kind), table.column(number).cast(kind))
    return table


def _wide(kind: Any, arrow: Any) -> Any:
    """Return a type without decimals of 32 and 64 bits: polars reads them as if they had 128, without a word."""
    if arrow.types.is_decimal(kind) and kind.bit_width < _DECIMAL:
        return arrow.decimal128(kind.precision, kind.scale)
    if arrow.types.is_dictionary(kind):
        return arrow.dictionary(kind.index_type, _wide(kind.value_type, arrow), kind.ordered)
    return _of_parts(kind, _wide, arrow)


def _without_views(kind: Any, arrow: Any) -> Any:
    """Return a type without texts of polars' sort in lists and structs, which pyarrow does not convert for pandas."""

    def simple(part: Any, arrow: Any) -> Any:
        return _VIEWS[str(part)](arrow) if str(part) in _VIEWS else _of_parts(part, simple, arrow)

    return _of_parts(kind, simple, arrow)


def _of_parts(kind: Any, change: Callable[[Any, Any], Any], arrow: Any) -> Any:
    """Return a list, struct or map with other types in it, and any other type as it is."""
    types = arrow.types
    if types.is_struct(kind):
        fields = map(kind.field, range(kind.num_fields))
        return arrow.struct([field.with_type(change(field.type, arrow)) for field in fields])
    if types.is_map(kind):
        return arrow.map_(change(kind.key_type, arrow), change(kind.item_type, arrow), kind.keys_sorted)
    if not (types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)):
        return kind
    item = kind.value_field.with_type(change(kind.value_type, arrow))
    if types.is_fixed_size_list(kind):
        return arrow.list_(item, kind.list_size)
    return arrow.large_list(item) if types.is_large_list(kind) else arrow.list_(item)


def _polars(table: pa.Table, *, trusted: bool) -> Any:
    try:
        return libraries.to_polars(table)
    except BaseException as error:  # what its Rust code panics about is no Exception
        if type(error).__name__ != "PanicException":
            raise
        message = f"polars cannot read it: {error}. Attach it as_='arrow'"
        raise (UnsupportedError(message) if trusted else ValueError(message)) from None


def _arrow(table: pa.Table, facts: dict[str, Any]) -> Any:
    known = {k: v for k, v in (table.schema.metadata or {}).items() if k != origin.KEY}
    plain = arrow_file.with_metadata(table, known or None)
    if facts.get("column") and plain.num_columns == 1:
        column = plain.column(0)
        return column.chunk(0) if facts.get("array") and column.num_chunks == 1 else column
    batches = plain.to_batches() or [arrow_file.empty(plain, plain.schema)]
    return batches[0] if facts.get("batch") and len(batches) == 1 else plain


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
    schema = given.schema
    if path.endswith(".parquet"):
        with importing:
            import pyarrow.parquet  # noqa: PLC0415  slow

        schema = _simple(schema, arrow, decoded=False)
        if origin.KEY in (schema.metadata or {}):
            facts = origin.of(given)
            facts = frames.to_file(given, facts, arrow) if "forms" in facts else facts
            facts.pop("about", None)
            schema = origin.noted(schema, facts, parquet.as_read(arrow, schema))
        options = parquet.OPTIONS
        return _written(path, given, schema, sink, lambda: pyarrow.parquet.ParquetWriter(file, schema, **options))
    if path.endswith(".csv"):
        with importing:
            import pyarrow.csv  # noqa: PLC0415  slow

        schema = _simple(schema, arrow, decoded=True)
        return _written(path, given, schema, sink, lambda: pyarrow.csv.CSVWriter(file, schema))
    if path.endswith(".feather"):
        options = arrow.ipc.IpcWriteOptions(compression="lz4", use_threads=False)  # one that does not start is a crash
        return _written(path, given, schema, sink, lambda: arrow.ipc.new_file(file, schema, options=options))
    return None


def _simple(schema: pa.Schema, arrow: Any, *, decoded: bool) -> pa.Schema:
    """Return a schema without the types that pyarrow's writers do not take, of which polars has some."""

    def simple(type_: Any) -> Any:
        if arrow.types.is_string_view(type_):
            return arrow.large_string()
        if arrow.types.is_binary_view(type_):
            return arrow.large_binary()
        if arrow.types.is_dictionary(type_):
            values = simple(type_.value_type)
            return values if decoded else arrow.dictionary(type_.index_type, values, type_.ordered)
        return type_

    return arrow.schema([field.with_type(simple(field.type)) for field in schema], metadata=schema.metadata)


def _cast(column: Any, type_: Any, arrow: Any) -> Any:
    if column.type == type_:
        return column
    if not arrow.types.is_dictionary(column.type):
        return column.cast(type_)
    values = column.dictionary.cast(getattr(type_, "value_type", type_))
    made = arrow.DictionaryArray.from_arrays(column.indices, values, ordered=column.type.ordered)
    return made if made.type == type_ else made.dictionary_decode()


def _written(
    path: str, given: pa.Table, schema: pa.Schema, sink: arrow_file.Sink, open_: Callable[[], Any]
) -> Iterator[bytes]:
    arrow, kind = arrow_file.library(path), path.rpartition(".")[2]
    keeps = kind == "feather" or (kind == "parquet" and "range" in origin.of(given).get("index", {}))
    if given.num_rows and not given.num_columns and not keeps:  # it would have no rows afterwards
        message = f"{path}: a {kind} file cannot hold rows without columns. Save it as a file that ends in .arrow"
        raise UnsupportedError(message, path=path)
    try:
        writer = open_()
        for batch in given.to_batches(max_chunksize=_ROWS) or [arrow_file.empty(given, given.schema)]:
            columns = [_cast(column, type_, arrow) for column, type_ in zip(batch.columns, schema.types, strict=True)]
            writer.write_batch(arrow.RecordBatch.from_arrays(columns, schema=schema) if columns else batch)
            yield from map(bytes, sink.take())
        writer.close()
    except arrow.ArrowException as error:
        limits.raise_told(error)
        message = f"{path}: a {kind} file cannot hold this table: {error}. Save it as a file that ends in .arrow"
        raise UnsupportedError(message, path=path) from None
    yield from map(bytes, sink.take())
