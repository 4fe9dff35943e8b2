"""What every kind of value must do, ours and those of other packages: inherit, and give samples."""

from __future__ import annotations

import contextlib
import json
import os
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import shmkernel as shm
from shmkernel import kinds
from shmkernel._core import paths, segment_file
from shmkernel.kinds.preview import Look, Source
from shmkernel.verbs import attachments
from tests.helpers import Child, left

_FINE = [HealthCheck.function_scoped_fixture, HealthCheck.differing_executors]  # each kind inherits the same test
SOON = settings(max_examples=100, deadline=None, suppress_health_check=_FINE)


def write(name, data):
    """Write bytes to a segment's file, as another program would."""
    with open(paths.path_of(name), "wb") as file:
        file.write(data)


def preview(kind, source):
    """Return a preview, and its size as it is sent to a page."""
    found = kinds.named(kind).preview(source, Look())
    return found, len(json.dumps(found.facts, allow_nan=False)) + len(found.data)


def attach_hostile(contract, data):
    """Attach arbitrary bytes: the result is DamagedError or a value, never another error or a signal."""
    write("hostile", data)
    with contextlib.suppress(ValueError):
        assert preview(contract.kind, Source(lambda at, size: data[at : at + size], len(data)))[1] < 64 << 10
    try:
        contract.touch(shm.attach("hostile", kind=contract.kind))
    except shm.DamagedError:
        assert shm.info("hostile").type
    else:
        assert shm.info("hostile").state == ""
    finally:
        shm.unlink("hostile")


class KindContract:
    """Inherit as ``class TestMine(KindContract)``, with samples and with what compares and changes them."""

    kind: str
    VALUES: ClassVar[dict]  # values to share, by a word for each; none may equal `changed`
    REFUSED: ClassVar[dict]  # values that must raise UnsupportedError

    def same(self, got, value):
        """Return whether `got`, read from a segment, equals `value` and has its type."""
        raise NotImplementedError

    def change(self, got):
        """Change a value in place."""
        raise NotImplementedError

    def touch(self, got):
        """Read all of a value."""
        raise NotImplementedError

    def pytest_generate_tests(self, metafunc):
        """Run a test once for each sample."""
        for argument, samples in (("value", self.VALUES), ("refused", self.REFUSED)):
            if argument in metafunc.fixturenames:
                metafunc.parametrize(argument, samples.values(), ids=samples)

    def test_it_comes_back_as_it_is(self, value):
        x = shm.create("x", value)
        assert self.same(x, value)
        assert shm.info("x").kind == self.kind
        assert shm.info("x").size == os.path.getsize(paths.path_of("x"))

    def test_its_preview_is_small_and_goes_to_json(self, value):
        shm.create("x", value)
        with segment_file.reading(path := paths.path_of("x"), "x") as fd:
            source = Source(lambda at, size: os.pread(fd, size, at), os.fstat(fd).st_size, path)
            found, size = preview(self.kind, source)
        assert size < 64 << 10
        assert {"stats", "note"} <= found.facts.keys()

    def test_another_process_sees_it(self, value):
        shm.create("x", value)
        with Child(lambda connection: connection.send(self.same(shm.attach("x"), value))) as other:
            assert other.hear()

    def test_a_file_of_it_is_the_same_again(self, value, tmp_path):
        shm.create("x", value)
        shm.save("x", tmp_path / "x")
        assert self.same(shm.load("y", tmp_path / "x"), value)
        assert shm.info("y").type == shm.info("x").type

    def test_without_a_record_its_first_bytes_tell(self, value):
        x = shm.create("x", value, lifetime="keep")
        with open(paths.path_of("x"), "rb") as file:
            write("y", file.read())
        assert shm.info("y").kind == self.kind
        assert self.same(shm.attach("y"), value)
        del x
        shm.unlink("x")
        shm.unlink("y")

    def test_the_processor_guards_what_is_attached_to_be_read(self):
        value = next(iter(self.VALUES.values()))
        shm.create("x", value)
        x = shm.attach("x", mode="r")
        with pytest.raises((TypeError, ValueError)):
            self.change(x)
        assert self.same(x, value)

    def test_private_changes_stay_private(self):
        value = next(iter(self.VALUES.values()))
        shm.create("x", value)
        self.change(shm.attach("x", mode="c"))
        assert self.same(shm.attach("x"), value)

    def test_changes_are_everybodys(self):
        value = next(iter(self.VALUES.values()))
        x = shm.create("x", value)
        self.change(shm.attach("x"))
        assert not self.same(x, value)

    def test_the_memory_goes_with_the_last_reference(self, value):
        x = shm.create("x", value)
        shm.unlink("x")
        assert [one.name for one in attachments.everything()] == ["x"]
        del x
        assert attachments.everything() == []

    def test_what_would_not_come_back_is_refused(self, refused, shm_dir):
        with pytest.raises(shm.UnsupportedError, match="'x'"):
            shm.create("x", refused)
        assert [path for path in left(shm_dir) if "sessions" not in path] == []

    def test_a_file_cut_short_anywhere_is_damaged_or_whole(self, value):
        x = shm.create("x", value)
        shm.unlink("x")
        whole = bytes(attachments.everything()[0]())
        del x
        for end in {*range(0, min(len(whole), 200), 7), len(whole) - 1}:
            attach_hostile(self, whole[:end])

    @SOON
    @given(data=st.binary(max_size=300))
    @example(data=b"")
    def test_random_bytes_are_damaged_or_harmless(self, data):
        attach_hostile(self, data)

    @SOON
    @given(data=st.data())
    def test_a_few_wrong_bytes_are_damaged_or_harmless(self, data):
        x = shm.create("x", data.draw(st.sampled_from(list(self.VALUES.values()))))
        shm.unlink("x")
        whole = bytearray(attachments.everything()[0]())
        del x
        for _ in range(data.draw(st.integers(1, 4))):
            whole[data.draw(st.integers(0, min(len(whole), 200) - 1))] = data.draw(st.integers(0, 255))
        attach_hostile(self, bytes(whole))
