from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import enum
import math
import re
import typing
import zoneinfo
from decimal import Decimal

import msgspec
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from shmkernel.kinds import values

ZONES = st.one_of(
    st.none(), st.timezones(), st.timedeltas(dt.timedelta(hours=-23), dt.timedelta(hours=23)).map(dt.timezone)
)
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.complex_numbers(),
    st.text(st.characters(), max_size=20),
    st.binary(max_size=20),
    st.datetimes(timezones=ZONES),
    st.dates(),
    st.times(),
    st.timedeltas(),
    st.decimals(),
    st.uuids(),
)
HASHABLE = st.one_of(
    st.none(), st.booleans(), st.integers(), st.text(st.characters(), max_size=5), st.binary(max_size=5)
)
NESTED = st.recursive(
    LEAVES,
    lambda parts: st.one_of(
        st.lists(parts, max_size=4),
        st.lists(parts, max_size=4).map(tuple),
        st.dictionaries(st.one_of(HASHABLE, st.tuples(HASHABLE, HASHABLE)), parts, max_size=4),
        st.sets(HASHABLE, max_size=4),
        st.frozensets(HASHABLE, max_size=4),
    ),
    max_leaves=12,
)
DTYPES = st.one_of(
    hnp.scalar_dtypes(), hnp.byte_string_dtypes(), hnp.unicode_string_dtypes(), hnp.array_dtypes(max_size=3)
)


def same(one, other):
    """Compare values with all their types; NaN is NaN."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(map(same, one, other)) and all(map(same, one.values(), other.values()))
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, (set, frozenset)):
        return sorted(map(repr, one)) == sorted(map(repr, other))
    if isinstance(one, np.ndarray):
        alike = (one.dtype, one.shape) == (other.dtype, other.shape)
        return alike and one.flags.f_contiguous == other.flags.f_contiguous and one.tobytes() == other.tobytes()
    if isinstance(one, dt.datetime):
        return repr(one) == repr(other) and one.fold == other.fold
    return repr(one) == repr(other)


@given(NESTED)
@example([2**64, -(2**63) - 1, "\ud800", {"\ud800": 1}])
@example({True: 1, 0.5: {(1, (2,)): {frozenset({1})}}})
@example(dt.datetime(2020, 10, 25, 2, 30, fold=1, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")))
@example(dt.datetime(2020, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=1), "MEZ")))
@example([Decimal("1.10"), Decimal("NaN"), math.nan, -0.0])
def test_a_value_comes_back_as_it_is_with_all_its_types(value):
    assert same(values.unpack(values.pack(value)), value)


@given(hnp.arrays(DTYPES, hnp.array_shapes(min_dims=0, min_side=0, max_side=4)))
def test_an_array_keeps_dtype_and_shape_and_can_be_written_to(value):
    back = values.unpack(values.pack(value))
    assert same(back, value)
    assert back.flags.writeable


@given(hnp.arrays(DTYPES, ()))
def test_a_numpy_scalar_keeps_its_type(value):
    assert same(values.unpack(values.pack(value[()])), value[()])


def test_metadata_of_a_field_is_not_lost_without_a_word():
    fields = np.zeros(2, [("x", np.dtype("i4", metadata={"enum": {"RED": 0}}))])
    with pytest.raises(values.NoValueError) as caught:
        values.pack(fields)
    assert "metadata would be lost" in caught.value.why


@pytest.mark.parametrize("text", ["O", "[('x', 'O')]", "<m8[0s]"])
def test_a_dtype_that_cannot_be_shared_is_damage(text):
    with pytest.raises(ValueError, match=r"addresses|unit|Invalid"):
        values.dtype_of(text)


def test_an_array_in_fortran_order_stays_so():
    value = np.asfortranarray(np.arange(6).reshape(2, 3))
    assert values.unpack(values.pack(value)).flags.f_contiguous
    assert same(values.unpack(values.pack(value[:, ::2])), value[:, ::2].copy())


def test_plain_values_are_plain_message_pack_for_other_programs():
    value = {"a": [1, 0.5, None, True, "é", b"x"]}
    assert msgspec.msgpack.decode(values.pack(value)) == value


def test_a_list_that_is_read_twice_is_two_lists():
    data = values.pack([[]])
    assert values.unpack(data) is not values.unpack(data)
    assert values.unpack(data)[0] is not values.unpack(data)[0]


class Point(typing.NamedTuple):
    x: int
    y: int


@dataclasses.dataclass
class Record:
    x: int = 1


class Number(enum.IntEnum):
    ONE = 1


class Zone(dt.tzinfo):
    def utcoffset(self, when):  # noqa: ARG002  tzinfo's signature
        return dt.timedelta()


@pytest.mark.parametrize(
    ("value", "path", "cure"),
    [
        (object(), (), "numbers, texts, lists"),
        ({"a": [1, {"b": print}]}, ("a", 1, "b"), "numbers, texts, lists"),
        ((1, {2, Number.ONE}), (1,), r"int\(...\)"),
        ([Point(1, 2)], (0,), r"tuple\(...\)"),
        ({"a": Record()}, ("a",), "consists of"),
        (collections.OrderedDict(a=1), (), r"dict\(...\)"),
        (bytearray(b"a"), (), r"bytes\(...\)"),
        (np.array([object()]), (), "addresses"),
        (np.ma.array([1], mask=[True]), (), "filled"),
        (dt.datetime(2020, 1, 1, tzinfo=Zone()), (), "ZoneInfo"),
        (np.zeros(2, {"names": ["a", "b"], "formats": ["i4", "i4"], "offsets": [4, 0]}), (), "overlap"),
        (np.zeros(2, np.dtype("i4", metadata={"enum": {"RED": 0}})), (), r"\.view\('<i4'\)"),
    ],
    ids=[
        "object",
        "function",
        "enum",
        "namedtuple",
        "dataclass",
        "ordered",
        "bytearray",
        "objects",
        "masked",
        "zone",
        "offsets",
        "metadata",
    ],
)
def test_what_would_not_come_back_is_refused_with_its_path_and_a_cure(value, path, cure):
    with pytest.raises(values.NoValueError) as caught:
        values.pack(value)
    assert caught.value.path[: len(path)] == path
    assert re.search(cure, caught.value.why)


def test_a_value_that_contains_itself_is_refused():
    loop = []
    loop.append(loop)
    with pytest.raises(values.NoValueError) as caught:
        values.pack(loop)
    assert "itself" in caught.value.why


def test_an_extension_of_a_later_version_is_an_error_not_a_guess():
    with pytest.raises(ValueError, match="later version"):
        values.unpack(msgspec.msgpack.encode(msgspec.msgpack.Ext(99, b"")))
