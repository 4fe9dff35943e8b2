"""Columns of pandas: from an array to Arrow with a form that brings it back, and back as a view of the mapping.

The form is JSON and says what Arrow's type does not:

    "float64", "Int8", "period[M]"    the name of a dtype that pandas makes from its name
    {"arrow": true}                   Arrow's own dtype, which is the column's type
    {"text": ["pyarrow", "nan"]}      texts of pandas: what holds them, and what a missing one is
    {"objects": "None"}               Python objects of one type, and what a missing one is
    {"categories": {...}}             a category, whose codes are the column
    {"closed": "left", "sides": ...}  intervals that Arrow's type of pandas cannot hold

An index is a column or several, or is no column but packed into JSON, as the labels of columns and unusual categories
are:

    {"names": [...], "forms": [...], "multi": false, "freq": "D", "table": "an Arrow stream in base64"}
    {"names": [...], "range": [0, 3, 1]}
    {"names": [...], "plain": ["a", 1, ["b", 2]]}     labels of several types

Under a null of a column that came from numpy lies NaN, NaT or, for a category, -1. So a view of our own file needs no
look at the bitmap of nulls. In a file of another program anything may lie there, and a column with nulls is copied.
"""

from __future__ import annotations

import base64
import datetime as dt
import decimal
import functools
from types import NoneType
from typing import TYPE_CHECKING, Any

import numpy as np

from shmkernel.errors import UnsupportedError
from shmkernel.kinds import a_type
from shmkernel.kinds.tables import blocks

if TYPE_CHECKING:
    import mmap

    import pyarrow as pa
    from numpy.typing import NDArray

_NUMBERS = "iufmM"  # kinds of numpy's dtypes that lie in memory as they do in Arrow
REFUSALS = (ValueError, TypeError, OverflowError, NotImplementedError)  # of encode, besides Arrow's errors
_MOMENTS = (dt.time, dt.datetime)


def encode(values: Any, arrow: Any) -> tuple[pa.Array, Any]:
    """Return the values of a series or index as an Arrow array, and their form; an error if Arrow has no such type."""
    import pandas as pd  # noqa: PLC0415  it is loaded: the values are of it

    dtype = values.dtype
    if isinstance(dtype, np.dtype):
        if dtype.kind == "O":
            return _objects(values.to_numpy(), arrow, pd)
        if dtype.kind not in f"b{_NUMBERS}" or dtype.itemsize > 8 or not dtype.isnative:  # noqa: PLR2004  bytes
            raise TypeError("Arrow has no such type")
        return arrow.array(np.ascontiguousarray(values.to_numpy()), from_pandas=True), str(dtype)
    if isinstance(dtype, pd.CategoricalDtype):
        return _category(values.array, arrow)
    if isinstance(dtype, pd.ArrowDtype):
        return _whole(values.array.__arrow_array__()), {"arrow": True}
    if isinstance(dtype, pd.StringDtype):
        form = {"text": [dtype.storage, "NA" if dtype.na_value is pd.NA else "nan"]}
        return _whole(arrow.array(values.array, arrow.large_string(), from_pandas=True)), form
    if isinstance(dtype, pd.IntervalDtype) and isinstance(dtype.subtype, pd.DatetimeTZDtype):
        (left, sides), (right, _) = encode(values.array.left, arrow), encode(values.array.right, arrow)
        made = arrow.StructArray.from_arrays([left, right], ["left", "right"], mask=arrow.array(values.isna()))
        return made, {"closed": dtype.closed, "sides": sides}
    if _is_masked(dtype):  # `isna` counts NaN as missing, and so do pandas' own conversions
        return arrow.array(values.array._data, mask=values.array._mask), str(dtype)  # noqa: SLF001  nothing public has them
    try:
        known = pd.api.types.pandas_dtype(str(dtype)) == dtype
    except TypeError:
        known = False
    if not known or not (hasattr(dtype, "__from_arrow__") or isinstance(dtype, pd.DatetimeTZDtype)):
        raise TypeError("Arrow has no such type")
    return _whole(arrow.array(values, from_pandas=True)), str(dtype)


def _whole(array: Any) -> Any:
    """Return an array in one piece, so that it can be viewed."""
    if hasattr(array, "combine_chunks"):
        return array.chunk(0) if array.num_chunks == 1 else array.combine_chunks()  # which copies a single one too
    return array


