from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest

import shmkernel as shm
from shmkernel import kinds
from shmkernel._core import paths
from shmkernel.kinds import array, raw
from shmkernel.testing import KindContract, write
from tests.helpers import left


class TestRaw(KindContract):
    kind = "raw"
    VALUES: ClassVar = {
        "bytes": b"abc",
        "one byte": b"\0",
        "a bytearray": bytearray(b"\1\2"),
        "a memoryview": memoryview(b"abcdef")[1:4],
        "much": bytes(range(256)) * 1000,
    }
    REFUSED: ClassVar = {"a text": "abc"}

    def test_what_would_not_come_back_is_refused(self, refused):
        with pytest.raises(shm.UnsupportedError, match="'x'"):
            shm.create("x", refused, kind=self.kind)

    def same(self, got, value):
        return got.buf == value and got.size == len(value)

    def change(self, got):
        got.buf[0] = 7

    def touch(self, got):
        bytes(got.buf)

    def test_a_file_of_it_is_the_same_again(self, value, tmp_path):
        shm.create("x", value)
        shm.save("x", tmp_path / "x")
        assert self.same(shm.load("y", tmp_path / "x", kind="raw"), value)

    def test_without_a_record_its_first_bytes_tell(self, value):
        """They do not: it takes kind=."""
        write("y", value)
        with pytest.raises(shm.DamagedError, match="damaged"):
            shm.attach("y")
        assert self.same(shm.attach("y", kind="raw"), value)
        shm.unlink("y")


def test_the_record_says_raw_of_what_begins_like_an_array():
    value = array.encode((2,), np.dtype("u1"), "C") + b"ab"
    shm.create("x", value)
    assert bytes(shm.attach("x", mode="r").buf) == value
    assert shm.info("x").kind == "raw"


def test_a_size_alone_makes_zeros():
    x = shm.create("x", size=65536)
    assert x.size == len(x.buf) == 65536
    assert not any(x.buf)
    assert shm.info("x").type == "bytes"


def test_a_size_leaves_room_behind_the_bytes():
    assert bytes(shm.create("x", b"abc", size=5).buf) == b"abc\0\0"
    assert shm.create("y", b"abc", size=np.int64(3)).size == 3


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        ({"size": 0}, "0 bytes"),
        ({"size": -1}, "not a size"),
        ({"size": 1.5}, "not a size"),
        ({"size": "64K"}, "not a size"),
        ({"value": b"abc", "size": 2}, "do not fit"),
        ({"value": b""}, "0 bytes"),
        ({"value": 5, "size": 2}, "takes no size"),
        ({"value": [1], "size": 2}, "takes no size"),
        ({"shape": 3, "size": 2}, "takes no size"),
        ({"value": b"abc", "kind": "raw", "order": "F"}, "takes no order"),
        ({"value": [1], "kind": "list", "dtype": "int8"}, "takes no dtype"),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused_and_leaves_nothing(options, hint, shm_dir):
    with pytest.raises(shm.ArgumentError, match=f"'x'.*{hint}"):
        shm.create("x", **options)
    assert [path for path in left(shm_dir) if "sessions" not in path] == []


def test_the_kind_that_is_asked_for_takes_what_it_would_not_claim():
    assert bytes(shm.create("x", np.arange(3, dtype="u1"), kind="raw").buf) == b"\0\1\2"
    assert list(shm.create("y", range(3), kind="list")) == [0, 1, 2]
    with pytest.raises(shm.UnsupportedError, match=r"'z'.*encode"):
        shm.create("z", "text", kind="raw")
    with pytest.raises(shm.UnsupportedError, match=r"'z'.*list"):
        shm.create("z", 5, kind="list")


@pytest.mark.parametrize(
    ("value", "cure"),
    [(range(3), "asarray"), (iter([1]), r"list\(")],
    ids=["range", "iterator"],
)
def test_what_no_kind_takes_is_refused_with_the_cure(value, cure):
    with pytest.raises(TypeError, match=f"'x'.*{cure}"):
        shm.create("x", value)


def test_a_file_of_another_program_is_raw_unless_its_bytes_say_more():
    write("/psm_x", b"anything")
    assert bytes(shm.attach("/psm_x").buf) == b"anything"
    assert shm.info("/psm_x").kind == "raw"
    write("/psm_y", array.encode((2,), np.dtype("u1"), "C") + b"\1\2")
    assert shm.attach("/psm_y").tolist() == [1, 2]
    shm.unlink("/psm_x")
    shm.unlink("/psm_y")


@pytest.mark.parametrize("name", ["x", None])
def test_a_damaged_array_of_ours_does_not_turn_raw(name):
    name = name or f"/{paths.prefix()}x"
    write("x", b"\x93NUMPX" + bytes(100))
    with pytest.raises(shm.DamagedError, match="kind='raw'"):
        shm.attach(name)
    with pytest.raises(shm.DamagedError, match="no kind"):
        shm.keep("x")
    assert bytes(shm.attach(name, kind="raw").buf[:6]) == b"\x93NUMPX"
    shm.unlink("x")


def test_an_empty_file_cannot_be_loaded(tmp_path):
    (tmp_path / "empty").touch()
    for kind in ("raw", "list"):
        with pytest.raises(ValueError, match="empty"):
            shm.load("x", tmp_path / "empty", kind=kind)


def test_a_kind_without_the_verbs_gives_plain_views():
    assert raw.Raw().open(bytearray(b"abc"), "", "r+") == b"abc"
    assert kinds.named("raw") is raw.KIND
