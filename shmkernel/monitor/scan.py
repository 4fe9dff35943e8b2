"""Statistics of all values of an array, however large, read piece by piece: a preview sees only a sample."""

from __future__ import annotations

import math
import os
import time
from typing import TYPE_CHECKING

import numpy as np

from shmkernel._core import paths, segment_file
from shmkernel.errors import NotFoundError, UnsupportedError
from shmkernel.kinds import HEAD, array
from shmkernel.kinds.preview import Source

if TYPE_CHECKING:
    from collections.abc import Callable

_PIECE = 8 << 20  # bytes, about 5 ms


def statistics(name: str, inode: int, stopped: Callable[[], bool]) -> str:
    """Return a sentence about all values of a segment, and when they were read. It does not attach the segment."""
    with segment_file.reading(paths.path_of(name), name) as fd:
        status = os.fstat(fd)
        if status.st_ino != inode:
            raise NotFoundError(f"{name!r} has been replaced by another of its name meanwhile", name=name)
        found = scan(Source(lambda at, size: os.pread(fd, size, at), status.st_size), stopped)
    return f"{name} at {time.strftime('%H:%M:%S')}: {found}"


def scan(source: Source, stopped: Callable[[], bool]) -> str:
    """Return the statistics of a ``.npy`` file as a text; an empty one if it was stopped.

    Examples
    --------
    >>> import io
    >>> from shmkernel.kinds.preview import Source
    >>> file = io.BytesIO()
    >>> np.save(file, [1.0, np.nan, 4.0])
    >>> data = file.getvalue()
    >>> scan(Source(lambda at, size: data[at : at + size], len(data)), lambda: False)
    'all 3 values: min 1, max 4, mean 2.5, NaN 1'
    """
    layout = array.decode(source.read(0, HEAD), source.size)
    dtype, total = layout.dtype, math.prod(layout.shape)
    if dtype.kind not in "?biufc" or dtype.subdtype is not None:
        raise UnsupportedError(f"values of type {dtype} have no statistics")
    step = max(1, _PIECE // dtype.itemsize)
    low, high, total_sum, finite, gaps = math.inf, -math.inf, 0.0, 0, 0
    for first in range(0, total, step):
        if stopped():
            return ""
        size = min(step, total - first) * dtype.itemsize
        values = np.frombuffer(source.read(layout.offset + first * dtype.itemsize, size), dtype)
        with np.errstate(all="ignore"):
            values = np.abs(values) if dtype.kind == "c" else values
            kept = values[np.isfinite(values)] if dtype.kind in "fc" else values
            gaps += int(np.isnan(values).sum()) if dtype.kind in "fc" else 0
            if kept.size:
                low, high = min(low, kept.min().item()), max(high, kept.max().item())
                total_sum += float(kept.sum(dtype=np.float64))
                finite += kept.size
    figures = {"min": low, "max": high, "mean": total_sum / finite} if finite else {}
    if dtype.kind in "fc":
        figures["NaN"] = gaps
        if infinite := total - finite - gaps:
            figures["infinite"] = infinite
    what = "magnitudes" if dtype.kind == "c" else "values"
    return f"all {total:,} {what}: {', '.join(f'{name} {_text(value)}' for name, value in figures.items())}"


def _text(value: float) -> str:
    return f"{int(value):,}" if isinstance(value, int) else f"{value:.6g}"
