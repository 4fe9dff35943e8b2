"""Arrow files with wrong bytes, as segments and as files to load; run as a program, since a fault ends the process.

uv run --group large python -m tests.kinds.hostile_tables 10000 7    # how many, seed: what the test does with a few
"""

from __future__ import annotations

import contextlib
import datetime as dt
import faulthandler
import io
import mmap
import os
import random
import resource
import sys
import tempfile
import warnings
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa

import shmkernel as shm
from shmkernel import kinds
from shmkernel.kinds.preview import Look, Source
from tests.kinds.hostile import NUMBERS, PATIENCE

GROWTH = 512 << 20  # bytes that all inputs together may add to the process's peak; each file takes some KiB


def tables():
    """Give tables of the forms that Arrow has in memory, in one batch and in several."""
    rows = 40
    texts = [None if row % 7 == 3 else "x" * (row % 20) for row in range(rows)]
    columns = {
        "number": pa.array([None if row % 5 == 0 else row for row in range(rows)]),
        "half": pa.array(np.arange(rows, dtype="f2")),
        "flag": pa.array([row % 3 == 0 for row in range(rows)]),
        "text": pa.array(texts),
        "large": pa.array(texts, pa.large_string()),
        "view": pa.array([text and text * 3 for text in texts], pa.string_view()),
        "bytes": pa.array([bytes(row % 4) for row in range(rows)], pa.binary()),
        "fixed": pa.array([b"abc"] * rows, pa.binary(3)),
        "moment": pa.array(np.arange(rows).astype("M8[ms]"), pa.timestamp("ms", "UTC")),
        "span": pa.array([dt.timedelta(row) for row in range(rows)]),
        "money": pa.array([Decimal(row) / 4 for row in range(rows)]),
    }
    nested = {
        "list": pa.array([[row] * (row % 4) for row in range(rows)]),
        "view of lists": pa.array([[row] * (row % 4) for row in range(rows)], pa.list_view(pa.int64())),
        "two": pa.array([[row, 1] for row in range(rows)], pa.list_(pa.int64(), 2)),
        "struct": pa.array([{"a": row, "b": [{"c": text}]} for row, text in enumerate(texts)]),
        "map": pa.array([[("k", row)] for row in range(rows)], pa.map_(pa.string(), pa.int64())),
        "union": pa.UnionArray.from_dense(
            pa.array([0] * rows, pa.int8()), pa.array(range(rows), pa.int32()), [pa.array(range(rows))]
        ),
        "runs": pa.RunEndEncodedArray.from_arrays(pa.array([10, rows], pa.int32()), pa.array([1, 2])),
        "category": pa.array(texts).dictionary_encode(),
        "list of categories": pa.ListArray.from_arrays(
            pa.array(range(rows + 1), pa.int32()), pa.array(texts).dictionary_encode()
        ),
    }
    for made in (pa.table(columns), pa.table(nested)):
        for size in (rows, 9):
            yield made, size


def frames():
    """Give frames of pandas, whose facts in the metadata may be wrong too."""
    codes = [0, 1, -1, 1]
    yield pd.DataFrame(
        {
            "a": pd.Categorical.from_codes(codes, ["x", "y"], ordered=True),
            "b": pd.Categorical.from_codes(codes, pd.interval_range(0, 2)),
            "c": pd.array([1, None, 3, 4], "Int16"),
            "d": pd.Series(["a", None, "b", "c"], dtype=object),
            "e": pd.period_range("2020", periods=4, freq="M"),
            "f": pd.array([True, None, False, True], "boolean"),
            "g": pd.array(["a", None, "b", "c"], "string"),
            "h": [1.5, np.nan, 2.5, 3.5],
        },
        index=pd.MultiIndex.from_product([["u", "v"], [1, 2]], names=["k", None]),
    )
    yield pd.DataFrame(np.eye(3), columns=["a", 1, ("b", 2)], index=pd.date_range("2020", periods=3, tz="UTC"))
    yield pd.Series([1, 2, 3], index=pd.interval_range(0, 3), name=("s", 1))


