"""Rings: a segment is a ``.npy`` file of records, one a slot, so that `numpy.load` opens it.

Each has the frame's ``number``, counted from 1, and the ``frame``, both aligned to 64 bytes. Number 0 stands for a slot
that is empty or being filled. How writers and readers get on stands in `shmkernel.kinds.rings.stream`.
"""

from __future__ import annotations

import ast
import io
import os
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
from numpy.lib import format as npy

from shmkernel import kinds
from shmkernel._core import counts, paths
from shmkernel.errors import ArgumentError, UnsupportedError
from shmkernel.kinds import Description, Plan, dtypes
from shmkernel.kinds.preview import arrays, nothing
from shmkernel.kinds.rings.stream import Ring, Slots

if TYPE_CHECKING:
    import mmap
    from collections.abc import Mapping

    from shmkernel.kinds.preview import Look, Preview, Source

_ALIGN = 64
_FIELDS = ("number", "frame")
_LONGEST = 10_000  # bytes of header; numpy.load refuses to parse more
_SEEN, _LOOKS = 4096, 3  # slots that a preview reads the numbers of, and how often, if it is overtaken
_ID = slice(8, 24)  # bytes of the first slot's gap: which ring it is


class RingLayout(NamedTuple):
    """What a header says, checked."""

    slots: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int
    stride: int


