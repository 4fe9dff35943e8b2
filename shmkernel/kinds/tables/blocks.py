"""Arrays as pandas keeps them: many columns as few blocks of memory, and bitmaps as bools.

pandas keeps the columns of one dtype as the rows of a two-dimensional array, a block, and is slow with many blocks: of
10,000 it makes a frame in a second. The columns of an Arrow file lie one behind the other, so those of one dtype at
equal distances are one block without a copy, wherever they stand in the frame.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pyarrow as pa
    from numpy.typing import NDArray

    Block = tuple[Any, NDArray[np.intp]]  # what pandas takes: an array, and the numbers of its columns


def blocks(arrays: list[Any], memory: NDArray[np.uint8], place: Callable[[Any], int | None]) -> Iterator[Block]:
    """Yield arrays with their numbers; `place` returns where in the memory an array begins, None if elsewhere."""
    found: dict[Any, list[tuple[int, int]]] = {}
    for number, array in enumerate(arrays):
        at = place(array)
        if at is not None:
            found.setdefault(array.dtype, []).append((number, at))
        else:
            yield array.reshape(1, -1) if isinstance(array, np.ndarray) else array, np.array([number])
    for dtype, columns in found.items():
        numbers, places = np.array(columns, np.intp).T
        rows = len(arrays[numbers[0]])
        for start, stop, step in _runs(places, rows * dtype.itemsize):
            shape, strides = (stop - start, rows), (step, dtype.itemsize)
            yield np.ndarray(shape, dtype, memory, int(places[start]), strides), numbers[start:stop]


def _runs(places: NDArray[np.intp], size: int) -> Iterator[tuple[int, int, int]]:
    """Yield the bounds of runs at equal distances, and the distance; what overlaps is in no run."""
    steps = np.diff(places).tolist()
    start = 0
    while start < len(places):
        stop, step = start + 1, 0
        if start < len(steps) and steps[start] >= size:
            step = steps[start]
            while stop < len(places) and steps[stop - 1] == step:
                stop += 1
        yield start, stop, step
        start = stop


def bools(bitmap: pa.Buffer, start: int, count: int) -> NDArray[np.bool_]:
    """Return a part of a bitmap of Arrow as bools, in a quarter of the time that pyarrow takes."""
    if not count:
        return np.zeros(0, bool)
    first = start // 8
    part = np.frombuffer(bitmap, np.uint8)[first : -(-(start + count) // 8)]
    return np.unpackbits(part, bitorder="little")[start - first * 8 :][:count].view(bool)


def nulls(chunk: pa.Array) -> NDArray[np.bool_]:
    """Return where a column has nulls."""
    bitmap = chunk.buffers()[0]
    if bitmap is None or not chunk.null_count:
        return np.zeros(len(chunk), bool)
    valid = bools(bitmap, chunk.offset, len(chunk))
    return np.logical_not(valid, out=valid)
