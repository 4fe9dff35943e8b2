from __future__ import annotations

import contextlib
import decimal
import io
import os
import signal
import sys
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

import shmkernel as shm
from shmkernel._core import paths, progress
from shmkernel.kinds.tables import blocks, incoming
from shmkernel.testing import KindContract, write
from tests.helpers import Child, needs

pa = needs("pyarrow")
pd = needs("pandas")
pl = needs("polars")

ROWS = 3


def frame():
    """A frame with a column of each type that pandas has."""
    columns = {
        "int": np.arange(ROWS),
        "float": [0.5, np.nan, -np.inf],
        "bool": [True, False, True],
        "str": ["a", None, "é"],
        "text as objects": pd.Series(["a", None, "b"], dtype=object),
        "text as objects with NaN": pd.Series(["a", np.nan, "b"], dtype=object),
        "category": pd.Categorical(["x", "y", None], categories=["y", "x"], ordered=True),
        "Int64": pd.array([1, None, 3], "Int64"),
        "UInt8": pd.array([1, None, 3], "UInt8"),
        "Float32": pd.array([1.5, None, 3], "Float32"),
        "boolean": pd.array([True, None, False], "boolean"),
        "string": pd.array(["a", None, "b"], "string"),
        "zone": pd.to_datetime(["2020-01-01", None, "2021-07-01"]).tz_localize("Europe/Berlin"),
        "period": pd.period_range("2020", periods=ROWS, freq="M"),
        "interval": pd.interval_range(0, ROWS),
        "arrow": pd.array([[1, 2], None, []], pd.ArrowDtype(pa.list_(pa.int64()))),
    }
    for code in (
        "i1",
        "i2",
        "i4",
        "u1",
        "u2",
        "u4",
        "u8",
        "f2",
        "f4",
        *(f"M8[{unit}]" for unit in ("s", "ms", "us", "ns")),
    ):
        columns[code] = np.arange(ROWS).astype(code)
    columns["m8[ns]"] = np.array([1, "NaT", 3], "m8[ns]")
    return pd.DataFrame(columns)


FRAMES = {
    "all types": frame(),
    "a range": pd.DataFrame({"x": [1.5, 2.5]}, index=range(5, 1, -2)),
    "dates with a frequency": pd.DataFrame({"x": [1, 2, 3]}, index=pd.date_range("2020", periods=3, name="when")),
    "an index of texts": pd.DataFrame({"x": [1, 2]}, index=pd.Index(["a", "b"], name=3)),
    "levels": pd.DataFrame(
        np.arange(4).reshape(2, 2),
        index=pd.MultiIndex.from_tuples([(1, "x"), (2, "y")], names=["m", None]),
        columns=pd.MultiIndex.from_tuples([("a", 1), ("b", 2)], names=[None, "n"]),
    ),
    "columns with one name": pd.DataFrame(np.zeros((2, 3)), columns=["a", "a", "a_2"]),
    "columns that are numbers": pd.DataFrame(np.zeros((2, 3)), columns=[1, 1, 2]),
    "columns that are a range": pd.DataFrame(np.zeros((2, 3))),
    "columns that are dates": pd.DataFrame(np.zeros((1, 2)), columns=pd.date_range("2020", periods=2)),
    "no rows": frame()[:0],
    "no columns": pd.DataFrame(index=range(3)),
    "nothing": pd.DataFrame(),
    "a series": pd.Series([1, 2, 3]),
    "a series with a name and an index": pd.Series([1.0, 2.0], name=("u", 1), index=["a", "b"]),
    "a series of categories": pd.Series(["a", "b", "a"], dtype="category"),
}
OTHERS = {
    "polars": pl.DataFrame({"a": [1, None], "b": ["x", "y" * 50], "c": [[1], None], "d": [{"x": 1}, {"x": None}]}),
    "a column of polars": pl.Series("s", [1, 2, None]),
    "arrow": pa.table({"a": [1, None], "b": ["x", "y"], "c": pa.array(["u", "v"]).dictionary_encode()}),
    "a batch": pa.record_batch({"a": [1, 2]}),
    "an array of arrow": pa.array([1, None]),
}


