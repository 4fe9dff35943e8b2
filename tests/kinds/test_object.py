"""Objects: plain values come back as they were, their arrays without a copy, and hostile files do nothing."""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import decimal
import enum
import gc
import sys
import tracemalloc
import types
import uuid
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import shmkernel as shm
from shmkernel._core import paths
from shmkernel.kinds.objects import layout, plain
from shmkernel.testing import attach_hostile, write
from tests.helpers import Child, needs
from tests.kinds.objects import ObjectContract


@dataclasses.dataclass
class Point:
    x: float
    y: Any = None


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    x: float


class Slots:
    __slots__ = ("note",)


@dataclasses.dataclass
class Noted(Slots):
    x: float


@dataclasses.dataclass
class Queue(collections.deque):
    x: float


@dataclasses.dataclass
class Row(list):
    x: float


class Pair(NamedTuple):
    left: Any
    right: Any = 0


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Rights(enum.Flag):
    READ = 4
    WRITE = 2


module = types.ModuleType("of_an_object")  # pytest gives test modules no name in sys.modules that holds
for kind in (Point, Frozen, Noted, Queue, Row, Pair, Color, Rights):
    kind.__module__ = module.__name__
    setattr(module, kind.__name__, kind)
sys.modules[module.__name__] = module

LARGE = np.arange(1000.0)
RECORDS = np.rec.array([(1, 2.5)], dtype=[("a", "i4"), ("b", "f8")])


def same(one, other):
    """Compare with types, NaN and arrays included."""
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ma.MaskedArray):
        filled = same(one.filled(), other.filled()) and one.fill_value == other.fill_value
        return filled and same(np.ma.getmaskarray(one), np.ma.getmaskarray(other)) and one.hardmask == other.hardmask
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    if isinstance(one, dict):
        return [*one] == [*other] and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if dataclasses.is_dataclass(one):
        names = [field.name for field in dataclasses.fields(one)]
        return all(same(getattr(one, name), getattr(other, name)) for name in names)
    if hasattr(one, "tocoo"):
        return one.shape == other.shape and same(one.toarray(), other.toarray())
    return one == other or one != one  # noqa: PLR0124  NaN


class TestObject(ObjectContract):
    VALUES: ClassVar = {
        "arrays in a list": [LARGE, 1, ["a"]],
        "a text": "a text",
        "rows": [[1, 2], [3]],
        "a set": {1, (2, 3)},
        "a list of all sorts": [
            None, True, -(2**70), 0.5, 1j, "é\0", b"\0", dt.datetime(2026, 1, 1, fold=1, tzinfo=dt.UTC), dt.date.max,
            dt.timedelta(1, 2, 3), dt.time(1), decimal.Decimal("0.10"), uuid.UUID(int=7), frozenset({1}), (), {},
            "\ud800",
        ],
        "keys of all sorts": [{1: "a", (2, "b"): LARGE, None: {"c": {}}}],
        "arrays of all layouts": [
            LARGE.reshape(10, 100), LARGE.reshape(10, 100).T, LARGE[::-2], LARGE.astype("M8[s]"), np.full(200, "é"),
            LARGE.view([("a", "f4"), ("b", "i4", (1,))]), LARGE.astype(">f8"), np.zeros((0, 3)), np.array(1.5),
            np.float32(7),
        ],
        "a dataclass": Point(1, [Frozen(2.0), Point(LARGE)]),
        "a named tuple": Pair(LARGE, [Pair("a", Pair(1))]),
        "a flat named tuple": Pair(1, "a"),
        "members": [Color.RED, {Color.BLUE: Rights.READ}, Pair(Color.BLUE)],
        "masked": np.ma.masked_array(LARGE, LARGE > 5, fill_value=-1.0, hard_mask=True),
        "subclasses": [np.ma.masked_array([1, 2]), RECORDS, np.eye(20).view(np.matrix), np.ma.masked_array("a", True)],
    }  # fmt: skip
    REFUSED: ClassVar = {
        "a function": len,
        "one inside": [LARGE, {"a": [len]}],
        "more than its fields": None,
        "a class": Point,
        "objects": [np.array([object()])],
        "a generator": (n for n in range(3)),
        "a combination": [Rights.READ | Rights.WRITE],
    }
    REFUSED["more than its fields"] = Point(1)
    REFUSED["more than its fields"].z = 3
    REFUSED["a slot of a base"] = Noted(1)
    REFUSED["a slot of a base"].note = "lost"
    REFUSED["the items of a base"] = Queue(1)
    REFUSED["the fields of a list"] = Row(1)

    def same(self, got, value):
        return same(got, value)

    def test_the_memory_goes_with_the_last_reference(self, value):
        """What holds no array, and has no weak references, needs no memory of the segment."""
        x = shm.create("x", value)
        shm.unlink("x")
        assert {(row.name, row.state) for row in shm.list()} <= {("x", "unlinked")}
        del x
        assert shm.list() == []

    def test_what_would_not_come_back_is_refused(self, refused):
        with pytest.raises(shm.UnsupportedError, match="'x'"):
            shm.create("x", refused)


