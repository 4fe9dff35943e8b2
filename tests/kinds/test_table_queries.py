"""Queries on a shared table in place: each library reads the mapping itself.

An address in the mapping is the first proof. The second is a value that is written to the segment's file: the library
sees it at once, which a copy would not.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct

import numpy as np
import pytest

import shmkernel as shm
from shmkernel._core import paths
from tests.helpers import Child, needs, python

pa = needs("pyarrow")
pd = needs("pandas")
pl = needs("polars")
ROWS = 1000
SYMBOLS = ["oak", "elm", "ash", "fir", "yew"]


@pytest.fixture(autouse=True)
def trades(shm_dir):
    """Share a frame, of which this process keeps nothing."""
    columns = {"price": np.arange(ROWS) * 0.5, "size": np.arange(ROWS) + 1.0, "code": np.arange(ROWS) % len(SYMBOLS)}
    frame = pd.DataFrame(columns | {"symbol": pd.Categorical.from_codes(columns["code"], SYMBOLS)})
    shm.create("trades", frame)


def offset(address):
    """Return where in the segment's file an address of this process lies; None if it lies in no mapping of it."""
    inode = str(os.stat(paths.path_of("trades")).st_ino)
    with open("/proc/self/maps", errors="replace") as file:
        for bounds, _, begin, _, number, *_ in map(str.split, file):
            start, end = (int(bound, 16) for bound in bounds.split("-"))
            if number == inode and start <= address < end:
                return address - start + int(begin, 16)
    return None


def store(address, value):
    """Store a float in the segment's file, under an address in the mapping."""
    with open(paths.path_of("trades"), "r+b") as file:
        file.seek(offset(address))
        file.write(struct.pack("<d", value))


def values(column):
    """Return the address of the values of a column of pyarrow or polars."""
    (chunk,) = column.chunks if isinstance(column, pa.ChunkedArray) else [column.to_arrow()]
    return chunk.buffers()[1].address


def test_pandas_aggregates_in_place():
    trades = shm.attach("trades")
    address = trades["price"].to_numpy().ctypes.data
    assert trades.groupby("symbol", observed=True)["price"].max()["oak"] == 497.5
    store(address, 1000.0)
    assert trades.groupby("symbol", observed=True)["price"].max()["oak"] == 1000.0
    assert trades["price"].sum() == ROWS * (ROWS - 1) / 4 + 1000


def test_polars_groups_in_place():
    trades = shm.attach("trades", as_="polars")
    for name in ("price", "size", "code"):
        assert offset(values(trades[name])) is not None
    query = trades.group_by("symbol").agg(pl.col("price").max()).filter(pl.col("symbol") == "oak")["price"]
    assert query.to_list() == [497.5]
    store(values(trades["price"]), 1000.0)
    again = trades.group_by("symbol").agg(pl.col("price").max()).filter(pl.col("symbol") == "oak")["price"]
    assert again.to_list() == [1000.0]


def test_a_lazy_query_of_polars_scans_in_place():
    trades = shm.attach("trades", as_="polars")
    query = trades.lazy().filter(pl.col("price") >= 499).select(pl.col("price").sum())
    assert query.collect().item() == 499 + 499.5
    store(values(trades["price"]), 1000.0)
    assert query.collect().item() == 499 + 499.5 + 1000


def test_sql_of_duckdb_reads_in_place():
    duckdb = needs("duckdb")
    trades = shm.attach("trades", as_="duckdb")
    table = shm.attach("trades", as_="arrow")
    with duckdb.connect() as connection:
        connection.register("shared", table)
        query = "select sum(price) from shared where price >= 499"
        assert connection.sql(query).fetchall() == [(499 + 499.5,)]
        assert trades.filter("symbol = 'oak'").max("price").fetchall() == [(497.5,)]
        store(values(table["price"]), 1000.0)
        assert connection.sql(query).fetchall() == [(499 + 499.5 + 1000,)]
        assert trades.filter("symbol = 'oak'").max("price").fetchall() == [(1000.0,)]


def test_scikit_learn_fits_in_place():
    naive_bayes = needs("sklearn.naive_bayes")
    trades = shm.attach("trades", mode="r")
    features, target = trades[["price", "size"]].to_numpy(), trades["code"].to_numpy()
    for values in (features, features[:, 1], target):
        assert offset(values.ctypes.data) is not None
    before = naive_bayes.GaussianNB().fit(features, target).theta_
    store(features.ctypes.data, 1000.0)
    after = naive_bayes.GaussianNB().fit(features, target).theta_
    assert np.allclose((after - before)[0], [1000 / (ROWS / len(SYMBOLS)), 0])


@pytest.mark.parametrize("mode", ["c", "r"])
def test_numba_runs_over_a_column_in_place(mode):
    numba = needs("numba")

    @numba.njit
    def total(column):
        found = 0.0
        for value in column:
            found += value
        return found

    column = shm.attach("trades", mode=mode)["price"].to_numpy()
    assert offset(column.ctypes.data) is not None
    before = total(column)
    store(column.ctypes.data, 1000.0)
    assert total(column) == before + 1000


def test_a_process_without_shmkernel_reads_in_place():
    """The recipe of the how-to: pyarrow maps the file, and polars and DuckDB take the table over."""
    script = """
import sys
import polars as pl, pyarrow as pa
table = pa.ipc.open_file(pa.memory_map(sys.argv[1])).read_all()
frame = pl.from_arrow(table)
ours = [[int(end, 16) for end in line.split()[0].split("-")] for line in open("/proc/self/maps") if sys.argv[1] in line]
address = frame["price"].to_arrow().buffers()[1].address
print(any(start <= address < end for start, end in ours), frame["price"].sum(), "shmkernel" in sys.modules)
"""
    done = python(script, paths.path_of("trades"))
    assert done.stdout.split() == ["True", str(ROWS * (ROWS - 1) / 4), "False"]


def test_a_private_change_reaches_neither_the_segment_nor_another_kernel():
    def change(connection):
        trades = shm.attach("trades")
        trades.iloc[0, 0] = -1.0
        trades.loc[1, "size"] = -2.0
        connection.send((trades.iloc[0, 0], trades.loc[1, "size"]))

    trades = shm.attach("trades")
    with Child(change) as child:
        assert child.hear() == (-1.0, -2.0)
        child.join()
    trades.iloc[0, 0] = -3.0
    assert trades.iloc[0, 0] == -3.0
    fresh = shm.attach("trades", as_="arrow", mode="r")
    assert (fresh["price"][0].as_py(), fresh["size"][1].as_py()) == (0.0, 2.0)


def test_mode_r_refuses_a_change_and_the_processor_stops_code_that_does_not_ask():
    def poke(connection):
        trades = shm.attach("trades", mode="r")
        with pytest.raises(ValueError, match="read-only"):
            trades.iloc[0, 0] = 1.0
        address = trades["price"].to_numpy().ctypes.data
        connection.send("refused")
        ctypes.memset(address, 1, 8)

    with Child(poke) as child:
        assert child.hear() == "refused"
        assert child.join() == -signal.SIGSEGV
    assert shm.attach("trades")["price"][0] == 0.0