class TestTable(KindContract):
    kind = "table"
    VALUES: ClassVar = {
        "plain": pd.DataFrame({"x": [1.0, 2.0], "y": ["a", "b"]}),
        "all types": frame(),
        "nothing": pd.DataFrame(),
        "a series": pd.Series([1, 2, 3]),
        "arrow": OTHERS["arrow"],
    }
    REFUSED: ClassVar = {
        "mixed objects": pd.DataFrame({"a": [1, "x"]}),
        "complex": pd.DataFrame({"a": [1j]}),
        "sparse": pd.DataFrame({"a": pd.arrays.SparseArray([0, 0, 1])}),
        "names that are no texts or numbers": pd.DataFrame([[1, 2]], columns=[object(), "a"]),
        "gaps of several types": pd.DataFrame({"a": ["a", None, np.nan]}, dtype=object),
    }

    def same(self, got, value):
        if isinstance(value, pd.DataFrame):
            pd.testing.assert_frame_equal(got, value, check_freq=True)
            return got.attrs == value.attrs
        if isinstance(value, pd.Series):
            pd.testing.assert_series_equal(got, value)
            return True
        if isinstance(value, (pl.DataFrame, pl.Series)):
            return type(got) is type(value) and got.equals(value)
        return type(got) is type(value) and got.equals(value)

    def change(self, got):
        got.iloc[0, 0] = 7.0

    def touch(self, got):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # wrong bytes are odd numbers
            self._touch(got)

    def _touch(self, got):
        with contextlib.suppress(ValueError, OverflowError, NotImplementedError):  # Python has no such dates
            self._read(got)

    def _read(self, got):
        got.to_string() if hasattr(got, "to_string") else str(got.to_list() if isinstance(got, pl.Series) else got)

    def test_changes_are_everybodys(self):
        """They are not: a table does not change once it is shared."""
        shm.create("x", FRAMES["a range"])
        with pytest.raises(shm.ArgumentError, match=r"'x'.*does not change.*mode='c'"):
            shm.attach("x", "r+")


@pytest.mark.parametrize("value", [*FRAMES.values(), *OTHERS.values()], ids=[*FRAMES, *OTHERS])
def test_every_table_comes_back_as_it_is(value):
    assert TestTable().same(shm.create("x", value), value)


def test_nothing_is_copied():
    """The values of the result lie in the mapping, and what others write to the file is seen at once."""
    x = shm.create("x", frame())
    (memory,) = mapped("x")
    here = [name for name, dtype in x.dtypes.items() if isinstance(dtype, np.dtype) and dtype.kind in "iufmM"]
    assert len(here) > 12
    for name in here:
        assert x[name].to_numpy().ctypes.data in memory
    assert x["zone"].array.view("i8").ctypes.data in memory
    assert x["category"].cat.codes.to_numpy().size
    assert x["category"].array.codes.ctypes.data in memory
    assert x["Int64"].array._data.ctypes.data in memory
    texts = shm.attach("x", as_="arrow").column("str").chunk(0).buffers()[2]
    assert any(texts.address in memory for memory in mapped("x"))


def mapped(name):
    """Return the addresses of the newest mapping of a segment."""
    inode = str(os.stat(paths.path_of(name)).st_ino)
    with open("/proc/self/maps", errors="replace") as file:
        ranges = [line.split()[0].split("-") for line in file if line.split()[4] == inode]
    return [range(int(start, 16), int(end, 16)) for start, end in ranges]


@pytest.mark.parametrize("value", [*FRAMES.values(), *OTHERS.values()], ids=[*FRAMES, *OTHERS])
def test_every_form_can_be_asked_for(value):
    shm.create("x", value)
    got = shm.attach("x", as_="arrow")
    assert isinstance(got, pa.Table)
    assert isinstance(shm.attach("x", as_="pandas"), pd.Series if isinstance(value, pd.Series) else pd.DataFrame)
    assert shm.attach("x", as_="arrow") is got


def test_a_form_that_it_has_not_is_refused():
    shm.create("x", OTHERS["arrow"])
    with pytest.raises(shm.ArgumentError, match=r"as_ is one of arrow, pandas, polars, duckdb"):
        shm.attach("x", as_="csv")
    shm.create("y", [1, 2])
    with pytest.raises(shm.ArgumentError, match="a list has one form"):
        shm.attach("y", as_="pandas")


def test_a_table_that_a_library_cannot_hold_has_other_forms():
    shm.create("x", pa.table([[1], [2]], names=["a", "a"]))
    with pytest.raises(shm.ArgumentError, match=r"polars cannot hold this table: .* As it is: as_='arrow'"):
        shm.attach("x", as_="polars")
    assert shm.attach("x", as_="arrow").num_columns == 2


