"""Tests that every kind must pass, the package's own kinds and those of other packages. They need pytest.

Inherit `KindContract` in a test module, and give it samples and a few methods:

    from shmkernel.testing import KindContract

    class TestDays(KindContract):
        kind = "days"
        VALUES = {"one": [datetime.date(2026, 12, 25)]}
        REFUSED = {"text": ["2026-12-25"]}
        ...

Each test gets a folder of segments of its own, and fails if the folder is not empty at its end.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import pytest

import shmkernel as shm
from shmkernel import kinds
from shmkernel._core import paths, segment_file, sessions
from shmkernel.kinds.preview import Look, Source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from shmkernel.kinds.preview import Preview

__all__ = ["KindContract", "attach_hostile", "private_folder", "remove", "write"]

_MOST = 64 << 10  # bytes of a preview
_TRIES = 100  # of bytes made at random
_REMOVALS = 100  # attempts to remove a folder
_PATIENCE = 5.0  # seconds for a watchdog to sweep


class Hostile(Protocol):
    """What `attach_hostile` needs: the name of a kind, and a function that reads all of a value."""

    kind: str

    def touch(self, got: Any) -> None:
        """Read all of a value."""


def write(name: str, data: bytes) -> None:
    """Write a segment's file as another program would: without a record.

    Parameters
    ----------
    name : str
        The segment's name.
    data : bytes
        The content of the file.
    """
    Path(paths.path_of(name)).write_bytes(data)


def attach_hostile(contract: Hostile, data: bytes) -> None:
    """Attach arbitrary bytes: the result is a value or an error of ours about them, no other error and no signal.

    Those are DamagedError, UnsupportedError, and LimitError where they say that they take more memory than there is.

    Parameters
    ----------
    contract : KindContract
        Names the kind, and reads all of a value.
    data : bytes
        The content of the segment's file.
    """
    write("hostile", data)
    with contextlib.suppress(ValueError):
        assert _preview(contract.kind, Source(lambda at, size: data[at : at + size], len(data)))[1] < _MOST
    try:
        contract.touch(shm.attach("hostile", kind=contract.kind))
    except (shm.DamagedError, shm.UnsupportedError, shm.LimitError):  # it may need a class or package that is not there
        assert shm.info("hostile").type
    else:
        assert shm.info("hostile").state == ""
    finally:
        shm.unlink("hostile")


@contextlib.contextmanager
def private_folder() -> Iterator[Path]:
    """Use a new folder of segments for the length of a ``with`` block, which must leave it empty.

    Yields
    ------
    pathlib.Path
        The folder, to which ``SHMKERNEL_DIR`` leads for this process and the processes that it starts.
    """
    folder = Path(tempfile.mkdtemp(prefix="shmkernel-test-", dir="/dev/shm"))  # its mode is 0700
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SHMKERNEL_DIR", str(folder))
            yield folder
            sessions.end()
            deadline = time.monotonic() + _PATIENCE
            while (left := _left(folder)) and time.monotonic() < deadline:
                time.sleep(0.002)
            assert not left, "left behind"
    finally:
        if server := sys.modules.get("multiprocessing.forkserver"):
            server._forkserver._stop()  # noqa: SLF001  it keeps the environment of its first use
        remove(folder)


def remove(folder: str | os.PathLike[str]) -> None:
    """Remove a folder of segments, although a watchdog that ends may make files in it meanwhile.

    Parameters
    ----------
    folder : path
        The folder.
    """
    for _ in range(_REMOVALS):
        shutil.rmtree(folder, ignore_errors=True)
        if not os.path.exists(folder):
            return


def _left(folder: Path) -> list[Path]:
    inside = (path for part in ("records", "sessions", "stores") for path in folder.glob(f".shmk-*/{part}/*"))
    return [*(path for path in folder.iterdir() if not path.name.startswith(".shmk-")), *inside]


def _preview(kind: str, source: Source) -> tuple[Preview, int]:
    """Return a preview, and its size as it is sent to a page."""
    found = kinds.named(kind).preview(source, Look())
    return found, len(json.dumps(found.facts, allow_nan=False)) + len(found.data)


def _in_another_process(check: Callable[[], bool]) -> bool:
    """Return what a forked process finds, which has no session yet."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy's threads do not matter here
        pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = 0 if check() else 1
        except BaseException:  # noqa: BLE001  whoever runs the test reads it
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    try:
        return os.waitpid(pid, 0)[1] == 0
    except BaseException:  # the test's time is over, and the child's too: it would hold its session for ever
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise


