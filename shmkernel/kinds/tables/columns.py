"""Columns of pandas from Arrow, by their forms, as views of the mapping where they can be.

Under a null of a column that came from numpy lies NaN, NaT or, for a category, -1. So a view of our own file needs no
look at the bitmap of nulls. In a file of another program anything may lie there, and a column with nulls is copied.
"""

from __future__ import annotations

import base64
import contextlib
import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from shmkernel._core.imports import importing
from shmkernel.errors import UnsupportedError
from shmkernel.kinds.tables import blocks
from shmkernel.kinds.tables.forms import NUMBERS, is_masked, whole

if TYPE_CHECKING:
    import mmap

    import pyarrow as pa
    from numpy.typing import NDArray


def _streamed(text: str, arrow: Any) -> list[pa.Array]:
    batch = arrow.ipc.open_stream(base64.b64decode(text)).read_next_batch()
    batch.validate(full=True)
    return list(batch.columns)


def label(plain: Any) -> Any:
    """Return the label that JSON holds."""
    return tuple(map(label, plain)) if isinstance(plain, list) else plain


def unpack(facts: dict[str, Any], arrow: Any) -> Any:
    """Return a packed index."""
    if "table" not in facts:
        return index(facts, [])
    inner = Columns(np.empty(0, np.uint8), ours=False)
    return index(facts, [*map(inner.part, _streamed(facts["table"], arrow), facts["forms"])])


def index(facts: dict[str, Any], arrays: list[Any]) -> Any:
    """Return the index of these facts and arrays."""
    import pandas as pd  # noqa: PLC0415  it is loaded

    names = [label(name) for name in facts["names"]]
    if "range" in facts:
        return pd.RangeIndex(*facts["range"], name=names[0])
    if facts["multi"]:
        codes, levels = zip(*arrays, strict=True)
        return pd.MultiIndex(levels, codes, names=names, verify_integrity=False)
    made = pd.Index(arrays[0], dtype=arrays[0].dtype, name=names[0], copy=False, tupleize_cols=False)
    if facts["freq"]:
        with contextlib.suppress(ValueError):  # another program has taken rows out of the file
            made.freq = facts["freq"]
    return made


class Columns:
    """Columns of Arrow as arrays of pandas, over the mapping where they can be."""

    def __init__(self, mapping: mmap.mmap | NDArray[Any], *, ours: bool) -> None:
        self.bytes = np.frombuffer(mapping, np.uint8)  # slices of pyarrow's own buffers could not be written to
        self._start, self._ours = self.bytes.ctypes.data, ours
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
            chunk = whole(column)
            if "plain" in form:
                return np.fromiter(map(label, form["plain"]), object, len(form["plain"]))[np.asarray(chunk)]
            if "level" in form:
                return self._coded(chunk, form["level"])
            if "categories" in form:
                return _category(*self._coded(chunk, form["categories"]), form["ordered"])
            left, right = (self.part(chunk.field(side), form["sides"]) for side in ("left", "right"))
            return pd.arrays.IntervalArray.from_arrays(left, right, form["closed"])
        dtype = self._dtype(form) if isinstance(form, str) else form
        made = self._typed(whole(column), dtype)
        if isinstance(form, str) and made.dtype != dtype:
            if made.dtype.kind not in "mM" or dtype.kind != made.dtype.kind:
                raise ValueError(f"a column of {form} is {made.dtype}")
            made = _exactly(made, dtype)
        return made

    def part(self, chunk: pa.Array, form: Any) -> Any:
        """Return an Arrow array as an array of pandas of this form."""
        import pyarrow as pa  # noqa: PLC0415  it is loaded

        return self.array(pa.chunked_array([chunk]), form)

    def _dtype(self, name: str) -> Any:
        try:
            return named(name)
        except TypeError:
            message = f"no dtype {name!r} is known here. Import the library that has it, or attach it as_='arrow'"
            raise (UnsupportedError(message, dtype=name) if self._ours else ValueError(message)) from None

    def _typed(self, chunk: pa.Array, dtype: Any) -> Any:
        import pandas as pd  # noqa: PLC0415  it is loaded

        may_be_viewed = self._ours or not chunk.null_count
        if isinstance(dtype, np.dtype):
            if dtype.kind == "b" and chunk.type.bit_width == 1 and not chunk.null_count:
                return blocks.bools(chunk.buffers()[1], chunk.offset, len(chunk))
            values = self._numbers(chunk, dtype) if may_be_viewed and dtype.kind in NUMBERS else None
            if values is None:
                values = np.require(chunk.to_pandas(use_threads=False).to_numpy(), requirements="W")
            return values
        if isinstance(dtype, pd.CategoricalDtype):  # another program's, of which only the type is known
            return _category(*self._coded(chunk, None), chunk.type.ordered)
        if isinstance(dtype, pd.DatetimeTZDtype):
            kind = np.dtype(f"M8[{dtype.unit}]")
            values = self._numbers(chunk, kind) if may_be_viewed else None
            if values is None:
                values = np.array(_exactly(chunk.to_numpy(zero_copy_only=False), kind))
            return pd.array(values.view("i8"), dtype=dtype, copy=False)
        if is_masked(dtype):
            values = self._numbers(chunk, dtype.numpy_dtype) if may_be_viewed else None
            if values is None:
                values = np.array(chunk.cast(str(dtype.numpy_dtype)).fill_null(0))
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

    def _coded(self, chunk: pa.Array, packed: dict[str, Any] | None) -> tuple[NDArray[Any], Any]:
        """Return the codes and the categories of a column."""
        import pandas as pd  # noqa: PLC0415  it is loaded
        import pyarrow as pa  # noqa: PLC0415  it is loaded

        if packed is None:
            return self._codes(chunk), pd.Index(chunk.dictionary.to_pandas(use_threads=False))
        if "values" in packed:
            (values,) = _streamed(packed["values"], pa)
            return _found(chunk, values), index(packed, [self.part(values, packed["forms"][0])])
        if packed["forms"] and "table" not in packed:
            categories = index(packed, [self.part(chunk.dictionary, packed["forms"][0])])
        else:
            categories = unpack(packed, pa)
            if not self._ours:
                return _found(chunk, pa.array([str(one) for one in categories], pa.string())), categories
        codes = self._codes(chunk)
        if not self._ours and len(codes) and int(codes.max()) >= len(categories):
            raise ValueError("a code has no category")
        return codes, categories

    def _codes(self, chunk: pa.DictionaryArray) -> NDArray[Any]:
        indices, codes = chunk.indices, None
        if self._ours or not indices.null_count:
            codes = self._numbers(indices, np.dtype(str(indices.type)))
        return np.asarray(indices.cast("int64").fill_null(-1)) if codes is None else codes