@pytest.mark.skipif(not hasattr(pa, "decimal32"), reason="this pyarrow has no decimals of 32 bits")
@pytest.mark.parametrize("bits", [32, 64])
def test_polars_gets_short_decimals_with_their_values(bits):
    """From a stream of Arrow it reads them as if they had 128 bits, and so beyond their memory."""
    numbers = pa.array([decimal.Decimal("1.5"), decimal.Decimal("-2.5"), None], getattr(pa, f"decimal{bits}")(5, 1))
    coded = pa.DictionaryArray.from_arrays(pa.array([0, 1, None], pa.int8()), numbers.slice(0, 2))
    ends = pa.array([0, 1, 2, 3], pa.int32())
    columns = {
        "alone": numbers, "coded": coded, "struct": pa.StructArray.from_arrays([numbers], ["x"]),
        "list": pa.ListArray.from_arrays(ends, numbers),
        "large": pa.LargeListArray.from_arrays(ends.cast("i8"), numbers),
        "fixed": pa.FixedSizeListArray.from_arrays(numbers, 1), "map": pa.MapArray.from_arrays(ends, ends[:3], numbers),
    }  # fmt: skip
    table = pa.table(columns)
    shm.create("x", table)
    got = shm.attach("x", as_="polars").to_dict(as_series=False)
    assert got == {**table.to_pydict(), "map": [dict(pairs) for pairs in table["map"].to_pylist()]}


@pytest.mark.parametrize("text", ["a", b"b"])
def test_pandas_gets_the_texts_in_lists_of_polars(text):
    frame = pl.DataFrame({"t": [[text, None], None], "u": [[[text]], []], "s": [{"x": [text]}, None]})
    shm.create("x", frame.with_columns(a=pl.Series([[text], [text]], dtype=pl.Array(frame["t"].dtype.inner, 1))))
    got = shm.attach("x", as_="pandas")
    assert [[*row] if row is not None else row for row in got["t"]] == [[text, None], None]
    assert (got["u"][0][0][0], got["s"][0]["x"][0], got["a"][1][0]) == (text, text, text)


def test_pandas_gets_tensors_of_arrow():
    """Their schema alone makes no empty table in pyarrow."""
    table = pa.table({"t": pa.FixedShapeTensorArray.from_numpy_ndarray(np.arange(8).reshape(2, 2, 2))})
    shm.create("x", table)
    assert [[*row] for row in shm.attach("x", as_="pandas")["t"]] == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_a_forked_child_attaches_tables_of_each_library(shm_dir):
    def look(connection):
        for form in (None, "polars", "pandas", "arrow"):
            connection.send(shm.attach("x", as_=form)["a"][1])

    pl.from_arrow(pa.table({"a": [1]}))  # from now on polars has threads, which a child would wait for
    x = shm.create("x", pl.DataFrame({"a": ["x", "y"], "b": pl.Series(["u", "v"], dtype=pl.Enum(["v", "u"]))}))
    with Child(look) as child:
        assert [str(child.hear()) for _ in range(4)] == ["y"] * 4
        child.join()
    assert shm.attach("x", as_="polars").schema == x.schema


def test_setting_an_item_of_the_session_shares_a_table():
    shm.session["x"] = FRAMES["a range"]
    pd.testing.assert_frame_equal(shm.session["x"], FRAMES["a range"])
    shm.session["x"] = OTHERS["polars"]
    assert shm.session["x"].equals(OTHERS["polars"])


def test_publishing_a_table_says_that_it_does_not_change():
    x = shm.create("x", OTHERS["arrow"])
    for call in (shm.publish, shm.writing):
        with pytest.raises(shm.RefusedError, match="a table does not change once it is shared") as raised:
            call(x)
        assert not raised.value.cures
    version = shm.version("x")
    shm.create("x", OTHERS["arrow"], replace=True)
    assert shm.version("x") > version


def test_a_mode_that_a_table_has_not_is_refused_with_the_one_that_it_has():
    for call in (lambda mode: shm.create("x", OTHERS["arrow"], mode=mode), lambda mode: shm.attach("x", mode=mode)):
        with pytest.raises(shm.ArgumentError, match=r"so mode r\+ has no use\. Changes stay private: mode='c'"):
            call("r+")
        assert call("c").equals(OTHERS["arrow"])


def test_a_stream_is_written_batch_by_batch():
    def batches():
        for number in range(50):
            yield pa.record_batch({"x": np.full(1000, number)})

    reader = pa.RecordBatchReader.from_batches(pa.schema({"x": pa.int64()}), batches())
    x = shm.create("x", reader)
    assert x.num_rows == 50_000
    assert shm.info("x").shape == (50_000, 1)
    assert shm.info("x").size == os.path.getsize(paths.path_of("x"))


