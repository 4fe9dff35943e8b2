"""Streams: writers put frames into a fixed number of slots, readers copy them without a lock.

    writer   the name's exclusive lock -> number = 0 -> fill -> number = n -> leave the lock, which wakes the readers
    reader   number, n? -> copy -> number, still n? -> the next frame; if not, it was overtaken and skips ahead

A slot's number is that of its frame, counted from 1; 0 means that the slot is empty or being filled. The newest frame
has the highest number, and no other word says so. One slot at most is being filled, so with two slots the newest number
is known even if a writer dies. A reader takes no lock and delays no writer. It takes the shared lock if the processor
may reorder stores, or if it was overtaken 20 times in a row.
"""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, Self, cast

import numpy as np

from shmkernel._core import limits
from shmkernel._core.interrupts import AsyncHolding, Entry, entry_of
from shmkernel.errors import ArgumentError, Cure, LockError, NotFoundError, RefusedError, UnsupportedError
from shmkernel.kinds import conversions
from shmkernel.sync import holds, locks, seqlock, versions

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from numpy.typing import ArrayLike, NDArray

    from shmkernel._core.interrupts import Kind

_BEYOND = 1 << 62  # no writer reaches this number
_TRIES = 20  # a reader that is overtaken more often in a row takes the lock


class Slots(NamedTuple):
    """The memory of a ring: ``words[at + i * step]``, and ``numbers[i]``, is the number of slot i.

    ``here`` returns whether the ring's name still leads to it.
    """

    words: memoryview
    at: int
    step: int
    numbers: NDArray[np.uint64]
    frames: NDArray[Any]
    here: Callable[[], bool]


class Frame(np.ndarray[Any, np.dtype[Any]]):
    """A private copy of a frame, with its ``number`` (from 1), and the count of frames ``missed`` right before it.

    Slices and copies of it have both attributes too, also in another process.
    """

    number = 0
    missed = 0

    def __array_finalize__(self, source: NDArray[Any] | None) -> None:
        if isinstance(source, Frame):
            self.number, self.missed = source.number, source.missed

    def __array_wrap__(self, array: NDArray[Any], context: Any = None, return_scalar: bool = False, /) -> Any:
        """Return a scalar where a plain array gives one: `frame.mean()` can be a key, and go into a column or JSON."""
        made = super().__array_wrap__(array, context, return_scalar)
        return made[()] if return_scalar else made

    def __reduce__(self) -> tuple[Any, ...]:
        make, arguments, state = cast("tuple[Any, ...]", super().__reduce__())
        return make, arguments, (*state, self.number, self.missed)

    def __setstate__(self, state: Any) -> None:
        *values, self.number, self.missed = state
        super().__setstate__(tuple(values))


