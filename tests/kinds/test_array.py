from __future__ import annotations

import contextlib
import ctypes
import decimal
import fractions
import math
import subprocess
import sys
from array import array as array_
from typing import ClassVar

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from numpy.lib import format as npy

import shmkernel as shm
from shmkernel._core import paths
from shmkernel.kinds import array
from shmkernel.testing import KindContract, attach_hostile, write

DTYPES = [
    *(f"{order}{kind}" for order in "<>" for kind in ("i2", "i8", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16")),
    *("?", "i1", "u1", "g", "G", "S3", "<U3", ">U3", "V5"),
    *("<M8[ns]", ">M8[D]", "<M8[25s]", "<m8[ms]", ">m8[h]"),
]  # fmt: skip
GAPS = np.dtype({"names": ["a", "b"], "formats": ["<i2", ">f8"], "offsets": [2, 8], "itemsize": 24})
NESTED = np.dtype([("at", [("x", "<f4"), ("y", "<f4", (2, 3))]), ("name", "U5"), (("a title", "t"), "M8[s]")])


class Metres(np.ndarray):
    """A subclass whose values have a meaning beyond their numbers."""


def sample(dtype, shape=(3, 4)):
    """Make an array with different bytes wherever its dtype allows it."""
    dtype = np.dtype(dtype)
    count = math.prod(shape)
    if dtype.kind == "U":
        return np.array([chr(97 + n % 26) * 2 for n in range(count)], dtype).reshape(shape)
    if dtype.kind in "?gG":
        return np.arange(1, count + 1).astype(dtype).reshape(shape)
    return np.frombuffer(bytes(n % 61 for n in range(count * dtype.itemsize)), dtype).reshape(shape).copy()


def structured(dtype):
    found = np.zeros(4, dtype)
    found[dtype.names[0]] = np.ones(4, dtype[0])
    return found


def filled(text):
    return np.full((2, 2), text)


def tagged(dtype):
    """Make a dtype with metadata, as h5py makes it for an enumeration."""
    return np.dtype(dtype, metadata={"enum": {"RED": 0}})


PAIR = [("a", "i4"), ("b", "i4")]
CHANGED = [
    (np.array([300, -1]), "u1", "300 would become 44"),
    ([300, -1], "u1", "300 would become 44"),
    ([2**40], "i4", "would become"),
    (np.array([2**63], "u8"), "i8", "would become -"),
    (np.array([-1]), "u8", "-1 would become"),
    (np.array([2.0**63]), "i8", "would become"),
    ([1.9, 2], int, "1.9 would become 1"),
    (np.array([0.5]), int, "0.5 would become 0"),
    (np.array([np.nan]), int, "nan would become"),
    ([2], bool, "2 would become True"),
    ([1e300], "f4", "would become inf"),
    (np.array([1e300, 1]), "f4", "would become inf"),
    (np.array([70000]), "f2", "would become inf"),
    (np.array([2**53 + 1]), float, "9007199254740993 would become 9007199254740992.0"),
    ([2**53 + 1], float, "9007199254740993 would become 9007199254740992.0"),
    (np.array([2**53 + 1], object), float, "9007199254740993 would become 9007199254740992.0"),
    (np.array([2**63 - 1]), complex, "would become"),
    (np.array([2**64 - 1], "u8"), float, "would become"),
    (np.array([2**24 + 1]), "f4", "16777217 would become"),
    ([decimal.Decimal("1e400")], float, "would become inf"),
    (np.array(["NaT"], "M8[s]"), int, "NaT would become"),
    (np.array(["NaT"], "m8[s]"), float, "NaT would become"),
    (np.array([-(2**63)]), "m8[s]", "would become NaT"),
    (np.array([1j]), float, "complex"),
    (["abc"], "U2", "abc would become ab"),
    (np.array(["abc"]), "U2", "abc would become ab"),
    (np.array([b"abc"]), "S2", "would become"),
    (["a\0"], "U2", "would become"),
    ([1, "a"], "U2", "would become '1'"),
    (["False"], bool, "would become True"),
    (["1e300"], "f4", "would become inf"),
    (np.array(["2020-01-01T05"], "M8[h]"), "M8[D]", "2020-01-01T05 would become 2020-01-01"),
    (["2020-01-01T05"], "M8[D]", "would become 2020-01-01"),
    (np.array(["9999-01-01"], "M8[D]"), "M8[ns]", "9999-01-01 would become|Overflow when converting"),
    (np.array([90], "m8[s]"), "m8[m]", "would become"),
    (np.array([1.5]), "m8[s]", "1.5 would become"),
    (np.array([1.5, 2], object), int, "1.5 would become 1"),
    (np.array([None], object), float, "None would become nan"),
    (np.array([1e300], object), "f4", "would become inf"),
    (np.ones(1, "V4"), "V2", "would become"),
    (np.array([(300, 1)], PAIR), [("a", "u1"), ("b", "i4")], "would become"),
    ([(1.5, 1)], PAIR, "1.5 would become 1"),
]  # fmt: skip


class TestArray(KindContract):
    kind = "array"
    VALUES: ClassVar = {
        **{dtype: sample(dtype) for dtype in DTYPES},
        "structured with gaps": structured(GAPS),
        "structured, nested": np.zeros(4, NESTED),
        "structured, field names beyond ASCII": np.ones(2, [("Δt", "f8"), ("größe", "i4")]),
        "0-d": np.array(7),
        "0-d structured": np.ones((), GAPS),
        "empty": np.empty((0, 3), "i4"),
        "empty in the middle": np.empty((2, 0, 3), "f8"),
        "of itemsize 0": np.empty(3, "V0"),
        "of no fields": np.empty(3, []),
        "Fortran": np.asfortranarray(sample("f8")),
        "Fortran, structured": np.asfortranarray(np.ones((2, 3), GAPS)),
        "strided": np.arange(40).reshape(5, 8)[::2, 1::3],
        "reversed": np.arange(12)[::-1],
        "transposed, three axes": np.arange(24).reshape(2, 3, 4).transpose(1, 2, 0),
        "broadcast": np.broadcast_to(np.arange(3), (4, 3)),
        "read only": np.frombuffer(b"abcdefgh", "u2"),
        "unaligned": np.frombuffer(b"_" + bytes(16), "f8", offset=1),
        "of many dimensions": np.ones((1,) * 32),
        "NaN": np.array([np.nan, -0.0, np.inf]),
    }
    REFUSED: ClassVar = {
        "objects": np.array([1, "a", None], object),
        "an object in a field": np.zeros(2, [("a", "i4"), ("b", "O")]),
        "masked": np.ma.masked_array([1, 2], [True, False]),
        "a subclass": np.arange(3).view(Metres),
        "overlapping fields": np.zeros(2, {"names": ["a", "b"], "formats": ["i4", "i2"], "offsets": [0, 2]}),
        "fields out of order": np.zeros(2, {"names": ["a", "b"], "formats": ["i4", "i4"], "offsets": [4, 0]}),
        "a header beyond numpy.load": np.zeros(2, [(f"a_rather_long_name_{n}", "i4") for n in range(400)]),
        "metadata": np.zeros(2, tagged("i4")),
        "metadata in a field": np.zeros(2, [("a", tagged("i4"))]),
        "too many elements of itemsize 0": np.broadcast_to(np.empty((), "V0"), (2**31, 2**31)),
        "too many rows of nothing": np.empty((2**31, 0)),
        "a subarray of nothing in a field": np.zeros(1, [("a", "f8", (0, 2**30)), ("b", "i4")]),
        "a set": {1, 2},
    }
    if hasattr(np.dtypes, "StringDType"):
        REFUSED["StringDType"] = np.array(["a", "b"], np.dtypes.StringDType())

    def test_what_would_not_come_back_is_refused(self, refused):
        with pytest.raises(shm.UnsupportedError, match="'x'"):
            shm.create("x", refused, kind=self.kind)

    def same(self, got, value):
        return (
            type(got) is np.ndarray
            and got.dtype == value.dtype
            and got.dtype.itemsize == value.dtype.itemsize
            and got.shape == value.shape
            and (got.tobytes() == value.tobytes() or (got.dtype.names and np.array_equal(got, value)))
            and got.flags.f_contiguous >= (value.flags.f_contiguous and not value.flags.c_contiguous)
        )

    def change(self, got):
        got[...] = np.zeros((), got.dtype)

    def touch(self, got):
        assert isinstance(got.tobytes(), bytes)
        with contextlib.suppress(SystemError, OverflowError):  # numpy's, for a number beyond Unicode, or a far date
            got.tolist()  # a loop over all there is

    def test_numpy_load_opens_it_as_it_is(self, value):
        x = shm.create("x", value)
        assert x.__array_interface__["data"][0] % 64 == 0
        assert self.same(np.load(paths.path_of("x"), mmap_mode="r").view(np.ndarray), value) or not value.nbytes
        assert self.same(np.load(paths.path_of("x")), value)


def header(text, version=1):
    line = text.encode("utf-8" if version == 3 else "latin-1", "replace")
    return npy.magic(version, 0) + len(line).to_bytes(2 if version == 1 else 4, "little") + line


DESCR = st.sampled_from([
    "|S0", "<U0", "|S99999999999", "O", "|O8", "<i4", "|V0", "<M8[ns]", "<M8[99999999999999999999Y]", "<M8", "a5", "T",
    "(2,3)i4", "3i4", "i4,f8", "i4,", "(999999999999,)i4", "<i3", "", "\0", ("<i4", (2, 3)), ("<i4", 10**30),
    ("<i4", (-1,)), [("a", "<i4")], [("a", "O")], [("a", "|S0")], [("a", "<i4"), ("a", "<i4")],
    [("", "|V3"), ("b", "u1")],
    [(("t", "a"), "<i4")], [("a",)], [()], [], (), {}, None, 1, 1.5, True, b"<i4", [("a", [("b", [("c", "<f8")])])],
    {"names": ["a"], "formats": ["O"]}, [("a", "<i4", 10**20)], [("a", "<i4", -1)],
])  # fmt: skip
SHAPE = st.one_of(
    st.lists(st.sampled_from([0, 1, 2, 3, -1, 2**31, 2**62, 2**63, 10**30, True, 1.0, None]), max_size=5).map(tuple),
    st.sampled_from([(1,) * 33, (1,) * 65, (0, 10**30), (2**40, 2**40, 0), [3], 3, None, "3", ((1,),)]),
)


class TestHostileHeaders:
    @settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        descr=DESCR, shape=SHAPE, fortran=st.sampled_from([True, False, 1, None]), version=st.sampled_from([1, 2, 3])
    )
    @example(descr="|S0", shape=(10**6,), fortran=False, version=1)
    @example(descr="<U0", shape=(10**6,), fortran=False, version=1)
    @example(descr="<i4", shape=(0, 10**30), fortran=False, version=1)
    @example(descr="|V0", shape=(2**31, 2**31), fortran=False, version=1)
    @example(descr=[], shape=(2**31, 2**31), fortran=False, version=1)
    @example(descr="<i4", shape=(2**62, 0), fortran=False, version=1)
    @example(descr=[("a", "|V0", (2**31, 2**31)), ("b", "<i4")], shape=(1,), fortran=False, version=1)
    @example(descr=("<i4", (0, 2**62)), shape=(1,), fortran=False, version=1)
    @example(descr="|V999999999", shape=(10**9,), fortran=False, version=1)
    def test_any_header_is_damaged_or_harmless(self, descr, shape, fortran, version):
        fields = {"descr": descr, "fortran_order": fortran, "shape": shape}
        attach_hostile(TestArray(), header(repr(fields), version) + bytes(64))

    @pytest.mark.parametrize("text", [
        "-" * 9000 + "1", "[" * 9000, "(" * 4500 + ")" * 4500, "not " * 2000 + "1", "1+" * 4000 + "1", "{" * 5000,
        "'" + "\\x" * 4000, "lambda:" * 1000 + "1", "a" * 9000, "1" * 9000, "{'descr': '<i4'}", "", "\0", "é" * 100,
        "{'descr': '<i4', 'fortran_order': False, 'shape': (" + "1," * 4000 + ")}", "__import__('os')", "'\\N{x}'",
        "{'descr': '<i4', 'fortran_order': False, 'shape': (1,), 'more': 1}",
    ], ids=range(18))  # fmt: skip
    def test_any_text_is_damaged(self, text):
        write("x", header(text) + bytes(64))
        with pytest.raises(shm.DamagedError, match="'x' is damaged"):
            shm.attach("x", kind="array")
        assert shm.info("x").state == "damaged"
        shm.unlink("x")

    def test_a_header_that_claims_more_says_so(self):
        write("x", array.encode((1 << 20,), np.dtype("f8"), "C") + bytes(1000))
        with pytest.raises(shm.DamagedError, match="promises 8388736 bytes, the file holds 1128"):
            shm.attach("x")
        shm.unlink("x")


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_every_version_that_numpy_writes_is_attached_and_loaded(version, order, tmp_path):
    value = np.asarray(sample("i4"), order=order)
    with open(tmp_path / "x.npy", "wb") as file:
        npy.write_array(file, value, version)
    write("x", (tmp_path / "x.npy").read_bytes())
    assert TestArray().same(shm.attach("x"), value)
    assert TestArray().same(shm.load("y", tmp_path / "x.npy"), value)
    assert shm.info("y").order == order
    shm.unlink("x")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"shape": 3, "fill": 7}, "[7.0, 7.0, 7.0]"),
        ({"shape": (2, 1), "dtype": "i2", "fill": -1}, "[[-1], [-1]]"),
        ({"shape": (), "fill": 2.5}, "2.5"),
        ({"shape": 2, "dtype": "U3", "fill": "ab"}, "['ab', 'ab']"),
        ({"shape": 1, "dtype": "M8[D]", "fill": "2020-01-02"}, "[datetime.date(2020, 1, 2)]"),
        ({"shape": 2, "dtype": [("a", "i4"), ("b", "f8")], "fill": (1, 2)}, "[(1, 2.0), (1, 2.0)]"),
        ({"shape": 0, "fill": 1}, "[]"),
        ({"value": [1.0, 2], "dtype": int}, "[1, 2]"),
        ({"value": [2**53 + 1, 2.0], "dtype": int}, f"[{2**53 + 1}, 2]"),
        ({"value": [0.1], "dtype": "f4"}, "[0.10000000149011612]"),
        ({"value": np.array([2**53, -(2**62)]), "dtype": float}, f"[{2.0**53}, {-(2.0**62)}]"),
        ({"value": [fractions.Fraction(1, 4), decimal.Decimal("inf"), True], "dtype": "f4"}, "[0.25, inf, 1.0]"),
        ({"value": ["ab"], "dtype": "U2"}, "['ab']"),
        ({"value": ["12"], "dtype": "u1"}, "[12]"),
        ({"value": [(1, "ab")], "dtype": [("a", "i4"), ("b", "U2")]}, "[(1, 'ab')]"),
        ({"shape": (np.int64(2), np.uint8(1)), "fill": 1}, "[[1.0], [1.0]]"),
        ({"shape": np.array([1, 2]), "fill": 1}, "[[1.0, 1.0]]"),
        ({"value": 3}, "3"),
        ({"value": True}, "True"),
        ({"value": 1 + 2j}, "(1+2j)"),
        ({"value": np.float32(1.5)}, "1.5"),
        ({"value": np.arange(3), "dtype": ">f4"}, "[0.0, 1.0, 2.0]"),
    ],
)
def test_options_make_the_array(options, text):
    assert repr(shm.create("x", **options).tolist()) == text


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"shape": -1}, "not a shape"),
        ({"shape": "many"}, "not a shape"),
        ({"shape": (10**10, 10**10)}, "no array can have the shape"),
        ({"shape": 10**30}, "no array can have the shape"),
        ({"shape": (1,) * 99}, "no array can have the shape"),
        ({"shape": 3, "dtype": "floaty"}, "not a dtype"),
        ({"shape": 3, "order": "K"}, "order 'K'"),
        ({"shape": 3, "fill": "text"}, "cannot fill"),
        ({"shape": 3, "fill": 300, "dtype": "uint8"}, "it would become 44"),
        ({"shape": 3, "fill": -1, "dtype": "uint8"}, "it would become 255"),
        ({"shape": 3, "fill": 1.5, "dtype": int}, "it would become 1"),
        ({"shape": 3, "fill": 1e300, "dtype": "f4"}, "it would become inf"),
        ({"shape": 3, "fill": 1j, "dtype": float}, "it is complex"),
        ({"shape": 3, "fill": "hello", "dtype": "U3"}, "it would become hel"),
        ({"shape": 3, "fill": np.datetime64("2020")}, r"cannot fill float64 with .*: give dtype='<M8\[Y\]'"),
        ({"shape": True}, "not a shape"),
        ({"shape": 2.0}, "not a shape"),
        ({"shape": (2, 2.5)}, "not a shape"),
        ({"shape": "3"}, "not a shape"),
        ({"shape": (1 << 20, 0, 2)}, "no memory"),
        ({"shape": (2**31, 2**31), "dtype": "V0"}, "no memory"),
        ({"shape": 2, "dtype": "3i4"}, "the whole shape"),
        ({"shape": 2, "fill": np.ma.masked}, "mask"),
        ({"shape": 2, "dtype": [("a", "i4"), ("b", "U2")], "fill": (1.5, "a")}, "1.5 would become 1"),
        ({"shape": 2, "dtype": [("a", "i4"), ("b", "U2")], "fill": (1, "abc")}, "abc would become ab"),
        ({"value": np.arange(3), "shape": 3}, "not both"),
        ({"value": np.arange(3), "fill": 3}, "not both"),
        ({"dtype": "f8"}, "nothing to share"),
        ({"value": [1, "a"], "dtype": int}, "no array of int64"),
        ({"value": np.array(["a"]), "dtype": float}, "no array of float64"),
        ({"value": [1, "a"], "kind": "array"}, "1 would become '1'"),
        ({"value": [2**53 + 1, 0.5], "kind": "array"}, "would become"),
        ({"value": [np.ma.masked], "dtype": float}, "mask"),
        *(({"value": value, "dtype": dtype}, would) for value, dtype, would in CHANGED),
        ({"value": 3, "mode": "w"}, "mode 'w'"),
        ({"value": 3, "lifetime": "ever"}, "lifetime 'ever'"),
        ({"value": 3, "kind": "poem"}, "kind 'poem'"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, words):
    with pytest.raises((shm.ArgumentError, shm.UnsupportedError), match=words):
        shm.create("x", **options)
    assert not paths.names()