def _objects(values: NDArray[Any], arrow: Any, pd: Any) -> tuple[pa.Array, Any]:
    """Encode objects of one Python type, which Arrow gives back as the same; it has one missing value for all."""
    objects = values.tolist()
    found = set(map(type, objects))
    missing = {NoneType, type(pd.NA), type(pd.NaT)}
    holds, gaps = found - missing, found & missing
    if len(holds) > 1 and float in holds and all(one != one for one in objects if type(one) is float):  # noqa: PLR0124  NaN
        holds, gaps = holds - {float}, gaps | {float}
    if len(holds) > 1:
        raise TypeError(f"it holds objects of several types: {', '.join(sorted(kind.__name__ for kind in holds))}")
    if len(gaps) > 1:
        raise TypeError(f"its missing values are of several types: {', '.join(sorted(gap.__name__ for gap in gaps))}")
    types = {
        str: arrow.large_string(),
        bytes: arrow.large_binary(),
        bool: arrow.bool_(),
        int: arrow.int64(),
        float: arrow.float64(),
        decimal.Decimal: None,
        dt.date: arrow.date32(),
        dt.time: arrow.time64("us"),
        dt.datetime: arrow.timestamp("us"),
        dt.timedelta: arrow.duration("us"),
        NoneType: arrow.null(),
    }
    (kind,) = holds or {NoneType}
    if kind not in types:
        raise TypeError(f"it holds Python objects of type {kind.__name__}")
    if kind in _MOMENTS and any(one.tzinfo or one.fold for one in objects if type(one) is kind):
        raise TypeError("the moments in it have a time zone or a fold")
    if kind is decimal.Decimal and not all(one.is_finite() for one in objects if type(one) is kind):
        raise TypeError("a number in it is not finite")
    gap = next(iter(gaps), NoneType)
    absent = np.array([type(one) is gap for one in objects], bool)
    made = arrow.array(values, types[kind], mask=absent, from_pandas=False)
    return _whole(made), {"objects": gap.__name__}


def _category(values: Any, arrow: Any) -> tuple[pa.Array, Any]:
    """Encode codes and categories; what no dictionary of Arrow can hold is text there, and packed in the form."""
    dictionary, form = None, {}
    if type(values.categories).__name__ not in ("IntervalIndex", "PeriodIndex", "MultiIndex"):
        try:
            dictionary, inner = encode(values.categories, arrow)
            form = {"forms": [inner], **_about(values.categories)}
        except (arrow.ArrowException, *REFUSALS):
            pass
    if dictionary is None:
        dictionary, form = arrow.array([str(one) for one in values.categories]), pack(values.categories, arrow)
    codes = arrow.array(values.codes, mask=values.codes == -1)
    made = arrow.DictionaryArray.from_arrays(codes, dictionary, ordered=values.ordered)
    return made, {"categories": form}


def pack(index: Any, arrow: Any) -> dict[str, Any]:
    """Return an index as JSON."""
    try:
        facts, arrays = with_levels(index, arrow)
    except (arrow.ArrowException, *REFUSALS):
        if index.dtype != object or index.nlevels > 1:
            raise
        return {**_about(index), "plain": [_plain(label) for label in index]}
    if not arrays:
        return facts
    batch = arrow.RecordBatch.from_arrays(arrays, [str(number) for number in range(len(arrays))])
    with arrow.BufferOutputStream() as sink, arrow.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return {**facts, "table": base64.b64encode(sink.getvalue()).decode()}


def with_levels(index: Any, arrow: Any) -> tuple[dict[str, Any], list[pa.Array]]:
    """Return an index as facts in JSON, and its levels as arrays for columns of a table."""
    pairs = [encode(level, arrow) for level in levels(index)]
    return {**_about(index), "forms": [form for _, form in pairs]}, [array for array, _ in pairs]


def levels(index: Any) -> list[Any]:
    """Return the columns that an index takes: none for a range."""
    if type(index).__name__ == "RangeIndex":
        return []
    return [index.get_level_values(number) for number in range(index.nlevels)]


def _about(index: Any) -> dict[str, Any]:
    """Return what the values of an index do not say; TypeError if JSON cannot hold it."""
    import pandas as pd  # noqa: PLC0415  it is loaded

    names = [_plain(name) for name in index.names]
    if isinstance(index, pd.RangeIndex):
        return {"names": names, "range": [index.start, index.stop, index.step]}
    freq = getattr(index, "freqstr", None) if getattr(index.dtype, "kind", "") in "mM" else None
    if freq and pd.tseries.frequencies.to_offset(freq) != index.freq:
        raise TypeError(f"its frequency {index.freq!r} has holidays or hours of its own")
    return {"names": names, "multi": isinstance(index, pd.MultiIndex), "freq": freq}


