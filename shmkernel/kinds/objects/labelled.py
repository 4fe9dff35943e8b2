"""Adapters of pandas and xarray: indexes and moments, datasets and what they consist of."""

from __future__ import annotations

import datetime as dt
import sys
from typing import Any

import numpy as np

from shmkernel.errors import UnsupportedError

_SIMPLE = "biufmM"  # kinds of dtypes whose arrays are all of an index
_FEW = 1000  # labels that are faster as a list than as a table
_KEPT = (str, bytes, int, float, bool, type(None), np.generic)  # of an encoding, which says how to write a file


def _pandas() -> Any:
    return sys.modules["pandas"]


def _index(value: Any) -> list[Any]:
    pd = _pandas()
    if isinstance(value, pd.RangeIndex):
        return [value.start, value.stop, value.step, value.name]
    if isinstance(value.dtype, np.dtype) and value.dtype.kind in _SIMPLE:
        freq = value.freqstr if value.dtype.kind in "mM" else None
        if freq and pd.tseries.frequencies.to_offset(freq) != value.freq:
            raise UnsupportedError(f"its frequency {value.freq!r} has holidays or hours of its own")
        return [value.to_numpy(), freq, value.name]
    if type(value) is pd.Index and value.dtype == "str" and len(value) <= _FEW and not value.hasnans:
        return [value.tolist(), None, value.name]
    return [pd.DataFrame(index=value)]


def _new_index(kind: Any, parts: Any, trusted: bool) -> Any:
    pd = _pandas()
    match parts:
        case [frame]:
            made = frame.index
        case [array, freq, name]:
            made = pd.Index(array, dtype=getattr(array, "dtype", "str"), name=name, copy=False)
            if freq:
                _set_freq(made, freq, trusted=trusted)
        case [start, stop, step, name]:
            made = pd.RangeIndex(start, stop, step, name=name)
    if type(made) is not kind:
        raise ValueError(f"an index is a {type(made).__name__}, and no {kind.__name__}")
    return made


def _set_freq(index: Any, freq: str, *, trusted: bool) -> None:
    owner = next((one for one in (index, index._data) if hasattr(one, "_freq")), None)  # noqa: SLF001  by the release
    if trusted and owner is not None:
        owner._freq = _pandas().tseries.frequencies.to_offset(freq)  # noqa: SLF001  to set `freq` reads all values
    else:
        index.freq = freq


def _moment(value: Any) -> list[Any]:
    return [value.asm8, None if value.tz is None else dt.time(tzinfo=value.tz)]  # a zone alone is no value


def _new_moment(kind: Any, parts: Any, _trusted: bool) -> Any:
    moment, zone = parts
    return kind(moment) if zone is None else kind(moment, tz="UTC").tz_convert(zone.tzinfo)


def _span(value: Any) -> Any:
    return value.asm8


def _new_span(kind: Any, parts: Any, _trusted: bool) -> Any:
    return kind(parts)


def _variable(value: Any) -> list[Any]:
    return [value.dims, _data(value), value.attrs, *_encoding(value)]


def _new_variable(kind: Any, parts: Any, _trusted: bool) -> Any:
    dims, data, attrs, *encoding = parts
    values = _new_data(data)
    fast = isinstance(values, np.ndarray)  # what else there is, xarray wraps
    return kind(dims, values, attrs, _new_encoding(*encoding), fastpath=fast)


def _data(variable: Any) -> Any:
    """Return the values of a variable: an array, a series for an array of pandas, or shape and list of objects."""
    if variable.chunks is not None:
        raise UnsupportedError("it is computed by dask when it is used: give .compute() of it")
    data = variable.values if type(variable).__name__ == "IndexVariable" else variable.data
    if isinstance(data, np.ndarray) and data.dtype.kind == "O":
        return data.shape, data.ravel().tolist()
    if type(data).__module__.partition(".")[0] == "pandas":
        return _pandas().Series(data)
    return data


def _new_data(data: Any) -> Any:
    if isinstance(data, tuple):
        shape, items = data
        made = np.empty(len(items), object)
        made[:] = items
        return made.reshape(shape)
    return data.array if type(data).__module__.partition(".")[0] == "pandas" else data


def _encoding(value: Any) -> list[dict[Any, Any]]:
    """Return what is plain of an encoding, and the dtypes in it."""
    plain = {key: part for key, part in value.encoding.items() if isinstance(part, _KEPT) or _are_numbers(part)}
    dtypes = {key: part.str for key, part in value.encoding.items() if isinstance(part, np.dtype)}
    return [plain, dtypes]


