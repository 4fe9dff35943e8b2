"""Rings: a stream of frames in a fixed number of slots, for those who acquire and those who plot.

A segment is a ``.npy`` file of records, one a slot, so that `numpy.load` opens it: the frame's ``number``, counted from
1, and the ``frame``, each aligned to 64 bytes. Number 0 stands for a slot that is empty or being filled.

    writer   the name's exclusive lock -> number = 0 -> fill -> number = n -> leave the lock, which wakes the readers
    reader   number, n? -> copy -> number, n still? -> the next; if not, he was overtaken, and skips ahead

Nothing else is written down. The newest frame is the highest number; since only the slot that is being filled has none,
two slots suffice to know it whoever dies. A reader takes no lock and holds up nobody; where the processor does not
keep stores in order, or he is overtaken again and again, he takes the shared lock.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import io
import os
from typing import TYPE_CHECKING, Any, NamedTuple, Self, cast

import numpy as np
from numpy.lib import format as npy

from shmkernel import kinds, names
from shmkernel.errors import ArgumentError, LockError, NotFoundError, RefusedError, UnsupportedError
from shmkernel.kinds import Description, Plan
from shmkernel.preview import arrays, nothing
from shmkernel.sync import copies, locks, versions

if TYPE_CHECKING:
    import mmap
    from collections.abc import Iterator, Mapping

    from numpy.typing import ArrayLike, NDArray

    from shmkernel.preview import Look, Preview, Source

_ALIGN = 64
_FIELDS = ("number", "frame")
_LONGEST = 10_000  # bytes of header; numpy.load refuses to parse more
_TRIES = 20  # times that a reader is overtaken in a row before he locks
_SEEN, _LOOKS = 4096, 3  # slots that a preview reads the numbers of, and how often, if it is overtaken
_ID = slice(8, 24)  # bytes of the first slot's gap: which ring it is


class Layout(NamedTuple):
    """What a header says, checked."""

    slots: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int
    stride: int


class Frame(np.ndarray[Any, np.dtype[Any]]):
    """A private copy of a frame: its ``number``, from 1 on, and how many were ``missed`` right before it."""

    number = 0
    missed = 0


class Ring:
    """A stream of frames, over shared memory.

    Examples
    --------
    >>> import shmkernel as shm
    >>> ring = shm.create("frames", ring=4, shape=(2, 2), dtype="uint8")
    >>> ring.put([[1, 2], [3, 4]])
    1
    >>> with ring.slot() as out:
    ...     out[:] = 7
    >>> ring.latest().tolist()
    [[7, 7], [7, 7]]
    >>> for frame in ring.since(0):
    ...     print(frame.number, frame.missed, frame.sum())
    ...     if frame.number == ring.newest: break
    1 0 10
    2 0 28
    >>> shm.unlink("frames")
    """

    def __init__(self, mapping: mmap.mmap, path: str, mode: str) -> None:
        layout = decode(mapping[: kinds.HEAD], len(mapping))
        self.name, self.slots, self.dtype, self.shape = names.called(path), layout.slots, layout.dtype, layout.shape
        self._path, self._mode, self._at, self._step = path, mode, layout.offset // 8, layout.stride // 8
        self._words = memoryview(mapping)[: len(mapping) // 8 * 8].cast("Q")
        records = np.ndarray((layout.slots,), _record(layout.dtype, layout.shape), mapping, layout.offset)
        self._numbers, self._frames = records["number"], records["frame"]
        self._id = mapping[layout.offset + _ID.start : layout.offset + _ID.stop]
        self._newest = 0
        self._filling = 0  # the process, while a slot of it is being filled

    @property
    def newest(self) -> int:
        """The number of the newest frame, 0 if there was none yet."""
        known, step, words = self._newest, self._step, self._words
        if known == 0 or words[self._at + (known - 1) % self.slots * step] != known:
            known = int(self._numbers.max())
        while words[self._at + known % self.slots * step] == known + 1:
            known += 1
        self._newest = known
        return known

    def put(self, frame: ArrayLike) -> int:
        """Add a frame, and return its number.

        Raises
        ------
        ArgumentError
            A ValueError, if it has another shape.
        UnsupportedError
            A TypeError, if its values would change.
        """
        source = np.asarray(frame)
        if source.shape != self.shape:
            message = f"{self.name!r} holds frames of shape {self.shape}, and this has {source.shape}"
            raise ArgumentError(message, name=self.name, shape=source.shape)
        if not np.can_cast(source.dtype, self.dtype, "same_kind") and not isinstance(frame, (int, list, tuple)):
            message = f"{self.name!r} holds {self.dtype}, and {source.dtype} would change: frame.astype({self.dtype})"
            raise UnsupportedError(message, name=self.name, dtype=str(source.dtype))
        with self.slot() as out:
            np.copyto(out, source, casting="unsafe")
            return self._newest + 1

    @contextlib.contextmanager
    def slot(self) -> Iterator[NDArray[Any]]:
        """Fill the next frame in place: it appears when the block is left, unless by an error.

        Other writers wait meanwhile; readers do not.
        """
        if self._mode != "r+":
            message = f"{self.name!r} is attached read only here. To write: %shm_attach {self.name} --mode r+"
            raise RefusedError(message, name=self.name)
        with self._exclusive:
            if self._filling == os.getpid():
                raise LockError(f"a slot of {self.name!r} is being filled already, by this very thread", name=self.name)
            number = self.newest + 1
            at = self._at + (number - 1) % self.slots * self._step
            self._filling = os.getpid()
            try:
                self._words[at] = 0
                yield self._frames[(number - 1) % self.slots, ...]
                self._words[at] = number
                self._newest = number
            finally:
                self._filling = 0

    def latest(self) -> Frame | None:
        """Return the newest frame, or None if there was none yet."""
        for _ in range(_TRIES):
            number = self.newest
            if not number:
                return None
            if (frame := self.read(number)) is not None:
                return frame
        with self._shared:
            return self.read(self.newest)

    def since(self, number: int) -> Frames:
        """Iterate over the frames after this number, then over those to come; 0 begins with the oldest there is."""
        return Frames(self, number)

    def read(self, number: int) -> Frame | None:
        """Return one frame, or None if it is not there yet or not any more."""
        if copies.ORDERED:
            return self._copied(number)
        with self._shared:
            return self._copied(number)

    def __iter__(self) -> Frames:
        return Frames(self, self.newest)

    def __aiter__(self) -> Frames:
        return Frames(self, self.newest)

    def __repr__(self) -> str:
        return f"<ring {self.name!r}: {self.slots} slots of {self.dtype} {self.shape}, newest frame {self.newest}>"

    def _copied(self, number: int) -> Frame | None:
        slot = (number - 1) % self.slots
        at = self._at + slot * self._step
        if number < 1 or self._words[at] != number:
            return None
        made: Frame = np.ndarray.__new__(Frame, self.shape, self.dtype)
        made[...] = self._frames[slot]
        if self._words[at] != number:
            return None
        made.number = number
        return made

    @functools.cached_property
    def _exclusive(self) -> locks.Lock:
        return self._lock(shared=False)

    @functools.cached_property
    def _shared(self) -> locks.Lock:
        return self._lock(shared=True)

    def _lock(self, *, shared: bool) -> locks.Lock:
        lock = locks.Lock(self.name, shared=shared)
        lock.warns = False  # of who died in a slot nothing is left
        return lock

    def _here(self) -> bool:
        """Say whether the name still leads to this ring."""
        try:
            with open(self._path, "rb") as file:
                return os.pread(file.fileno(), len(self._id), self._at * 8 + _ID.start) == self._id
        except FileNotFoundError:
            return False


class Frames:
    """One reader's way through a ring, for ``for`` and ``async for``.

    It ends when the ring is unlinked or replaced, after the last frame.
    """

    def __init__(self, ring: Ring, number: int) -> None:
        self._ring, self._last, self._failed = ring, number, 0

    def __iter__(self) -> Self:
        return self

    def __aiter__(self) -> Self:
        return self

    def __next__(self) -> Frame:
        while True:
            if (frame := self._ready()) is not None:
                return frame
            version = versions.version(self._ring.name)
            if (frame := self._ready()) is not None:
                return frame
            if not self._ring._here():  # noqa: SLF001
                raise StopIteration
            with contextlib.suppress(NotFoundError):
                versions.wait(self._ring.name, version)

    async def __anext__(self) -> Frame:
        while True:
            if (frame := self._ready()) is not None:
                return frame
            version = versions.version(self._ring.name)
            if (frame := self._ready()) is not None:
                return frame
            if not self._ring._here():  # noqa: SLF001
                raise StopAsyncIteration
            with contextlib.suppress(NotFoundError):
                await versions.following(self._ring.name, version)

    def _ready(self) -> Frame | None:
        """Return the next frame, or a later one if that is gone; None if there is none yet."""
        ring = self._ring
        while True:
            with ring._shared if self._failed > _TRIES else contextlib.nullcontext():  # noqa: SLF001
                wanted = self._last + 1
                frame = ring.read(wanted)
                if frame is None:
                    newest = ring.newest
                    if newest <= self._last:
                        return None
                    wanted = min(newest, max(wanted, newest - ring.slots + 1 + self._failed * ring.slots // 4))
                    frame = ring.read(wanted)
            if frame is not None:
                frame.missed = wanted - self._last - 1
                self._last, self._failed = wanted, 0
                return frame
            self._failed += 1


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
        if not isinstance(count, int) or count < 2:  # noqa: PLR2004  one is being filled, one tells the newest number
            raise ArgumentError(f"{name!r}: a ring has 2 slots at least, not {count!r}", name=name, ring=count)
        try:
            lengths = tuple(int(n) for n in np.atleast_1d(cast("Any", shape)).tolist())
            record = _record(np.dtype(cast("Any", options.get("dtype") or float)), lengths)
        except (TypeError, ValueError, SyntaxError) as error:
            raise ArgumentError(f"{name!r}: frames of this shape and dtype cannot be: {error}", name=name) from None
        if any(n < 1 for n in lengths):
            raise ArgumentError(f"{name!r}: frames of shape {lengths} hold nothing", name=name)
        head = encode(count, record)
        if record.hasobject or not _survives(record) or len(head) > _LONGEST:
            message = f"{name!r}: frames of dtype {record['frame'].base} would not come back as they are"
            raise UnsupportedError(message, name=name, dtype=str(record["frame"].base))
        first = bytes(_ID.start) + os.urandom(_ID.stop - _ID.start)
        return Plan(len(head) + count * record.itemsize, lambda: iter((memoryview(head), memoryview(first))))

    def load(self, name: str, path: str) -> Plan:
        """Refuse: a saved ring is an array of records, and loaded as that."""
        raise UnsupportedError(f"{name!r}: a stream is not loaded from {path}. Its records are: kind array", name=name)

    def matches(self, head: bytes) -> bool:  # noqa: ARG002
        """Leave what has no record to the array kind."""
        return False

    def open(self, mapping: mmap.mmap, path: str, mode: str) -> Ring:
        """Return the ring; with private changes it would stand still."""
        if mode == "c":
            name = names.called(path)
            message = f"{name!r} is a stream, of which no private copy is made: attach it with mode r or r+"
            raise UnsupportedError(message, name=name)
        return Ring(mapping, path, mode)

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


def decode(head: bytes, size: int) -> Layout:
    """Read the header of a segment of `size` bytes; ValueError says what is wrong with it.

    Examples
    --------
    >>> head = encode(4, _record(np.dtype("u1"), (2, 2)))
    >>> decode(head, len(head) + 4 * 128)
    Layout(slots=4, dtype=dtype('uint8'), shape=(2, 2), offset=192, stride=128)
    """
    length = 10 + int.from_bytes(head[8:10], "little")
    if head[:8] != npy.magic(1, 0) or len(head) < length or length > _LONGEST:
        raise ValueError("its first bytes are not those of a ring, or stop short")
    try:
        fields = ast.literal_eval(head[10:length].decode("latin-1").strip())
        (count,), record = fields["shape"], npy.descr_to_dtype(fields["descr"])
        number, frame = record["number"], record["frame"]
        sound = record.names == _FIELDS and number == np.dtype("<u8") and type(count) is int and count > 1
        sound = sound and record == _record(frame.base, frame.shape) and not record.hasobject
    except (ValueError, TypeError, KeyError, SyntaxError, IndexError, MemoryError, RecursionError) as error:
        raise ValueError(f"its header cannot be read ({type(error).__name__})") from None
    if not sound or length % 8 or fields["fortran_order"] is not False:
        raise ValueError("its header makes no sense for a ring")
    if length + count * record.itemsize > size:
        raise ValueError(f"its header promises {length + count * record.itemsize} bytes, the file holds {size}")
    return Layout(count, frame.base, frame.shape, length, record.itemsize)


def _record(dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.dtype[Any]:
    """Return the dtype of a slot."""
    frame = np.dtype((dtype, shape))
    size = _ALIGN + -(-max(frame.itemsize, 1) // _ALIGN) * _ALIGN
    return np.dtype({"names": _FIELDS, "formats": ["<u8", frame], "offsets": [0, _ALIGN], "itemsize": size})


def _survives(record: np.dtype[Any]) -> bool:
    try:
        return npy.descr_to_dtype(npy.dtype_to_descr(record)) == record
    except (ValueError, TypeError):
        return False