class RingKind:
    """The ring kind; see `shmkernel.kinds.Kind`."""

    name = "ring"

    def recognises(self, value: object, options: Mapping[str, object]) -> bool:  # noqa: ARG002
        """Take whatever comes with a number of slots."""
        return options.get("ring") is not None

    def plan(self, name: str, value: object, options: Mapping[str, object]) -> Plan:
        """Lay out empty slots."""
        kinds.only(name, "a ring", options, "ring", "shape", "dtype")
        count, shape = options.get("ring"), options.get("shape")
        if value is not None or shape is None:
            message = f"{name!r}: a ring begins empty, of frames of a shape and dtype: ring=64, shape=(480, 640)"
            raise ArgumentError(message, name=name)
        slots = counts.whole(count)
        if slots is None or slots < 2:  # noqa: PLR2004  one is being filled, one tells the newest number
            raise ArgumentError(f"{name!r}: a ring has 2 slots at least, not {count!r}", name=name, ring=count)
        try:
            lengths, given = counts.lengths(shape), options.get("dtype")
            record = _record(np.dtype(cast("Any", float if given is None else given)), lengths)
        except (TypeError, ValueError, SyntaxError) as error:
            raise ArgumentError(f"{name!r}: frames of this shape and dtype cannot be: {error}", name=name) from None
        if any(n < 1 for n in lengths):
            raise ArgumentError(f"{name!r}: frames of shape {lengths} hold nothing", name=name)
        head = encode(slots, record) if _is_fit(record["frame"]) and _survives(record) else b""
        if not head or len(head) > _LONGEST:
            message = f"{name!r}: frames of dtype {record['frame'].base} would not come back as they are"
            raise UnsupportedError(message, name=name, dtype=str(record["frame"].base))
        first = bytes(_ID.start) + os.urandom(_ID.stop - _ID.start)
        return Plan(len(head) + slots * record.itemsize, lambda: iter((memoryview(head), memoryview(first))))

    def load(self, name: str, path: str) -> Plan:
        """Refuse: a saved ring is an array of records, and loaded as that."""
        raise UnsupportedError(f"{name!r}: a stream is not loaded from {path}. Its records are: kind array", name=name)

    def matches(self, head: bytes) -> bool:  # noqa: ARG002
        """Leave what has no record to the array kind."""
        return False

    def open(self, mapping: mmap.mmap, path: str, mode: str) -> Ring:
        """Return the ring; with private changes it would stand still."""
        if mode == "c":
            name = paths.called(path)
            message = f"{name!r} is a stream, of which no private copy is made: %shm_attach {name} --mode r"
            raise UnsupportedError(message, name=name)
        layout = decode(mapping[: kinds.HEAD], len(mapping))
        records = np.ndarray((layout.slots,), _record(layout.dtype, layout.shape), mapping, layout.offset)
        words = memoryview(mapping)[: len(mapping) // 8 * 8].cast("Q")
        own = mapping[layout.offset + _ID.start : layout.offset + _ID.stop]

        def here() -> bool:
            try:
                with open(path, "rb") as file:
                    return os.pread(file.fileno(), len(own), layout.offset + _ID.start) == own
            except FileNotFoundError:
                return False

        slots = Slots(words, layout.offset // 8, layout.stride // 8, records["number"], records["frame"], here)
        return Ring(paths.called(path), slots, writable=mode == "r+")

    def describe(self, head: bytes, size: int) -> Description:
        """Say how many slots of what."""
        found = decode(head, size)
        text = f"{found.slots} slots of {found.dtype} {found.shape}"
        return Description(text, str(found.dtype), (found.slots, *found.shape), "C")

    def preview(self, source: Source, look: Look) -> Preview:
        """Show the newest frame."""
        found = decode(source.read(0, kinds.HEAD), source.size)
        if found.slots > _SEEN:
            return nothing(f"{found.slots:,} slots, too many to find the newest frame in")
        offsets = range(found.offset, found.offset + found.slots * found.stride, found.stride)
        for _ in range(_LOOKS):
            number, at = max((int.from_bytes(source.read(offset, 8), "little"), offset) for offset in offsets)
            if not number:
                return nothing("no frame yet")
            steps = arrays.strides(found.shape, found.dtype.itemsize, "C")
            seen = arrays.preview(source, arrays.Shape(found.dtype, found.shape, steps, at + _ALIGN), look)
            if source.read(at, 8) == number.to_bytes(8, "little"):
                break
        seen.facts["note"] = f"frame {number:,}, {seen.facts['note']}".rstrip(", ")
        return seen


KIND = RingKind()


def encode(count: int, record: np.dtype[Any]) -> bytes:
    """Write the header of a ``.npy`` file of slots."""
    text = io.BytesIO()
    fields = {"descr": npy.dtype_to_descr(record), "fortran_order": False, "shape": (count,)}
    try:
        npy.write_array_header_1_0(text, fields)
    except ValueError as error:  # longer than 64 KiB
        raise UnsupportedError(f"this dtype takes too much to describe: {error}") from None
    return text.getvalue()


def decode(head: bytes, size: int) -> RingLayout:
    """Read the header of a segment of `size` bytes; ValueError says what is wrong with it.

    Examples
    --------
    >>> head = encode(4, _record(np.dtype("u1"), (2, 2)))
    >>> decode(head, len(head) + 4 * 128)
    RingLayout(slots=4, dtype=dtype('uint8'), shape=(2, 2), offset=192, stride=128)
    """
    length = 10 + int.from_bytes(head[8:10], "little")
    if head[:8] != npy.magic(1, 0) or len(head) < length or length > _LONGEST:
        raise ValueError("its first bytes are not those of a ring, or stop short")
    try:
        fields = ast.literal_eval(head[10:length].decode("latin-1").strip())
        (count,), record, fortran = fields["shape"], npy.descr_to_dtype(fields["descr"]), fields["fortran_order"]
        number, frame = record["number"], record["frame"]
        sound = record.names == _FIELDS and number == np.dtype("<u8") and type(count) is int and count > 1
        sound = sound and record == _record(frame.base, frame.shape) and _is_fit(frame)
    except Exception as error:  # noqa: BLE001  these bytes may have been made to provoke any
        raise ValueError(f"its header cannot be read ({type(error).__name__})") from None
    if not sound or length % 8 or fortran is not False:
        raise ValueError("its header makes no sense for a ring")
    if length + count * record.itemsize > size:
        raise ValueError(f"its header promises {length + count * record.itemsize} bytes, the file holds {size}")
    return RingLayout(count, frame.base, frame.shape, length, record.itemsize)


def _record(dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.dtype[Any]:
    """Return the dtype of a slot."""
    frame = np.dtype((dtype, shape))
    size = _ALIGN + -(-max(frame.itemsize, 1) // _ALIGN) * _ALIGN
    return np.dtype({"names": _FIELDS, "formats": ["<u8", frame], "offsets": [0, _ALIGN], "itemsize": size})


def _is_fit(frame: np.dtype[Any]) -> bool:
    """Say whether frames take memory, and hold nothing that another process, or a file, cannot."""
    return frame.itemsize > 0 and dtypes.unfit(frame) is None


def _survives(record: np.dtype[Any]) -> bool:
    try:
        return npy.descr_to_dtype(npy.dtype_to_descr(record)) == record
    except (ValueError, TypeError):
        return False
