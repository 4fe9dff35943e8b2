"""Sharing a DataFrame, beside pyarrow's own Arrow files and conversions. Sizes are those of the frame."""

from __future__ import annotations

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import shmkernel as shm

ROWS = {"small": 100, "64 MB": 2_000_000}


@pytest.fixture(params=ROWS.values(), ids=ROWS)
def frame(request):
    """A frame of numbers, dates and categories."""
    rows = request.param
    numbers = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "price": numbers.random(rows),
            "count": np.arange(rows),
            "when": np.arange(rows).astype("M8[us]"),
            "symbol": pd.Categorical.from_codes(numbers.integers(0, 3, rows), ["a", "b", "c"]),
        }
    )


@pytest.mark.benchmark(group="create")
def test_create(benchmark, frame):
    benchmark(lambda: shm.create("x", frame, replace=True))


@pytest.mark.benchmark(group="create")
def test_create_by_pyarrow(benchmark, frame, shm_dir):
    def write():
        table = pa.Table.from_pandas(frame)
        with pa.OSFile(f"{shm_dir}/x.arrow", "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)

    benchmark(write)
    (shm_dir / "x.arrow").unlink()


@pytest.fixture
def arrow_file(frame, shm_dir):
    """The frame as a file of pyarrow's."""
    table, path = pa.Table.from_pandas(frame), shm_dir / "x.arrow"
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    yield str(path)
    path.unlink()


def opened(path):
    return pa.ipc.open_file(pa.memory_map(path)).read_all()


def attached(form):
    """Attach a frame that this process does not have attached in this form."""
    value = shm.attach("x", as_=form)
    assert len(value)
    shm.close("x")


@pytest.mark.benchmark(group="open as arrow")
def test_attach_as_arrow(benchmark, frame):
    shm.create("x", frame)
    benchmark(lambda: attached("arrow"))


@pytest.mark.benchmark(group="open as arrow")
def test_open_as_arrow_by_pyarrow(benchmark, arrow_file):
    benchmark(lambda: opened(arrow_file))


@pytest.mark.benchmark(group="open as pandas")
def test_attach_as_pandas(benchmark, frame):
    shm.create("x", frame)
    benchmark(lambda: attached("pandas"))


@pytest.mark.benchmark(group="open as pandas")
def test_open_as_pandas_by_pyarrow(benchmark, arrow_file):
    benchmark(lambda: opened(arrow_file).to_pandas())


@pytest.mark.benchmark(group="open as polars")
def test_attach_as_polars(benchmark, frame):
    shm.create("x", frame)
    benchmark(lambda: attached("polars"))


@pytest.mark.benchmark(group="open as polars")
def test_open_as_polars_by_pyarrow(benchmark, arrow_file):
    benchmark(lambda: pl.from_arrow(opened(arrow_file)))
