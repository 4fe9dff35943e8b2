"""Columns of pandas to Arrow, each with a form that brings it back.

The form is JSON and says what Arrow's type does not:

    "float64", "Int8", "period[M]"    the name of a dtype that pandas makes from its name
    {"arrow": true}                   Arrow's own dtype, which is the column's type
    {"text": ["pyarrow", "nan"]}      texts of pandas: what holds them, and what a missing one is
    {"objects": "None"}               Python objects of one type, and what a missing one is
    {"categories": {...}}             a category, whose codes are the column
    {"level": {...}}                  likewise, in an index of several levels
    {"closed": "left", "sides": ...}  intervals that Arrow's type of pandas cannot hold
    {"plain": ["a", 1, ["b", 2]]}     labels of several types, whose positions are the column

An index is a column or several, or is no column but packed into JSON, as the labels of columns and unusual categories
are:

    {"names": [...], "forms": [...], "multi": false, "freq": "D", "table": "an Arrow stream in base64"}
    {"names": [...], "range": [0, 3, 1]}
"""

from __future__ import annotations

import base64
import datetime as dt
import decimal
import functools
from types import NoneType
from typing import TYPE_CHECKING, Any

import numpy as np

from shmkernel.kinds import a_type

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

NUMBERS = "iufmM"  # kinds of numpy's dtypes that lie in memory as they do in Arrow
REFUSALS = (ValueError, TypeError, OverflowError, NotImplementedError)  # of encode, besides Arrow's errors
_MANY = 10_000  # labels of several types, which lie in the schema's metadata
_MOMENTS = (dt.time, dt.datetime)


def encode(values: Any, arrow: Any) -> tuple[pa.Array, Any]:
    """Return the values of a series or index as an Arrow array, and their form; an error if Arrow has no such type."""
    import pandas as pd  # noqa: PLC0415  it is loaded: the values are of it

    dtype = values.dtype
    if isinstance(dtype, np.dtype):
        if dtype.kind == "O":
            return _objects(values.to_numpy(), arrow, pd)
        if dtype.kind not in f"b{NUMBERS}" or dtype.itemsize > 8 or not dtype.isnative:  # noqa: PLR2004  bytes
            raise TypeError("Arrow has no such type")
        return arrow.array(np.ascontiguousarray(values.to_numpy()), from_pandas=True), _name(dtype)
    if isinstance(dtype, pd.CategoricalDtype):
        array = values.array
        made, facts = _coded(array.codes, array.categories, arrow, ordered=array.ordered)
        return made, {"categories": facts, "ordered": bool(array.ordered)}
    if isinstance(dtype, pd.ArrowDtype):
        return whole(values.array.__arrow_array__()), {"arrow": True}
    if isinstance(dtype, pd.StringDtype):
        form = {"text": [dtype.storage, "NA" if dtype.na_value is pd.NA else "nan"]}
        return whole(arrow.array(values.array, arrow.large_string(), from_pandas=True)), form
    if isinstance(dtype, pd.IntervalDtype) and isinstance(dtype.subtype, pd.DatetimeTZDtype):
        (left, sides), (right, _) = encode(values.array.left, arrow), encode(values.array.right, arrow)
        made = arrow.StructArray.from_arrays([left, right], ["left", "right"], mask=arrow.array(values.isna()))
        return made, {"closed": dtype.closed, "sides": sides}
    if is_masked(dtype):  # `isna` counts NaN as missing, and so do pandas' own conversions
        return arrow.array(values.array._data, mask=values.array._mask), str(dtype)  # noqa: SLF001  nothing public has them
    try:
        known = pd.api.types.pandas_dtype(str(dtype)) == dtype
    except TypeError:
        known = False
    if not known or not (hasattr(dtype, "__from_arrow__") or isinstance(dtype, pd.DatetimeTZDtype)):
        raise TypeError("Arrow has no such type")
    return whole(arrow.array(values, from_pandas=True)), str(dtype)


@functools.cache
def _name(dtype: np.dtype[Any]) -> str:
    return str(dtype)  # 30 us


def whole(array: Any) -> Any:
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
    if kind is decimal.Decimal and any(one.is_signed() and not one for one in objects if type(one) is kind):
        raise TypeError("a number in it is -0, of which Arrow's decimals keep no sign")
    gap = next(iter(gaps), NoneType)
    absent = np.array([type(one) is gap for one in objects], bool)
    made = arrow.array(values, types[kind], mask=absent, from_pandas=False)
    return whole(made), {"objects": gap.__name__}


