"""A value that the kind asked for cannot hold is refused with an error of ours, and with a cure that works."""

from __future__ import annotations

import collections
import contextlib
import datetime as dt
import decimal
import fractions
import gc
import importlib.util
import os
import pathlib
import sys
import types
import weakref

import numpy as np
import pytest

import shmkernel as shm
from shmkernel import kinds
from shmkernel._core import paths
from tests.helpers import needs

TABLES = all(map(importlib.util.find_spec, ("pandas", "pyarrow")))  # they may have no wheels for a new Python
KINDS = ["array", "list", "raw", "ring", "dict", "object", *(["table"] if TABLES else [])]


class Plain:
    """Any class."""


class Failing:
    """One whose interfaces all fail."""

    __array_interface__ = 5

    def __arrow_c_stream__(self, requested_schema=None):
        raise RuntimeError("no stream")

    def __array__(self, *_, **__):
        raise RuntimeError("no array")

    def __iter__(self):
        raise RuntimeError("no items")

    def __bytes__(self):
        raise RuntimeError("no bytes")


def recursive():
    """Make a list that contains itself: pyarrow's own conversion ends the process."""
    made = [1]
    made.append(made)
    return made


VALUES = {
    "nothing": lambda: None,
    "an int": lambda: 5,
    "a large int": lambda: 10**400,
    "a complex": lambda: 1j,
    "a text": lambda: "text",
    "half a character": lambda: "\ud800",
    "an object": object,
    "a generator": lambda: (number for number in range(3)),
    "a module": lambda: sys,
    "a function": lambda: lambda: 1,
    "a class": lambda: Plain,
    "an instance": Plain,
    "one that fails": Failing,
    "a set": lambda: {1, 2},
    "a set of texts": lambda: frozenset("ab"),
    "a nested list": lambda: [[1], [2]],
    "a ragged list": lambda: [[1, 2], [3]],
    "a list in itself": recursive,
    "rows of mixed types": lambda: [{"a": 1}, {"a": "x"}, {"b": None}],
    "sets in a list": lambda: [{1}, {2}],
    "an empty list": list,
    "an empty tuple": tuple,
    "an empty dict": dict,
    "a dict of odd keys": lambda: {1: 2, (3,): 4},
    "a dict of objects": lambda: {"a": object()},
    "a dict of uneven columns": lambda: {"a": [1, 2], "b": [1]},
    "a dict that cannot change": lambda: types.MappingProxyType({"a": 1}),
    "objects in an array": lambda: np.array([1, "a", None], dtype=object),
    "an array of no dimension": lambda: np.array(5),
    "every second row": lambda: memoryview(np.zeros((4, 3)))[::2],
    "a datetime": lambda: dt.datetime(2020, 1, 1),  # noqa: DTZ001  without a zone
    "a Decimal": lambda: decimal.Decimal("1.1"),
    "a fraction": lambda: fractions.Fraction(1, 3),
    "a path": lambda: pathlib.Path("/x"),
    "a deque": lambda: collections.deque([1]),
    "bytes": lambda: b"abc",
    "a bytearray": lambda: bytearray(b"abc"),
    "a memoryview": lambda: memoryview(b"abc"),
    "an exception": lambda: ValueError("x"),
    "an ellipsis": lambda: ...,
}  # fmt: skip
if TABLES:
    import pandas as pd

    VALUES["a frame"] = lambda: pd.DataFrame({"a": [1]})
    VALUES["a frame of mixed types"] = lambda: pd.DataFrame({"a": [1, "x", None]})
    VALUES["an index"] = lambda: pd.Index([1, 2])
PARTS = ("a dict of objects", "sets in a list", "rows of mixed types", "a dict of odd keys", "a frame of mixed types")
UNNAMED = {*PARTS, "nothing", "objects in an array", "a frame"}  # the error is about a part, or about what is missing