def _plain(label: Any) -> Any:
    """Return a label in JSON."""
    if isinstance(label, np.generic) and label.dtype.kind in "biufU":
        label = label.item()
    if type(label) in (str, int, float, bool, NoneType):
        return label
    if type(label) is tuple:
        return [_plain(part) for part in label]
    raise TypeError(f"{label!r} in a name is {a_type(label)}, and no text or number")


def _label(plain: Any) -> Any:
    return tuple(map(_label, plain)) if isinstance(plain, list) else plain


def unpack(facts: dict[str, Any], arrow: Any) -> Any:
    """Return a packed index."""
    if "table" not in facts:
        return index(facts, [])
    batch = arrow.ipc.open_stream(base64.b64decode(facts["table"])).read_next_batch()
    batch.validate(full=True)
    inner = Columns(np.empty(0, np.uint8), ours=False)
    return index(facts, [*map(inner.part, batch.columns, facts["forms"])])


def index(facts: dict[str, Any], arrays: list[Any]) -> Any:
    """Return the index of these facts and arrays."""
    import pandas as pd  # noqa: PLC0415  it is loaded

    names = [_label(name) for name in facts["names"]]
    if "range" in facts:
        return pd.RangeIndex(*facts["range"], name=names[0])
    if "plain" in facts:
        labels = np.empty(len(facts["plain"]), object)
        labels[:] = [_label(label) for label in facts["plain"]]
        return pd.Index(labels, dtype=object, name=names[0], tupleize_cols=False)
    parts = [pd.Index(array, dtype=array.dtype, copy=False) for array in arrays]
    if facts["multi"]:
        return pd.MultiIndex.from_arrays(parts, names=names)
    (made,) = parts
    made.name = names[0]
    if facts["freq"]:
        made.freq = facts["freq"]
    return made


