"""Parsers of tables: Arrow files as segments, in the form of each library, and the files that `load` reads."""

from __future__ import annotations

import contextlib
import io
import mmap
import os
from typing import TYPE_CHECKING, Any

import numpy as np

import shmkernel as shm
from shmkernel import kinds
from shmkernel.errors import ShmError
from tests.kinds.hostile import NUMBERS
from tests.prove.hostile.segments import look
from tests.prove.kinds import KINDS

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator

TABLE = next((subject for subject in KINDS if subject.kind == "table"), None)  # None where its libraries are missing
LONGEST = 8192  # bytes: the smallest Arrow file takes 700


def opened() -> Callable[[bytes], None]:
    """Describe, preview, open in each form and read a segment. What a library raises for odd values is its own."""
    own: Any = kinds.named("table")
    forms = (None, *(TABLE.forms if TABLE else ()))

    def act(data: bytes) -> None:
        look(own, data)
        for form in forms if data else ():
            memory = mmap.mmap(-1, len(data))
            memory[:] = data
            try:
                value = own.open_as(memory, "/dev/shm/shmk-0-x", "c", form, trusted=False)
            except (ValueError, ShmError):  # `attach` makes the first a DamagedError
                continue
            for step in (repr, lambda x: x.to_pylist(), lambda x: x.to_dicts(), lambda x: x.to_dict(), np.asarray):
                with contextlib.suppress(Exception):
                    step(value)

    return act


def _values() -> Iterator[Any]:
    """Give tables with all that the format has: nulls, texts, categories, lists, zones, an index, no rows."""
    import pandas as pd  # these are not on each machine
    import polars as pl
    import pyarrow as pa

    columns = {"n": [1, None, 3], "text": ["a", None, "bc"], "flag": [True, None, False], "half": [0.5, None, 2.0]}
    yield pa.table(columns)
    yield pa.table({"list": [[1], None, [2, 3]], "struct": [{"a": 1}, None, {"a": 2}], "none": pa.nulls(3)})
    codes, views = pa.array(["x", "y", "x"]).dictionary_encode(), pa.array(["u"] * 3, pa.string_view())
    yield pa.table({"kind": codes, "view": views})
    yield pa.table({"n": []})
    yield pl.DataFrame(columns)
    yield pd.DataFrame(columns, index=pd.Index(["u", "v", "w"], name="key"))
    days, months = pd.date_range("2020", periods=3, tz="Europe/Berlin"), pd.period_range("2020", periods=3, freq="M")
    yield pd.DataFrame({1: pd.Categorical(["x", None, "y"]), 2: days}, index=months)


def seeds() -> Iterator[bytes]:
    """Give the Arrow files of these tables, as this library writes them and as another program does."""
    import pyarrow as pa

    own = kinds.named("table")
    for value in _values():
        yield b"".join(map(bytes, own.plan("x", value, {}).pieces()))
    table = next(_values())
    for codec in ("lz4", "zstd"):
        file = io.BytesIO()
        with pa.ipc.new_file(file, table.schema, options=pa.ipc.IpcWriteOptions(compression=codec)) as writer:
            writer.write_table(table)
        yield file.getvalue()


def mutate(data: bytes, chance: random.Random) -> bytes:
    """Put a number that is too large, or negative, in the place of one, or copy a part over another."""
    changed = bytearray(data or b"\0")
    for _ in range(chance.randint(1, 3)):
        width = chance.choice((1, 2, 4, 8))
        at = chance.randrange(max(len(changed) // width, 1)) * width
        if chance.random() < 0.7:
            word = (chance.choice(NUMBERS) % 256**width).to_bytes(width, "little")
        else:
            start = chance.randrange(len(changed))
            word = bytes(changed[start : start + width * chance.randrange(1, 9)])
        changed[at : at + len(word)] = word
    return bytes(changed)


def loaded(suffix: str) -> Callable[[], Callable[[bytes], None]]:
    """Load a file with this suffix."""

    def make() -> Callable[[bytes], None]:
        path = f"{os.environ['SHMKERNEL_DIR']}/file{suffix}"

        def act(data: bytes) -> None:
            with open(path, "wb") as file:
                file.write(data)
            shm.load("x", path, replace=True)

        return act

    return make


def saved(suffix: str) -> Callable[[], Iterator[bytes]]:
    """Give the files with this suffix of the tables that have one."""

    def files() -> Iterator[bytes]:
        path = f"{os.environ['SHMKERNEL_DIR']}/seed{suffix}"
        for value in _values():
            shm.create("seed", value, replace=True)
            with contextlib.suppress(Exception):  # a CSV file has no lists
                shm.save("seed", path)
                with open(path, "rb") as file:
                    yield file.read()
        shm.unlink("seed")

    return files