def test_a_large_array_is_looked_at_to_its_end(monkeypatch):
    monkeypatch.setattr(array, "_PIECE", 1000)
    value = np.zeros((100, 100), "i8")
    value[99, 99] = 300
    with pytest.raises(shm.ArgumentError, match="300 would become 44"):
        shm.create("x", value, dtype="u1")
    assert not paths.names()


def test_a_fill_takes_no_second_copy():
    script = """
import tracemalloc, shmkernel as shm
shm.create("small", shape=10)
tracemalloc.start()
x = shm.create("x", shape=(100, 100_000), dtype="u1", fill=0)
y = shm.create("y", shape=(100, 100_000), dtype="u1")
print(tracemalloc.get_traced_memory()[1] < 1_000_000)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_larger_than_a_piece_are_written_whole(order, monkeypatch):
    monkeypatch.setattr(array, "_PIECE", 1000)
    for shape in ((7, 300), (300, 7), (2, 3, 500), (5000,), (3, 0, 5)):
        value = np.asarray(np.arange(math.prod(shape)).reshape(shape), order=order)
        for one in (value, value[::-1], value.T, value[..., ::2]):
            assert np.array_equal(shm.create("x", one, replace=True), one)


def test_bfloat16_is_refused():
    with pytest.raises(shm.UnsupportedError, match="bfloat16"):
        shm.create("x", np.ones(3, ml_dtypes.bfloat16))


class Interfaced:
    """A value of another library that gives numpy its memory."""

    def __init__(self, value):
        self.value = value

    @property
    def __array_interface__(self):
        return self.value.__array_interface__


class Tensor:
    """One that gives it by DLPack."""

    def __init__(self, value, device=(1, 0)):
        self.value, self.device = value, device

    def __dlpack__(self, **options):
        return self.value.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.device


@pytest.mark.parametrize(
    "value",
    [
        Interfaced(np.arange(3.0)), Tensor(np.arange(3.0)), Tensor(np.arange(6.0)[::2].copy()), array_("d", [0, 1, 2]),
        memoryview(np.arange(3.0)), (ctypes.c_double * 3)(0, 1, 2), memoryview(np.eye(2)).toreadonly(),
    ],
)  # fmt: skip
def test_what_is_no_more_than_numbers_is_an_array(value):
    expected = np.asarray(getattr(value, "value", value))
    x = shm.create("x", value)
    assert (type(x), x.dtype) == (np.ndarray, np.dtype(float))
    np.testing.assert_array_equal(x, expected)
    x[...] = 7
    assert not (expected == 7).any()


def test_numbers_on_a_device_are_refused_with_the_reason():
    with pytest.raises(shm.UnsupportedError, match=r"'x' is a Tensor in the memory of a device.*Copy it"):
        shm.create("x", Tensor(np.arange(3.0), device=(2, 0)))


@pytest.mark.parametrize("value", [b"abc", bytearray(3), memoryview(b"abc")])
def test_plain_bytes_are_no_array(value):
    shm.create("x", value)
    assert shm.info("x").kind == "raw"
