"""Sharing a DataFrame, beside pyarrow's own Arrow files and conversions.

Figures are asked of empty and full frames, few and many columns. Each pair does the same work: a segment and a file
are new for each round, and what is attached is let go of.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import shmkernel as shm

ROWS = {"empty": 0, "small": 100, "64 MB": 2_000_000}
CREATED = {**ROWS, "1 GB": 32_000_000}
ROUNDS = 15


def numbers(rows):
    """A frame of numbers, dates and categories, 33 bytes a row with its index."""
    choose = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "price": choose.random(rows),
            "count": np.arange(rows),
            "when": np.arange(rows).astype("M8[us]"),
            "symbol": pd.Categorical.from_codes(choose.integers(0, 3, rows), ["a", "b", "c"]),
        }
    )


def mixed(rows):
    """The same with what cannot be only viewed: bools, nulls beside integers, time zones, texts."""
    frame, choose = numbers(rows), np.random.default_rng(1)
    return frame.assign(
        zone=frame["when"].dt.tz_localize("Europe/Berlin"),
        code=pd.arrays.IntegerArray(np.arange(rows), choose.random(rows) > 0.9),
        flag=choose.random(rows) > 0.5,
        text=pd.Series(pa.array(["some", "text"]).take(choose.integers(0, 2, rows)), dtype="str"),
    )


def columns(rows):
    """Ten thousand columns, integers and floats in turn."""
    return pd.DataFrame({f"c{number}": np.arange(rows) * (1.5 if number % 2 else 2) for number in range(10_000)})


FRAMES = {
    **{name: (numbers, rows) for name, rows in ROWS.items()},
    "mixed, 1 GB": (mixed, 20_000_000),
    "10,000 columns": (columns, 10),
    "10,000 columns, 80 MB": (columns, 1000),
}


def write(table, path):
    """Write a table as pyarrow does."""
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


def fresh(benchmark, make, remove):
    """Time `make` alone; each round begins without what the last one made."""

    def clean():
        if made:
            remove()
        made.append(True)

    made = []
    benchmark.pedantic(make, setup=clean, rounds=ROUNDS, warmup_rounds=1)
    remove()


@pytest.fixture(params=CREATED.values(), ids=CREATED)
def new(request):
    """A frame to share."""
    return numbers(request.param)


@pytest.mark.benchmark(group="create from pandas")
def test_create_from_pandas(benchmark, new):
    fresh(benchmark, lambda: shm.create("x", new) is None, lambda: shm.unlink("x"))


@pytest.mark.benchmark(group="create from pandas")
def test_create_from_pandas_by_pyarrow(benchmark, new, shm_dir):
    path = shm_dir / "x.arrow"
    fresh(benchmark, lambda: write(pa.Table.from_pandas(new), path), path.unlink)


@pytest.mark.benchmark(group="create from arrow")
def test_create_from_arrow(benchmark, new):
    table = pa.Table.from_pandas(new)
    fresh(benchmark, lambda: shm.create("x", table) is None, lambda: shm.unlink("x"))


@pytest.mark.benchmark(group="create from arrow")
def test_create_from_arrow_by_pyarrow(benchmark, new, shm_dir):
    table, path = pa.Table.from_pandas(new), shm_dir / "x.arrow"
    fresh(benchmark, lambda: write(table, path), path.unlink)


@pytest.fixture(params=FRAMES.values(), ids=FRAMES)
def frame(request):
    """A frame that is shared already."""
    make, rows = request.param
    return make(rows)


@pytest.fixture
def arrow_file(frame, shm_dir):
    """The frame as a file of pyarrow's."""
    path = shm_dir / "x.arrow"
    write(pa.Table.from_pandas(frame), path)
    yield str(path)
    path.unlink()


def opened(path):
    return pa.ipc.open_file(pa.memory_map(path)).read_all()


FORMS = {
    "arrow": opened,
    "pandas": lambda path: opened(path).to_pandas(),
    "polars": lambda path: pl.from_arrow(opened(path)),
}


def attached(form):
    """Attach a frame that this process does not have attached in this form."""
    value = shm.attach("x", as_=form)
    assert value is not None
    del value
    shm.close("x")


@pytest.mark.parametrize("form", FORMS)
def test_attach(benchmark, frame, form):
    benchmark.group = f"open as {form}"
    shm.create("x", frame)
    benchmark(lambda: attached(form))


@pytest.mark.parametrize("form", FORMS)
def test_open_by_pyarrow(benchmark, arrow_file, form):
    benchmark.group = f"open as {form}"
    benchmark(lambda: FORMS[form](arrow_file))


@pytest.fixture(params=[0, 100], ids=["empty", "80 MB"])
def stream(request):
    """A function that returns a stream of unknown length."""
    schema = pa.schema({"x": pa.float64()})
    batch = pa.record_batch({"x": np.arange(100_000) * 1.5})
    return lambda: pa.RecordBatchReader.from_batches(schema, (batch for _ in range(request.param)))


@pytest.mark.benchmark(group="create from a stream")
def test_create_from_a_stream(benchmark, stream):
    fresh(benchmark, lambda: shm.create("x", stream()) is None, lambda: shm.unlink("x"))


@pytest.mark.benchmark(group="create from a stream")
def test_create_from_a_stream_by_pyarrow(benchmark, stream, shm_dir):
    def write_stream():
        reader = stream()
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, reader.schema) as writer:
            for batch in reader:
                writer.write_batch(batch)

    path = shm_dir / "x.arrow"
    fresh(benchmark, write_stream, path.unlink)