@pytest.fixture(autouse=True)
def _own(shm_dir):
    """Use the folder of the test."""


@pytest.mark.parametrize("form", ["csr", "csc", "bsr", "coo", "dia"])
@pytest.mark.parametrize("what", ["matrix", "array"])
def test_a_sparse_matrix_comes_back_over_the_same_memory(form, what):
    sparse = needs("scipy.sparse")
    value = getattr(sparse, f"{form}_{what}")(
        sparse.random(100, 70, 0.2, random_state=1) if form != "dia" else np.eye(100)
    )
    x = shm.create("x", value)
    assert same(x, value)
    assert not x.data.flags.owndata
    write("y", Path(paths.path_of("x")).read_bytes())
    assert same(shm.attach("y"), value)
    shm.unlink("y")


def test_a_sparse_matrix_of_another_program_is_checked_before_c_code_trusts_it():
    sparse = needs("scipy.sparse")
    value = sparse.random(100, 70, 0.5, "csr", random_state=1)
    value.indices[3] = 10**6
    x = shm.create("x", value)
    write("y", Path(paths.path_of("x")).read_bytes())
    with pytest.raises(shm.DamagedError):
        shm.attach("y")
    shm.unlink("y")
    del x


def test_arrays_are_not_copied_and_each_attach_is_a_new_object():
    x = shm.create("x", [LARGE, LARGE])
    y = shm.attach("x")
    assert y is not x
    assert not y[0].flags.owndata
    assert np.shares_memory(y[0], y[1])
    y.append(1)
    y[0][0] = 9
    assert same(shm.attach("x"), [LARGE, LARGE])
    assert "7.8 KiB shared" in shm.info("x").dtype


def test_mode_r_is_offered_and_r_plus_is_not():
    shm.create("x", [LARGE])
    with pytest.raises(ValueError, match="read-only"):
        shm.attach("x", "r")[0][0] = 1
    with pytest.raises(shm.RefusedError, match="'x': an object does not change once it is shared"):
        shm.publish(shm.create("x", {1, 2}, replace=True))
    with pytest.raises(shm.ArgumentError, match="an object does not change once it is shared"):
        shm.attach("x", "r+")


def test_what_has_a_kind_of_its_own_stays_that():
    for value, kind in ((LARGE, "array"), ([1, "a"], "list"), ({"a": [1]}, "dict"), (b"a", "raw"), ({}, "dict")):
        shm.create("x", value)
        assert shm.info("x").kind == kind
        shm.unlink("x")


class Mode(enum.IntFlag):
    READ = 1
    WRITE = 2


class Level(enum.IntEnum):
    LOW = 1


class Word(str, enum.Enum):  # noqa: UP042  the older form
    YES = "yes"


@pytest.mark.parametrize("member", [Mode.WRITE, Level.LOW, Word.YES])
def test_members_of_enumerations_that_are_numbers_or_texts_come_back_as_members(member):
    for value in ([member], (member, 1), [[member]], {member}):
        x = shm.create("x", value, replace=True)
        assert x == value
        (found,) = {one for part in x for one in (part if isinstance(part, list) else [part])} - {1} or {member}
        assert found is member
    assert shm.create("alone", member) is member


def test_a_combination_of_flags_is_refused_with_its_number_as_the_cure():
    for value in ([Mode.READ | Mode.WRITE], {Mode.READ | Mode.WRITE}):
        with pytest.raises(shm.UnsupportedError, match=r"combination of members: give its \.value"):
            shm.create("x", value)
    assert shm.create("x", [(Mode.READ | Mode.WRITE).value])[0] == 3


def test_a_mapping_becomes_an_object_when_asked():
    value = {"rate": 0.1, "layers": [{"w": LARGE}]}
    assert same(shm.create("cfg", value, kind="object"), value)
    assert shm.info("cfg").type == "dict of 2"


@pytest.mark.parametrize("depth", [1, 100_000])
def test_what_contains_itself_or_is_too_deep_is_refused(depth):
    value: list[Any] = []
    inner = value
    for _ in range(depth):
        inner.append([])
        inner = inner[0]
    if depth == 1:
        inner.append(value)
    with pytest.raises(shm.UnsupportedError, match="nested too deep, or contains itself"):
        shm.create("x", value)
    while value:  # to free a deep list at once would take the C stack
        value = value.pop()


def test_a_depth_of_calls_that_leaves_no_room_to_read_is_not_told_as_damage():
    value: Any = 1
    for _ in range(40):
        value = (value,)
    stream, _ = plain.pack(value)

    def read(depth):
        return read(depth - 1) if depth else plain.unpack(stream, [], trusted=True)

    errors = set()
    for depth in range(0, sys.getrecursionlimit(), 5):
        try:
            assert read(depth) == value
        except (shm.UnsupportedError, RecursionError, ValueError) as error:
            errors.add(type(error))
    assert errors <= {shm.UnsupportedError, RecursionError}
    assert errors


