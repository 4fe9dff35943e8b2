"""What the monitor, listings and cards show of a table, read from the file without pyarrow."""

from __future__ import annotations

import datetime as dt
import io
import json
import os
from contextlib import suppress
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest

import shmkernel as shm
from shmkernel import kinds, render
from shmkernel._core import paths
from shmkernel.kinds.preview import Look, Source
from shmkernel.kinds.tables import metadata, values
from tests.helpers import needs, python

pa = needs("pyarrow")
pd = needs("pandas")
pl = needs("polars")


class Reads:
    """A segment's file, and how much of it was read."""

    def __init__(self, name):
        self.path, self.count = paths.path_of(name), 0

    def __enter__(self):
        self.fd = os.open(self.path, os.O_RDONLY)
        return Source(self.read, os.fstat(self.fd).st_size, self.path)

    def __exit__(self, *_):
        os.close(self.fd)

    def read(self, at, size):
        self.count += size
        return os.pread(self.fd, size, at)


def see(name, start=0):
    with Reads(name) as source:
        return kinds.named("table").preview(source, Look(start=start)).facts


def about(facts):
    """Return the lines on the columns, by their names."""
    titles = [title for title, _ in facts["columns"]]
    return {label: dict(zip(titles, texts, strict=True)) for label, *texts in facts["about"]}


TYPES = {
    "number": pa.array([1, None, -3], pa.int16()),
    "float": pa.array([0.1 + 0.2, None, float("nan")]),
    "truth": pa.array([True, None, False]),
    "text": ["a", None, "é" * 100],
    "large text": pa.array(["a", None, "b"], pa.large_string()),
    "view": pa.array(["short", None, "a text that lies elsewhere"], pa.string_view()),
    "bytes": [b"a\xff", None, b""],
    "two bytes": pa.array([b"ab", None, b"\x00\xff"], pa.binary(2)),
    "category": pa.array(["x", None, "y"]).dictionary_encode(),
    "day": [dt.date(2020, 2, 29), None, dt.date(1900, 1, 1)],
    "moment": pa.array([0, None, 1_500], pa.timestamp("ms")),
    "moment in a zone": pa.array([0, None, 86_400], pa.timestamp("s", "Europe/Berlin")),
    "clock": [dt.time(1, 2, 3), None, dt.time(0)],
    "span": [dt.timedelta(days=1, seconds=1.5), None, dt.timedelta(0)],
    "decimal": [Decimal("1.50"), None, Decimal("-20.25")],
    "list": [[1, None], None, []],
    "pair": pa.array([[1, 2], None, [3, 4]], pa.list_(pa.int8(), 2)),
    "map": pa.array([[("a", 1)], None, []], pa.map_(pa.string(), pa.int8())),
    "struct": [{"a": 1, "b": "x"}, None, {"a": None, "b": "y"}],
    "nothing": pa.nulls(3),
    "last": [7, 8, 9],
}
SHOWN = {
    "number": ("int16", "1", "-3"),
    "float": ("float64", "0.3", "nan"),
    "truth": ("bool", "True", "False"),
    "text": ("text", "a", "é" * 63 + "…"),
    "large text": ("text", "a", "b"),
    "view": ("text", "short", "a text that lies elsewhere"),
    "bytes": ("bytes", "a\\xff", ""),
    "two bytes": ("bytes", "ab", "\0\\xff"),
    "category": ("category", "x", "y"),
    "day": ("date", "2020-02-29", "1900-01-01"),
    "moment": ("datetime[ms]", "1970-01-01 00:00:00", "1970-01-01 00:00:01.5"),
    "moment in a zone": ("datetime[s, Europe/Berlin]", "1970-01-01 00:00:00 UTC", "1970-01-02 00:00:00 UTC"),
    "clock": ("time", "1:02:03", "0:00:00"),
    "span": ("duration[us]", "1 day, 0:00:01.500000", "0:00:00"),
    "decimal": ("decimal(4, 2)", "1.50", "-20.25"),
    "list": ("list", "[1, null]", "[]"),
    "pair": ("list", "[1, 2]", "[3, 4]"),
    "map": ("map", "[{key: a, value: 1}]", "[]"),
    "struct": ("struct", "{a: 1, b: x}", "{a: null, b: y}"),
    "nothing": ("null", "null", "null"),
    "last": ("int64", "7", "9"),
}


