"""DataFrames and Series of pandas: to Arrow without loss, and back over the mapping.

A frame is one record batch, so that each column lies in one piece. What its columns do not say is kept beside them in
the schema's metadata: their forms, the index, the labels of the columns, `attrs` (see `forms`). For other programs
there is pandas' own metadata too.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from shmkernel.errors import UnsupportedError
from shmkernel.kinds import a_type
from shmkernel.kinds.tables import arrow_file, blocks, columns, forms, libraries
from shmkernel.kinds.tables.columns import Columns

if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable

    import pyarrow as pa


def to_arrow(name: str, value: Any, arrow: Any) -> tuple[pa.Table, dict[str, Any]]:
    """Return a frame or series as a table, and what the table does not say of it."""
    pd = libraries.ready("pandas")
    if type(value) not in (pd.DataFrame, pd.Series):
        what = f"is {a_type(value)}: only its values would be shared"
        raise UnsupportedError(f"{name!r} {what}", name=name, type=type(value).__name__)
    facts: dict[str, Any] = {
        "clean": True,
        "attrs": _attrs(name, value.attrs),
        "strict": not value.flags.allows_duplicate_labels,
    }
    frame = value
    if isinstance(value, pd.Series):
        frame, facts["column"] = value.to_frame("0" if value.name is None else value.name), True
    arrays, facts["forms"] = [], []
    for label, column in frame.items():
        try:
            array, form = forms.encode(column, arrow)
        except (arrow.ArrowException, *forms.REFUSALS) as error:
            raise _refused(name, f"column {label!r} ({column.dtype})", error, column=label) from None
        arrays.append(array)
        facts["forms"].append(form)
    what = f"its index ({frame.index.dtype})"
    facts["index"], levels = _tried(name, what, arrow, lambda: forms.with_levels(frame.index, arrow))
    names = [str(label).encode(errors="replace").decode() for label in frame.columns]
    if isinstance(value, pd.Series):
        facts["label"] = _tried(name, "its name", arrow, lambda: forms.pack(_alone(value.name, pd), arrow))
    elif not _are_names(frame.columns, pd):
        names, what = _unique(names), f"the names of its columns ({frame.columns.dtype})"
        facts["columns"] = _tried(name, what, arrow, lambda: forms.pack(frame.columns, arrow))
    titles = _titles(frame.index.names, names, len(levels))
    table = arrow.Table.from_arrays([*arrays, *levels], [*names, *titles])
    if not table.num_columns:
        table = arrow.table([arrow.nulls(len(frame))], [""]).select([])
    others = {"pandas": _for_others(frame, names, titles, [*facts["forms"], *facts["index"]["forms"]], facts["attrs"])}
    return arrow_file.with_metadata(table, {key: json.dumps(said) for key, said in others.items()}), facts


def _alone(label: Any, pd: Any) -> Any:
    """Return an index that holds this label alone, as it is."""
    dtype = None if isinstance(label, (pd.Timestamp, pd.Timedelta, pd.Period, pd.Interval)) else object
    return pd.Index([label], dtype=dtype, tupleize_cols=False)


def _tried(name: str, what: str, arrow: Any, encode: Callable[[], Any]) -> Any:
    try:
        return encode()
    except (arrow.ArrowException, *forms.REFUSALS) as error:
        raise _refused(name, what, error) from None


def _refused(name: str, what: str, error: Exception, **facts: Any) -> UnsupportedError:
    why = (str(error).splitlines() or [type(error).__name__])[0]
    return UnsupportedError(f"{name!r}: {what} cannot be in a table: {why}", name=name, **facts)


def _attrs(name: str, attrs: dict[Any, Any]) -> dict[Any, Any]:
    """Return `attrs` if JSON gives them back as they are."""
    try:
        if repr(json.loads(json.dumps(attrs))) == repr(attrs):
            return attrs
    except (ValueError, TypeError, RecursionError):
        pass
    raise UnsupportedError(f"{name!r}: its attrs hold what JSON does not", name=name)


def _are_names(labels: Any, pd: Any) -> bool:
    """Return whether the labels of columns are but the names of a table's columns."""
    plain = type(labels) is pd.Index and labels.dtype == columns.named("str")
    return plain and labels.is_unique and not labels.hasnans and labels.name is None


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


def _titles(wanted: Any, names: list[str], count: int) -> list[str]:
    """Return the names of the columns that hold the levels of the index."""
    titles: list[str] = []
    for number, title in zip(range(count), wanted, strict=False):
        free = isinstance(title, str) and title.isprintable() and title not in (*names, *titles)
        titles.append(title if free else _unique([*names, *titles, f"__index_level_{number}__"])[-1])
    return titles


def _for_others(frame: Any, names: list[str], titles: list[str], given: list[Any], attrs: Any) -> dict[str, Any]:
    """Return what pandas' own readers look for (https://pandas.pydata.org/docs/development/developer.html)."""
    import pandas as pd  # noqa: PLC0415  it is loaded

    index: list[Any] = list(titles)
    if isinstance(bounds := frame.index, pd.RangeIndex):
        name = bounds.name if isinstance(bounds.name, str) else None
        index = [{"kind": "range", "name": name, "start": bounds.start, "stop": bounds.stop, "step": bounds.step}]
    dtypes = [*frame.dtypes, *([frame.index.dtype] * len(titles))]
    labels = [*names, *(None if title.startswith("__index_level_") else title for title in titles)]
    about = [
        {"name": label, "field_name": field, **_dtype_for_others(dtype, form)}
        for label, field, dtype, form in zip(labels, [*names, *titles], dtypes, given, strict=True)
    ]
    return {"index_columns": index, "column_indexes": [], "columns": about, "attributes": attrs}


