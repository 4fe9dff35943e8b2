"""Rings: a segment is a ``.npy`` file of records, one for each slot, so that `numpy.load` opens it.

A record has the frame's ``number``, counted from 1, and the ``frame``, both aligned to 64 bytes. Number 0 means that
the slot is empty or being filled. `shmkernel.kinds.rings.stream` has the protocol of writers and readers.
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
from shmkernel.errors import ArgumentError, Cure, UnsupportedError
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
_SEEN, _LOOKS = 4096, 3  # of a preview: slots at most, and attempts if a writer overtakes it
_ID = slice(8, 24)  # padding in the first slot that holds the ring's random id


class RingLayout(NamedTuple):
    """A header, checked; ``offset`` and ``stride`` of the slots are in bytes."""

    slots: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int
    stride: int


class RingKind:
    """The ring kind; see `shmkernel.kinds.Kind`."""

    name = "ring"
    modes = ("r+", "r")  # a private copy would get no new frames
    suffixes = (".npy",)  # which holds the slots, and is loaded as an array
    by_name = True  # a stream has no values that could be sent in place of a reference

    def recognises(self, value: object, options: Mapping[str, object]) -> bool:
        """Take any value with the option ring, a number of slots."""
        return options.get("ring") is not None

    def plan(self, name: str, value: object, options: Mapping[str, object]) -> Plan:
        """Plan empty slots."""
        kinds.only(name, "a ring", options, "ring", "shape", "dtype")
        count, shape = options.get("ring"), options.get("shape")
        if value is not None or shape is None:
            but = "" if value is None else f", not {kinds.a_type(value)}"
            message = f"{name!r}: a stream begins empty, so give the shape of its frames and no value{but}"
            raise ArgumentError(message, Cure("For example", ring=64, shape=(480, 640)), name=name)
        slots = counts.whole(count)
        if slots is None or slots < 2:  # noqa: PLR2004  one is being filled, one has the newest number
            raise ArgumentError(f"{name!r}: a stream has at least 2 slots, not {count!r}", name=name, ring=count)
        try:
            lengths, given = counts.lengths(shape), options.get("dtype")
            record = _record(np.dtype(cast("Any", float if given is None else given)), lengths)
        except (TypeError, ValueError, SyntaxError) as error:
            raise ArgumentError(f"{name!r}: such frames cannot be made: {error}", name=name) from None
        if any(n < 1 for n in lengths):
            raise ArgumentError(f"{name!r}: frames of shape {lengths} hold nothing", name=name)
        fit = record["frame"].itemsize and not dtypes.unsaved(record)
        head = encode(slots, record) if fit else b""
        if not head or len(head) > _LONGEST:
            message = f"{name!r}: frames of dtype {record['frame'].base} would not come back as they are"
            raise UnsupportedError(message, name=name, dtype=str(record["frame"].base))
        first = bytes(_ID.start) + os.urandom(_ID.stop - _ID.start)
        return Plan(len(head) + slots * record.itemsize, lambda: iter((memoryview(head), memoryview(first))))

    def load(self, name: str, path: str) -> Plan:
        """Raise UnsupportedError: a saved ring is an array of records, and is loaded as an array."""
        message = f"{name!r}: a stream cannot be loaded from {path}. Load its records as an array: kind='array'"
        raise UnsupportedError(message, name=name)

    def matches(self, head: bytes) -> bool:
        """Return False: without a record the file is an array of records."""
        return False

    def open(self, mapping: mmap.mmap, path: str, mode: str) -> Ring:
        """Return the ring."""
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
        """Describe the number of slots, dtype and shape."""
        layout = decode(head, size)
        text = f"{layout.slots} slots of {layout.dtype} {layout.shape}"
        return Description(text, str(layout.dtype), (layout.slots, *layout.shape), "C")

    def preview(self, source: Source, look: Look) -> Preview:
        """Preview the newest frame."""
        layout = decode(source.read(0, kinds.HEAD), source.size)
        if layout.slots > _SEEN:
            return nothing(f"{layout.slots:,} slots, too many to find the newest frame in")
        offsets = range(layout.offset, layout.offset + layout.slots * layout.stride, layout.stride)
        for _ in range(_LOOKS):
            number, at = max((int.from_bytes(source.read(offset, 8), "little"), offset) for offset in offsets)
            if not number:
                return nothing("no frame yet")
            steps = arrays.strides(layout.shape, layout.dtype.itemsize, "C")
            seen = arrays.preview(source, arrays.Shape(layout.dtype, layout.shape, steps, at + _ALIGN), look)
            if source.read(at, 8) == number.to_bytes(8, "little"):
                break
        seen.facts["number"] = number
        seen.facts["note"] = f"frame {number:,}, {seen.facts['note']}".rstrip(", ")
        return seen


KIND = RingKind()


def encode(count: int, record: np.dtype[Any]) -> bytes:
    """Return the header of a ``.npy`` file of slots."""
    text = io.BytesIO()
    fields = {"descr": npy.dtype_to_descr(record), "fortran_order": False, "shape": (count,)}
    try:
        npy.write_array_header_1_0(text, fields)
    except ValueError as error:  # longer than 64 KiB
        raise UnsupportedError(f"this dtype takes too much to describe: {error}") from None
    return text.getvalue()


def decode(head: bytes, size: int) -> RingLayout:
    """Return the layout in the header of a segment of `size` bytes; ValueError if it is damaged.

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
    except Exception as error:  # noqa: BLE001  crafted bytes can raise any
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
    """Return whether frames have bytes, and a dtype that can be shared."""
    return frame.itemsize > 0 and dtypes.unfit(frame) is None
