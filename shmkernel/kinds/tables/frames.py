"""DataFrames and Series of pandas: to Arrow without loss, and back as views of the mapping.

    to Arrow     one record batch, so that each column lies in one piece; what pandas' own conversion would lose
                 (names of columns that are no texts or not unique, names of the index, the frequency of dates) is
                 kept beside it in the schema's metadata
    to pandas    an array over the mapping for numbers, dates and codes of categories; texts stay Arrow's. The columns
                 that have no such form are copied: bools, masks, plain objects

Under a null of a column that came from numpy lies NaN, NaT or, for a category, -1. So a view of our own file needs no
look at the bitmap of nulls. In a file of another program anything may lie there, and a column with nulls is copied.
"""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import numpy as np

from shmkernel._core.imports import importing
from shmkernel.errors import UnsupportedError

if TYPE_CHECKING:
    import mmap
    from collections.abc import Iterator

    import pyarrow as pa
    from numpy.typing import NDArray

_OBJECTS = {"string", "bytes", "decimal", "date", "time", "boolean", "empty"}  # of pandas.api.types.infer_dtype


def to_arrow(name: str, value: Any, arrow: Any) -> tuple[pa.Table, dict[str, Any]]:
    """Return a frame or series as a table, and what the table does not say of it."""
    import pandas as pd  # noqa: PLC0415  it is loaded: the value is of it

    facts: dict[str, Any] = {}
    frame = value
    if isinstance(value, pd.Series):
        frame, facts["column"], facts["unnamed"] = value.to_frame(), True, value.name is None
    names = [str(label) for label in frame.columns]
    if frame.columns.dtype != "str" or not frame.columns.is_unique or frame.columns.name is not None:
        names = _unique(names)
        facts["columns"] = _labels(name, frame.columns, arrow)
    if list(frame.index.names) != [None] * frame.index.nlevels:
        facts["index"] = _scalars(name, "the names of its index", frame.index.names)
    frame = frame.set_axis(names, axis=1).rename_axis(index=[None] * frame.index.nlevels)
    if getattr(frame.index, "freqstr", None) and frame.index.dtype.kind == "M":
        facts["freq"] = frame.index.freqstr
    facts["objects"] = _objects(name, frame, pd)
    table = _converted(name, frame, arrow)
    facts["typed"] = [column for column, dtype in frame.dtypes.items() if isinstance(dtype, pd.ArrowDtype)]
    if facts["typed"]:
        table = _without_names(table, facts["typed"])
    if any(column.num_chunks > 1 for column in table.columns):
        table = table.combine_chunks()
    _check(name, frame.drop(columns=[*facts["typed"], *facts["objects"]]), table)
    return table, {key: fact for key, fact in facts.items() if fact}


def _without_names(table: pa.Table, columns: list[str]) -> pa.Table:
    """Call Arrow's own dtypes objects in pandas' metadata: pandas fails to read the names of those of lists."""
    said = json.loads(table.schema.metadata[b"pandas"])
    for column in said["columns"]:
        if column["field_name"] in columns:
            column["numpy_type"] = "object"
    return table.replace_schema_metadata({**table.schema.metadata, b"pandas": json.dumps(said).encode()})


def _unique(names: list[str]) -> list[str]:
    """Return the names, those that occur more than once with a number: other programs find columns by name."""
    taken, unique = set(names), []
    seen: set[str] = set()
    for name in names:
        new, number = name, 1
        while new in seen or (new != name and new in taken):
            number += 1
            new = f"{name}_{number}"
        seen.add(new)
        unique.append(new)
    return unique


def _labels(name: str, columns: Any, arrow: Any) -> dict[str, Any]:
    """Encode the labels of the columns as an Arrow table of their own."""
    names = _scalars(name, "the names of its columns' levels", columns.names)
    if type(columns).__name__ == "RangeIndex":
        return {"range": [columns.start, columns.stop, columns.step], "names": names}
    levels = [str(level) for level in range(columns.nlevels)]
    labels = columns.to_frame(index=False, name=levels if len(levels) > 1 else levels[0])
    table = _converted(name, labels, arrow, "the names of its columns are of several types: columns")
    _check(name, labels, table)
    with arrow.BufferOutputStream() as sink, arrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    freq = getattr(columns, "freqstr", None) if columns.dtype.kind == "M" else None
    return {"table": base64.b64encode(sink.getvalue()).decode(), "names": names, "freq": freq}


def _scalars(name: str, what: str, labels: Any) -> list[Any]:
    if all(type(label) in (str, int, float, bool, type(None)) for label in labels):
        return list(labels)
    raise UnsupportedError(f"{name!r}: {what}, {[*labels]}, are no texts or numbers", name=name)


def _converted(name: str, frame: Any, arrow: Any, what: str = "column") -> pa.Table:
    """Convert a frame; the error names the first column that has no Arrow type."""
    try:
        return arrow.Table.from_pandas(frame)
    except (arrow.ArrowException, ValueError, TypeError, OverflowError):
        for column in frame.columns:
            try:
                arrow.Array.from_pandas(frame[column])
            except (arrow.ArrowException, ValueError, TypeError, OverflowError) as error:
                why = f"{what} {column!r} ({frame[column].dtype}): {str(error).splitlines()[0]}"
                raise UnsupportedError(f"{name!r}: {why}", name=name, column=column) from None
        raise