def test_every_type_is_shown_as_people_write_it():
    shm.create("x", pa.table(TYPES))
    facts = see("x")
    assert facts["columns"] == [[name, type_] for name, (type_, *_) in SHOWN.items()]
    texts = dict(zip(SHOWN, zip(*(row[1:] for row in facts["rows"]), strict=True), strict=True))
    for name, (_, first, last) in SHOWN.items():
        assert texts[name] == (first, "8" if name == "last" else "null", last)


def test_figures_of_a_small_table_are_of_all_rows():
    columns = {"a": [1, None, 5], "b": [0.5, float("nan"), 1.5], "c": [True, True, False], "d": ["x", None, None]}
    shm.create("x", pa.table(columns | {"e": [dt.date(2020, 1, 2), dt.date(2020, 1, 1), None]}))
    facts = see("x")
    assert about(facts) == {
        "min": {"a": "1", "b": "0.5", "c": "", "d": "", "e": "2020-01-01"},
        "max": {"a": "5", "b": "1.5", "c": "", "d": "", "e": "2020-01-02"},
        "mean": {"a": "3", "b": "1", "c": "0.666667", "d": "", "e": ""},
        "missing": {"a": "1", "b": "0", "c": "0", "d": "2", "e": "1"},
        "memory": {"a": "25 B", "b": "24 B", "c": "1 B", "d": "18 B", "e": "13 B"},
    }
    assert facts["note"] == "min, max and mean of all 3 rows"


