"""DataFrames of Dask that become tables, by Dask's own schedulers. `test_dask.py` runs this file."""

from __future__ import annotations

import os

import dask
import numpy as np
import pytest

import shmkernel as shm
from shmkernel._core import paths
from tests.helpers import needs

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # Dask's, of pandas


@pytest.fixture(autouse=True)
def dd():
    """Dask's frames, on several of Dask's threads; there is no pandas for the newest Python yet."""
    needs("pandas")
    needs("pyarrow")
    with dask.config.set(scheduler="threads", num_workers=4):
        yield needs("dask.dataframe")


@pytest.fixture
def lazy(dd):
    """Ten rows of many types in three partitions."""
    import pandas as pd

    columns = {
        "a": np.arange(10.0),
        "b": np.arange(10),
        "c": pd.Categorical(list("xyxyxyxyxx")),
        "s": [f"t{number}" if number % 3 else None for number in range(10)],
        "w": pd.date_range("2020", periods=10, tz="UTC"),
        "d": pd.date_range("2020", periods=10),
        "f": np.arange(10) % 2 == 0,
        "i": pd.array([1, None] * 5, dtype="Int64"),
    }
    return dd.from_pandas(pd.DataFrame(columns), npartitions=3)


FRAMES = {
    "all": lambda d: d,
    "a column": lambda d: d.a,
    "texts": lambda d: d.s,
    "categories": lambda d: d.c,
    "no rows": lambda d: d[d.a > 100],
    "a partition without rows": lambda d: d[d.a > 5],
    "no columns": lambda d: d[[]],
    "an index": lambda d: d.set_index("b"),
    "dates as index": lambda d: d.set_index("d"),
    "an index that begins again": lambda d: d.reset_index(drop=True),
    "groups": lambda d: d.groupby("b").a.sum(),
    "one partition": lambda d: d.repartition(npartitions=1),
}


@pytest.mark.parametrize("make", FRAMES.values(), ids=FRAMES)
def test_a_frame_becomes_the_table_that_compute_returns(lazy, make):
    import pandas as pd
    import pyarrow as pa

    value = make(lazy)
    computed = value.compute()
    same = pd.testing.assert_series_equal if isinstance(computed, pd.Series) else pd.testing.assert_frame_equal
    same(shm.create("x", value), computed)
    same(shm.attach("x"), computed)
    table = pa.ipc.open_file(shm.info("x").path).read_all()
    table.validate(full=True)
    assert len(table) == len(computed)
    assert shm.info("x").kind == "table"
    assert shm.attach("x", as_="arrow").num_rows == len(computed)


def test_a_table_that_another_program_may_have_written_is_checked_and_read(lazy, shm_dir):
    shm.create("x", lazy)
    os.utime(shm.info("x").path)  # no longer as shmkernel has left it
    assert shm.attach("x").equals(lazy.compute())


def test_processes_that_cannot_open_the_segment_send_the_batches(lazy, monkeypatch):
    from shmkernel.kinds.dask import blocks

    monkeypatch.setattr(blocks.Target, "_opened", lambda _: None)
    assert shm.create("x", lazy).equals(lazy.compute())


def test_a_task_that_is_computed_once_more_later_changes_no_table(lazy):
    def get(graph, keys, **options):
        kept.append((graph, keys))
        return dask.get(graph, keys)

    kept, before = [], lazy.compute()
    with dask.config.set(scheduler=get):
        shm.create("x", lazy)
    size = shm.info("x").size
    dask.get(*kept[0])
    assert shm.info("x").size == size
    assert shm.attach("x").equals(before)


def fails(part):
    raise ZeroDivisionError


ODD = {
    "categories": (lambda d: d.assign(c=d.s.astype("category")), "does not know the categories"),
    "a column of categories": (lambda d: d.s.astype("category"), "does not know the categories"),
    "another type": (
        lambda d: d.map_partitions(lambda part: part.assign(a=part.a.astype("i8")), meta=d._meta),
        "has int64 in column 'a', and Dask was told double",
    ),
}


@pytest.mark.parametrize(("make", "message"), ODD.values(), ids=ODD)
def test_the_cure_for_a_frame_that_cannot_be_shared_works(lazy, make, message):
    x = make(lazy)
    with pytest.raises(shm.UnsupportedError, match=message) as failed:
        shm.create("x", x)
    assert failed.value.message.endswith(failed.value.expression)
    cured = eval(failed.value.expression, {"x": x})
    (computed,) = dask.compute(cured)
    assert shm.create("x", cured).equals(computed)


def test_a_partition_that_fails_leaves_nothing(lazy):
    with pytest.raises(ZeroDivisionError):
        shm.create("x", lazy.map_partitions(fails, meta=lazy._meta))
    assert not list(paths.names())