class KindContract:
    """What a kind must do. Inherit it as ``class TestMine(KindContract)``.

    Attributes
    ----------
    kind : str
        The kind's name.
    VALUES : dict
        Values to share, each under a word that names it in the test's name. The first must differ from itself after
        `change`.
    REFUSED : dict
        Values that are not of this kind: `shmkernel.create` refuses them with UnsupportedError, or makes them objects.
    MARKED : bool
        Whether the first bytes of a file tell the kind (`Kind.matches`). If not, ``kind`` is given to attach and load.
    """

    kind: str
    VALUES: ClassVar[dict[str, Any]]
    REFUSED: ClassVar[dict[str, Any]]
    MARKED: ClassVar[bool] = True

    def same(self, got: Any, value: Any) -> bool:
        """Return whether `got`, read from a segment, equals `value` and has its type."""
        raise NotImplementedError

    def change(self, got: Any) -> None:
        """Change a value in place."""
        raise NotImplementedError

    def touch(self, got: Any) -> None:
        """Read all of a value."""
        raise NotImplementedError

    @pytest.fixture(autouse=True)
    def shm_dir(self) -> Iterator[Path]:
        """Give each test a folder of segments."""
        with private_folder() as folder:
            yield folder

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run a test once for each sample."""
        for argument, samples in (("value", self.VALUES), ("refused", self.REFUSED)):
            if argument in metafunc.fixturenames:
                metafunc.parametrize(argument, samples.values(), ids=samples)

    def test_it_comes_back_as_it_is(self, value: object) -> None:
        x = shm.create("x", value)
        assert self.same(x, value)
        assert shm.info("x").kind == self.kind
        assert shm.info("x").size == os.path.getsize(paths.path_of("x"))

    def test_its_preview_is_small_and_goes_to_json(self, value: object) -> None:
        shm.create("x", value)
        with segment_file.reading(path := paths.path_of("x"), "x") as fd:
            source = Source(lambda at, size: os.pread(fd, size, at), os.fstat(fd).st_size, path)
            found, size = _preview(self.kind, source)
        assert size < _MOST
        assert {"stats", "note"} <= found.facts.keys()

    def test_another_process_sees_it(self, value: object) -> None:
        shm.create("x", value)
        assert _in_another_process(lambda: self.same(shm.attach("x"), value))

    def test_a_file_of_it_is_the_same_again(self, value: object, tmp_path: Path) -> None:
        shm.create("x", value)
        shm.save("x", tmp_path / "x")
        assert self.same(shm.load("y", tmp_path / "x", kind=None if self.MARKED else self.kind), value)
        assert shm.info("y").type == shm.info("x").type

    def test_without_a_record_its_first_bytes_tell(self, value: object) -> None:
        shm.create("x", value)
        write("y", Path(paths.path_of("x")).read_bytes())
        if self.MARKED:
            assert shm.info("y").kind == self.kind
        assert self.same(shm.attach("y", kind=None if self.MARKED else self.kind), value)
        shm.unlink("y")

    def test_the_processor_guards_what_is_attached_to_be_read(self) -> None:
        value = next(iter(self.VALUES.values()))
        shm.create("x", value)
        x = shm.attach("x", mode="r")
        with pytest.raises((TypeError, ValueError)):
            self.change(x)
        assert self.same(x, value)

    def test_private_changes_stay_private(self) -> None:
        value = next(iter(self.VALUES.values()))
        shm.create("x", value)
        self.change(shm.attach("x", mode="c"))
        assert self.same(shm.attach("x"), value)

    def test_changes_are_everybodys(self) -> None:
        value = next(iter(self.VALUES.values()))
        x = shm.create("x", value)
        self.change(shm.attach("x"))
        assert not self.same(x, value)

    def test_the_memory_goes_with_the_last_reference(self, value: object) -> None:
        x = shm.create("x", value)
        shm.unlink("x")
        assert [(row.name, row.state) for row in shm.list()] == [("x", "unlinked")]
        del x
        assert shm.list() == []

    def test_what_would_not_come_back_is_refused(self, refused: object, shm_dir: Path) -> None:
        try:
            shm.create("x", refused)
        except shm.UnsupportedError as error:
            assert "'x'" in str(error)  # noqa: PT017  the other way is as good
        else:
            assert shm.info("x").kind == "object"
            shm.unlink("x")
        assert [path for path in _left(shm_dir) if path.parent.name != "sessions"] == []

    def test_a_file_cut_short_anywhere_is_damaged_or_whole(self, value: object) -> None:
        shm.create("x", value)
        whole = Path(paths.path_of("x")).read_bytes()
        shm.unlink("x")
        for end in {*range(0, min(len(whole), 200), 7), max(0, len(whole) - 1)}:
            attach_hostile(self, whole[:end])

    def test_random_bytes_are_damaged_or_harmless(self) -> None:
        attach_hostile(self, b"")
        choose = random.Random(0)
        for _ in range(_TRIES):
            attach_hostile(self, choose.randbytes(choose.randrange(300)))

    def test_a_few_wrong_bytes_are_damaged_or_harmless(self, value: object) -> None:
        shm.create("x", value)
        whole = Path(paths.path_of("x")).read_bytes()
        shm.unlink("x")
        choose = random.Random(0)
        for _ in range(_TRIES if whole else 0):
            wrong = bytearray(whole)
            for _ in range(choose.randint(1, 4)):
                wrong[choose.randrange(min(len(whole), 200))] = choose.randrange(256)
            attach_hostile(self, bytes(wrong))