class Columns:
    """Columns of Arrow as arrays of pandas, over the mapping where they can be."""

    def __init__(self, mapping: mmap.mmap | NDArray[Any], *, ours: bool) -> None:
        self.bytes = np.frombuffer(mapping, np.uint8)  # slices of pyarrow's own buffers could not be written to
        self._start, self._ours = self.bytes.ctypes.data, ours
        self._dtypes: dict[str, Any] = {}
        self._places: dict[int, int] = {}  # by the id of an array: numpy takes longer to tell

    def place(self, array: Any) -> int | None:
        """Return where in the mapping an array begins, None if it lies elsewhere."""
        return self._places.get(id(array)) if isinstance(array, np.ndarray) and array.base is self.bytes else None

    def array(self, column: pa.ChunkedArray, form: Any) -> Any:
        """Return a column as an array of pandas of this form, or this dtype."""
        import pandas as pd  # noqa: PLC0415  it is loaded

        if isinstance(form, dict):
            if "arrow" in form:
                return pd.arrays.ArrowExtensionArray(column)
            if "text" in form:
                storage, missing = form["text"]
                return pd.StringDtype(storage, pd.NA if missing == "NA" else np.nan).__from_arrow__(column)
            if "objects" in form:
                return _python(column, form["objects"], pd)
            chunk = _whole(column)
            if "categories" in form:
                return self._category(chunk, form["categories"])
            left, right = (self.part(chunk.field(side), form["sides"]) for side in ("left", "right"))
            return pd.arrays.IntervalArray.from_arrays(left, right, form["closed"])
        made = self._typed(_whole(column), self._dtype(form) if isinstance(form, str) else form)
        if isinstance(form, str) and made.dtype != self._dtypes[form]:
            raise ValueError(f"a column of {form} is {made.dtype}")
        return made

    def part(self, chunk: pa.Array, form: Any) -> Any:
        """Return an Arrow array as an array of pandas of this form."""
        import pyarrow as pa  # noqa: PLC0415  it is loaded

        return self.array(pa.chunked_array([chunk]), form)

    def _dtype(self, name: str) -> Any:
        if name not in self._dtypes:
            import pandas as pd  # noqa: PLC0415  it is loaded

            try:
                self._dtypes[name] = pd.api.types.pandas_dtype(name)
            except TypeError:
                message = f"no dtype {name!r} is known here. Import the library that has it, or attach it as_='arrow'"
                raise (UnsupportedError(message, dtype=name) if self._ours else ValueError(message)) from None
        return self._dtypes[name]

    def _typed(self, chunk: pa.Array, dtype: Any) -> Any:
        import pandas as pd  # noqa: PLC0415  it is loaded

        may_be_viewed = self._ours or not chunk.null_count
        if isinstance(dtype, np.dtype):
            if dtype.kind == "b" and chunk.type.bit_width == 1 and not chunk.null_count:
                return blocks.bools(chunk.buffers()[1], chunk.offset, len(chunk))
            values = self._numbers(chunk, dtype) if may_be_viewed and dtype.kind in _NUMBERS else None
            return (
                np.require(chunk.to_pandas(use_threads=False).to_numpy(), requirements="W")
                if values is None
                else values
            )
        if isinstance(dtype, pd.CategoricalDtype):  # another program's, of which only the type is known
            return self._category(chunk, None)
        if isinstance(dtype, pd.DatetimeTZDtype):
            kind = np.dtype(f"M8[{dtype.unit}]")
            values = self._numbers(chunk, kind) if may_be_viewed else None
            if values is None:
                values = np.array(chunk.to_numpy(zero_copy_only=False), kind)
            return pd.array(values.view("i8"), dtype=dtype, copy=False)
        if _is_masked(dtype):
            values = self._numbers(chunk, dtype.numpy_dtype) if may_be_viewed else None
            if values is None:
                values = np.array(chunk.fill_null(0), dtype.numpy_dtype)
            return dtype.construct_array_type()(values, blocks.nulls(chunk))
        return dtype.__from_arrow__(chunk)

    def _numbers(self, chunk: pa.Array, dtype: np.dtype[Any]) -> NDArray[Any] | None:
        """Return the values of a column of numbers or moments as an array over the mapping."""
        count = len(chunk)
        if _kind(chunk.type) != dtype:
            return None
        buffers = chunk.buffers()
        if len(buffers) != 2:  # noqa: PLR2004  nulls and values
            return None
        at = buffers[1].address - self._start + chunk.offset * dtype.itemsize if count else 0
        if at % dtype.itemsize or not 0 <= at <= at + count * dtype.itemsize <= len(self.bytes):
            return None  # it was compressed in the file
        made: NDArray[Any] = np.ndarray(count, dtype, self.bytes, at)
        self._places[id(made)] = at
        return made

    def _category(self, chunk: pa.DictionaryArray, packed: dict[str, Any] | None) -> Any:
        import pandas as pd  # noqa: PLC0415  it is loaded
        import pyarrow as pa  # noqa: PLC0415  it is loaded

        indices, codes = chunk.indices, None
        if self._ours or not indices.null_count:
            codes = self._numbers(indices, np.dtype(str(indices.type)))
        if codes is None:
            codes = np.asarray(indices.cast("int64").fill_null(-1))
        if packed is None:
            categories = pd.Index(chunk.dictionary.to_pandas(use_threads=False))
        elif "table" in packed or "plain" in packed or "range" in packed:
            categories = unpack(packed, pa)
        else:
            categories = index(packed, [self.part(chunk.dictionary, packed["forms"][0])])
        dtype = pd.CategoricalDtype(categories, chunk.type.ordered)
        if not self._ours and len(codes) and int(codes.max()) >= len(categories):
            raise ValueError("a code has no category")
        return pd.Categorical.from_codes(codes, dtype=dtype, validate=False)


def _is_masked(dtype: Any) -> bool:
    """Return whether a dtype is Int8, Float64 or the like."""
    import pandas as pd  # noqa: PLC0415  it is loaded

    kind = getattr(dtype, "numpy_dtype", np.dtype(object)).kind
    return kind in "iuf" and not isinstance(dtype, pd.ArrowDtype)


def _python(column: pa.ChunkedArray, missing: str, pd: Any) -> NDArray[Any]:
    """Return Python objects, of which each missing one is what it was."""
    values = np.empty(len(column), object)
    values[:] = column.to_pylist()
    if missing != "NoneType":
        values[np.asarray(column.is_null())] = {"float": np.nan, "NAType": pd.NA, "NaTType": pd.NaT}[missing]
    return values


@functools.lru_cache(maxsize=256)
def _kind(type_: pa.DataType) -> np.dtype[Any] | None:
    """Return the numpy dtype of the memory of columns of a type."""
    if getattr(type_, "tz", None) is not None:
        return np.dtype(f"M8[{type_.unit}]")
    try:
        return None if type_.bit_width % 8 else np.dtype(type_.to_pandas_dtype())  # bools are single bits
    except (NotImplementedError, TypeError, ValueError):
        return None
