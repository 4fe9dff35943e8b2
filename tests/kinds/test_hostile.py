"""Numbers from a file are checked before they become a loop count, an allocation or an offset."""

import contextlib
import struct

import numpy as np
import pytest

import shmkernel as shm
from shmkernel import kinds
from shmkernel.kinds.lists import kind, layout, preview
from shmkernel.kinds.preview import Look, Source
from shmkernel.testing import write
from tests.kinds import hostile
from tests.kinds.test_array import header


@pytest.mark.parametrize("kind", hostile.SEEDS)
def test_wrong_bytes_are_damaged_or_harmless_the_same_ones_at_each_run(kind):
    assert hostile.try_all(kind, 1500, 42)


@pytest.mark.parametrize(
    "descr", ["'|V0'", "'<U0'", "'|S0'", "[]", "{}", "[('a', '|V0')]", "[('a', [], (9999, 9999))]"]
)
@pytest.mark.parametrize("shape", ["(2**31, 2**31)", "(1 << 21,)", "(1, 1048577)"])
def test_elements_that_take_no_memory_are_no_billions(descr, shape):
    write("x", header(f"{{'descr': {descr}, 'fortran_order': False, 'shape': {eval(shape)}}}") + bytes(64))
    with pytest.raises(shm.DamagedError, match="'x' is damaged"):
        shm.attach("x")
    assert shm.info("x").state == "damaged"
    shm.unlink("x")


@pytest.mark.parametrize(
    ("descr", "shape"),
    [("<f8", (0, 2**62)), ("<f8", (2**40, 0)), ("<M8[0s]", (1,)), (("<i4", (2, 2)), (1,)), ("|V2147483647", (1,)),
     ("<f8", (1,) * 65), ("<f8", (True,)), ("<f8", (-1, -8))],
)  # fmt: skip
def test_shapes_and_dtypes_that_no_array_has_are_damaged(descr, shape):
    write("x", header(repr({"descr": descr, "fortran_order": False, "shape": shape})) + bytes(64))
    with pytest.raises(shm.DamagedError, match="'x' is damaged"):
        shm.attach("x")
    shm.unlink("x")


@pytest.mark.parametrize(
    "frame", ["('frame', '|V0')", "('frame', [], (9999, 9999))", "('frame', 'O')", "('frame', '<U0')"]
)
def test_frames_that_take_no_memory_are_no_frames(frame):
    text = f"[('number', '<u8'), ('', '|V56'), {frame}, ('', '|V64')]"
    write("x", header(f"{{'descr': {text}, 'fortran_order': False, 'shape': (4,)}}".ljust(245) + "\n") + bytes(4096))
    with pytest.raises(shm.DamagedError):
        shm.attach("x", kind="ring")
    shm.unlink("x")
    for dtype in ("V0", [], "O"):
        with pytest.raises(shm.ShmError, match="'x'"):
            shm.create("x", ring=4, shape=2, dtype=dtype)


def test_numbers_of_frames_that_no_writer_has_written_are_passed_over():
    ring = shm.create("x", ring=4, shape=2)
    ring.put([1, 2])
    numbers = ring._memory.numbers
    for number in (6, 2**63, 2**64 - 1):  # frame 6 belongs into slot 1
        numbers[3] = number
        ring._newest = 0
        assert ring.newest == 1
        frames = ring.since(0)
        assert (frames.ready().number, frames.ready()) == (1, None)
    assert ring.put([3, 4]) == 2


def test_offsets_that_overflow_are_no_list():
    """Each step is 8 or more if the difference of two 64-bit numbers may wrap."""
    data = bytearray(b"".join(layout.encode([0] * 5)))
    struct.pack_into("6q", data, 8, 0, 2**62, 2**63 - 8, -(2**63), -8, 40)
    with pytest.raises(ValueError, match="offsets"):
        kind.View(data)