def _objects(name: str, frame: Any, pd: Any) -> dict[str, str]:
    """Check columns of Python objects. Return what a missing value is in each: Arrow knows one null."""
    missing = {}
    for column, dtype in frame.dtypes.items():
        if dtype.kind != "O" or not isinstance(dtype, np.dtype):
            continue
        values = frame[column].to_numpy()
        what = pd.api.types.infer_dtype(values, skipna=True)
        gaps = {type(value).__name__ for value in values[pd.isna(values)]}
        if what not in _OBJECTS or len(gaps) > 1 or not gaps <= {"NoneType", "float"}:
            why = f"it holds objects ({what})" if what not in _OBJECTS else f"its missing values are {sorted(gaps)}"
            raise UnsupportedError(
                f"{name!r}: column {column!r} has no type of a table: {why}", name=name, column=column
            )
        missing[column] = "nan" if gaps == {"float"} else "none"
    return missing


def _check(name: str, frame: Any, table: pa.Table) -> None:
    """Raise UnsupportedError for a column that would come back as another type: sparse, or of an unknown extension."""
    back = table.schema.empty_table().to_pandas().dtypes
    for column, dtype in frame.dtypes.items():
        same = dtype == back[column] or (getattr(dtype, "name", "") == back[column].name == "category")
        if not same:
            why = f"column {column!r} ({dtype}) would come back as {back[column]}"
            raise UnsupportedError(f"{name!r}: {why}", name=name, column=column)


def from_arrow(table: pa.Table, mapping: mmap.mmap, origin: dict[str, Any], *, trusted: bool) -> Any:
    """Return a frame or series over the mapping."""
    with importing:
        import pandas as pd  # noqa: PLC0415  slow
    try:
        from pandas.api.internals import create_dataframe_from_blocks  # noqa: PLC0415  since pandas 3
    except ImportError:
        return _named(table.to_pandas(split_blocks=True), origin)
    skeleton = table.schema.empty_table().to_pandas()
    columns = _Columns(table, mapping, origin, ours=trusted and origin.get("library") == "pandas")
    arrays = [*map(columns.array, skeleton.columns.tolist(), skeleton.dtypes.to_numpy())]
    frame = create_dataframe_from_blocks(
        [*columns.blocks(arrays)], _index(table, columns, skeleton, pd), skeleton.columns
    )
    frame.attrs = skeleton.attrs
    return _named(frame, origin)


def _index(table: pa.Table, columns: _Columns, skeleton: Any, pd: Any) -> Any:
    """Return the index: a range, which takes no memory, or the columns that hold its levels."""
    levels = (table.schema.pandas_metadata or {}).get("index_columns", [])
    if len(levels) != skeleton.index.nlevels or not all(isinstance(level, (str, dict)) for level in levels):
        return pd.RangeIndex(len(table))
    arrays = []
    for number, level in enumerate(levels):
        if isinstance(level, dict):
            arrays.append(pd.RangeIndex(level["start"], level["stop"], level["step"]))
        else:
            arrays.append(pd.Index(columns.array(level, skeleton.index.get_level_values(number).dtype), copy=False))
    return arrays[0] if len(arrays) == 1 else pd.MultiIndex.from_arrays(arrays)


def _named(frame: Any, origin: dict[str, Any]) -> Any:
    """Put names and the frequency back, and make a series of what was one."""
    import pandas as pd  # noqa: PLC0415  it is loaded
    import pyarrow as pa  # noqa: PLC0415  likewise

    if labels := origin.get("columns"):
        frame.columns = _labels_back(labels, pd, pa)
    if names := origin.get("index"):
        frame.index.names = names
    if freq := origin.get("freq"):
        frame.index.freq = freq
    if not origin.get("column"):
        return frame
    series = frame.iloc[:, 0]
    return series.rename(None) if origin.get("unnamed") else series


def _labels_back(labels: dict[str, Any], pd: Any, pa: Any) -> Any:
    if bounds := labels.get("range"):
        return pd.RangeIndex(*bounds, name=labels["names"][0])
    levels = pa.ipc.open_stream(base64.b64decode(labels["table"])).read_all().to_pandas()
    if len(labels["names"]) > 1:
        return pd.MultiIndex.from_frame(levels, names=labels["names"])
    index = pd.Index(levels["0"].array, name=labels["names"][0])
    if labels["freq"]:
        index.freq = labels["freq"]
    return index