class Ring:
    """A stream of frames in shared memory.

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

    def __init__(self, name: str, slots: Slots, *, writable: bool) -> None:
        self.name, self.slots, self.dtype, self.shape = (
            name,
            len(slots.frames),
            slots.frames.dtype,
            slots.frames.shape[1:],
        )
        self._memory, self._words, self._frames, self._writable = slots, slots.words, slots.frames, writable
        self._newest = self._number = 0
        self._filling: Entry | None = None  # of the slot that is being filled

    def __reduce__(self) -> NoReturn:
        """Refuse: cloudpickle would copy the memory, and whoever gets the copy would wait for frames in vain."""
        message = f"{self.name!r}: a ring cannot be pickled or copied, since a copy would get no new frames"
        raise UnsupportedError(
            message, Cure("Send its name. In another process of this host", "attach", self.name), name=self.name
        )

    @property
    def newest(self) -> int:
        """The number of the newest frame, 0 if there was none yet."""
        number, words = self._newest, self._words
        if number == 0 or words[self._place(number)] != number:
            number = _greatest(self._memory.numbers.copy())
        while words[self._place(number + 1)] == number + 1:
            number += 1
        self._newest = number
        return number

    @limits.explains
    def put(self, frame: ArrayLike) -> int:
        """Add a frame, and return its number.

        Raises
        ------
        ArgumentError
            A ValueError, if the frame has another shape.
        UnsupportedError
            A TypeError, if its values would change in the ring's dtype.
        """
        if conversions.is_masked(frame):
            message = f"{self.name!r}: the mask of this frame would be lost. Put its filled() values"
            raise UnsupportedError(message, name=self.name, type=type(frame).__name__)
        records = self.dtype.names and isinstance(frame, (list, tuple))  # numpy would make a dimension of the fields
        source = self._converted(frame, self.dtype) if records else np.asarray(frame)
        if source.shape != self.shape:
            message = f"{self.name!r} holds frames of shape {self.shape}, and this frame has {source.shape}"
            raise ArgumentError(message, name=self.name, shape=source.shape)
        if source.dtype != self.dtype and not _holds_all(self.dtype, source.dtype):
            source = self._converted(frame if isinstance(frame, (list, tuple)) else source, source.dtype)
        self._check_writable()
        with self._slot() as out:
            np.copyto(out, source, casting="unsafe")
            return self._number

    @limits.explains
    def slot(self) -> Slot:
        """Return a context manager that gives the next frame to fill in place. An error in the block discards it.

        Readers see the frame when the block ends. Other writers wait until then, readers do not.
        """
        self._check_writable()
        return self._slot()

    @limits.explains
    def latest(self) -> Frame | None:
        """Return the newest frame, or None if there is none yet."""
        for _ in range(_TRIES):
            number = self.newest
            if not number:
                return None
            if (frame := self.read(number)) is not None:
                return frame
        with self._shared:
            return self.read(self.newest)

    @limits.explains
    def since(self, number: int) -> Frames:
        """Iterate over the frames after this number, then over new ones; 0 starts with the oldest frame."""
        return Frames(self, number, self._shared, self._memory.here)

    @limits.explains
    def read(self, number: int) -> Frame | None:
        """Return the frame with this number, or None if it is not written yet, or overwritten."""
        if seqlock.ORDERED:
            return self._copied(number)
        with self._shared:
            return self._copied(number)

    def __iter__(self) -> Frames:
        return self.since(self.newest)

    def __aiter__(self) -> Frames:
        return self.since(self.newest)

    def __repr__(self) -> str:
        return f"<ring {self.name!r}: {self.slots} slots of {self.dtype} {self.shape}, newest frame {self.newest}>"

    def _slot(self) -> Slot:
        return Slot(self._exclusive, self._begin, self._end)

    def _begin(self, entry: Entry) -> NDArray[Any]:
        """Set the number of the next slot to 0, under the exclusive lock, and return its frame."""
        before = self._filling
        if before is not None and not before.over and before.taken.hold is entry.taken.hold:
            raise LockError(f"this thread is filling a slot of {self.name!r} already", name=self.name)
        self._number = self.newest + 1
        self._words[self._place(self._number)] = 0
        self._filling = entry
        return self._frames[(self._number - 1) % self.slots, ...]

    def _end(self, entry: Entry, *, done: bool) -> None:
        """Give the slot of this entry its number if it is `done`. This can be repeated."""
        if self._filling is entry:
            if done:
                self._words[self._place(self._number)] = self._number
            self._filling = None

    def _place(self, number: int) -> int:
        """Return the index of the word that holds the number of this frame's slot."""
        return self._memory.at + (number - 1) % self.slots * self._memory.step

    def _copied(self, number: int) -> Frame | None:
        at = self._place(number)
        if number < 1 or self._words[at] != number:
            return None
        frame: Frame = np.ndarray.__new__(Frame, self.shape, self.dtype)
        frame[...] = self._frames[(number - 1) % self.slots]
        if self._words[at] != number:
            return None
        frame.number = number
        return frame

    def _check_writable(self) -> None:
        if not self._writable:
            cure = Cure("To write", "attach", self.name, mode="r+")
            raise RefusedError(f"{self.name!r} is attached read only here", cure, name=self.name)

    def _converted(self, frame: ArrayLike, given: np.dtype[Any]) -> NDArray[Any]:
        """Convert a frame to the ring's dtype; UnsupportedError if values would change. Floats may be rounded."""
        why, plain = "", "frame" if isinstance(frame, np.ndarray) else "numpy.asarray(frame)"
        if _is_alike(given.kind, self.dtype.kind):
            try:
                return conversions.convert(frame, self.dtype)
            except (ValueError, TypeError, OverflowError) as error:
                why = f": {error}"
        message = (
            f"{self.name!r} holds {self.dtype}, and values of this {given} frame would change{why}. "
            f"To convert it anyway: {plain}.astype({str(self.dtype)!r})"
        )
        raise UnsupportedError(message, name=self.name, dtype=str(given))

    @functools.cached_property
    def _exclusive(self) -> locks.Lock:
        return self._lock(shared=False)

    @functools.cached_property
    def _shared(self) -> locks.Lock:
        return self._lock(shared=True)

    def _lock(self, *, shared: bool) -> locks.Lock:
        lock = locks.Lock(self.name, shared=shared)
        lock.warns = False  # a writer that died leaves a slot with number 0, which readers skip
        return lock