def _dtype_for_others(dtype: Any, form: Any) -> dict[str, Any]:
    if isinstance(form, str):
        if zone := getattr(dtype, "tz", None):
            kind, more = f"datetime64[{dtype.unit}]", {"timezone": str(zone)}
            return {"pandas_type": "datetimetz", "numpy_type": kind, "metadata": more}
        return {"pandas_type": form, "numpy_type": form, "metadata": None}
    if "categories" in form:
        return {"pandas_type": "categorical", "numpy_type": "int8", "metadata": None}
    if "text" in form:
        return {"pandas_type": "unicode", "numpy_type": str(dtype), "metadata": None}
    return {"pandas_type": "object", "numpy_type": "object", "metadata": None}


def from_arrow(table: pa.Table, mapping: mmap.mmap, origin: dict[str, Any], *, trusted: bool) -> Any:
    """Return a frame or series over the mapping."""
    pd = libraries.ready("pandas")
    ours = trusted and origin.get("clean") is True
    if "forms" in origin:
        try:
            return _as_shared(table, Columns(mapping, ours=ours), origin, pd)
        except (ValueError, TypeError, LookupError, AttributeError, NotImplementedError):
            if ours:
                raise  # otherwise another program may have put other values of the same types into the file
    arrow = Columns(mapping, ours=False)
    try:
        return _of_others(table, arrow, pd)
    except ValueError:  # it has converted a column, and what pandas' metadata say of it does not hold the values
        return _of_others(arrow_file.with_metadata(table, None), arrow, pd)


def _as_shared(table: pa.Table, arrow: Columns, origin: dict[str, Any], pd: Any) -> Any:
    """Return a frame or series of the forms, index and labels that it had."""
    import pyarrow as pa  # noqa: PLC0415  it is loaded

    made = table.columns
    count = len(origin["forms"])
    arrays = [*map(arrow.array, made[:count], origin["forms"])]
    levels = [*map(arrow.array, made[count:], origin["index"]["forms"])]
    index = columns.index(origin["index"], levels)
    packed = origin.get("columns")
    labels = columns.unpack(packed, pa) if packed else pd.Index(table.column_names[:count], dtype="str")
    if len(labels) != count or len(made) != count + len(levels) or (made and len(index) != len(table)):
        raise ValueError("its columns and its index are of different lengths")
    frame = _frame(arrow, arrays, index, labels, pd)
    if origin.get("column"):
        frame = frame.iloc[:, 0].rename(None)
        frame.name = columns.unpack(origin["label"], pa)[0]
    frame.attrs = dict(origin["attrs"])
    frame.flags.allows_duplicate_labels = not origin["strict"]
    return frame


def to_file(table: pa.Table, origin: dict[str, Any], arrow: Any) -> dict[str, Any]:
    """Return the facts for a file of a format that does not keep dictionaries as they are."""
    given = [*origin["forms"], *origin["index"]["forms"]]
    kept = [forms.with_categories(form, one, arrow) for form, one in zip(given, table.columns, strict=True)]
    count = len(origin["forms"])
    return {**origin, "forms": kept[:count], "index": {**origin["index"], "forms": kept[count:]}}


def _of_others(table: pa.Table, arrow: Columns, pd: Any) -> Any:
    """Return a frame of a table that another library or program made; pyarrow knows the dtypes."""
    skeleton = type(table).from_batches([], table.schema).to_pandas(use_threads=False)
    names = table.column_names
    said = (table.schema.pandas_metadata or {}).get("index_columns", [])
    said = [level for level in said if not isinstance(level, str) or level in names]  # not all may be chosen
    places = [names.index(level) for level in said if isinstance(level, str)]
    rest = [place for place in range(table.num_columns) if place not in set(places)]
    if len(rest) != skeleton.shape[1]:
        return table.to_pandas(use_threads=False)
    arrays = [*map(arrow.array, map(table.column, rest), skeleton.dtypes.to_numpy())]
    index = pd.RangeIndex(len(table))
    if places and len(places) == len(said) == skeleton.index.nlevels:
        dtypes = [skeleton.index.get_level_values(number).dtype for number in range(len(places))]
        levels = [*map(arrow.array, map(table.column, places), dtypes)]
        parts = [pd.Index(level, dtype=level.dtype, copy=False) for level in levels]
        index = parts[0] if len(parts) == 1 else pd.MultiIndex.from_arrays(parts)
        index.names = skeleton.index.names
    elif len(said) == 1 and isinstance(said[0], dict):
        index = pd.RangeIndex(said[0]["start"], said[0]["stop"], said[0]["step"], name=said[0].get("name"))
    if len(index) != len(table):
        index = pd.RangeIndex(len(table))
    frame = _frame(arrow, arrays, index, skeleton.columns, pd)
    frame.attrs = skeleton.attrs
    return frame


def _frame(arrow: Columns, arrays: list[Any], index: Any, labels: Any, pd: Any) -> Any:
    try:
        from pandas.api.internals import create_dataframe_from_blocks  # noqa: PLC0415  since pandas 3
    except ImportError:
        return pd.DataFrame(dict(enumerate(arrays)), index, copy=False).set_axis(labels, axis=1)
    return create_dataframe_from_blocks([*blocks.blocks(arrays, arrow.bytes, arrow.place)], index, labels)
