"""Files that another program derived from ours, and values that no file gives back."""

from __future__ import annotations

import numpy as np
import pytest

import shmkernel as shm
from shmkernel._core import paths
from tests.helpers import needs

pa = needs("pyarrow")
pq = needs("pyarrow.parquet")
pd = needs("pandas")
pl = needs("polars")

DAYS = pd.date_range("2020", periods=3, freq="D")
FRAMES = {
    "numbers as labels": pd.DataFrame([[1, 10], [2, 20], [3, 30]], columns=[2024, 2025]),
    "an index": pd.DataFrame({"a": [1, 2, 3], "b": [1.5, 2, 3]}, index=pd.Index([10, 20, 30], name="k")),
    "a frequency": pd.DataFrame({"a": [1, 2, 3], "b": [4, 5, 6]}, index=DAYS),
    "levels": pd.DataFrame({"a": [1, 2, 3]}, index=pd.MultiIndex.from_arrays([["x", "y", "z"], [3, 1, 2]])),
    "categories": pd.DataFrame({"a": pd.Categorical(["u", "v", "u"]), "b": pd.Categorical([3, 1, 3])}),
    "nullable": pd.DataFrame({"a": pd.array([1, 2, None], "Int8"), "b": np.array([1, 2, 3], "M8[s]")}),
    "a series": pd.Series([1, 2, 3], name=7),
}
CHANGES = {
    "other order": lambda table: table.select(table.column_names[::-1]),
    "the first column": lambda table: table.select(table.column_names[:1]),
    "the last column": lambda table: table.select(table.column_names[-1:]),
    "without the first row": lambda table: table.slice(1),
    "no rows": lambda table: table.slice(0, 0),
    "some rows": lambda table: table.take([2, 0]),
    "all rows, in other order": lambda table: table.take([2, 1, 0]),
    "one column more": lambda table: table.append_column("more", pa.array([7, 8, 9])),
    "twice": lambda table: pa.concat_tables([table, table]),
    "another type": lambda table: table.set_column(0, table.column_names[0], pa.array([300, 400, 500], "int32")),
    "other names": lambda table: table.rename_columns([f"{name}!" for name in table.column_names]),
}


def write(table, path):
    """Write a table as pyarrow does."""
    if path.suffix == ".parquet":
        pq.write_table(table, path)
        return
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


def read(path):
    """Read a file as pyarrow does."""
    return pq.read_table(path) if path.suffix == ".parquet" else pa.ipc.open_file(pa.memory_map(str(path))).read_all()


def told(value):
    """Return the labels and the values of each, as texts: pandas keeps no numbers as labels."""
    value = value.to_pandas() if isinstance(value, pa.Table) else value
    frame = value.to_frame() if isinstance(value, pd.Series) else value
    cells = {str(label): [str(one) for one in frame.iloc[:, place]] for place, label in enumerate(frame.columns)}
    return cells, [str(one) for one in frame.index]


@pytest.mark.parametrize("suffix", ["parquet", "arrow", "feather"])
@pytest.mark.parametrize("frame", FRAMES)
def test_values_stay_with_their_labels_in_what_is_derived_from_a_saved_file(frame, suffix, tmp_path):
    path = tmp_path / f"x.{suffix}"
    shm.create("x", FRAMES[frame])
    shm.save("x", path)
    table = read(path)
    for change, make in CHANGES.items():
        write(derived := make(table), tmp_path / f"y.{suffix}")
        got = shm.load("y", tmp_path / f"y.{suffix}", replace=True)
        if frame == "nullable" and change == "another type":  # pandas refuses to read its own metadata
            assert told(got)[0]["a"] == ["300", "400", "500"]
            continue
        assert told(got) == told(derived.to_pandas()), change


def test_a_segment_with_bytes_of_another_program_has_its_values_under_their_labels():
    shm.create("x", FRAMES["numbers as labels"])
    with pa.memory_map(str(paths.path_of("x"))) as file:
        table = pa.ipc.open_file(file).read_all().select(["2025", "2024"])
        with pa.OSFile(str(paths.path_of("y")), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
    del table
    assert shm.attach("y").to_dict("list") == {"2025": [10, 20, 30], "2024": [1, 2, 3]}
    shm.unlink("y")


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_labels_of_several_types_go_with_their_rows(suffix, tmp_path):
    path = tmp_path / f"x.{suffix}"
    shm.create("x", pd.DataFrame({"a": [1, 2, 3]}, index=pd.Index(["p", 1, ("q", 2)], tupleize_cols=False)))
    shm.save("x", path)
    write(read(path).take([2, 1, 0]), tmp_path / f"y.{suffix}")
    got = shm.load("y", tmp_path / f"y.{suffix}")
    assert dict(zip(got.index, got["a"], strict=True)) == {("q", 2): 3, 1: 2, "p": 1}


def test_what_is_changed_without_a_change_of_types_is_read_as_another_programs(tmp_path):
    path = tmp_path / "x.parquet"
    seconds = np.array([1, 2], "M8[s]")
    frame = pd.DataFrame({"a": seconds, "b": pd.to_datetime(seconds, utc=True), "c": pd.Categorical(["u", "v"])})
    shm.create("x", frame)
    shm.save("x", path)
    table = read(path)
    moments = pa.array([1001, 2], table.schema.field("a").type)
    write(table.set_column(0, "a", moments), path)
    assert shm.load("y", path)["a"].tolist() == [pd.Timestamp(1001, unit="ms"), pd.Timestamp(2, unit="ms")]
    write(table.set_column(1, "b", moments.cast(table.schema.field("b").type)), path)
    assert shm.load("y", path, replace=True)["b"][0] == pd.Timestamp(1001, unit="ms", tz="UTC")
    write(table.set_column(2, "c", pa.array(["new", "u"]).dictionary_encode()), path)
    assert shm.load("y", path, replace=True)["c"].tolist() == ["new", "u"]


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_a_column_added_to_a_series_of_polars_is_there(suffix, tmp_path):
    path = tmp_path / f"x.{suffix}"
    shm.create("x", pl.Series("s", ["a", "b"]))
    shm.save("x", path)
    assert isinstance(shm.load("y", path), pl.Series)
    write(read(path).append_column("more", pa.array([1, 2])), tmp_path / f"y.{suffix}")
    assert shm.load("y", tmp_path / f"y.{suffix}", replace=True).to_dict(as_series=False) == {
        "s": ["a", "b"],
        "more": [1, 2],
    }


def test_a_part_of_the_levels_of_pandas_is_an_index(tmp_path):
    path = tmp_path / "x.parquet"
    FRAMES["levels"].rename_axis(["p", "q"]).to_parquet(path)
    write(read(path).select(["a", "q"]), path)
    assert shm.load("x", path)["a"].to_dict() == {3: 1, 1: 2, 2: 3}


@pytest.mark.parametrize(
    "query",
    [
        "select 1 a, 170141183460469231731687303715884105727::hugeint b",
        "select 1 a, time '24:00:00' b",
        "select 'u'::enum('u', 'v') a, time '24:00:00' b",  # a dictionary is read as a whole
    ],
)
def test_a_value_of_duckdb_that_its_type_in_arrow_does_not_hold_is_refused_by_column(query):
    duckdb = needs("duckdb")
    with pytest.raises(shm.UnsupportedError, match=r"column 'b' \(.*\) cannot be in a table"):
        shm.create("x", duckdb.sql(query))
    assert shm.list() == []
    assert shm.create("x", duckdb.sql("select 12::hugeint a, time '23:59:59' b")).fetchall()[0][0] == 12
