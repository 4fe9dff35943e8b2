"""Parsers of the bytes of segments and of files to load: one function serves every kind."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
from typing import TYPE_CHECKING, Any

import numpy as np

import shmkernel as shm
from shmkernel import kinds
from shmkernel._core import paths
from shmkernel.errors import DamagedError, ShmError
from shmkernel.kinds.preview import Look, Source
from tests.kinds import hostile

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterable, Iterator

MOST = 64 << 10  # bytes of a preview
_LOOKS = (Look(), Look((1, 2, 3), 7), Look((-1, 10**30), -(10**30)))


def opened(kind: str, read: Callable[[Any], object], changed: Callable[[Any], object] | None = None) -> Any:
    """Describe, preview, open and read a segment; then another process stores to it, and it is read again.

    The words that the other process stores are the end of the input. A kind may raise ValueError for bytes, which
    `attach` turns into DamagedError; what reads the value may raise errors of the package alone.
    """

    def make() -> Callable[[bytes], None]:
        own = kinds.named(kind)

        def act(data: bytes) -> None:
            segment, words = _parted(data) if changed else (data, [])
            look(own, segment)
            if not segment:  # which cannot be mapped, and `attach` says so
                return
            try:
                memory = mmap.mmap(-1, len(segment))
                memory[:] = segment
                value = own.open(memory, "/dev/shm/shmk-0-x", "r+")
            except ValueError:
                return
            read(value)
            for at, word in words:
                memory[at : at + 8] = word
                read(value)
            if changed is not None:
                changed(value)
                read(value)

        return act

    return make


def look(kind: Any, segment: bytes) -> None:
    """Describe and preview a segment. The quick way to describe one says what the kind says, of any bytes."""
    head, size = segment[: kinds.HEAD], len(segment)
    quick = _described(lambda: kinds.described(kind.name, head, size, lambda at, count: _pread(segment, at, count)))
    assert hasattr(kind, "describe_source") or quick == _described(lambda: kind.describe(head, size))
    part = _LOOKS[sum(segment[-8:]) % len(_LOOKS)]
    previewed(kind, Source(lambda at, size: _pread(segment, at, size), len(segment)), part)


def previewed(kind: Any, source: Source, part: Look) -> None:
    """Preview a segment; ValueError says that it is damaged."""
    with contextlib.suppress(ValueError):
        seen = kind.preview(source, part)
        assert len(json.dumps(seen.facts, allow_nan=False)) + len(seen.data) < MOST, "a preview is too large"


_ATTACHED = (*hostile.SEEDS, "dict", None)  # None: the first bytes tell the kind


def attached() -> Callable[[bytes], None]:
    """Attach, inspect, save and unlink a file of another program; the first byte says as which kind."""
    path, saved = paths.path_of("x"), f"{os.environ['SHMKERNEL_DIR']}/saved"

    def act(data: bytes) -> None:
        with open(path, "wb") as file:
            file.write(data[1:])
        kind = _ATTACHED[data[0] % len(_ATTACHED)] if data else None
        for step in (
            lambda: shm.info("x"),
            lambda: shm.attach("x", kind=kind),
            lambda: shm.attach("x", "r", kind=kind),
            lambda: shm.attach("x", "c", kind=kind),
            lambda: shm.save("x", saved),
        ):
            with contextlib.suppress(ShmError):
                step()
        shm.unlink("x")

    return act


def attached_seeds() -> Iterator[bytes]:
    """Give valid segments of all kinds, each as its own kind and as a file whose first bytes tell."""
    for number, kind in enumerate(hostile.SEEDS):
        for data in hostile.SEEDS[kind]():
            yield from (bytes([number]) + data, bytes([len(_ATTACHED) - 1]) + data)


_VALUES = (np.zeros(30), [1, "a", 0.5], b"x" * 90, {"a": 1}, None)


def later() -> Callable[[bytes], None]:
    """Use a segment that another process writes to after it was attached; the first byte chooses its kind."""
    saved = f"{os.environ['SHMKERNEL_DIR']}/saved"
    shm.create("other", shape=3)

    def act(data: bytes) -> None:
        value = _VALUES[data[0] % len(_VALUES)] if data else None
        x = shm.create("x", value, replace=True, **({"ring": 3, "shape": 2} if value is None else {}))
        with open(paths.path_of("x"), "r+b") as file:
            size = os.fstat(file.fileno()).st_size
            file.write(data[1 : 1 + min(size, 8192)])
        if isinstance(value, np.ndarray):
            x.flags.writeable = False
        for step in (
            *(lambda: shm.attach("x"), lambda: shm.attach("x", "r"), lambda: shm.save("x", saved), lambda: repr(x)),
            *(
                lambda: shm.snapshot(x),
                lambda: shm.publish(x),
                lambda: shm.unlink("x"),
                shm.list,
                lambda: shm.keep("x"),
            ),
        ):
            with contextlib.suppress(ShmError):
                step()
        with contextlib.suppress(ShmError):
            shm.unlink("x")

    return act


def later_seeds() -> Iterator[bytes]:
    """Give nothing, words and zeros to be written."""
    for number in range(len(_VALUES)):
        for data in (b"", b"\xff" * 8, bytes(200), b"\x93NUMPY\1\0"):
            yield bytes([number]) + data


def described(kind: str) -> Any:
    """Describe and preview a segment whose kind keeps a folder beside it."""

    def make() -> Callable[[bytes], None]:
        own = kinds.named(kind)
        return lambda data: look(own, data)

    return make


def loaded(kind: str, suffix: str = "") -> Any:
    """Load a file: make its plan, and all pieces of that."""

    def make() -> Callable[[bytes], None]:
        own = kinds.named(kind)
        path = f"{os.environ['SHMKERNEL_DIR']}/file{suffix}"

        def act(data: bytes) -> None:
            with open(path, "wb") as file:
                file.write(data)
            kinds.for_file(path, data[: kinds.HEAD])
            plan = own.load("x", path)
            assert sum(map(len, plan.pieces())) <= plan.size

        return act

    return make


def mutated(kind: str) -> Callable[[bytes, random.Random], bytes]:
    """Change numbers, dtypes and shapes where a kind has them."""

    def mutate(data: bytes, chance: random.Random) -> bytes:
        mutations = hostile.Mutations.__new__(hostile.Mutations)
        mutations.kind, mutations.random = kind, chance
        return mutations.typical(data) if data else b"\0"

    return mutate


def seeds(kind: str) -> Callable[[], Iterable[bytes]]:
    """Give valid segments of a kind."""
    return hostile.SEEDS[kind]


def read_array(x: Any) -> None:
    """Read an array."""
    x.tobytes()
    with contextlib.suppress(SystemError, OverflowError, ValueError):  # numpy's own, for far dates and no letters
        repr(x)
        if x.size:  # else numpy makes empty lists, as many as the shape says
            x.tolist()


def read_list(x: Any) -> None:
    """Read a list; a position or a value that is not there is an answer too."""
    for step in (list, repr, lambda x: x.count(1), lambda x: x.count("a"), lambda x: "b" in x, lambda x: x.format):
        with contextlib.suppress(DamagedError):
            step(x)


def change_list(x: Any) -> None:
    """Store to a list."""
    for position, value in zip(range(min(len(x), 6)), (1, "a", b"bc", None, 0.5, True), strict=False):
        with contextlib.suppress(ValueError):  # it does not fit
            x[position] = value


def read_ring(x: Any) -> None:
    """Read all frames of a ring."""
    frames, found = x.since(0), x.latest()
    for _ in range(9):
        frames.ready()
    repr(x), None if found is None else found.tobytes()


def change_ring(x: Any) -> None:
    """Add a frame."""
    with x.slot() as frame:
        frame[...] = frame


def _described(describe: Callable[[], object]) -> object:
    try:
        return describe()
    except ValueError:
        return None


def _pread(data: bytes, at: int, size: int) -> bytes:
    assert 0 <= at < 2**63 > size >= 0, f"pread of {size} bytes at {at}"
    return data[at : at + size]


def _parted(data: bytes) -> tuple[bytes, list[tuple[int, bytes]]]:
    """Return the segment, and the words that another process stores into it: position and content."""
    count = data[-1] % 3 if len(data) > 64 else 0
    end = len(data) - 10 * count
    pieces = [data[at : at + 10] for at in range(end, len(data), 10)]
    room = max(end - 7, 1)
    return data[:end], [(int.from_bytes(piece[:2], "little") % room // 8 * 8, piece[2:]) for piece in pieces]
