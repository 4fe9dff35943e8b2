"""Parsers of objects: the head, the index and the stream of a segment. Nothing is unpickled without consent."""

from __future__ import annotations

import contextlib
import datetime as dt
import mmap
import struct
from typing import TYPE_CHECKING, Any

import numpy as np

from shmkernel import kinds
from shmkernel.errors import ShmError
from shmkernel.kinds.objects import layout, plain, summary
from tests.kinds.hostile import NUMBERS
from tests.prove.hostile.segments import look
from tests.prove.kinds import Parts, Pickled

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator

LONGEST = 4096  # bytes
_FRONT = struct.Struct("<8sIIQQ32s")


def opened() -> Callable[[bytes], None]:
    """Describe, preview and open a segment, and look at the object. No byte of it may lead to unpickling."""
    own: Any = kinds.named("object")

    def act(data: bytes) -> None:
        look(own, data)
        if not data:
            return
        memory = mmap.mmap(-1, len(data))
        memory[:] = data
        with contextlib.suppress(ValueError, ShmError):  # `attach` makes the first a DamagedError
            value = own.open_as(memory, "/dev/shm/shmk-0-x", "c", None, trusted=False)
            with contextlib.suppress(Exception):  # of a foreign class, or of numpy for odd values
                repr(value)

    return act


def streams() -> Callable[[bytes], None]:
    """Put a plain object together: its stream has any content, beside two buffers."""
    buffers = [memoryview(bytearray(1024)), memoryview(bytearray(640))]

    def act(data: bytes) -> None:
        with contextlib.suppress(ValueError, ShmError):
            plain.unpack(data, buffers, trusted=False)

    return act


def _values() -> Iterator[Any]:
    yield [1, 2.5, None, "text", b"bytes", True, {1, 2}, (3, 4), {"a": {1: dt.date(2020, 1, 2)}}]
    yield Parts(np.zeros(128), ["a"])
    yield {
        "c": np.zeros((8, 16)),
        "f": np.zeros((8, 16), order="F"),
        "small": np.arange(3),
        "text": np.array(["a"] * 200),
    }
    yield np.ma.masked_array(np.arange(100.0), np.arange(100) % 2 == 0)
    yield dt.datetime(2020, 1, 2, tzinfo=dt.UTC)


def seeds() -> Iterator[bytes]:
    """Give segments of plain objects, and of a pickled one, without a signature."""
    own = kinds.named("object")
    for value in _values():
        yield b"".join(map(bytes, own.plan("x", value, {}).pieces()))
    head = summary.head(value := Pickled(np.zeros(70), ["a"]), layout.PICKLE, [], 20)
    del value
    yield b"".join(map(bytes, layout.lay_out(head, [], b"\x80\x05cos\nabort\n)R.    ")[1]()))


def stream_seeds() -> Iterator[bytes]:
    """Give the streams of plain objects."""
    for value in _values():
        yield plain.pack(value)[0]


def mutate(data: bytes, chance: random.Random) -> bytes:
    """Change numbers of the prefix, of the index, or a byte of the stream."""
    changed = bytearray(data or b"\0")
    for _ in range(chance.randint(1, 3)):
        if len(changed) > _FRONT.size and chance.random() < 0.3:
            at, width = chance.choice(((8, 4), (12, 4), (16, 8), (24, 8)))
        else:
            width = chance.choice((1, 1, 1, 2, 4, 8))
            at = chance.randrange(max(len(changed) // width, 1)) * width
        word = chance.choice(NUMBERS) if chance.random() < 0.5 else chance.getrandbits(64)
        changed[at : at + width] = (word % 256**width).to_bytes(width, "little")
    return bytes(changed)
