from __future__ import annotations

import enum
import math
import typing

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shmkernel.kinds.dicts import keys

SCALARS = st.one_of(
    st.text(st.characters(), max_size=20),  # lone surrogates too
    st.integers(),
    st.floats(allow_nan=False),
    st.booleans(),
    st.none(),
    st.binary(max_size=20),
)
KEYS = st.recursive(SCALARS, lambda parts: st.lists(parts, max_size=3).map(tuple), max_leaves=5)


@given(KEYS, KEYS)
@example(1, True)
@example(0, -0.0)
@example(2**70, float(2**70))
@example("", b"")
@example(("ab",), ("a", "b"))
@example((1, 2.0), (True, 2))
@example("x" * 511, "x" * 512)
def test_keys_are_the_same_bytes_exactly_if_they_are_equal(one, other):
    assert (keys.encode(one)[0] == keys.encode(other)[0]) == (one == other)


@given(KEYS)
@example("\ud800")
@example(math.inf)
@example(-(2**2000))
def test_exact_bytes_give_the_key_back_with_its_type(key):
    raw, exact = keys.encode(key)
    assert 0 < len(raw) <= keys.LONGEST
    assert raw[0] != keys.ORDER
    if exact:
        assert repr(keys.decode(raw)) == repr(key)


@given(st.text(max_size=600))
def test_no_key_is_too_long(key):
    assert len(keys.encode(key)[0]) <= keys.LONGEST
    assert len(keys.encode((key, key))[0]) <= keys.LONGEST


def test_a_text_is_its_utf_8_so_that_other_programs_can_read_it():
    assert keys.encode("naïve") == ("naïve".encode(), True)


@pytest.mark.parametrize("key", [True, False, 1.0, -0.0, (1, True), "x" * 600, np.int64(1), (np.str_("a"),)])
def test_where_the_bytes_do_not_tell_the_key_they_are_not_exact(key):
    assert keys.encode(key)[1] is False


class Colour(enum.StrEnum):
    RED = "red"


class Number(enum.IntEnum):
    ONE = 1


@pytest.mark.parametrize(
    ("key", "plain"),
    [
        (np.int64(7), 7),
        (np.float64(0.5), 0.5),
        (np.str_("a"), "a"),
        (np.bytes_(b"a"), b"a"),
        (np.bool_(1), True),
        (Colour.RED, "red"),
        (Number.ONE, 1),
    ],
    ids=lambda key: f"{type(key).__name__} {key!r}",
)
def test_what_is_equal_to_a_key_finds_it(key, plain):
    assert keys.look_up(key) == keys.encode(plain)[0]


class Caseless(str):
    __slots__ = ()

    def __hash__(self):
        return hash(self.lower())

    def __eq__(self, other):
        return self.lower() == other.lower()


class Pair(typing.NamedTuple):
    a: int
    b: int


@pytest.mark.parametrize("key", [Colour.RED, Number.ONE, Pair(1, 2), Caseless("a"), (1, Number.ONE)], ids=repr)
def test_a_key_that_would_come_back_as_another_type_is_refused_with_a_cure(key):
    with pytest.raises(keys.NoKeyError) as caught:
        keys.encode(key)
    assert "give" in caught.value.cure


@pytest.mark.parametrize(
    "key",
    [np.datetime64("2020-01-01", unit) for unit in ("D", "s", "ns")]
    + [np.datetime64("NaT", "ns"), np.timedelta64(3, "ns")],
)
def test_times_of_numpy_are_no_keys_whatever_their_unit(key):
    with pytest.raises(keys.NoKeyError):
        keys.encode(key)
    with pytest.raises(keys.NoKeyError):
        keys.look_up(key)


def test_what_a_class_of_its_own_finds_equal_is_not_looked_up():
    with pytest.raises(keys.NoKeyError):
        keys.look_up(Caseless("a"))


@pytest.mark.parametrize("key", [np.bytes_(b"a\0"), np.str_("a\0")], ids=repr)
def test_zeros_that_numpy_takes_away_are_refused_to_be_stored_and_count_to_be_found(key):
    with pytest.raises(keys.NoKeyError):
        keys.encode(key)
    assert keys.look_up(key) not in (keys.encode(b"a")[0], keys.encode("a")[0])


def test_all_that_is_not_a_number_is_one_key():
    assert keys.encode(math.nan)[0] == keys.encode(-math.nan)[0]


@pytest.mark.parametrize(("key", "at"), [(frozenset(), ()), (object(), ()), ((1, ("a", print)), (1, 1)), (1j, ())])
def test_a_key_of_another_type_is_refused_and_where_it_is_said(key, at):
    with pytest.raises(keys.NoKeyError) as caught:
        keys.encode(key)
    assert caught.value.at == at


@pytest.mark.parametrize("key", [[], {}, ([],)])
def test_what_has_no_hash_is_refused_as_by_a_dict(key):
    with pytest.raises(TypeError, match="unhashable"):
        keys.encode(key)


def test_bytes_of_no_key_are_an_error():
    with pytest.raises(ValueError, match="0xfe"):
        keys.decode(b"\xfe1234")