def _are_numbers(value: Any) -> bool:
    return type(value) in (tuple, list) and {*map(type, value)} <= {int, str}


def _new_encoding(plain: dict[Any, Any], dtypes: dict[Any, str]) -> dict[Any, Any]:
    return plain | {key: np.dtype(text) for key, text in dtypes.items()}


def _coordinates(value: Any) -> list[Any]:
    """Return the coordinates of a dataset or array: those of an index without their values; and the indexes."""
    indexed, indexes = set(), []
    for index in value.xindexes.get_unique():
        names = [name for name, other in value.xindexes.items() if other is index]
        indexed.update(names)
        match type(index).__name__:
            case "PandasIndex":
                dtypes: Any = _text(index.coord_dtype)
            case "PandasMultiIndex":
                dtypes = {level: _text(dtype) for level, dtype in index.level_coords_dtype.items()}
            case other:
                raise UnsupportedError(f"it has an index of the class {other}")
        indexes.append([names, index.dim, index.index, dtypes])
    single = []
    for name, coordinate in value.coords.items():
        one = coordinate.variable
        single.append([name, [None, None, one.attrs, *_encoding(one)] if name in indexed else _variable(one)])
    return [single, indexes]


def _text(dtype: Any) -> str | None:
    """Return what an index does not say of the dtype of its values; None: its own."""
    return dtype.str if isinstance(dtype, np.dtype) and dtype.kind != "O" else None


def _dtype(text: str | None) -> np.dtype[Any] | None:
    return None if text is None else np.dtype(text)


def _new_coordinates(single: Any, indexes: Any) -> tuple[dict[Any, Any], dict[Any, Any]]:
    """Return the variables, and the index of each that has one."""
    xr = sys.modules["xarray"]
    given = {}
    for name, (dims, data, attrs, *encoding) in single:
        given[name] = xr.Variable(dims or (), 0 if dims is None else _new_data(data), attrs, _new_encoding(*encoding))
    named, made = {}, {}
    for names, dim, index, dtypes in indexes:
        if isinstance(dtypes, dict):
            levels = {level: _dtype(text) for level, text in dtypes.items()}
            one = xr.indexes.PandasMultiIndex(index, dim, level_coords_dtype=levels)
        else:
            one = xr.indexes.PandasIndex(index, dim, _dtype(dtypes))
        made.update(one.create_variables({name: given[name] for name in names}))
        named.update(dict.fromkeys(names, one))
    return given | made, named


def _dataset(value: Any) -> list[Any]:
    variables = [[name, _variable(one.variable)] for name, one in value.data_vars.items()]
    return [variables, *_coordinates(value), value.attrs, *_encoding(value)]


def _new_dataset(kind: Any, parts: Any, trusted: bool) -> Any:
    variables, single, indexes, attrs, *encoding = parts
    variable = sys.modules["xarray"].Variable
    given = {name: _new_variable(variable, part, trusted) for name, part in variables}
    coordinates, named = _new_coordinates(single, indexes)
    encoded = _new_encoding(*encoding)
    if trusted and (direct := getattr(kind, "_construct_direct", None)):  # it compares no labels
        return direct(given | coordinates, {*coordinates}, attrs=attrs, indexes=named, encoding=encoded)
    made = kind(given, sys.modules["xarray"].Coordinates(coordinates, named), attrs)
    made.encoding = encoded
    return made


def _array(value: Any) -> list[Any]:
    return [value.name, _variable(value.variable), *_coordinates(value)]


def _new_array(kind: Any, parts: Any, trusted: bool) -> Any:
    name, part, single, indexes = parts
    variable = _new_variable(sys.modules["xarray"].Variable, part, trusted)
    made = kind(variable, sys.modules["xarray"].Coordinates(*_new_coordinates(single, indexes)), name=name)
    made.encoding = variable.encoding
    return made


_INDEXES = (
    "Index", "RangeIndex", "DatetimeIndex", "TimedeltaIndex", "PeriodIndex", "CategoricalIndex", "IntervalIndex",
    "MultiIndex",
)  # fmt: skip
ADAPTERS: dict[str, dict[str, tuple[Any, ...]]] = {
    "pandas": {
        **dict.fromkeys(_INDEXES, (_index, _new_index)),
        "Timestamp": (_moment, _new_moment),
        "Timedelta": (_span, _new_span),
    },
    "xarray": {
        "Dataset": (_dataset, _new_dataset),
        "DataArray": (_array, _new_array),
        "Variable": (_variable, _new_variable),
    },
}
