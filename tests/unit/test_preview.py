"""Previews: bounded pictures and texts, made by system calls alone."""

import itertools
import json
import math
import os
import struct
import tracemalloc

import numpy as np
import pytest

import shmkernel as shm
from shmkernel import kinds
from shmkernel.kinds import array, preview
from shmkernel.kinds.lists import layout
from shmkernel.kinds.preview import Look, Source, arrays
from shmkernel.monitor.preview import of as looked
from tests.helpers import holding

GIB = 1 << 30


def over(data):
    """Read from bytes."""
    return Source(lambda at, size: bytes(data[at : at + size]), len(data))


class Calls:
    """Reads a file, and counts the reads."""

    def __init__(self, fd):
        self.fd, self.sizes = fd, []

    def read(self, at, size):
        self.sizes.append(size)
        return os.pread(self.fd, size, at)


def segment(values):
    return b"".join([array.encode(values.shape, values.dtype, "F" if _fortran(values) else "C"), values.tobytes("A")])


def _fortran(values):
    return values.flags.f_contiguous and not values.flags.c_contiguous


def see(values, *axes, start=0, form=""):
    return array.KIND.preview(over(segment(values)), Look(axes, start, form))


def heat(found):
    return np.frombuffer(found.data, "<f4").reshape(found.facts["h"], found.facts["w"])


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["i2", ">f8", "?", "u8", "f2"])
def test_a_small_map_shows_every_value(order, dtype):
    values = np.asarray(np.arange(12).reshape(3, 4) % 2, dtype, order=order)
    found = see(values)
    assert found.form == "heat"
    assert np.array_equal(heat(found), values.astype("f4"))
    assert found.facts["note"] == "of all 12 values"


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_large_map_is_sampled_evenly_in_its_proportions_and_summed_up_in_full(order):
    values = np.asarray(np.add.outer(np.arange(300) * 1000, np.arange(600)), "i4", order=order)
    found = see(values)
    rows, columns = found.facts["h"], found.facts["w"]
    assert rows * columns <= 12_000
    assert 1.5 < columns / rows < 2.5
    expected = [(2 * np.arange(n) + 1) * total // (2 * n) for n, total in ((rows, 300), (columns, 600))]
    assert np.array_equal(heat(found), values[np.ix_(*expected)].astype("f4"))
    assert dict(found.facts["stats"]) == {"min": "0", "max": "299599", "mean": "149800"}
    assert "of all 180,000" in found.facts["note"]


@pytest.mark.parametrize("order", ["C", "F"])
def test_leading_axes_are_fixed_and_clipped(order):
    values = np.asarray(np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5), dtype="f8", order=order)
    found = see(values, 1, 99)
    assert found.facts["axes"] == [{"size": 2, "at": 1}, {"size": 3, "at": 2}]
    assert np.array_equal(heat(found), values[1, 2])


def test_a_line_shows_values_and_a_long_one_its_envelope():
    short = see(np.array([1.0, math.nan, math.inf, -2.0]))
    assert short.form == "line"
    assert np.array_equal(np.frombuffer(short.data), [1.0, math.nan, math.inf, -2.0], equal_nan=True)
    assert dict(short.facts["stats"]) == {"min": "-2", "max": "1", "mean": "-0.5", "NaN": "1", "infinite": "1"}
    values = np.zeros(100_000)
    values[[7, 99_999]] = -3.0, 4.0
    low, high = np.frombuffer(see(values).data).reshape(2, -1)
    assert (low.min(), low.argmin(), high.max(), high.argmax()) == (-3.0, 0, 4.0, len(high) - 1)


def test_an_image_keeps_its_colours_and_transparency_is_laid_on_grey():
    values = np.random.default_rng(0).integers(0, 256, (5, 6, 3), "u1")
    for picture in (values, np.asfortranarray(values)):
        found = see(picture)
        assert found.form == "image"
        assert np.array_equal(np.frombuffer(found.data, "u1").reshape(5, 6, 3), values)
    clear = np.dstack([values, np.zeros((5, 6), "u1")])
    assert set(see(clear).data) == {127}
    assert len(see(np.zeros((900, 700, 3), "u1")).data) <= preview.MOST