def test_an_error_of_a_stream_leaves_nothing(shm_dir):
    def batches():
        yield pa.record_batch({"x": [1]})
        raise RuntimeError("the source has ended")

    reader = pa.RecordBatchReader.from_batches(pa.schema({"x": pa.int64()}), batches())
    with pytest.raises((RuntimeError, shm.ShmError), match="the source has ended"):
        shm.create("x", reader)
    assert shm.list() == []


def test_a_lazy_frame_is_collected():
    assert shm.create("x", OTHERS["polars"].lazy()).equals(OTHERS["polars"])


def test_another_process_finds_what_was_shared(shm_dir):
    def look(connection):
        connection.send(type(shm.attach("x")).__module__)
        y = shm.attach("x")
        y.iloc[0, 0] = 9
        connection.send(int(y.iloc[0, 0]))

    x = shm.create("x", FRAMES["levels"])
    with Child(look) as child:
        assert child.hear().startswith("pandas")
        assert child.hear() == 9
        child.join()
    assert x.iloc[0, 0] == 0


def test_memory_stays_attached_as_long_as_the_frame_is_there():
    x = shm.create("x", FRAMES["nothing"], lifetime="attached")
    assert [row.name for row in shm.list()] == ["x"]
    del x
    assert shm.list() == []


def test_a_listing_tells_rows_columns_and_types():
    shm.create("x", FRAMES["an index of texts"])
    info = shm.info("x")
    assert (info.type, info.shape, info.dtype) == ("2 rows x 1 column", (2, 1), "index: text, x: int64")


