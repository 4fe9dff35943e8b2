"""Write a part of a Dask collection into the segment that is being made, in whichever process computes it.

    creator   nameless file, all of it reserved; its first bytes are a secret instead of the header
    worker    open /proc/<creator>/fd/<number> -> shared byte lock -> the secret is still there -> store the block
    creator   overwrite the secret -> exclusive byte lock -> header -> link

A worker that was lost may be alive, and store its block long after another has computed it again. The name is linked
only when no process is storing any more, and whoever comes later does not find the secret. A process that cannot open
the file, on another host or in a container, returns the block's values, and the creator stores them.
"""

from __future__ import annotations

import fcntl
import os
import stat
import time
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from shmkernel._core import closing, oflock, segment_file
from shmkernel.errors import TimedOutError, UnsupportedError
from shmkernel.kinds import a_type, conversions

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Result = TypeVar("Result")
    Place = tuple[tuple[int, int], ...]  # where a block begins and ends, for each dimension

_SHARED, _EXCLUSIVE = oflock.request(fcntl.F_RDLCK), oflock.request(fcntl.F_WRLCK)
_FREE = oflock.request(fcntl.F_UNLCK)
_PATIENCE = 60.0  # seconds that the creator waits for a process that stores a block: each takes a moment
_NAP = 0.001
_SECRET = 32  # bytes: less than any header


class Stored(NamedTuple):
    """What a task returns that has stored its part: the bytes, and where they lie if nobody knows that before."""

    nbytes: int
    where: tuple[int, ...] = ()


class Values(NamedTuple):
    """What a task returns whose process cannot open the segment: what to store, and its size in bytes."""

    nbytes: int
    about: tuple[Any, ...]


class Target:
    """The file that the tasks write to."""

    def __init__(self, fd: int) -> None:
        status = os.fstat(fd)
        self.secret = os.urandom(_SECRET)
        self._path = f"/proc/{os.getpid()}/fd/{int(fd)}"
        self._file = status.st_dev, status.st_ino
        os.pwrite(fd, self.secret, 0)

    def __dask_tokenize__(self) -> bytes:
        return self.secret

    def act(self, store: Callable[[int], Result], late: Result) -> Result | None:
        """Store something while the name waits; `late` if it has its name or was given up, None if out of reach."""
        if (file := self._opened()) is None:
            return None
        with file:
            if oflock.take(file, _SHARED):
                try:
                    if os.pread(file.fileno(), _SECRET, 0) == self.secret:
                        return store(file.fileno())
                finally:  # a process that was forked meanwhile has a copy of the descriptor
                    fcntl.fcntl(file, fcntl.F_OFD_SETLK, _FREE)
        return late

    def _opened(self) -> closing.Description | None:
        """Open the segment; None if this process cannot."""
        try:
            status = os.stat(self._path)
            if (status.st_dev, status.st_ino) != self._file or not stat.S_ISREG(status.st_mode):
                return None
            return closing.described(os.open, self._path, os.O_RDWR | os.O_CLOEXEC)
        except OSError:  # another host, another user, no /proc; or the creator has ended
            return None


class Layout(NamedTuple):
    """Where in the segment which elements lie; ``said`` is the dtype that the blocks are said to have."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    said: np.dtype[Any]
    order: str
    offset: int
    size: int


class ArrayTarget(Target):
    """What a task calls with its block of an array."""

    def __init__(self, fd: int, layout: Layout) -> None:
        super().__init__(fd)
        self._layout = layout

    def __call__(self, block: Any, block_info: Any = None) -> Stored | Values:
        """Store a block, or return its place and values if this process cannot."""
        place: Place = tuple((int(start), int(end)) for start, end in block_info[0]["array-location"])
        values = self._checked(block, place)

        def store(fd: int) -> Stored:
            self.store(fd, place, values)
            return Stored(values.nbytes)

        return self.act(store, Stored(0)) or Values(values.nbytes, (place, values))

    def store(self, fd: int, place: Place, values: NDArray[Any]) -> None:
        """Store a block: by one write if it is one run of bytes, which is faster than to store through a mapping."""
        _, shape, dtype, _, order, offset, size = self._layout
        if order == "F":
            shape, place, values = shape[::-1], place[::-1], values.T
        first = _run(shape, place) if values.flags.c_contiguous else None
        if not values.nbytes:
            return
        if first is None:
            mapping = segment_file.map_(fd, size, "r+", self._layout.name)
            whole: NDArray[Any] = np.ndarray(shape, dtype, mapping, offset)
            whole[tuple(slice(*ends) for ends in place)] = values
            return
        segment_file.write(fd, values.reshape(-1).view(np.uint8).data, offset + first * dtype.itemsize)

    def _checked(self, block: Any, place: Place) -> NDArray[Any]:
        """Return a block as values of the segment; UnsupportedError if it is not what the collection says."""
        name, said, dtype = self._layout.name, self._layout.said, self._layout.dtype
        shape = tuple(end - start for start, end in place)
        where = f"{name!r}: the block at {tuple(start for start, _ in place)}"
        if type(block) not in (np.ndarray, np.memmap) and not isinstance(block, (np.generic, int, float, complex)):
            raise UnsupportedError(f"{where} is {a_type(block)}, and Dask was told that it is an array", name=name)
        values = np.asarray(block)
        if values.shape != shape:
            message = f"{where} has the shape {values.shape}, and Dask was told {shape}. Have Dask look"
            raise _with_cure(message, name, "{x}.compute_chunk_sizes()")
        if values.dtype != said and not np.can_cast(values.dtype, said, "safe"):
            message = f"{where} is of {values.dtype}, and Dask was told {said}. Tell it"
            raise _with_cure(message, name, f"{{x}}.map_blocks(numpy.asarray, dtype={values.dtype.str!r})")
        try:
            return conversions.convert(values, dtype)
        except (TypeError, ValueError, OverflowError) as error:
            raise UnsupportedError(f"{where} cannot be made {dtype}: {error}", name=name, dtype=str(dtype)) from None


def close(fd: int, name: str) -> None:
    """Let no process store a block any more: refuse the next, wait for those that are at it."""
    os.pwrite(fd, bytes(_SECRET), 0)
    until = time.monotonic() + _PATIENCE
    while not oflock.take(fd, _EXCLUSIVE):
        if time.monotonic() > until:
            message = f"{name!r}: a process that Dask lost is still storing a block, or stopped at it. Try again"
            raise TimedOutError(message, name=name, timeout=_PATIENCE, holder=None)
        time.sleep(_NAP)
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FREE)


def _with_cure(message: str, name: str, expression: str) -> UnsupportedError:
    made = expression.format(x=variable(name))
    return UnsupportedError(f"{message}: {made}", name=name, expression=made)


def variable(name: str) -> str:
    """Return the variable that a cure is about."""
    last = name.rpartition(".")[2]
    return last if last.isidentifier() else "x"


def _run(shape: tuple[int, ...], place: Place) -> int | None:
    """Return which element a block begins with if it is one run of elements in C order, else None.

    Examples
    --------
    >>> _run((10, 4), ((2, 5), (0, 4))), _run((10, 4), ((2, 5), (0, 3))), _run((10, 4), ((2, 3), (1, 3)))
    (8, None, 9)
    """
    first, step, whole = 0, 1, True
    for length, (start, end) in zip(reversed(shape), reversed(place), strict=True):
        if not whole and end - start != 1:
            return None
        first, step, whole = first + start * step, step * length, whole and end - start == length
    return first
