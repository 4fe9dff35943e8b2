"""Tables inside objects: they come back as they were, over the memory of the segment."""

from __future__ import annotations

import dataclasses
import sys
import types
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

import shmkernel as shm
from shmkernel._core import paths
from shmkernel.kinds.objects import layout
from shmkernel.testing import write
from tests.helpers import lies_in, needs
from tests.kinds.objects import ObjectContract
from tests.kinds.test_object import LARGE, same

pa = needs("pyarrow")
pd = needs("pandas")
pl = needs("polars")

FRAME = pd.DataFrame(
    {"height": LARGE, "name": [f"row {n}" for n in range(1000)], "sort": pd.Categorical(["a", "b"] * 500)},
    index=pd.date_range("2026-01-01", periods=1000),
)


@dataclasses.dataclass
class Run:
    frame: Any
    note: str = ""


module = types.ModuleType("of_an_object_with_a_table")
Run.__module__ = module.__name__
module.Run = Run
sys.modules[module.__name__] = module


def equal(got, value):
    if isinstance(value, Run):
        return type(got) is Run and equal(got.frame, value.frame) and got.note == value.note
    if type(value) in (list, dict):
        pairs = zip(got, value, strict=True) if type(value) is list else ((got[key], value[key]) for key in value)
        return type(got) is type(value) and len(got) == len(value) and all(equal(*pair) for pair in pairs)
    return same(got, value) if type(got) is np.ndarray else type(got) is type(value) and got.equals(value)


class TestObjectWithTables(ObjectContract):
    VALUES: ClassVar = {
        "a frame": [LARGE, {"rows": FRAME, "again": FRAME}],
        "in a dataclass": [LARGE, Run(FRAME, "a note")],
        "series": [LARGE, FRAME["height"], pl.Series("a", [1, None])],
        "polars": [LARGE, pl.DataFrame({"a": [1, None, 3], "b": ["x", None, "a text that fits in no view"]})],
        "arrow": [
            LARGE, pa.table({"a": [1, 2]}), pa.record_batch({"a": [1]}), pa.array(["a", None]),
            pa.chunked_array([[1], [2]]),
        ],
        "without rows": [LARGE, FRAME[:0], pl.DataFrame(), pa.table({})],
    }  # fmt: skip
    REFUSED: ClassVar = {"objects in a column": [LARGE, pd.DataFrame({"a": [object()]})], "lazy": [pl.LazyFrame()]}

    def same(self, got, value):
        return equal(got, value)


@pytest.fixture(autouse=True)
def _own(shm_dir):
    """Use the folder of the test."""


def test_a_frame_in_a_dict_has_the_memory_of_the_segment():
    x = shm.create("x", {"weights": LARGE, "rows": FRAME, "again": FRAME}, kind="object")
    assert lies_in("x", x["rows"]["height"].to_numpy())
    assert np.shares_memory(x["rows"]["height"].to_numpy(), x["again"]["height"].to_numpy())
    x["rows"].loc["2026-01-01", "height"] = 7.0
    assert equal(shm.attach("x")["rows"], FRAME)


def test_a_listing_says_how_large_the_frame_is():
    shm.create("x", {"rows": FRAME}, kind="object")
    data = Path(paths.path_of("x")).read_bytes()
    assert layout.head_of(data, len(data)).tree == [["['rows']", "DataFrame (1000, 3)"]]
    shm.unlink("x")


def test_a_frame_taken_out_of_an_object_keeps_the_memory():
    x = shm.create("x", {"rows": FRAME}, kind="object")
    rows = x["rows"]
    shm.unlink("x")
    del x
    assert equal(rows, FRAME)
    del rows
    assert shm.list() == []


def test_an_error_names_the_frame_and_the_column():
    with pytest.raises(shm.UnsupportedError, match=r"x\['a'\]\.frame is a DataFrame: column 'b' \(object\) cannot be"):
        shm.create("x", {"a": Run(pd.DataFrame({"b": [object()]}))}, kind="object")


def test_without_pyarrow_a_frame_in_an_object_is_refused_with_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.ipc", None)
    with pytest.raises(shm.UnsupportedError, match=r"pip install 'shmkernel\[tables\]'"):
        shm.create("x", {"rows": FRAME}, kind="object")


def test_a_table_that_another_program_wrote_is_checked():
    """A wrong offset would let code in C read memory that is not the table's."""
    x = shm.create("x", [pa.table({"a": ["one", "two", "three"]})])
    whole = Path(paths.path_of("x")).read_bytes()
    start = whole.index(np.array([0, 3, 6, 11], "i4").tobytes())
    shm.unlink("x")
    write("y", whole[: start + 4] + (10**6).to_bytes(4, "little") + whole[start + 8 :])
    with pytest.raises(shm.DamagedError):
        shm.attach("y")
    shm.unlink("y")
    del x