def test_of_a_large_table_only_a_page_and_a_sample_are_read_and_the_note_says_so():
    rows = 300_000
    frame = pd.DataFrame({"a": np.arange(rows), "b": np.arange(rows) / 4, "c": ["oak", "elm"] * (rows // 2)})
    shm.create("x", frame)
    with Reads("x") as source:
        reads = source.read.__self__
        facts = kinds.named("table").preview(source, Look(start=123_456)).facts
        assert reads.count < 64 << 10
    assert [row[:3] for row in facts["rows"]] == [[str(n), str(n), f"{n / 4:g}"] for n in range(123_456, 123_506)]
    assert facts["note"] == "min, max and mean of 1,024 of 300,000 rows"
    assert about(facts)["memory"] == {"a": "2.3 MiB", "b": "2.3 MiB", "c": "3.1 MiB"}
    assert see("x", 10**9)["rows"][-1][:2] == [str(rows - 1)] * 2


def test_a_page_goes_on_from_one_record_batch_to_the_next():
    batches = [pa.record_batch({"a": [f"{at}.{n}" for n in range(30)]}) for at in range(10)]
    shm.create("x", pa.RecordBatchReader.from_batches(batches[0].schema, batches))
    expected = [f"{at}.{n}" for at in range(10) for n in range(30)]
    for start in (0, 20, 30, 59, 250):
        assert [row[1] for row in see("x", start)["rows"]] == expected[start : start + 50]


def test_a_pandas_index_comes_first_and_other_programs_tables_have_rows_too():
    shm.create("x", pd.DataFrame({"a": [1, 2]}, index=pd.Index(["u", "v"], name="key")))
    shm.create("y", pd.DataFrame({"a": [1, 2]}, index=["u", "v"]))
    assert [see(name)["columns"][0] for name in "xy"] == [["key", "text"], ["index", "text"]]
    with pa.OSFile(paths.path_of("z"), "wb") as file, pa.ipc.new_file(file, pa.schema({"a": pa.int64()})) as writer:
        writer.write(pa.record_batch({"a": [1, 2]}))
        writer.write(pa.record_batch({"a": [3]}))
    assert see("z")["rows"] == [["0", "1"], ["1", "2"], ["2", "3"]]
    assert shm.info("z").type == "3 rows x 1 column"
    shm.unlink("z")


def test_a_compressed_file_of_another_program_says_that_it_is(shm_dir):
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    schema = pa.schema({"a": pa.int64()})
    with pa.OSFile(paths.path_of("x"), "wb") as file, pa.ipc.new_file(file, schema, options=options) as writer:
        writer.write(pa.record_batch({"a": [1, 2]}))
    with pytest.raises(ValueError, match="compressed"):
        see("x")
    shm.unlink("x")


def test_many_wide_columns_are_few_bytes():
    title = "\N{GRINNING FACE}" * 100
    values = {f"{title[n:]}": [title] * 100 for n in range(40)}
    for value in (pa.table(values), pl.DataFrame({str(n): [[title] * 20] * 80 for n in range(40)})):
        shm.create("x", value, replace=True)
        facts = see("x")
        assert len(json.dumps(facts)) < 64 << 10
        assert facts["rows"]
        assert "8 more columns" in facts["note"]


def test_a_listing_and_a_preview_need_no_pyarrow():
    shm.create("x", pd.DataFrame({"a": [1.5, 2.5], "b": pd.Categorical(["u", "v"])}))
    script = """
import sys
sys.modules["pyarrow"] = None
import shmkernel as shm
from shmkernel.kinds.preview import Look
from shmkernel.monitor import preview
(row,) = shm.list()
print(row.type, preview.of(row, Look()).facts["rows"])
"""
    assert python(script).stdout == "2 rows x 2 columns [['0', '1.5', 'u'], ['1', '2.5', 'v']]\n"


def test_a_card_names_the_types_of_the_columns():
    shm.create("x", pd.DataFrame({"price": [1.5], "symbol": ["oak"]}))
    assert "columns   price: float64, symbol: text\n" in render.card(shm.info("x"))
    shm.create("y", np.zeros(3))
    assert "columns" not in render.card(shm.info("y"))


def test_a_terminal_shows_the_figures_above_the_rows():
    console = needs("rich.console").Console
    from shmkernel.monitor.terminal import Screen

    shm.create("x", pd.DataFrame({"price": [1.5, 2.5]}))
    for height, said in ((50, ["max", "mean", "0", "1"]), (20, ["0", "1"])):
        drawn = console(width=100, height=height, color_system=None, file=io.StringIO())
        drawn.print(Screen("x").draw(100, height))
        lines = [line.split() for line in drawn.file.getvalue().splitlines()]
        assert [line[0] for line in lines if len(line) == 2 and line[0] in ("max", "mean", "0", "1")] == said


@pytest.mark.parametrize("value", [pa.table(TYPES), pl.DataFrame({"a": ["x" * 20, "y"], "b": [[1, 2], [3]]})])
def test_wrong_bytes_are_damaged_or_harmless(value):
    shm.create("x", value)
    whole = Path(paths.path_of("x")).read_bytes()
    shm.unlink("x")
    choose = np.random.default_rng(0)
    kind = kinds.named("table")
    for _ in range(400):
        wrong = bytearray(whole)
        for place in choose.integers(0, len(whole), choose.integers(1, 6)):
            wrong[place] = choose.choice([0, 1, 127, 128, 255, choose.integers(256)])
        source = Source(lambda at, size, data=bytes(wrong): data[at : at + size], len(wrong))
        with suppress(ValueError):
            kind.describe_source(source)
        with suppress(ValueError):
            assert len(json.dumps(kind.preview(source, Look(start=int(choose.integers(9)))).facts)) < 64 << 10


@pytest.mark.parametrize("scale", [38, -(2**31), 2**31 - 1])
def test_a_decimal_of_any_scale_that_wrong_bytes_say_is_shown(scale):
    field = metadata.Field("", metadata.DECIMAL, "", scale=scale)
    shown = Decimal(values._shown(field, (10**38 - 1).to_bytes(16, "little")))
    assert (shown.as_tuple().digits, shown.as_tuple().exponent) == ((9,) * 38, -scale)
