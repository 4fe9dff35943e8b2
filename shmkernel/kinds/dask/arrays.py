"""Dask arrays: the workers compute the blocks straight into the segment, wherever the collection is computed.

Dask is never imported unless the value is one of its collections, so that it is loaded already.
"""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from shmkernel.errors import UnsupportedError
from shmkernel.kinds import an
from shmkernel.kinds.dask import blocks, results

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

_DENSE = {"cupy": "get", "sparse": "todense", "scipy": "toarray"}  # by library, the method that gives a plain array


def blank(name: str, value: Any, dtype: np.dtype[Any] | None) -> NDArray[Any]:
    """Return an array of the collection's shape and dtype without memory; UnsupportedError if it has no such."""
    x, meta = blocks.variable(name), type(value._meta)  # noqa: SLF001  Dask documents it
    if meta is not np.ndarray:
        what = f"{name!r}: each block of this dask array is {an(meta)} of {meta.__module__}, not a plain array"
        dense = _DENSE.get(meta.__module__.partition(".")[0])
        how = f"lambda block: block.{dense}(), dtype={x}.dtype" if dense else "numpy.asarray"
        if issubclass(meta, np.ma.MaskedArray):
            what, how = f"{name!r}: the blocks of this dask array have masks, which would be lost", "numpy.ma.filled"
        raise _refused(what, name, f"{x}.map_blocks({how})")
    if any(map(math.isnan, value.shape)):
        what = f"{name!r}: Dask does not know the shape of this array yet, only {value.shape}"
        raise _refused(f"{what}. Have Dask compute it", name, f"{x}.compute_chunk_sizes()")
    if dtype is None and value.dtype.hasobject:
        what = f"{name!r} has dtype {value.dtype}: it holds addresses, which mean nothing in another process"
        cure = f"If these are numbers: {x}.astype('float64'); if they are texts of 20 characters: {x}.astype('U20')"
        raise UnsupportedError(f"{what}. {cure}", name=name, dtype=str(value.dtype), expression=None)
    element: NDArray[Any] = np.zeros((), dtype or value.dtype)
    return np.broadcast_to(element, tuple(map(int, value.shape)))


def _refused(what: str, name: str, expression: str) -> UnsupportedError:
    return UnsupportedError(f"{what}: {expression}", name=name, expression=expression)


def compute(value: Any, layout: blocks.Layout, header: bytes, fd: int, progress: Callable[[int], None]) -> None:
    """Have the blocks computed into the file, then write its header."""
    if math.prod(layout.shape):
        target = blocks.ArrayTarget(fd, layout)
        label, meta = f"shmkernel-{target.secret.hex()}", np.empty((0,) * value.ndim, object)
        tasks = value.map_blocks(target, name=label, dtype=object, meta=meta)
        for result in results.of(layout.name, [tasks], progress):
            if type(result) is blocks.Values:
                target.store(fd, *result.about)
        blocks.close(fd, layout.name)
    os.pwrite(fd, header, 0)