def _found(chunk: pa.Array, values: pa.Array) -> NDArray[Any]:
    """Return codes by the values themselves: a file may have changed their order, and left some out."""
    with importing:
        from pyarrow import compute  # noqa: PLC0415  slow

    plain = chunk.dictionary_decode() if hasattr(chunk, "dictionary_decode") else chunk
    codes = compute.index_in(plain.cast(values.type), value_set=values)
    if codes.null_count != plain.null_count:
        raise ValueError("a value is in no category")
    return np.asarray(codes.fill_null(-1))


def _exactly(moments: Any, dtype: Any) -> Any:
    """Return moments in another unit, since Parquet has no seconds; ValueError if another program put finer ones in."""
    made = moments.astype(dtype)
    if not np.array_equal(made.astype(moments.dtype), moments, equal_nan=True):
        raise ValueError(f"there are moments that {dtype} does not hold")
    return made


def _category(codes: NDArray[Any], categories: Any, ordered: Any) -> Any:
    import pandas as pd  # noqa: PLC0415  it is loaded

    return pd.Categorical.from_codes(codes, dtype=pd.CategoricalDtype(categories, ordered), validate=False)


def _python(column: pa.ChunkedArray, missing: str, pd: Any) -> NDArray[Any]:
    """Return Python objects, of which each missing one is what it was."""
    values = np.empty(len(column), object)
    values[:] = column.to_pylist()
    if missing != "NoneType":
        values[np.asarray(column.is_null())] = {"float": np.nan, "NAType": pd.NA, "NaTType": pd.NaT}[missing]
    return values


@functools.lru_cache(maxsize=256)
def named(dtype: str) -> Any:
    """Return the dtype of this name; TypeError if none is known. pandas asks all classes of dtypes in turn: 20 us."""
    import pandas as pd  # noqa: PLC0415  it is loaded

    return pd.api.types.pandas_dtype(dtype)


@functools.lru_cache(maxsize=256)
def _kind(type_: pa.DataType) -> np.dtype[Any] | None:
    """Return the numpy dtype of the memory of columns of a type."""
    if getattr(type_, "tz", None) is not None:
        return np.dtype(f"M8[{type_.unit}]")
    try:
        return None if type_.bit_width % 8 else np.dtype(type_.to_pandas_dtype())  # bools are single bits
    except (NotImplementedError, TypeError, ValueError):
        return None