class _Columns:
    """The columns of a mapped table as arrays of pandas."""

    def __init__(self, table: pa.Table, mapping: mmap.mmap, origin: dict[str, Any], *, ours: bool) -> None:
        self._columns, self._ours = dict(zip(table.column_names, table.columns, strict=True)), ours
        self._objects: dict[str, str] = origin.get("objects", {})
        self._arrow = frozenset(origin.get("typed", ()))  # columns that are Arrow's in pandas too
        self._bytes = np.frombuffer(mapping, np.uint8)  # slices of pyarrow's own buffers could not be written to
        self._start = self._bytes.ctypes.data

    def blocks(self, arrays: list[Any]) -> Iterator[tuple[Any, NDArray[Any]]]:
        """Yield arrays with their places; columns at equal distances in memory as one: pandas is slow with many."""
        start = 0
        while start < len(arrays):
            first, stop, step = arrays[start], start + 1, 0
            at = self._at(first)
            while at is not None and stop < len(arrays) and arrays[stop].dtype == first.dtype:
                there = self._at(arrays[stop])
                if there is None or (step and there != at + step * (stop - start)) or there <= at:
                    break
                step, stop = step or there - at, stop + 1
            places = np.arange(start, stop)
            if at is not None:
                shape, strides = (len(places), len(first)), (step, first.itemsize)
                yield np.ndarray(shape, first.dtype, self._bytes, at, strides), places
            else:
                yield (first.reshape(1, -1) if isinstance(first, np.ndarray) else first), places
            start = stop

    def _at(self, array: Any) -> int | None:
        """Return where in the mapping an array begins, None if it lies elsewhere."""
        if not isinstance(array, np.ndarray) or array.base is not self._bytes:
            return None
        return int(array.__array_interface__["data"][0]) - self._start

    def array(self, name: str, dtype: Any) -> Any:
        """Return a column as an array of this dtype, over the mapping if it can be."""
        column = self._columns[name]
        if name in self._arrow:
            import pandas as pd  # noqa: PLC0415  it is loaded

            return pd.arrays.ArrowExtensionArray(column)
        chunk = column.chunk(0) if column.num_chunks == 1 else None
        if chunk is not None and name not in self._objects and (self._ours or not chunk.null_count):
            made = self._viewed(chunk, dtype)
            if made is not None:
                return made
        if name in self._objects or (isinstance(dtype, np.dtype) and dtype.kind == "O"):
            return self._plain(column, self._objects.get(name))
        if not isinstance(dtype, np.dtype) and hasattr(dtype, "__from_arrow__"):
            return dtype.__from_arrow__(column)
        return column.to_pandas().array if not isinstance(dtype, np.dtype) else column.to_pandas().to_numpy()

    def _viewed(self, chunk: pa.Array, dtype: Any) -> Any:
        """Return a view, or None if the column has another form in memory."""
        if isinstance(dtype, np.dtype):
            return self._numbers(chunk, dtype) if dtype.kind in "iufmM" else None
        kind = type(dtype).__name__
        if kind == "DatetimeTZDtype":
            import pandas as pd  # noqa: PLC0415  it is loaded

            moments = self._numbers(chunk, np.dtype(f"M8[{dtype.unit}]"))
            return None if moments is None else pd.array(moments.view("i8"), dtype=dtype, copy=False)
        if kind == "CategoricalDtype":
            return self._categories(chunk)
        if (
            hasattr(dtype, "numpy_dtype")
            and hasattr(dtype, "_is_numeric")
            and dtype.numpy_dtype.kind in "iuf"
            and kind != "ArrowDtype"
        ):
            values = self._numbers(chunk, dtype.numpy_dtype)
            mask = np.asarray(chunk.is_null())
            return None if values is None else dtype.construct_array_type()(values, mask)
        return None

    def _numbers(self, chunk: pa.Array, dtype: np.dtype[Any]) -> NDArray[Any] | None:
        """Return the values of a column of numbers or moments as an array over the mapping."""
        buffers = chunk.buffers()
        if len(buffers) != 2 or _kind(chunk) != dtype:  # noqa: PLR2004  nulls and values
            return None
        if not len(chunk):
            return np.empty(0, dtype)
        at = buffers[1].address - self._start + chunk.offset * dtype.itemsize
        end = at + len(chunk) * dtype.itemsize
        if not 0 <= at <= end <= len(self._bytes):  # it was compressed in the file
            return None
        return self._bytes[at:end].view(dtype)

    def _categories(self, chunk: pa.DictionaryArray) -> Any:
        import pandas as pd  # noqa: PLC0415  it is loaded

        codes = self._numbers(chunk.indices, np.dtype(str(chunk.indices.type)))
        if codes is None:
            return None
        return pd.Categorical.from_codes(
            codes, chunk.dictionary.to_pandas(), ordered=chunk.type.ordered, validate=False
        )

    def _plain(self, column: pa.ChunkedArray, missing: str | None) -> NDArray[Any]:
        """Return Python objects, of which each missing one is what it was."""
        values = np.empty(len(column), object)
        values[:] = column.to_pylist()
        if missing == "nan":
            values[np.asarray(column.is_null())] = np.nan
        return values


def _kind(chunk: pa.Array) -> np.dtype[Any] | None:
    """Return the numpy dtype of a column's memory."""
    if getattr(chunk.type, "tz", None) is not None:
        return np.dtype(f"M8[{chunk.type.unit}]")
    try:
        return None if chunk.type.bit_width % 8 else np.dtype(chunk.type.to_pandas_dtype())  # bools are single bits
    except (NotImplementedError, TypeError, ValueError):
        return None
