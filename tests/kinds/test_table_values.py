"""What comes back of any frame: values, dtypes, index, labels; or an error that names the column, and a cure."""

from __future__ import annotations

import datetime as dt
import math
import string
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import shmkernel as shm
from shmkernel.kinds.tables import outgoing, parquet
from tests.helpers import needs

pa = needs("pyarrow")
pd = needs("pandas")
pl = needs("polars")
pl_testing = needs("polars.testing")

UNITS = ("s", "ms", "us", "ns")
ZONES = ("UTC", "Europe/Berlin", dt.timezone(dt.timedelta(hours=5, minutes=30)))
# derandomized: a run judges a change, and fails for no other reason
some = settings(
    max_examples=20, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
more = settings(some, max_examples=100)


def same(got, value):
    """Compare frames by everything that pandas knows of them, and floats bit by bit."""
    if isinstance(value, pd.Series):
        assert isinstance(got, pd.Series)
        same_label(got.name, value.name)
        got, value = got.to_frame("x"), value.to_frame("x")
    pd.testing.assert_frame_equal(got, value, check_exact=True, check_freq=True)
    assert got.attrs == value.attrs
    same_index(got.index, value.index)
    same_index(got.columns, value.columns)
    for place in range(value.shape[1]):
        same_array(got.iloc[:, place].array, value.iloc[:, place].array)


def same_label(got, value):
    assert type(got) is type(value) or isinstance(value, np.generic)
    assert repr(got) == repr(value) or got == value


def same_index(got, value):
    assert type(got) is type(value)
    pd.testing.assert_index_equal(got, value, exact=True)
    assert getattr(got, "freq", None) == getattr(value, "freq", None)
    if isinstance(value, pd.MultiIndex):
        for mine, theirs in zip(got.levels, value.levels, strict=True):
            same_index(mine, theirs)
    else:
        same_array(got.array, value.array)


def same_array(got, value):
    assert type(got) is type(value)
    assert repr(got.dtype) == repr(value.dtype)
    if isinstance(value.dtype, np.dtype) and value.dtype.kind == "f":
        assert np.asarray(got).tobytes() == np.asarray(value).tobytes()
    if isinstance(value.dtype, np.dtype) and value.dtype.kind == "O":
        assert [*map(type, got)] == [*map(type, value)]
    if isinstance(value, pd.Categorical):
        same_index(got.categories, value.categories)


def comes_back(value):
    """Share a value, and compare what was made of it, and what its bytes alone say."""
    x = shm.create("x", value)
    same(x, value)
    same(shm.attach("x", mode="r"), value)
    del x
    shm.unlink("x")


texts = st.text(string.ascii_letters + "é\0 €😀", max_size=5)
numbers = st.integers(0, 100)


def optional(values, missing=None):
    return st.one_of(values, st.just(missing))


def numpy_columns(size):
    def array(dtype):
        kind, width = np.dtype(dtype).kind, np.dtype(dtype).itemsize
        raw = st.binary(min_size=size * width, max_size=size * width)
        if kind == "b":
            return raw.map(lambda data: np.frombuffer(data, "u1") > 127)
        return raw.map(lambda data: np.frombuffer(data, dtype).copy())

    moments = [f"{kind}8[{unit}]" for kind in "Mm" for unit in UNITS]
    return st.sampled_from(["?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", *moments]).flatmap(
        array
    )


def lists(values, size):
    return st.lists(values, min_size=size, max_size=size)


def extension_columns(size):
    whole = [*(f"{sign}Int{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64))]

    def zoned(unit, zone, data):
        return pd.array(np.array(data, "i8").view(f"M8[{unit}]")).tz_localize("UTC").tz_convert(zone)

    def periods(freq, data):
        made = [pd.NaT if one is None else pd.Period(ordinal=one, freq=freq) for one in data]
        return pd.array(made, f"period[{freq}]")

    return st.one_of(
        st.builds(lambda kind, data: pd.array(data, kind), st.sampled_from(whole), lists(optional(numbers), size)),
        st.builds(
            lambda kind, data, mask: pd.arrays.FloatingArray(np.array(data, kind), np.array(mask, bool)),
            st.sampled_from(["f4", "f8"]),
            lists(st.floats(width=32), size),  # a NaN beside a missing value is another thing
            lists(st.booleans(), size),
        ),
        lists(optional(st.booleans()), size).map(lambda data: pd.array(data, "boolean")),
        st.builds(
            lambda storage, missing, data: pd.array(data, pd.StringDtype(storage, missing)),
            st.sampled_from(["python", "pyarrow"]),
            st.sampled_from([pd.NA, math.nan]),
            lists(optional(texts), size),
        ),
        st.builds(
            zoned,
            st.sampled_from(UNITS),
            st.sampled_from(ZONES),
            lists(st.integers(-(10**9), 10**9), size),
        ),
        st.builds(
            periods,
            st.sampled_from(["Y", "Q-JAN", "M", "2M", "W-TUE", "D", "h", "ns"]),
            lists(optional(st.integers(-1000, 1000)), size),
        ),
        st.builds(
            lambda closed, kind, data: pd.arrays.IntervalArray.from_arrays(
                left := pd.array(np.array(data, "i8")).astype(kind), left, closed=closed
            ),
            st.sampled_from(["left", "right", "both", "neither"]),
            st.sampled_from(["int64", "float64", "datetime64[ns]", "datetime64[s, UTC]", "timedelta64[ms]"]),
            lists(st.integers(-1000, 1000), size),
        ),
    )


ARROW = [
    (pa.int8(), st.integers(-128, 127)),
    (pa.float32(), st.floats(width=32)),
    (pa.string(), texts),
    (pa.large_binary(), st.binary(max_size=4)),
    (pa.bool_(), st.booleans()),
    (pa.decimal128(10, 2), st.decimals(-1000, 1000, places=2)),
    (pa.date32(), st.dates()),
    (pa.duration("ms"), st.integers(-1000, 1000)),
    (pa.timestamp("ns", "Asia/Tokyo"), st.integers(0, 10**15)),
    (pa.list_(pa.int16()), st.lists(optional(st.integers(0, 9)), max_size=3)),
    (
        pa.struct({"a": pa.int8(), "b": pa.list_(pa.string())}),
        st.fixed_dictionaries({"a": st.just(1), "b": st.lists(texts, max_size=2)}),
    ),
    (pa.map_(pa.string(), pa.int8()), st.dictionaries(texts, numbers, max_size=2).map(lambda data: [*data.items()])),
    (pa.dictionary(pa.int8(), pa.string()), texts),
    (pa.null(), st.none()),
]


def arrow_columns(size):
    def column(case):
        kind, values = case
        return lists(optional(values), size).map(lambda data: pd.array(pa.array(data, kind), dtype=pd.ArrowDtype(kind)))

    return st.sampled_from(ARROW).flatmap(column)


def unfolded(moments):
    return moments.map(lambda moment: moment.replace(fold=0))  # a table has no fold: refused


OBJECTS = [
    texts, st.binary(max_size=4), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(), st.dates(),
    unfolded(st.times()), unfolded(st.datetimes()), st.decimals(-1000, 1000, places=3),
    st.timedeltas(dt.timedelta(-1000), dt.timedelta(1000)),
]  # fmt: skip


def object_columns(size):
    def column(values, missing):
        objects = lists(optional(values, missing), size)
        return objects.map(lambda data: pd.array(pd.Series(data, dtype=object), copy=False))

    chosen = st.sampled_from(OBJECTS[:4] + OBJECTS[5:]), st.sampled_from([None, math.nan, pd.NA])
    return st.one_of(
        st.tuples(*chosen).flatmap(lambda pair: column(*pair)), column(st.floats(), None)
    )  # where floats are the values, NaN is one


def plain_columns(size):
    return st.one_of(numpy_columns(size), extension_columns(size), arrow_columns(size), object_columns(size))


def category_columns(size):
    def column(categories):
        codes = lists(st.integers(-1, len(categories) - 1), size)
        return st.builds(
            lambda codes, ordered: pd.Categorical.from_codes(codes, categories, ordered=ordered), codes, st.booleans()
        )

    def unique(array):
        index = pd.Index(array, dtype=array.dtype)
        return index[~index.isna()].unique()

    hashable = st.one_of(numpy_columns(4), extension_columns(4), object_columns(4))
    kept = hashable.filter(lambda array: getattr(array, "dtype", None) != np.float16)
    return kept.map(unique).flatmap(column)


def columns(size):
    return st.one_of(plain_columns(size), category_columns(size))


scalars = st.one_of(texts, st.integers(-9, 9), st.booleans(), st.none(), st.floats(allow_nan=False))
labels = st.one_of(scalars, st.tuples(scalars, scalars))


def indexes(size):
    def flat(array):
        return pd.Index(array, dtype=array.dtype)

    level = columns(size).filter(lambda array: array.dtype != np.float16).map(flat)
    ranges = st.builds(
        lambda start, step, name: pd.RangeIndex(start, start + size * step, step, name=name),
        st.integers(-5, 5),
        st.sampled_from([1, -1, 3]),
        labels,
    )
    dates = st.builds(
        lambda freq, zone, name: pd.date_range("2020-01-31", periods=size, freq=freq, tz=zone, name=name),
        st.sampled_from(["D", "2h", "ME", "B", "W-TUE", "-1D"]),
        st.sampled_from([None, *ZONES]),
        labels,
    )
    spans = st.just(pd.timedelta_range("1D", periods=size, freq="12h"))
    several = st.lists(level, min_size=1, max_size=3).flatmap(
        lambda levels: lists(labels, len(levels)).map(lambda names: pd.MultiIndex.from_arrays(levels, names=names))
    )
    mixed = lists(labels, size).map(lambda data: pd.Index(data, dtype=object, tupleize_cols=False))
    return st.one_of(level.flatmap(lambda index: labels.map(index.rename)), ranges, dates, spans, several, mixed)


attrs = st.dictionaries(texts, st.one_of(st.integers(), texts, st.lists(st.booleans(), max_size=2)), max_size=2)


@st.composite
def frames(draw):
    rows, width = draw(st.integers(0, 5)), draw(st.integers(0, 4))
    arrays = [draw(columns(rows)) for _ in range(width)]
    frame = pd.DataFrame(dict(enumerate(arrays)), index=range(rows), copy=False)
    frame.index, frame.columns = draw(indexes(rows)), draw(indexes(width))
    frame.attrs.update(draw(attrs))
    return draw(
        st.sampled_from(
            [frame, frame.iloc[::-1], frame.iloc[1:], frame.iloc[:, ::-1], frame.iloc[::2, 1:], frame.copy()]
        )
    )


@some
@given(frames())
def test_any_frame_comes_back_as_it_is(value):
    comes_back(value)


@pytest.mark.long
@more
@given(frames())
def test_any_of_many_frames_comes_back_as_it_is(value):
    comes_back(value)


@st.composite
def series(draw):
    size = draw(st.integers(0, 5))
    value = pd.Series(draw(columns(size)), name=draw(labels), copy=False)
    value.index = draw(indexes(size))
    return value


@some
@given(series())
def test_any_series_comes_back_as_it_is(value):
    comes_back(value)


def test_moments_that_python_does_not_have_come_back():
    """A listing shows the first rows, and Python's years end at 9999."""
    moments = np.array([2**62, -(2**62), 0])
    for unit in UNITS:
        value = pd.Series(moments.view(f"M8[{unit}]"))
        for each in (
            value,
            value.astype("category"),
            pd.Series(moments.view(f"m8[{unit}]")),
            pd.Series(1, index=value),
        ):
            comes_back(each)


class Column:
    """A column, or a stream of columns, of a library that knows Arrow's interface alone."""

    def __init__(self, value):
        self.value = value


class Array(Column):
    def __arrow_c_array__(self, requested_schema=None):
        return self.value.__arrow_c_array__(requested_schema)


class Stream(Column):
    def __arrow_c_stream__(self, requested_schema=None):
        return self.value.__arrow_c_stream__(requested_schema)


def dictionaries(*texts):
    return pa.chunked_array([pa.array(list(text)).dictionary_encode() for text in texts])


def polars_values():
    moment = dt.datetime.fromisoformat("2020-01-01T05:00")
    series = {
        "int": pl.Series([1, None], dtype=pl.Int8),
        "float": pl.Series([1.0, None, math.nan], dtype=pl.Float32),
        "bool": pl.Series([True, None]),
        "texts": pl.Series(["a", None, "x" * 99]),
        "binary": pl.Series([b"a", None]),
        "date": pl.Series([dt.date(2020, 1, 1), None]),
        "time": pl.Series([dt.time(1), None]),
        "zone": pl.Series([moment]).dt.replace_time_zone("Europe/Berlin"),
        "ms": pl.Series([moment]).cast(pl.Datetime("ms")),
        "duration": pl.Series([dt.timedelta(1), None]),
        "decimal": pl.Series(["1.5", None]).cast(pl.Decimal(10, 2)),
        "category": pl.Series(["a", "b", None, "a"], dtype=pl.Categorical),
        "enum": pl.Series(["b", None], dtype=pl.Enum(["z", "Object", "b"])),
        "list": pl.Series([[1], None, []]),
        "list of categories": pl.Series([["a"], None, ["b", "a"]], dtype=pl.List(pl.Categorical)),
        "array": pl.Series([[1, 2], None], dtype=pl.Array(pl.Int8, 2)),
        "struct": pl.Series([{"Object": 1, "b": "x"}, None]),
        "nested": pl.Series([[[{"a": [1]}]]]),
        "null": pl.Series([None, None]),
    }
    for key, one in series.items():
        frame = pl.DataFrame({"a": one})
        yield from {
            key: one, f"{key}, named": one.alias("q"), f"{key}, frame": frame, f"{key}, sliced": frame[1:],
            f"{key}, no rows": frame[:0], f"{key}, chunks": pl.concat([frame, frame], rechunk=False),
        }.items()  # fmt: skip
    yield "no columns", pl.DataFrame()
    yield "no name", pl.DataFrame({"": [1]})
    two = [pl.DataFrame({"a": pl.Series([text], dtype=pl.Categorical)}) for text in "ab"]
    yield "categories of each chunk", pl.concat(two, rechunk=False)


def test_what_polars_has_comes_back_as_it_is():
    for key, value in polars_values():
        x = shm.create("x", value, replace=True)
        compare = pl_testing.assert_frame_equal if isinstance(value, pl.DataFrame) else pl_testing.assert_series_equal
        compare(x, value, check_exact=True)
        assert type(x) is type(value), key


def arrow_values():
    kinds = [
        *(kind for kind, _ in ARROW), pa.string_view(), pa.binary(3), pa.float16(), pa.time64("ns"),
        pa.decimal256(50, 3), pa.list_(pa.int8(), 2), pa.list_view(pa.int8()), pa.month_day_nano_interval(), pa.uuid(),
        pa.run_end_encoded(pa.int32(), pa.int64()), pa.dense_union([pa.field("a", pa.int8())]),
    ]  # fmt: skip
    for kind in kinds:
        for rows in (0, 2):
            yield f"{kind} x {rows}", pa.table({"a": pa.nulls(rows, kind)})
        yield f"{kind}, array", pa.nulls(2, kind)
        yield f"{kind}, chunks", pa.chunked_array([pa.nulls(2, kind), pa.nulls(1, kind)])
    yield "two columns of one name", pa.Table.from_arrays([pa.array([1]), pa.array(["x"])], ["a", "a"])
    yield "metadata", pa.table({"a": [1]}).replace_schema_metadata({"k": "v", b"\xff": b"\xfe"})
    field = pa.field("a", pa.int64(), nullable=False, metadata={"u": "m"})
    yield "metadata of a field", pa.Table.from_arrays([pa.array([1])], schema=pa.schema([field]))
    yield "many chunks", pa.table({"a": pa.chunked_array([[number] for number in range(500)])})
    yield "a part", pa.table({"a": list("abcdef"), "b": [[1], None, [2], [], [3], [4]], "c": [True] * 6}).slice(1, 3)
    yield "a batch", pa.record_batch({"a": [1, 2, 3]}).slice(1)
    yield "a batch without rows", pa.record_batch({"a": pa.array([], pa.string()).dictionary_encode()})
    yield "no columns", pa.table({})


def test_what_arrow_has_comes_back_as_it_is():
    for key, value in arrow_values():
        x = shm.create("x", value, replace=True)
        assert type(x) is type(value), key
        assert x.equals(value), key
        if hasattr(value, "schema"):
            assert x.schema.equals(value.schema, check_metadata=True), key
        assert getattr(x, "type", None) == getattr(value, "type", None), key


def test_a_dictionary_for_each_batch_becomes_one():
    value = pa.table({"a": dictionaries("xy", "zx"), "b": pa.chunked_array([[1, 2], [3, 4]])})
    for each in (value, Stream(value), value.to_reader()):
        x = shm.create("x", each, replace=True)
        assert x.to_pydict() == {"a": ["x", "y", "z", "x"], "b": [1, 2, 3, 4]}
        assert x.schema == value.schema


@pytest.mark.parametrize(
    ("value", "rows"),
    [
        (Array(pa.record_batch({"a": [1]})), [{"a": 1}]),
        (Array(pa.array([{"a": 1}])), [{"a": 1}]),
        (Array(pa.array([1, None])), [1, None]),
        (Stream(pa.chunked_array([[1], [2]])), [1, 2]),
        (Stream(pl.DataFrame({"a": ["x"]})), [{"a": "x"}]),
        (Stream(pd.DataFrame({"a": [1.5]})), [{"a": 1.5}]),
    ],
)
def test_whatever_has_the_interface_of_arrow_is_taken(value, rows):
    assert shm.create("x", value).to_pylist() == rows


class Frame(pd.DataFrame):
    """One that may hold more than its columns."""


REFUSED = {
    "objects of polars": (pl.DataFrame({"b": pl.Series([object()], dtype=pl.Object)}), "column 'b' .*objects"),
    "integers of 128 bits": (pl.DataFrame({"a": pl.Series([1], dtype=pl.Int128)}), "column 'a' .*no such type"),
    "a NUL in a name": (pl.DataFrame({"a\0b": [1]}), "NUL"),
    "a dictionary of dictionaries": (
        pa.table({"a": pa.DictionaryArray.from_arrays(pa.array([0]), dictionaries("x").chunk(0))}), "column 'a' .*dict",
    ),
    "numbers and texts": (pd.DataFrame({"a": [1], "b": pd.Series(["x"]), "c": pd.Series([[1]])}), "column 'c'.*list"),
    "ints and floats": (pd.DataFrame({"a": pd.Series([1, 1.5], dtype=object)}), "column 'a'.*float, int"),
    "an int beyond 64 bits": (pd.DataFrame({"a": pd.Series([2**70])}), "column 'a'"),
    "a time in a zone": (pd.DataFrame({"a": [dt.time(1, tzinfo=dt.UTC)]}), "column 'a'.*zone"),
    "bytes of another order": (pd.DataFrame({"a": np.arange(3, dtype=">i4")}), "column 'a'.*>i4"),
    "a subclass": (Frame({"a": [1]}), "is a Frame"),
    "attrs beyond JSON": (pd.DataFrame({"a": [1]}), "attrs"),
    "a frequency with holidays": (
        pd.DataFrame(index=pd.bdate_range("2020", periods=3, freq="C", holidays=["2020-01-02"])), "its index.*holidays",
    ),
    "labels of odd types": (pd.DataFrame([[1, 2]], columns=["a", frozenset([1])]), "names of its columns.*frozenset"),
}  # fmt: skip
REFUSED["attrs beyond JSON"][0].attrs["pair"] = (1, 2)


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_not_come_back_is_refused_by_column_and_each_cure_works(case):
    value, words = REFUSED[case]
    with pytest.raises(shm.UnsupportedError, match=words) as caught:
        shm.create("x", value)
    if expression := getattr(caught.value, "expression", None):
        shm.create("x", eval(expression, {"x": value, "numpy": np}))


def test_values_are_right_after_a_file_of_any_format(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "ROWS", 64)  # rows
    monkeypatch.setattr(outgoing, "_ROWS", 64)
    codes = np.arange(300) % 3
    value = pd.DataFrame(
        {
            "ordered": pd.Categorical.from_codes(codes, ["z", "b", "a", "unused"], ordered=True),
            "numbers": pd.Categorical.from_codes(codes, [3, 1, 2]),
            "intervals": pd.cut(codes, [-1, 0, 1, 5]),
            "gaps": np.where(codes, 1.5, np.nan),
            "spans": np.where(codes, 1, np.iinfo("i8").min).astype("m8[s]"),
            "periods": pd.PeriodIndex.from_ordinals(codes, freq="M"),
            "seconds": codes.astype("M8[s]"),
            "lists": pd.array([[1]] * len(codes), pd.ArrowDtype(pa.list_(pa.int8()))),
            "objects": pd.Series([None, "a", "b"], dtype=object)[codes].to_numpy(),
        },
        index=pd.MultiIndex.from_arrays([codes, np.arange(len(codes))], names=["p", None]),
    )
    value.loc[(2, 5), "ordered"] = None
    for suffix in ("parquet", "feather", "arrow"):
        for rows in (value, value[:0], value["ordered"]):
            shm.create("x", rows, replace=True)
            shm.save("x", tmp_path / f"x.{suffix}")
            got = shm.load("y", tmp_path / f"x.{suffix}", replace=True)
            (pd.testing.assert_series_equal if rows.ndim == 1 else pd.testing.assert_frame_equal)(got, rows)


def test_a_frame_of_10_000_columns_comes_back_as_it_is():
    value = pd.DataFrame(np.arange(30_000, dtype="f8").reshape(3, -1))
    pd.testing.assert_frame_equal(shm.create("x", value), value)
    shm.unlink("x")


@pytest.mark.parametrize(("count", "seed"), [(150, 0), pytest.param(4000, 1, marks=pytest.mark.long)])
@pytest.mark.timeout(900)
def test_wrong_bytes_of_tables_are_damaged_or_harmless_and_end_no_process(count, seed):
    run = subprocess.run(
        [sys.executable, "-m", "tests.kinds.hostile_tables", str(count), str(seed)],
        capture_output=True, text=True, timeout=880, cwd=Path(__file__).parents[2], check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert int(run.stdout.split()[0]) > count // 10