def _coded(codes: NDArray[Any], categories: Any, arrow: Any, *, ordered: bool = False) -> tuple[pa.Array, Any]:
    """Encode codes, and tell of categories; what no dictionary of Arrow holds is text there, and packed."""
    try:
        dictionary, form = encode(categories, arrow)
        facts, kind = {"forms": [form], **_about(categories)}, dictionary.type
        simple = not (arrow.types.is_nested(kind) or arrow.types.is_dictionary(kind) or hasattr(kind, "extension_name"))
    except (arrow.ArrowException, *REFUSALS):
        simple = False
    if not simple:
        dictionary, facts = arrow.array([str(one) for one in categories]), pack(categories, arrow)
    absent = codes == -1 if len(codes) and codes.min() < 0 else None  # it takes a byte a row
    indices = arrow.array(codes, mask=absent)
    return arrow.DictionaryArray.from_arrays(indices, dictionary, ordered=ordered), facts


def pack(index: Any, arrow: Any) -> dict[str, Any]:
    """Return an index as JSON."""
    facts, arrays = with_levels(index, arrow)
    if not arrays:
        return facts
    return {**facts, "table": _stream(arrays, arrow)}


def with_levels(index: Any, arrow: Any) -> tuple[dict[str, Any], list[pa.Array]]:
    """Return an index as facts in JSON, and as arrays for columns of a table: none if JSON holds it all."""
    about = _about(index)
    if "range" in about:
        return {**about, "forms": []}, []
    try:
        if about["multi"]:
            coded = [_coded(codes, level, arrow) for codes, level in zip(index.codes, index.levels, strict=True)]
            pairs = [(array, {"level": facts}) for array, facts in coded]
        else:
            pairs = [encode(index, arrow)]
    except (arrow.ArrowException, *REFUSALS):
        if index.dtype != object or about["multi"] or len(index) > _MANY:
            raise
        positions = arrow.array(np.arange(len(index), dtype="i4"))  # a column goes with its rows if they are sorted
        return {**about, "forms": [{"plain": [plain(label) for label in index]}]}, [positions]
    return {**about, "forms": [form for _, form in pairs]}, [array for array, _ in pairs]


def _about(index: Any) -> dict[str, Any]:
    """Return what the values of an index do not say; TypeError if JSON cannot hold it."""
    import pandas as pd  # noqa: PLC0415  it is loaded

    names = [plain(name) for name in index.names]
    if isinstance(index, pd.RangeIndex):
        return {"names": names, "range": [index.start, index.stop, index.step]}
    freq = getattr(index, "freqstr", None) if getattr(index.dtype, "kind", "") in "mM" else None
    if freq and pd.tseries.frequencies.to_offset(freq) != index.freq:
        raise TypeError(f"its frequency {index.freq!r} has holidays or hours of its own")
    return {"names": names, "multi": isinstance(index, pd.MultiIndex), "freq": freq}


def plain(label: Any) -> Any:
    """Return a label as JSON; TypeError if it has none."""
    if isinstance(label, np.generic) and label.dtype.kind in "biufU":
        label = label.item()
    if type(label) in (str, int, float, bool, NoneType):
        return label
    if type(label) is tuple:
        return [plain(part) for part in label]
    raise TypeError(f"{label!r} in a name is {a_type(label)}, and no text or number")


def _stream(arrays: list[pa.Array], arrow: Any) -> str:
    batch = arrow.RecordBatch.from_arrays(arrays, [str(number) for number in range(len(arrays))])
    with arrow.BufferOutputStream() as sink, arrow.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return base64.b64encode(sink.getvalue()).decode()


def with_categories(form: Any, column: pa.ChunkedArray, arrow: Any) -> Any:
    """Return a form that holds the categories too, for files that keep the texts alone, or those in use."""
    key = next(iter(form), "") if isinstance(form, dict) else ""
    if key not in ("categories", "level") or "table" in form[key] or not form[key]["forms"]:
        return form
    return {**form, key: {**form[key], "values": _stream([whole(column).dictionary], arrow)}}


def is_masked(dtype: Any) -> bool:
    """Return whether a dtype is Int8, Float64 or the like."""
    import pandas as pd  # noqa: PLC0415  it is loaded

    kind = getattr(dtype, "numpy_dtype", np.dtype(object)).kind
    return kind in "iuf" and not isinstance(dtype, pd.ArrowDtype)
