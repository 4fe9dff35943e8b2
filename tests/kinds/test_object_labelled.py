"""Datasets of xarray and indexes of pandas are objects: they come back as they were, over the memory of the segment."""

from __future__ import annotations

import collections
import datetime as dt
import zoneinfo
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

import shmkernel as shm
from shmkernel._core import paths
from shmkernel.testing import write
from tests.helpers import lies_in, needs
from tests.kinds.objects import ObjectContract
from tests.kinds.test_object import LARGE, same

pd = needs("pandas")
xr = needs("xarray")

DATASET = xr.Dataset(
    {
        "heat": (("time", "y", "x"), np.arange(24000.0).reshape(20, 30, 40), {"units": "K"}),
        "name": ("y", np.array([f"row {n}" for n in range(30)])),
        "note": ("y", np.array(["a", None] * 15, dtype=object)),
        "level": ("y", pd.Categorical(["low", "high", "low"] * 10)),
        "mean": 3.5,
    },
    coords={
        "time": ("time", pd.date_range("2026-01-01", periods=20), {"long_name": "a day"}),
        "y": np.arange(30),
        "x": [f"column {n}" for n in range(40)],
        "north": ("y", np.linspace(0, 1, 30)),
        "place": "Jacksboro",
    },
    attrs={"title": "heat", "history": ["made", "shared"]},
)
DATASET["heat"].encoding = {"dtype": np.dtype("f4"), "zlib": True, "chunksizes": (1, 2, 3)}
VALUES: dict[str, Any] = {
    "a dataset": DATASET,
    "several levels": DATASET[["heat"]].stack(cell=("y", "x")),
    "no index": DATASET.drop_indexes("y"),
    "empty": xr.Dataset(),
    "an array": DATASET["heat"],
    "an array without coordinates": xr.DataArray(np.zeros((2, 3))),
    "a coordinate": DATASET["time"],
    "a variable": DATASET["heat"].variable,
}
INDEXES = [
    pd.RangeIndex(2, 9, 3, name="a"),
    pd.Index(LARGE, name="b"),
    pd.Index([True, False]),
    pd.Index(["a", "b"]),
    pd.Index(["a", None]),
    pd.Index([f"label {n}" for n in range(2000)]),
    pd.Index([], dtype="str"),
    pd.date_range("2026-01-01", periods=500, freq="h"),
    pd.DatetimeIndex(["2026-01-01", None]),
    pd.date_range("2026-01-01", periods=5, tz="Europe/Berlin"),
    pd.timedelta_range("1 day", periods=400),
    pd.period_range("2026-01", periods=3, freq="M"),
    pd.CategoricalIndex(["a", "b", "a"]),
    pd.interval_range(0, 3),
    pd.MultiIndex.from_product([[1, 2], ["a", "b"]], names=["n", None]),
    pd.Index([1, 2], dtype="Int64"),
]


def identical(got, value):
    assert type(got) is type(value)
    xr.testing.assert_identical(got, value)
    assert got.encoding == value.encoding
    if isinstance(value, (xr.Dataset, xr.DataArray)):
        for name, index in value.xindexes.items():
            assert type(got.xindexes[name]) is type(index)
            pd.testing.assert_index_equal(got.indexes[name], value.indexes[name], exact=True)
            assert getattr(got.indexes[name], "freq", None) == getattr(value.indexes[name], "freq", None)
            assert got[name].dtype == value[name].dtype
            assert got[name].encoding == value[name].encoding
        assert got.xindexes.keys() == value.xindexes.keys()
        assert [*got.coords] == [*value.coords]


class TestObjectWithDatasets(ObjectContract):
    VALUES: ClassVar = {"a dataset": [LARGE, DATASET], "indexes": [LARGE, *INDEXES]}
    REFUSED: ClassVar = {"a frequency": [pd.bdate_range("2026-01-01", periods=3, freq="C", holidays=["2026-01-02"])]}

    def same(self, got, value):
        if isinstance(value[1], xr.Dataset):
            identical(got[1], value[1])
        else:
            for one, other in zip(got[1:], value[1:], strict=True):
                pd.testing.assert_index_equal(one, other, exact=True)
                assert getattr(one, "freq", None) == getattr(other, "freq", None)
        return len(got) == len(value) and same(got[0], value[0])


@pytest.fixture(autouse=True)
def _own(shm_dir):
    """Use the folder of the test."""


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
@pytest.mark.parametrize("ours", [True, False], ids=["ours", "of another program"])
def test_a_dataset_comes_back_as_it_was(value, ours):
    x = shm.create("x", value)
    assert shm.info("x").kind == "object"
    if not ours:
        write("y", Path(paths.path_of("x")).read_bytes())
        x = shm.attach("y")
        shm.unlink("y")
    identical(x, value)


def test_the_values_of_a_dataset_are_the_segment_s_memory_and_changes_stay_private():
    x = shm.create("x", DATASET)
    assert lies_in("x", x["heat"].values)
    x["heat"][:] = 0
    x.attrs["title"] = "mine"
    identical(shm.attach("x"), DATASET)


def test_a_dataset_is_no_mapping_that_all_change_and_any_other_mapping_is():
    shm.create("x", xr.Dataset())
    assert shm.info("x").kind == "object"
    shm.create("y", collections.ChainMap({"a": 1}))
    assert shm.info("y").kind == "dict"
    shm.unlink("y")


def test_what_is_computed_later_is_refused_with_what_to_do(monkeypatch):
    lazy = xr.Variable("x", LARGE)
    monkeypatch.setattr(xr.Variable, "chunks", ((500, 500),))  # as with dask
    with pytest.raises(shm.UnsupportedError, match=r"computed by dask when it is used: give \.compute\(\)"):
        shm.create("x", lazy)


def test_an_attribute_that_cannot_be_shared_is_named():
    with pytest.raises(shm.UnsupportedError, match="a Dataset cannot be shared as it is: it holds a builtin_function"):
        shm.create("x", DATASET.assign_attrs(call=len))


def test_moments_and_spans_of_pandas_come_back():
    value = [
        pd.Timestamp("2026-01-01T12:00:00.123456789"),
        pd.Timestamp("2026-10-25T02:30:00.5", tz="UTC").tz_convert("Europe/Berlin"),
        pd.Timestamp("2026-01-01", tz=dt.timezone(dt.timedelta(hours=5))),
        pd.Timestamp("2026-01-01", tz=zoneinfo.ZoneInfo("UTC")),
        pd.Timedelta("1 day 00:00:00.5"),
    ]
    got = shm.create("x", value)
    assert got == value
    assert [str(one) for one in got] == [str(one) for one in value]
    assert [one.unit for one in got] == [one.unit for one in value]


def test_a_dataset_whose_sizes_contradict_each_other_is_damaged():
    x = shm.create("x", DATASET[["heat"]])
    data = Path(paths.path_of("x")).read_bytes()
    assert data.count(b"\xa4time") > 1
    write("y", data[::-1].replace(b"emit\xa4", b"emiz\xa4", 1)[::-1])
    with pytest.raises(shm.DamagedError):
        shm.attach("y")
    shm.unlink("y")
    del x


def test_a_dataset_of_categories_can_be_used_as_before():
    value = xr.Dataset({"v": ("x", pd.Categorical(list("aba")))}, coords={"x": [1, 2, 3]})
    shm.create("x", value)
    got = shm.attach("x")
    assert got.identical(value)
    assert got.isel(x=[0, 2]).identical(value.isel(x=[0, 2]))