def test_other_values_are_a_grid_of_texts():
    people = np.array([("Ada", 36, b"\xff"), ("Grace", 85, b"y")], [("name", "U9"), ("age", "i4"), ("key", "S2")])
    found = see(people)
    assert found.facts["columns"] == [["name", "<U9"], ["age", "int32"], ["key", "|S2"]]
    assert found.facts["rows"] == [["0", "Ada", "36", "\\xff"], ["1", "Grace", "85", "y"]]
    dates = see(np.array(["2020-10-11", "NaT"], "M8[D]"))
    assert dates.facts["rows"] == [["0", "2020-10-11"], ["1", "NaT"]]
    words = see(np.array([["a", "b"], ["c", "d"]]))
    assert [column[0] for column in words.facts["columns"]] == ["0", "1"]
    assert words.facts["rows"][1] == ["1", "c", "d"]
    assert see(np.array(2.5)).facts["rows"] == [["", "2.5"]]
    assert see(np.zeros((0, 3))).form == "none"


def test_a_grid_is_turned_page_by_page_and_never_beyond_its_end():
    values = np.array([f"item {at}" for at in range(130)])
    assert [see(values, start=at).facts["rows"][0][0] for at in (0, 50, 120, 9999)] == ["0", "50", "80", "80"]
    assert see(values).facts["total"] == 130


def test_no_kind_of_array_gives_more_than_64_kib():
    fields = np.dtype([(f"field{at:0200}", "U50") for at in range(40)])
    for values in (
        np.full((400, 400), 1e300), np.zeros(5_000_000), np.full(60, "\N{GRINNING FACE}" * 300), np.zeros(80, fields),
        np.full((100, 100), "\\" * 60), np.full((2, 3, 500, 500, 4), 7, "u1"), np.zeros((9, 100_000), "c16"),
    ):  # fmt: skip
        found = see(values)
        assert len(json.dumps(found.facts)) + len(found.data) < 64 << 10
        assert "NaN" not in json.dumps(found.facts, allow_nan=False).replace('"NaN"', "")


def test_eight_gib_with_holes_are_previewed_without_filling_any(shm_dir):
    path = shm_dir / "sparse"
    for shape, order in itertools.product([(GIB,), (1 << 15, 1 << 15), (4, 1 << 14, 1 << 14)], "CF"):
        head = array.encode(shape, np.dtype(float), order)
        with path.open("wb") as file:
            file.write(head)
            file.truncate(len(head) + 8 * GIB)
        before = os.stat(path).st_blocks
        with path.open("rb") as file:
            calls = Calls(file.fileno())
            found = array.KIND.preview(Source(calls.read, len(head) + 8 * GIB), Look())
        assert found.form in ("line", "heat")
        assert "of a sample" in found.facts["note"]
        assert dict(found.facts["stats"]) == {"min": "≤ 0", "max": "≥ 0", "mean": "≈ 0", "NaN": "none seen"}
        assert found.facts["note"].endswith(" of this slice") == (len(shape) == 3)
        assert sum(calls.sizes) < 4 << 20
        assert len(calls.sizes) < 10_000
        assert os.stat(path).st_blocks == before
    path.unlink()


def test_a_list_shows_index_type_and_value():
    items = [1, -2.5, "héllo", b"ab\0", None, True, False, "", "x" * 1000]
    data = b"".join(layout.encode(items))
    found = kinds.named("list").preview(over(data), Look())
    rows = found.facts["rows"]
    assert [row[1] for row in rows] == ["int", "float", "str", "bytes", "None", "bool", "bool", "str", "str"]
    assert [row[2] for row in rows[:8]] == ["1", "-2.5", "héllo", "b'ab\\x00'", "None", "True", "False", ""]
    assert rows[8][2].endswith("x…")
    assert kinds.named("list").preview(over(b"".join(layout.encode(range(200)))), Look((), 120)).facts["rows"][0] == [
        "120", "int", "120",
    ]  # fmt: skip


@pytest.mark.parametrize("cut", range(0, 200, 3))
def test_a_list_that_was_cut_is_an_error_or_has_a_preview(cut):
    data = b"".join(layout.encode([1, "abc", None, 2.0, b"xy"]))
    for broken in (data[:cut], data[:cut] + struct.pack("q", -5) + data[cut + 8 :]):
        try:
            found = kinds.named("list").preview(over(broken), Look())
        except ValueError:
            continue
        assert found.form in ("grid", "none")


def test_a_ring_shows_its_newest_frame():
    ring = shm.create("ring", ring=3, shape=(2, 4), dtype="u1")
    info = shm.info("ring")
    assert looked(info, Look()).facts["note"] == "no frame yet"
    for number in range(1, 6):
        ring.put(np.full((2, 4), number, "u1"))
    found = looked(info, Look())
    assert (found.form, found.facts["note"]) == ("heat", "frame 5, of all 8 values")
    assert set(heat(found).ravel()) == {5.0}
    shm.unlink("ring")


