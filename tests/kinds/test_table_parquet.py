"""A Parquet file is read in bounded memory, however far its texts expand: one may stand in a million rows."""

from __future__ import annotations

import gc

import numpy as np
import pytest

import shmkernel as shm
from shmkernel._core import capacity
from shmkernel.kinds.tables import incoming, parquet
from tests.helpers import needs

pa = needs("pyarrow")
pq = needs("pyarrow.parquet")

LONG, MANY = 4096, 20_000  # bytes of the text, rows: 80 MB in a file of a few kilobytes
BOUND = 1 << 20


def repeated(text=b"x" * LONG, rows=MANY, kind=None):
    """Make a column that has one text in all rows."""
    values = pa.array([text], kind or pa.string())
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, "i4")), values)


def lists(rows=MANY // 4):
    """Make a column of lists, of four texts each."""
    offsets = pa.array(np.arange(0, 4 * rows + 1, 4, "i4"))
    return pa.ListArray.from_arrays(offsets, repeated(rows=4 * rows))


COLUMNS = {
    "texts": lambda: {"a": repeated()},
    "bytes": lambda: {"a": repeated(kind=pa.binary())},
    "texts in lists": lambda: {"a": lists()},
    "texts in structs": lambda: {"a": pa.StructArray.from_arrays([repeated()], ["t"])},
    "nothing in the first rows": lambda: {
        "a": pa.DictionaryArray.from_arrays(pa.array([None] * 100 + [0] * MANY, "i4"), ["x" * LONG])
    },
    "texts of JSON": lambda: {"a": pa.array([f'"{"x" * LONG}"'] * MANY, pa.json_())},
    "two columns": lambda: {"a": repeated(rows=MANY // 2), "b": repeated(rows=MANY // 2)},
}


@pytest.mark.parametrize("column", COLUMNS)
def test_no_batch_of_a_small_file_takes_more_than_its_bound(column, tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "_WIDEST", BOUND)
    path = str(tmp_path / "x.parquet")
    table = pa.table(COLUMNS[column]())
    pq.write_table(table, path, store_schema=False)  # as texts: another program does not name its dictionaries
    assert (tmp_path / "x.parquet").stat().st_size < 100_000
    rows, most = 0, 0
    for batch in incoming.file("x", path).batches:
        rows, most = rows + batch.num_rows, max(most, batch.nbytes)
    assert rows == len(table)
    assert most < 2 * BOUND


def test_rows_of_short_texts_come_in_full_batches(tmp_path, monkeypatch):
    """One long text makes the batches that are read small. They are put together, since each costs time for ever."""
    monkeypatch.setattr(parquet, "_WIDEST", BOUND)
    monkeypatch.setattr(parquet, "ROWS", 1000)
    values = [str(number % 10) for number in range(10_000)] + ["x" * LONG]
    pq.write_table(pa.table({"a": values}), tmp_path / "x.parquet")
    made = incoming.file("x", str(tmp_path / "x.parquet"))
    batches = list(made.batches)
    assert [value for batch in batches for value in batch.column(0).to_pylist()] == values
    assert len(batches) < 20  # of up to 1,000 rows, where 255 are read at once


def test_dictionaries_that_do_not_fit_into_memory_are_refused_before_any_is_kept(tmp_path, monkeypatch):
    path = tmp_path / "x.parquet"
    schema = pa.schema({"a": pa.dictionary(pa.int32(), pa.string())})
    with pq.ParquetWriter(path, schema) as writer:
        for number in range(64):  # of each a megabyte, compressed to some 50 bytes
            writer.write_table(pa.table({"a": repeated(b"%d" % number + b"x" * (1 << 20), 1)}, schema=schema))
    gc.collect()
    before, left = pa.total_allocated_bytes(), 32 << 20
    monkeypatch.setattr(capacity, "memory", lambda: left)
    with pytest.raises(shm.LimitError, match=r"x\.parquet takes at least .*Close other programs") as caught:
        shm.load("x", path)
    assert caught.value.needed > left
    assert shm.list() == []
    gc.collect()
    assert pa.total_allocated_bytes() - before < left // 2


def test_texts_of_all_lengths_are_loaded_as_they_are(tmp_path):
    values = ["", None, "ä" * 3, "x" * 100_000, *(str(number) for number in range(5000))]
    table = pa.table({"a": values, "b": pa.array([[v, None] for v in values]), "c": pa.array(values, pa.large_string()),
                      "d": pa.array([v and v.encode() for v in values]), "n": range(len(values))})  # fmt: skip
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=700)
    assert shm.load("x", tmp_path / "x.parquet").equals(table)
    pq.write_table(table.slice(0, 0), tmp_path / "empty.parquet")
    assert shm.load("empty", tmp_path / "empty.parquet").num_rows == 0


@pytest.mark.parametrize("writer", ["pyarrow", "shmkernel"])
def test_json_and_columns_of_one_name_are_loaded(writer, tmp_path):
    json = pa.array(['{"a": 1}', None], pa.json_())
    lists = pa.ListArray.from_arrays(pa.array([0, 1, 2], pa.int32()), json)
    inner = pa.StructArray.from_arrays([pa.array(["1", "2"]), pa.array([3, 4])], ["b", "b"])
    columns = {"j": json, "n": [1, 2], "l": lists, "t": ["x", "y"], "s": inner, "s.b": ["u", "v"]}
    table = pa.table([*columns.values(), pa.array(["p", "q"])], [*columns, "n"])
    if writer == "pyarrow":
        pq.write_table(table, tmp_path / "x.parquet")
    else:
        shm.create("y", table)
        shm.save("y", tmp_path / "x.parquet")
    assert shm.load("x", tmp_path / "x.parquet").equals(table)


def test_a_thread_that_does_not_start_is_no_damage():
    error = pa.lib.ArrowException("Unknown error: Failed to launch worker thread: Resource temporarily unavailable")
    with pytest.raises(shm.LimitError, match="starts no more threads"):
        incoming._damaged("x", "x.parquet", error)


def test_a_frame_with_maps_keeps_its_index(tmp_path):
    """Parquet gives the fields of a map other names, and so the type another text."""
    pd = needs("pandas")
    for kind in (pa.map_(pa.string(), pa.int8()), pa.list_(pa.map_(pa.string(), pa.int8()))):
        frame = pd.DataFrame({"m": pd.Series([None, None], dtype=pd.ArrowDtype(kind), index=["x", "y"])})
        shm.create("m", frame, replace=True)
        shm.save("m", tmp_path / "m.parquet")
        pd.testing.assert_frame_equal(shm.load("n", tmp_path / "m.parquet", replace=True), frame)


def test_tensors_are_saved(tmp_path):
    table = pa.table({"t": pa.FixedShapeTensorArray.from_numpy_ndarray(np.arange(8).reshape(2, 2, 2))})
    shm.create("t", table)
    shm.save("t", tmp_path / "t.parquet")
    assert shm.load("u", tmp_path / "t.parquet").equals(table)


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_rows_without_columns_are_not_lost_in_a_file(kind, tmp_path):
    shm.create("rows", pa.table({"a": [1, 2]}).select([]))
    with pytest.raises(shm.UnsupportedError, match=rf"a {kind} file cannot hold rows without columns.*\.arrow"):
        shm.save("rows", tmp_path / f"rows.{kind}")
    shm.save("rows", tmp_path / "rows.arrow")
    assert shm.load("again", tmp_path / "rows.arrow").num_rows == 2