def test_an_error_leads_to_the_part_that_cannot_be_shared():
    with pytest.raises(shm.UnsupportedError, match=r"in it, x\[0\]\.y\['a'\] is a builtin_function_or_method"):
        shm.create("x", [Point(1, {"a": len})])
    zone = type("Zone", (dt.tzinfo,), {"utcoffset": lambda *_: None})()
    with pytest.raises(shm.UnsupportedError, match="is a datetime: its time zone is a Zone"):
        shm.create("x", [dt.datetime(2026, 1, 1, tzinfo=zone)])


def test_a_class_that_is_not_loaded_is_named_and_never_imported(monkeypatch):
    x = shm.create("x", Point(1))
    monkeypatch.delitem(sys.modules, module.__name__)
    with pytest.raises(shm.UnsupportedError, match=r"'x' cannot be attached.*first import of_an_object"):
        shm.attach("x")
    other = types.ModuleType(module.__name__)
    other.Point = dataclasses.make_dataclass("Point", ["z"])
    monkeypatch.setitem(sys.modules, module.__name__, other)
    with pytest.raises(shm.UnsupportedError, match="with the fields x, y; here that class has z"):
        shm.attach("x")
    del x


def test_a_member_or_a_field_that_the_class_here_lacks_is_named(monkeypatch):
    shm.create("color", [Color.BLUE])
    shm.create("pair", [Pair(1)])
    monkeypatch.setattr(module, "Color", enum.Enum("Color", {"RED": 1}))
    monkeypatch.setattr(module, "Pair", NamedTuple("Pair", [("a", int)]))
    with pytest.raises(shm.UnsupportedError, match=r"holds Color\.BLUE; here the class of_an_object\.Color has RED"):
        shm.attach("color")
    with pytest.raises(shm.UnsupportedError, match="with the fields left, right; here that class has a"):
        shm.attach("pair")
    monkeypatch.delattr(module, "Color")
    with pytest.raises(shm.UnsupportedError, match="first import of_an_object"):
        shm.attach("color")


def test_no_code_of_a_dataclass_runs():
    ran = []

    class Loud:
        x: int

        def __post_init__(self):
            ran.append(self)

    loud = dataclasses.dataclass(Loud)
    loud.__module__, loud.__qualname__ = module.__name__, "Loud"
    module.Loud = loud
    value = loud(1)
    ran.clear()
    assert shm.create("x", value).x == 1
    assert not ran


@pytest.mark.parametrize("value", [np.iinfo("i4"), [np.iinfo("u8")]], ids=["alone", "in a list"])
def test_what_has_a_dtype_and_no_shape_is_shared_all_the_same(value, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert repr(shm.create("x", value, allow_pickle=True)) == repr(value)


def test_the_memory_lasts_as_long_as_a_part_that_lies_in_it():
    x = shm.create("x", {"a": LARGE, "b": 1}, kind="object")
    part = x["a"]
    shm.unlink("x")
    del x
    assert part.sum() == LARGE.sum()
    del part
    gc.collect()
    assert shm.list() == []


def test_with_lifetime_attached_a_text_stays_until_it_is_closed():
    """It has no weak references, and holds no memory of the segment."""
    shm.create("x", "a text", lifetime="attached")
    child = Child(lambda connection: connection.send(shm.attach("x")))
    assert child.hear() == "a text"
    assert child.join() == 0
    assert shm.attach("x") == "a text"
    shm.close("x")
    assert shm.list() == []


def test_a_stream_takes_memory_by_its_size_only():
    """Lengths in a hostile file are no reason to allocate."""
    for stream in (b"\xdd\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xc9\xff\xff\xff\xff\x01", b"\x91" * 10**6):
        head = layout.Head(layout.PLAIN, "x", "x", 0, 0, "3", {}, [])
        size, pieces = layout.lay_out(head, [], stream)
        data = b"".join(map(bytes, pieces()))
        assert len(data) == size
        tracemalloc.start()
        attach_hostile(TestObject(), data)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 64 << 20


def test_wrong_bytes_anywhere_are_damaged_or_harmless():
    choose = np.random.default_rng(0)
    for value in TestObject.VALUES.values():
        shm.create("x", value)
        whole = Path(paths.path_of("x")).read_bytes()
        shm.unlink("x")
        for _ in range(20):
            wrong = bytearray(whole)
            for place in choose.integers(0, len(whole), choose.integers(1, 5)):
                wrong[place] = choose.integers(256)
            attach_hostile(TestObject(), bytes(wrong))


PLAIN = st.recursive(
    st.none() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary() | st.dates() | st.timedeltas(),
    lambda parts: st.lists(parts) | st.dictionaries(st.text() | st.integers(), parts) | st.tuples(parts, parts),
    max_leaves=20,
)  # fmt: skip


@given(PLAIN)
@settings(deadline=None, max_examples=50)
def test_every_plain_value_comes_back(value):
    assert same(shm.create("x", value, kind="object", replace=True), value)