@pytest.mark.parametrize("begin", [-8, 2**40, 2**63 - 8, 3])
def test_an_offset_that_another_process_changes_later_is_damage_and_no_error_of_another_kind(begin):
    data = bytearray(b"".join(layout.encode([1, "abc", 0.5, None, True, 7])))
    view = kind.View(data)
    for at in range(1, 6):
        struct.pack_into("q", data, 8 + 8 * at, begin)
    for read in (
        list,
        repr,
        lambda view: view.count(7),
        lambda view: view.index("none"),
        lambda view: [*map(view.__getitem__, range(6))],
    ):
        with contextlib.suppress(ValueError):  # DamagedError, and what is not found
            read(view)
    for position in range(1, 5):
        with pytest.raises(ValueError, match=r"cannot be read|exceeds"):
            view[position] = "text"
    with pytest.raises(IndexError):
        view[6]


@pytest.mark.parametrize("value", [np.zeros(30), [1, "a"] * 20, {"a": 1}], ids=["array", "list", "dict"])
def test_what_is_damaged_while_it_is_attached_does_not_hide_the_rest(value):
    shm.create("other", shape=3)
    x = shm.create("x", value)
    with open(shm.info("x").path, "r+b") as file:
        file.write(b"\xff" * 200)
    assert [(row.name, row.state) for row in shm.list()] == [("other", ""), ("x", "damaged")]
    shm.unlink("x")
    assert [(row.name, row.state) for row in shm.list()] == [("other", ""), ("x", "unlinked")]
    assert shm.info("x").type.startswith("damaged: ")
    if not isinstance(value, dict):
        with pytest.raises(shm.DamagedError, match="'x' is damaged"):
            shm.keep("x")
        assert shm.info("x").state == "unlinked"
    del x


def test_an_array_whose_header_was_damaged_is_not_attached_in_another_form():
    x = shm.create("x", np.zeros(30))
    with open(shm.info("x").path, "r+b") as file:
        file.write(b"\xff" * 20)
    x.flags.writeable = False
    with pytest.raises(shm.DamagedError, match="'x' is damaged"):
        shm.attach("x")
    shm.unlink("x")


def test_a_file_with_wrong_offsets_is_no_list_to_load(tmp_path):
    data = bytearray(b"".join(layout.encode([1, "abc", 0.5])))
    struct.pack_into("q", data, 16, 3)
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(shm.DamagedError, match="offsets"):
        shm.load("x", tmp_path / "x", kind="list")


def reading(data):
    """Read as pread does, which refuses offsets below 0."""

    def read(at, size):
        assert at >= 0 <= size
        return bytes(data[at : at + size])

    return read


def test_a_list_with_offsets_beyond_the_file_is_shown_as_unreadable():
    data = bytearray(b"".join(layout.encode(["a", "b", "c"])))
    struct.pack_into("q", data, 16, -(2**62))
    seen = preview.preview(
        Source(lambda at, size: bytes(data[at : at + size]) if at >= 0 else 1 / 0, len(data)), Look()
    )
    assert [row[2] for row in seen.facts["rows"]] == ["cannot be read", "cannot be read", "c"]
    struct.pack_into("q", data, 32, 2**62)
    with pytest.raises(ValueError, match="no list"):
        preview.preview(Source(reading(data), len(data)), Look())


def test_letters_beyond_unicode_are_shown_as_a_sign():
    value = np.array(["abc"]).view("u4")
    value[0] = 0x7FFFFFFF
    for made in (value.view("U3"), np.array([(0,)], [("a", "U3")])):
        if made.dtype.names:
            made.view("u4")[0] = 0x7FFFFFFF
        shm.create("x", made, replace=True)
        with open(shm.info("x").path, "rb") as file:
            data = file.read()
        seen = kinds.named("array").preview(Source(reading(data), len(data)), Look())
        assert seen.facts["rows"][0][1] in ("\ufffdbc", "out of range")