def _greatest(numbers: NDArray[np.uint64]) -> int:
    """Return the highest number that is in its own slot; any other number is damage."""
    places = np.arange(len(numbers), dtype=np.uint64)
    right = ((numbers - np.uint64(1)) % np.uint64(len(numbers)) == places) & (numbers < _BEYOND)
    return int(numbers[right].max(initial=0))


def _holds_all(dtype: np.dtype[Any], given: np.dtype[Any]) -> bool:
    """Return whether a dtype of numbers holds all of another; for numpy, a double holds integers of 64 bits."""
    whole = given.kind in "iu" and given.itemsize == 8  # noqa: PLR2004  bytes
    return dtype.kind in "iufc" and np.can_cast(given, dtype) and not (whole and dtype.kind in "fc")


def _is_alike(given: str, kind: str) -> bool:
    """Return whether values of one kind of dtype may be stored as another: numbers as numbers, texts as texts."""
    return given == kind or any(given in kinds and kind in kinds for kinds in ("biufc", "SU")) or given in "OT"


class Slot(AsyncHolding):
    """The next slot of a ring, for ``with`` and ``async with``."""

    __slots__ = ("_begin", "_end", "_entry", "_lock")

    def __init__(self, lock: locks.Lock, begin: Callable[[Entry], NDArray[Any]], end: Callable[..., None]) -> None:
        self._lock, self._begin, self._end = lock, begin, end
        self._entry: Entry | None = None  # for an explicit call of __exit__

    def _enter(self, entry: Entry) -> NDArray[Any]:
        try:
            self._entry = entry
            self._lock.enter(entry, None)
            return self._begin(entry)
        except BaseException:
            self._abort(entry)
            raise

    def _leave(self, entry: Entry | None, kind: Kind) -> None:
        entry = entry or self._entry
        if entry is None or entry.taken is None:
            raise LockError(f"this object is filling no slot of {self._lock.name!r}", name=self._lock.name)
        if entry.inherited:
            return
        try:
            self._end(entry, done=kind is None)
            holds.leave(entry.taken)
            self._entry = None  # it refers to this Slot: a cycle would keep the memory
        except BaseException:
            self._abort(entry)
            raise

    def _abort(self, entry: Entry) -> None:
        self._end(entry, done=False)
        self._entry = None
        if entry.taken is not None:
            holds.abort(entry.taken)

    def __aenter__(self) -> Coroutine[Any, Any, NDArray[Any]]:
        entry = entry_of(self)
        return self._enter_async(entry, self._lock.entering(entry))

    async def _enter_async(self, entry: Entry, entering: Awaitable[object]) -> NDArray[Any]:
        try:
            self._entry = entry
            await entering
            return self._begin(entry)
        except BaseException:
            self._abort(entry)
            raise


class Frames:
    """One reader's iterator over a ring, for ``for`` and ``async for``.

    It ends after the last frame when the ring is unlinked or replaced.
    """

    def __init__(self, ring: Ring, number: int, shared: locks.Lock, here: Callable[[], bool]) -> None:
        self._ring, self._last, self._failed = ring, number, 0
        self._shared, self._here = shared, here

    def __iter__(self) -> Self:
        return self

    def __aiter__(self) -> Self:
        return self

    def __next__(self) -> Frame:
        frame, version = self._look()
        while frame is None:
            if not self._here():
                raise StopIteration
            with contextlib.suppress(NotFoundError):
                versions.wait(self._ring.name, version)
            frame, version = self._look()
        return frame

    async def __anext__(self) -> Frame:
        frame, version = self._look()
        while frame is None:
            if not self._here():
                raise StopAsyncIteration
            with contextlib.suppress(NotFoundError):
                await versions.following(self._ring.name, version)
            frame, version = self._look()
        return frame

    def _look(self) -> tuple[Frame | None, int]:
        """Return the next frame; without one, None and the version to wait from."""
        if (frame := self.ready()) is not None:
            return frame, 0
        version = versions.version(self._ring.name)
        return self.ready(), version

    def ready(self) -> Frame | None:
        """Return the next frame, or a later one if that is overwritten; None if there is none yet."""
        ring = self._ring
        while True:
            with self._shared if self._failed > _TRIES else contextlib.nullcontext():
                wanted = self._last + 1
                frame = ring.read(wanted)
                if frame is None:
                    newest = ring.newest
                    if newest <= self._last:
                        return None
                    ahead = newest - ring.slots + 1 + self._failed * ring.slots // 4
                    wanted = min(newest, max(wanted, ahead))
                    frame = ring.read(wanted)
            if frame is not None:
                frame.missed = wanted - self._last - 1
                self._last, self._failed = wanted, 0
                return frame
            self._failed += 1