def tried(make, **options):
    """Share a value; return the error if it cannot be."""
    try:
        shm.create("x", make(), **options)
    except shm.ShmError as error:
        assert not os.path.lexists(paths.path_of("x"))
        return error
    shm.unlink("x")
    return None


@pytest.mark.parametrize("value", VALUES)
def test_what_a_kind_cannot_hold_is_refused_with_a_cure_that_works(value):
    errors = {kind: tried(VALUES[value], kind=kind) for kind in KINDS}
    for kind, error in errors.items():
        if error:
            check(error, value, kind)


def check(error, value, kind):
    """Check the words of an error, and run its cures."""
    make = VALUES[value]
    if value not in UNNAMED:
        assert type(make()).__name__ in error.message
    assert "\n" not in error.message
    if expression := getattr(error, "expression", None):
        made = eval(expression, {"x": make(), "numpy": np})
        assert tried(lambda: made, kind=kind) is None, error.message
    for cure in error.cures:
        made, options = make, {"kind": kind, **cure.options}
        if "ring" in options:  # the example takes 150 MiB
            made, options["shape"] = (lambda: None), 3
        assert tried(made, **options) is None, error.message
    assert expression or error.cures or "Give" in error.message or "give" in error.message, error.message


def test_the_notebook_says_the_same_in_its_words(notebook):
    needs("pyarrow")
    error = notebook.run("text = 'text'\n%shm_create text --kind table").error
    assert isinstance(error, shm.UnsupportedError)
    assert "a str is no table" in error.message
    assert "--kind object" in error.message
    assert notebook.run("%shm_create text --kind object").error is None


def test_a_cure_in_a_notebook_keeps_the_kind(notebook):
    error = notebook.run("x = 10**400\n%shm_create x --kind list").error
    assert "So: %shm_create x_shared --from [str(x)] --kind list" in error.message
    assert notebook.run("%shm_create x_shared --from [str(x)] --kind list").error is None


@pytest.mark.parametrize("value", ["an empty dict", "a dict of odd keys", *(["a frame"] if TABLES else [])])
def test_a_list_of_a_mapping_or_a_frame_would_hold_its_names_alone(value):
    with pytest.raises(shm.UnsupportedError, match="cannot become a list"):
        shm.create("x", VALUES[value](), kind="list")


def test_what_a_stream_raises_on_the_way_is_told_and_nothing_is_left(shm_dir):
    arrow = needs("pyarrow")

    def batches():
        yield arrow.record_batch({"a": [1]})
        raise RuntimeError("the line is dead")

    before = sorted(os.listdir(shm_dir))
    reader = arrow.RecordBatchReader.from_batches(arrow.schema([("a", arrow.int64())]), batches())
    with pytest.raises(shm.UnsupportedError, match=r"RecordBatchReader has ended in an error: .*the line is dead"):
        shm.create("x", reader)
    assert sorted(set(os.listdir(shm_dir)) - set(before)) in ([], [os.path.basename(paths.runtime())])


@pytest.mark.parametrize("options", [{"kind": "list"}, {"kind": "array", "order": "C"}, {"kind": "array"}, {}])
def test_an_error_does_not_keep_the_value(options):
    value = Plain()
    gone = weakref.ref(value)
    gc.disable()  # what a collection would find is kept too long
    try:
        with contextlib.suppress(shm.UnsupportedError):
            shm.create("x", value, **options)
        del value
        assert gone() is None
    finally:
        gc.enable()


def test_a_kind_of_another_package_that_fails_is_an_error_of_ours(monkeypatch):
    class Broken:
        name = "broken"

        def plan(self, *_):
            raise KeyError("a bug")

    monkeypatch.setattr(kinds, "named", lambda _: Broken())
    with pytest.raises(shm.UnsupportedError, match="a str cannot become a broken: KeyError: 'a bug'") as caught:
        shm.create("x", "text", kind="broken")
    assert isinstance(caught.value.__cause__, KeyError)