def test_a_dict_shows_key_type_and_value_in_order_without_attaching_it():
    with holding(lambda: shm.create("d", {"b": [1, 2], "a": "text", 3: None, "large": np.zeros(300_000)})) as child:
        found = looked(shm.info("d"), Look())
        assert found.facts["rows"] == [
            ["'b'", "list", "[1, 2]"], ["'a'", "str", "'text'"], ["3", "NoneType", "None"],
            ["'large'", "array", "in a file of its own"],
        ]  # fmt: skip
        assert [one.pid for one in shm.info("d").attached] == [child.pid]


def test_a_dict_of_many_keys_is_turned_page_by_page():
    shared = shm.create("d", {at: at for at in range(120)})
    assert looked(shm.info("d"), Look((), 100)).facts["rows"][-1] == ["119", "int", "119"]
    shm.unlink("d")
    (info,) = shm.list()
    assert looked(info, Look()).form == "none"
    del shared


def test_of_what_a_dict_holds_no_more_is_read_than_is_shown():
    content = {
        "text": "h\u00e9llo " * 2_000_000, "bytes": b"\0" * 9_000_000, "list": list(range(1_000_000)),
        "few": ["x" * 9000], "dict": {str(at): at for at in range(5000)}, "map": {at: at for at in range(5000)},
        "tuple": tuple(range(3000)), "set": set(range(5000)), "int": 2**100_000, "array": np.zeros(3000),
        "k" * 9000: None, ("a" * 9000, 3): None, 2**90_000: None,
    }  # fmt: skip
    shared = shm.create("d", content)
    info = shm.info("d")
    looked(info, Look())  # opens it
    tracemalloc.start()
    found = looked(info, Look())
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 1 << 20
    told = {key: (kind, text) for key, kind, text in found.facts["rows"]}
    assert told["'text'"][0] == "str"
    assert told["'text'"][1].startswith("'h\u00e9llo h")
    assert told["'bytes'"][1].startswith(r"b'\x00\x00")
    del told["'text'"], told["'bytes'"]
    assert list(told.items()) == [
        ("'list'", ("list", "1,000,000 items")), ("'few'", ("list", "1 item")), ("'dict'", ("dict", "5,000 items")),
        ("'map'", ("dict", "28.6 KiB")), ("'tuple'", ("tuple", "3,000 items")), ("'set'", ("set", "5,000 items")),
        ("'int'", ("int", "12.2 KiB")), ("'array'", ("array", "float64 (3000,)")),
        (f"str '{'k' * 58}…", ("NoneType", "None")), ("tuple 2 items", ("NoneType", "None")),
        ("int 11.0 KiB", ("NoneType", "None")),
    ]  # fmt: skip
    shm.unlink("d")
    del shared


def test_bytes_are_shown_in_lines():
    found = kinds.named("raw").preview(over(bytes(range(256)) * 100), Look((), 3))
    assert (found.form, found.facts["start"], found.facts["total"]) == ("hex", 3, 1600)
    assert found.data[:3] == bytes([48, 49, 50])
    assert kinds.named("raw").preview(over(b"abc"), Look((), 7)).data == b"abc"


def test_a_date_that_numpy_cannot_write_is_shown_as_out_of_range():
    class Far:  # as datetime64 of 25 s near its end, in some versions of numpy
        def __str__(self):
            raise OverflowError

    assert arrays._text(Far()) == "out of range"


def test_numbers_are_shown_as_cells_or_as_a_histogram_if_asked():
    values = np.arange(60, dtype="i2").reshape(3, 4, 5)
    found = see(values, 1, form="table")
    assert (found.form, found.facts["rows"][0], found.facts["axes"]) == (
        "grid", ["0", "20", "21", "22", "23", "24"], [{"size": 3, "at": 1}],
    )  # fmt: skip
    assert found.facts["forms"] == ["", "table", "histogram"]
    assert see(np.zeros((4, 5, 3), "u1"), form="table").form == "grid"
    bars = see(np.array([3, 3, 5], "i8"), form="histogram")
    assert (bars.form, np.frombuffer(bars.data).tolist()) == ("bars", [2, 0, 1])
    assert (bars.facts["low"], bars.facts["high"], bars.facts["most"]) == (2.5, 5.5, 2)
    for odd in ([np.nan], [-1.7e308, np.inf, 1.7e308], [0.0, 5e-324], [-0.0], [2**63]):
        found = see(np.array(odd), form="histogram")
        assert np.frombuffer(found.data).sum() == np.isfinite(odd).sum()
    assert see(np.array(["a"]), form="histogram").form == "grid"
    assert see(np.array(7), form="table").facts["forms"] == []