@pytest.mark.parametrize("suffix", ["parquet", "csv", "feather", "arrow"])
def test_files_of_other_programs_are_saved_and_loaded(tmp_path, suffix):
    table = pa.table({"a": [1, 2], "b": ["x", "y"]})
    shm.create("x", table)
    shm.save("x", tmp_path / f"x.{suffix}")
    y = shm.load("y", tmp_path / f"x.{suffix}")
    assert y.to_pylist() == table.to_pylist()
    (tmp_path / f"bad.{suffix}").write_bytes(b"\0\1\2")
    if suffix != "csv":
        with pytest.raises(shm.DamagedError, match="cannot be loaded"):
            shm.load("z", tmp_path / f"bad.{suffix}")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("names that are no UTF-8.csv", "größe,n\n1,2\n".encode("latin-1")),
        ("a number of columns that changes.csv", b"a,b\n1,2\n" * 100_000 + b"3\n"),
        ("no footer.parquet", b"PAR1" * 100),
        ("no footer.arrow", b"ARROW1" * 100),
    ],
)
def test_a_file_that_cannot_be_read_to_its_end_is_damaged(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(shm.DamagedError, match="cannot be loaded"):
        shm.load("y", path)


def test_a_file_that_says_wrong_things_of_its_frame_is_damaged_and_no_segment(tmp_path):
    facts = {b"pandas": b'{"index_columns": [{"kind": "range"}], "columns": [], "column_indexes": []}'}
    table = pa.table({"a": [1]}).replace_schema_metadata(facts)
    with pa.OSFile(str(tmp_path / "x.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    x = shm.create("x", OTHERS["arrow"])
    with pytest.raises(shm.DamagedError, match=r"x\.arrow cannot be loaded") as raised:
        shm.load("x", tmp_path / "x.arrow", replace=True)
    assert not raised.value.cures
    assert shm.attach("x") is x


@pytest.mark.parametrize("suffix", ["parquet", "csv", "feather"])
def test_texts_and_categories_of_polars_are_saved_to_every_format(tmp_path, suffix):
    columns = {
        "a": ["x", None, "y" * 30],
        "b": pl.Series(["u", "v", None], dtype=pl.Categorical),
        "c": [b"1", None, b""],
    }
    shm.create("x", pl.DataFrame(columns))
    shm.save("x", tmp_path / f"x.{suffix}")
    got = pl.from_arrow(pa.table(shm.load("y", tmp_path / f"x.{suffix}")))
    assert got["a"].fill_null("").to_list() == ["x", "", "y" * 30]
    assert got["b"].cast(pl.String).fill_null("").to_list() == ["u", "v", ""]


def test_what_a_format_cannot_hold_is_an_error_of_ours(tmp_path):
    shm.create("x", pl.DataFrame({"a": [[1], None]}))
    with pytest.raises(shm.UnsupportedError, match=r"x\.csv: a csv file cannot hold this table: .*list.*\.arrow"):
        shm.save("x", tmp_path / "x.csv")
    assert list(tmp_path.iterdir()) == []


def promising(path, column):
    """Write a small Parquet file whose end names its rows again and again: it promises half a terabyte and more."""
    parquet = needs("pyarrow.parquet")
    rows = 4_000_000
    parquet.write_table(pa.table({"a": column(rows)}), path, row_group_size=rows)
    facts = parquet.read_metadata(path)
    for _ in range(14):
        facts.append_row_groups(facts)
    facts.write_metadata_file(end := path.with_suffix(".end"))
    data = path.read_bytes()
    path.write_bytes(data[: -8 - int.from_bytes(data[-8:-4], "little")] + end.read_bytes()[4:])
    assert path.stat().st_size < 10 << 20
    return facts.num_rows


@pytest.mark.parametrize(
    ("width", "column", "error"),
    [
        (8, lambda rows: pa.repeat(7, rows), shm.FullError),
        (4, lambda rows: pa.DictionaryArray.from_arrays(pa.repeat(pa.scalar(0, "i4"), rows), ["a"]), shm.LimitError),
    ],
    ids=["numbers", "a dictionary"],
)
def test_a_parquet_file_that_promises_more_than_there_is_takes_no_memory(width, column, error, tmp_path, monkeypatch):
    rows = promising(tmp_path / "x.parquet", column)

    def read(*_):
        raise AssertionError("it was read")
        yield

    monkeypatch.setattr(incoming, "_batches", read)
    with pytest.raises(error) as caught:
        shm.load("x", tmp_path / "x.parquet")
    assert caught.value.needed >= rows * width
    assert shm.list() == []


def test_a_frame_comes_back_from_a_parquet_file_as_a_frame(tmp_path):
    FRAMES["dates with a frequency"].to_parquet(tmp_path / "x.parquet")
    assert isinstance(shm.load("x", tmp_path / "x.parquet"), pd.DataFrame)


def test_an_arrow_file_of_another_program_is_a_table():
    with pa.OSFile(paths.path_of("x"), "wb") as file, pa.ipc.new_file(file, pa.schema({"a": pa.int64()})) as writer:
        writer.write(pa.record_batch({"a": [1, 2]}))
    assert shm.attach("x").to_pylist() == [{"a": 1}, {"a": 2}]
    assert shm.info("x").type == "2 rows x 1 column"
    shm.unlink("x")


def test_another_program_opens_a_segment_as_an_arrow_file():
    shm.create("x", OTHERS["arrow"])
    assert pa.ipc.open_file(pa.memory_map(paths.path_of("x"))).read_all().to_pylist() == OTHERS["arrow"].to_pylist()


def test_wrong_bytes_anywhere_are_damaged_or_harmless():
    shm.create("x", FRAMES["all types"])
    whole = Path(paths.path_of("x")).read_bytes()
    shm.unlink("x")
    choose = np.random.default_rng(0)
    for _ in range(300):
        wrong = bytearray(whole)
        for place in choose.integers(0, len(whole), choose.integers(1, 5)):
            wrong[place] = choose.integers(256)
        write("x", bytes(wrong))
        with contextlib.suppress(shm.DamagedError):  # a listing looks at a part, and may take less or more for damage
            TestTable().touch(shm.attach("x", kind="table"))
        assert shm.info("x").type
        shm.unlink("x")


def test_without_the_library_an_error_says_what_to_install(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.ipc", None)
    with pytest.raises(shm.UnsupportedError, match=r"pip install 'shmkernel\[tables\]'"):
        shm.create("x", pd.DataFrame({"a": [1]}))


def test_many_columns_of_one_type_are_few_blocks():
    """Of 10,000 columns pandas would take a second to make a frame of single ones."""
    value = pd.DataFrame({f"c{n}": np.arange(5) + n for n in range(100)} | {"x": 1.5, "y": 2.5})
    x = shm.create("x", value)
    pd.testing.assert_frame_equal(x, value)
    assert [block.shape for block in x._mgr.blocks] == [(100, 5), (2, 5)]
    x.loc[0, "c7"] = 70
    assert x.loc[0].tolist()[6:9] == [6, 70, 8]


def test_columns_of_two_types_in_turn_are_two_blocks():
    value = pd.DataFrame({str(n): np.arange(5) * (1.5 if n % 2 else 2) for n in range(100)})
    x = shm.create("x", value)
    pd.testing.assert_frame_equal(x, value)
    assert [block.shape for block in x._mgr.blocks] == [(50, 5), (50, 5)]


@pytest.mark.parametrize("rows", [0, 1, 7, 8, 9, 1000])
def test_bools_and_masks_are_read_from_bitmaps(rows):
    numbers = np.random.default_rng(rows)
    flags, mask = numbers.random(rows) > 0.5, numbers.random(rows) > 0.5
    value = pd.DataFrame({"flag": flags, "count": pd.arrays.IntegerArray(np.arange(rows), mask)})
    x = shm.create("x", value)
    pd.testing.assert_frame_equal(x, value)
    x.loc[: rows // 2, "flag"] = True  # it is the frame's own


def test_a_part_of_a_bitmap_is_read():
    flags = np.random.default_rng(0).random(50) > 0.5
    for start in range(20):
        got = blocks.bools(pa.array(flags).buffers()[1], start, 30)
        assert got.tolist() == flags[start : start + 30].tolist()


def test_an_extension_of_pandas_that_its_own_code_cannot_read_is_damage():
    """Classes that pandas registers with pyarrow read a file's metadata, and their errors are of any type."""
    shm.create("x", pd.DataFrame({"a": pd.interval_range(0, 2)}))
    whole = Path(paths.path_of("x")).read_bytes()
    shm.unlink("x")
    Path(paths.path_of("x")).write_bytes(whole.replace(b'"closed"', b'"closet"'))
    with pytest.raises(shm.DamagedError, match="no whole Arrow file"):
        shm.attach("x")
    shm.unlink("x")


class Terminal(io.StringIO):
    """A terminal on which Ctrl-C is pressed as soon as there is a progress bar."""

    def __init__(self, *, pressed):
        super().__init__()
        self.pressed = pressed

    def isatty(self):
        return True

    def write(self, text):
        if self.pressed and "x:" in text:
            self.pressed = False
            os.kill(os.getpid(), signal.SIGINT)
        return super().write(text)


@pytest.mark.parametrize("suffix", ["parquet", "csv", "feather"])
def test_loading_and_saving_show_a_bar_and_ctrl_c_leaves_nothing(tmp_path, monkeypatch, shm_dir, suffix):
    monkeypatch.setattr(progress, "_PATIENCE", -1.0)
    table = pa.table({"a": np.random.default_rng(0).random(300_000)})
    path = tmp_path / f"x.{suffix}"

    def act_twice(act, made):
        """Interrupt the first call, which makes nothing, and let the second end."""
        for pressed in (True, False):
            with monkeypatch.context() as patch:
                patch.setattr(sys, "stderr", terminal := Terminal(pressed=pressed))
                with pytest.raises(KeyboardInterrupt) if pressed else nullcontext():
                    act("x", path)
            assert not terminal.pressed
            assert pressed or "x:" in terminal.getvalue()
            assert len(made()) == (not pressed)

    shm.create("x", table)
    act_twice(shm.save, lambda: list(tmp_path.iterdir()))
    shm.unlink("x")
    act_twice(shm.load, shm.list)
    assert shm.attach("x", as_="arrow")["a"].to_numpy().sum() == pytest.approx(table["a"].to_numpy().sum())


@pytest.mark.parametrize("wrong", [(-65537, -1, 0, 0), (1000, 0, 0, 0), (50, 0, 0, 1), (50, 0, 2**31 - 1, 0)])
def test_a_text_that_lies_nowhere_is_damage_under_a_null_too(wrong):
    """pyarrow does not check it there, and ends the process when it compares or converts such texts."""
    texts = pa.array(["x" * 50, None], pa.string_view())
    valid, views, *data = texts.buffers()
    views = views.to_pybytes()[:16] + np.array(wrong, "i4").tobytes()
    odd = pa.Array.from_buffers(texts.type, 2, [valid, pa.py_buffer(views), *data])
    for array in (odd, pa.StructArray.from_arrays([odd], ["part"])):
        with pa.OSFile(paths.path_of("x"), "wb") as file:
            batch = pa.record_batch([array], ["a"])
            with pa.ipc.new_file(file, batch.schema) as writer:
                writer.write(batch)
        with pytest.raises(shm.DamagedError, match="lies in no buffer"):
            shm.attach("x")
        shm.unlink("x")