def files():
    """Give whole Arrow files: of other programs, compressed or not, and our own."""
    for table, size in tables():
        for codec in (None, "lz4", "zstd"):
            sink = io.BytesIO()
            options = pa.ipc.IpcWriteOptions(compression=codec, unify_dictionaries=True)
            with pa.ipc.new_file(sink, table.schema, options=options) as writer:
                writer.write_table(table, max_chunksize=size)
            yield sink.getvalue()
    for frame in frames():
        yield b"".join(map(bytes, kinds.named("table").plan("x", frame, {}).pieces()))


def damaged(data, chance):
    """Cut a file, flip bytes, or put in place of a word what is too large, negative or from elsewhere."""
    if chance.random() < 0.05:
        return data[: chance.randrange(len(data))]
    wrong = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        width = chance.choice((1, 1, 2, 4, 8))
        at = chance.randrange(len(wrong) // width) * width
        if chance.random() < 0.3:
            at = max(len(wrong) - chance.randrange(8, 2000), 0) // width * width  # the footer has the offsets
        if chance.random() < 0.6:
            word = (chance.choice(NUMBERS) % 256**width).to_bytes(width, "little")
        else:
            word = chance.randbytes(width)
        wrong[at : at + width] = word
    return bytes(wrong[: len(data)])


def deep(levels):
    """Give a file whose one column is a list of lists of lists."""
    kind = pa.int8()
    for _ in range(levels):
        kind = pa.list_(kind)
    sink = io.BytesIO()
    with contextlib.suppress(pa.ArrowException), pa.ipc.new_file(sink, pa.schema({"a": kind})) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays([pa.nulls(2, kind)], ["a"]))
    return sink.getvalue()


def read(value):
    """Read all of a value; what a library says of odd values is its own."""
    for step in ("to_pylist", "to_string", "__repr__"):
        with contextlib.suppress(Exception):
            getattr(value, step)()


def attach(data):
    """Describe, preview and open a segment; return in how many forms it could be opened."""
    own, opened = kinds.named("table"), 0
    source = Source(lambda at, size: data[at : at + size], len(data))
    for look in (own.describe_source, lambda source: own.preview(source, Look())):
        with contextlib.suppress(ValueError):
            look(source)
    for form in (None, "pandas", "arrow"):
        memory = mmap.mmap(-1, len(data))
        memory[:] = data
        with contextlib.suppress(
            ValueError, shm.ArgumentError, shm.LimitError
        ):  # `attach` makes the first DamagedError
            read(own.open_as(memory, "/dev/shm/shmk-0-x", "c", form, trusted=False))
            opened += 1
    return opened


def load(data, path):
    """Load a file; return whether it could be loaded."""
    with open(path, "wb") as file:
        file.write(data)
    try:
        read(shm.load("x", path, replace=True))
    except (shm.DamagedError, shm.UnsupportedError, shm.LimitError):
        return 0
    return 1


def main(count, seed):
    """Try so many files; print how many could be opened and loaded."""
    warnings.simplefilter("ignore")
    faulthandler.enable()
    chance, seeds, opened, taken = random.Random(seed), [*files()], 0, 0
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "x.arrow")
        for whole in (*seeds, *map(deep, (1, 20, 60, 100, 1000))):
            attach(whole or b"\0")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for number in range(count):
            faulthandler.dump_traceback_later(PATIENCE, exit=True)
            wrong = damaged(chance.choice(seeds), chance) or b"\0"
            try:
                opened += attach(wrong)
                if number % 4 == 0:
                    taken += load(wrong, path)
            except BaseException as error:
                error.add_note(f"input {number} of seed {seed}")
                raise
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
    faulthandler.cancel_dump_traceback_later()
    assert grown < GROWTH, f"{grown:,} bytes"
    print(opened, taken)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
