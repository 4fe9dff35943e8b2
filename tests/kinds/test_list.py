from __future__ import annotations

import enum
import math
import struct
from decimal import Decimal
from fractions import Fraction
from multiprocessing import shared_memory
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import shmkernel as shm
from shmkernel._core import paths
from shmkernel.kinds.lists import kind, layout
from shmkernel.testing import KindContract, write

ITEMS = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.booleans(),
    st.none(),
    st.text(max_size=20),
    st.binary(max_size=20),
    st.text("aé€😀\0", max_size=20),
    st.binary(max_size=4).map(lambda data: data + b"\0"),
)
PLAIN = [1, -(2**63), 0.5, True, False, None, "a", "howdy you", b"bytes", ""]


def same(one, other):
    """Compare items with their types, NaN included."""
    if type(one) is not type(other):
        return False
    return one == other or (isinstance(one, float) and math.isnan(one) and math.isnan(other))


def all_same(ones, others):
    ones, others = list(ones), list(others)
    return len(ones) == len(others) and all(map(same, ones, others))


def stripped(value):
    """Return whether the stdlib would strip NULs at the end."""
    return isinstance(value, (str, bytes)) and value[-1:] in ("\0", b"\0")


def cut(value):
    """Return whether the stdlib's first slot for a text, sized by characters, is too small for its bytes."""
    return isinstance(value, str) and len(value.encode()) > 8 * (len(value) // 8 + 1)


def stdlib_over(memory):
    """The stdlib's class over the same bytes."""
    found = shared_memory.ShareableList.__new__(shared_memory.ShareableList)
    found.shm = SimpleNamespace(buf=memory, name="memory")
    found._list_len = len(found)
    found._allocated_offsets = list(struct.unpack_from(f"{found._list_len + 1}q", memory, 8))
    return found


class TestList(KindContract):
    kind = "list"
    VALUES: ClassVar = {
        "several types": [1, "a", None, 0.5, b"b", True],
        "ints": list(range(100)),
        "floats": [0.5, -math.inf],
        "texts": ["", "a" * 7, "a" * 8, "é" * 9, "😀" * 3, "ends in NUL\0"],
        "bytes": [b"", b"\0", b"\0a\0\0", b"x" * 100],
        "one": [None],
    }
    REFUSED: ClassVar = {
        "a nested list": [1, [2]],
        "a ragged one": [[1], [2, 3]],
        "a dict inside": [{}],
        "a complex number": [1j],
        "arrays": [np.arange(3)],
        "a number that no float equals": [Decimal("0.1")],
        "a time span": [np.timedelta64(3, "s")],
        "a text": "howdy",
    }

    def test_what_would_not_come_back_is_refused(self, refused):
        with pytest.raises(shm.UnsupportedError, match="'x'"):
            shm.create("x", refused, kind=self.kind)

    def same(self, got, value):
        return all_same(got, value)

    def change(self, got):
        got[0] = -1

    def touch(self, got):
        list(got), repr(got), got.count(1), got.format

    def test_a_file_of_it_is_the_same_again(self, value, tmp_path):
        shm.create("x", value)
        shm.save("x", tmp_path / "x")
        assert self.same(shm.load("y", tmp_path / "x", kind="list"), value)

    def test_without_a_record_its_first_bytes_tell(self, value):
        """They do not: it takes kind=."""
        shm.create("x", value)
        with open(paths.path_of("x"), "rb") as file:
            write("y", file.read())
        with pytest.raises(shm.DamagedError, match="raw"):
            shm.attach("y")
        assert self.same(shm.attach("y", kind="list"), value)
        shm.unlink("y")


def test_a_list_of_numbers_with_a_dtype_or_a_shape_is_an_array():
    assert shm.create("x", [1, 2], dtype="int16").dtype == np.int16
    assert shm.create("y", [1, 2], order="F").shape == (2,)


def test_a_tuple_and_a_shared_list_are_lists_too():
    x = shm.create("x", (1, "a"))
    y = shm.create("y", x)
    y[0] = 2
    assert list(x) == [1, "a"]


@pytest.mark.parametrize("empty", [[], ()], ids=["list", "tuple"])
def test_a_list_may_be_empty(empty):
    x = shm.create("x", empty)
    assert (len(x), list(x), x.format, x.count(None), 1 in x) == (0, [], "", 0, False)
    with pytest.raises(ValueError, match="not in"):
        x.index(None)
    assert shm.info("x").type == "0 items"


class Colour(enum.IntEnum):
    RED = 1


class Text(str):
    __slots__ = ()


@pytest.mark.parametrize(
    ("value", "item"),
    [
        (np.int64(-3), -3),
        (np.uint8(3), 3),
        (np.float32(0.5), 0.5),
        (np.float64("nan"), math.nan),
        (np.bool_(1), True),
        (np.str_("a"), "a"),
        (np.bytes_(b"a"), b"a"),
        (Colour.RED, 1),
        (Text("a"), "a"),
        (Fraction(1, 4), 0.25),
    ],
    ids=lambda value: type(value).__name__,
)
def test_scalars_and_subclasses_become_plain_items(value, item):
    x = shm.create("x", [value, "room"], kind="list")
    x[1] = value
    assert all_same(x, [item, item])


@pytest.mark.parametrize("kind", ["an int beyond 64 bits", "no UTF-8", "too long", "no item"])
def test_a_value_that_does_not_fit_leaves_the_old_one(kind):
    value, error, hint = {
        "an int beyond 64 bits": (2**63, struct.error, "64 bits"),
        "no UTF-8": ("\ud800", ValueError, "UTF-8"),
        "too long": ("123456789", ValueError, "exceeds available storage"),
        "no item": ([], TypeError, "list"),
    }[kind]
    x = shm.create("x", [1, "old"])
    before = bytes(x.shm.buf)
    for position in range(2):
        with pytest.raises(error, match=rf"item {position} of 'x'.*{hint}"):
            x[position] = value
        assert bytes(x.shm.buf) == before


def test_what_is_too_large_at_first_names_the_list_and_the_cure():
    with pytest.raises(shm.RangeError, match=r"'x'.*str"):
        shm.create("x", [1, 2**64], kind="list")
    with pytest.raises(shm.RangeError, match=r"'x'.*str"):
        shm.create("x", ["a", -(2**64)], kind="list")
    with pytest.raises(shm.ArgumentError, match="too many"):
        shm.create("x", [b"\0" * 1_000_000])
    with pytest.raises(shm.ArgumentError, match="too many"):
        shm.create("x", ["a" * 10_000_000])


@pytest.mark.parametrize("position", [3, -4, 10**10, -(10**10)])
def test_positions_beyond_the_ends_are_errors(position):
    x = shm.create("x", [1, "a", None])
    before = bytes(x.shm.buf)
    with pytest.raises(IndexError, match="index out of range"):
        x[position]
    with pytest.raises(IndexError, match="assignment index"):
        x[position] = 5
    assert bytes(x.shm.buf) == before


def test_a_slice_is_no_position():
    x = shm.create("x", [1, "a"])
    with pytest.raises(TypeError):
        x[0:1]
    with pytest.raises(TypeError):
        x[0:1] = [2]


def test_iteration_sees_what_changes_on_its_way():
    for value in ([0, 0, 0], [0, "text", 0]):
        x = shm.create("x", value, replace=True)
        seen = []
        for position, item in enumerate(x):
            seen.append(item)
            if position < 2:
                x[position + 1] = position + 1
        assert seen == [0, 1, 2]


def test_reading_backwards_and_by_negative_positions():
    x = shm.create("x", PLAIN)
    assert list(reversed(x)) == PLAIN[::-1]
    assert all_same([x[-n] for n in range(1, len(x) + 1)], PLAIN[::-1])


@given(items=st.lists(ITEMS, max_size=100), wanted=ITEMS)
def test_index_count_and_in_agree_with_a_list(items, wanted):
    view = kind.View(bytearray(b"".join(layout.encode(items))))
    for value in [wanted, *items]:
        if value == value:  # noqa: PLR0124  a NaN equals nothing, and in shared memory nothing is identical
            assert view.count(value) == items.count(value)
            assert (value in view) == (value in items)
            if value in items:
                assert view.index(value) == items.index(value)


def test_a_text_is_found_only_where_an_item_is_that_text():
    x = shm.create("x", ["ab", b"b", 0x62, "bbbbbbbbb", "b" * 8, "b"])
    assert (x.index("b"), x.count("b"), x.index(b"b"), x.count("bbbbbbbb")) == (5, 1, 1, 1)
    assert "bb" not in x
    assert (x.count(""), x.count("\ud800")) == (0, 0)


@given(items=st.lists(ITEMS.filter(lambda item: not (stripped(item) or cut(item))), max_size=30))
def test_the_bytes_are_the_stdlibs(items, stdlib_blocks):
    mine = b"".join(layout.encode(items))
    assert mine == stdlib_blocks(items)


@pytest.fixture(scope="module")
def stdlib_blocks():
    """Return the bytes that the stdlib writes for a list."""

    class Block:
        def __init__(self, _, create, size):
            assert create
            self.buf = memoryview(bytearray(size))

    def make(items):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(shared_memory, "SharedMemory", Block)
            return bytes(shared_memory.ShareableList(items).shm.buf)

    return make


@settings(deadline=None)
@given(
    items=st.lists(ITEMS, min_size=1, max_size=10), stores=st.lists(st.tuples(st.integers(0, 9), ITEMS, st.booleans()))
)
def test_both_classes_read_and_write_the_same_list(items, stores):
    memory = memoryview(bytearray(b"".join(layout.encode(items))))
    ours, theirs = kind.View(memory), stdlib_over(memory)
    expected = list(items)
    for at, value, ours_turn in stores:
        position = at % len(items)
        by_us = ours_turn or stripped(value)
        try:
            (ours if by_us else theirs)[position] = value
        except ValueError:
            assert (
                len(value if isinstance(value, bytes) else value.encode())
                > ours._ends[position] - ours._begins[position]
            )
        else:
            expected[position] = value
        assert all_same(ours, expected)
        for n, item in enumerate(expected):
            if not stripped(item):
                assert same(theirs[n], item)
                assert theirs._get_packing_format(n) == ours._get_packing_format(n)
