"""Columns with fields in fields: as deep as Arrow's own readers go, and no deeper."""

from __future__ import annotations

import functools

import pytest

import shmkernel as shm
from shmkernel import kinds
from shmkernel._core import paths
from shmkernel.kinds.preview import Look, Source
from tests.helpers import needs

pa = needs("pyarrow")


def nested(depth, wrap):
    """Return a table of a column that is wrapped so many times, beside plain ones."""
    odd = functools.reduce(lambda inner, _: wrap(inner), range(depth), pa.array([1, 2]))
    return pa.table({"before": [1] * len(odd), "odd": odd, "after": [2] * len(odd)})


def lists(inner):
    return pa.ListArray.from_arrays(pa.array(range(len(inner) + 1), pa.int32()), inner)


def structs(inner):
    return pa.StructArray.from_arrays([inner], ["part"])


def preview():
    with open(paths.path_of("x"), "rb") as file:
        data = file.read()
    source = Source(lambda at, count: data[at : at + count], len(data))
    return kinds.named("table").preview(source, Look()).facts


@pytest.mark.parametrize("wrap", [lists, structs])
@pytest.mark.parametrize("depth", [9, 63])
def test_a_deep_column_is_described_previewed_and_saved(depth, wrap, tmp_path):
    table = nested(depth, wrap)
    shm.create("x", table)
    info = shm.info("x")
    assert (info.state, info.type) == ("", "2 rows x 3 columns")
    assert info.dtype == f"before: int64, odd: {'list' if wrap is lists else 'struct'}, after: int64"
    assert [row[-1] for row in preview()["rows"]] == ["2", "2"]
    for suffix in ("arrow", "feather"):
        shm.save("x", path := tmp_path / f"x.{suffix}")
        assert pa.ipc.open_file(pa.memory_map(str(path))).read_all().equals(table)


def test_a_deeper_column_is_refused():
    with pytest.raises(shm.UnsupportedError, match="no Arrow file can hold it"):
        shm.create("x", nested(64, lists))


@pytest.mark.parametrize("deepest", [2, 64])
def test_columns_from_one_that_nests_too_far_are_not_shown_and_no_damage(deepest, monkeypatch):
    """A hostile file can have fields without end: vectors that lead to each other."""
    wide = pa.StructArray.from_arrays([pa.array([1])] * 6000, [*map(str, range(6000))])
    monkeypatch.setattr("shmkernel.kinds.tables.metadata._DEEPEST", deepest)
    shm.create("x", pa.table({"before": [1], "odd": wide, "after": [2]}) if deepest > 2 else nested(3, lists)[:1])
    info = shm.info("x")
    assert (info.state, info.type, info.dtype) == ("", "1 row x 3 columns", "before: int64, ...")
    shown = preview()
    assert (shown["rows"], shown["note"].partition("; ")[2]) == ([["0", "1"]], "2 more columns")


def test_a_value_that_dictionaries_repeat_in_each_other_is_a_short_text():
    """Its text would be 10 ** 15 characters long."""

    def repeated(inner):
        ten = pa.ListArray.from_arrays(pa.array([0, 10], pa.int32()), inner)
        return pa.DictionaryArray.from_arrays(pa.array([0] * 10), ten)

    odd = functools.reduce(lambda inner, _: repeated(inner), range(15), pa.array(range(10)))
    batch = pa.record_batch([odd[:1]], ["odd"])
    with pa.OSFile(paths.path_of("x"), "wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
        writer.write(batch)
    ((_, text),) = preview()["rows"]
    assert text.startswith("[[[[[[[")
    shm.unlink("x")
