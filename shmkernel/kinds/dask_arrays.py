"""Dask arrays: the workers compute the blocks straight into the segment, wherever the collection is computed.

Dask is never imported unless the value is one of its collections, so that it is loaded already.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from shmkernel._core import limits
from shmkernel._core.imports import importing
from shmkernel.errors import ShmError, UnsupportedError
from shmkernel.kinds import an, dask_blocks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

_DENSE = {"cupy": "get", "sparse": "todense", "scipy": "toarray"}  # by library, the method that gives a plain array


def blank(name: str, value: Any, dtype: np.dtype[Any] | None) -> NDArray[Any]:
    """Return an array of the collection's shape and dtype without memory; UnsupportedError if it has no such."""
    x, meta = dask_blocks.variable(name), type(value._meta)  # noqa: SLF001  Dask documents it
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


def compute(value: Any, layout: dask_blocks.Layout, header: bytes, fd: int, progress: Callable[[int], None]) -> None:
    """Have the blocks computed into the file, then write its header."""
    if math.prod(layout.shape):
        target = dask_blocks.Target(fd, layout)
        os.pwrite(fd, target.secret, 0)
        try:
            for result in _results(value, target, progress):
                if type(result) is tuple:  # its process could not store it
                    target.store(fd, *result)
        except OSError as error:
            if isinstance(error, ShmError) or not limits.is_known(error):
                raise
            # What a task had no memory or permission for is no limit of the segment.
            raise RuntimeError(f"{layout.name!r}: a task of Dask failed: {error}") from error
        dask_blocks.close(fd, layout.name)
    os.pwrite(fd, header, 0)


def _results(value: Any, target: dask_blocks.Target, progress: Callable[[int], None]) -> Iterator[Any]:
    """Compute the blocks where Dask is set to, and yield what the tasks return."""
    with importing:
        import dask  # noqa: PLC0415  it is loaded, since the value is its
        import dask.callbacks  # noqa: PLC0415  as above

    label = f"shmkernel-{target.secret.hex()}"
    meta: NDArray[Any] = np.empty((0,) * value.ndim, object)
    tasks = value.map_blocks(target, name=label, dtype=object, meta=meta)

    def count(key: Any, result: Any, *_: Any) -> None:
        if type(key) is tuple and key[0] == label:
            progress(_size(result))

    with dask.callbacks.Callback(posttask=count):  # Dask's own schedulers call it, in this thread
        (computed,) = dask.persist(tasks)
    distributed = sys.modules.get("distributed")
    if distributed and (futures := distributed.futures_of(computed)):
        del computed  # it would keep what has arrived
        for result in _gathered(futures, distributed):
            progress(_size(result))
            yield result
    else:
        for result in computed.__dask_graph__().values():
            yield getattr(result, "value", result)  # releases of Dask differ


def _gathered(futures: list[Any], distributed: Any) -> Iterator[Any]:
    """Yield results as they arrive; what came by value one at a time."""
    client = futures[0].client
    waiting = distributed.as_completed(futures, loop=client.loop)
    try:
        for batch in waiting.batches():
            stored = [future for future in batch if future.type is int]
            yield from client.gather(stored)
            for future in batch:
                if future.type is not int:
                    yield future.result()
    except BaseException:
        with contextlib.suppress(Exception):  # the cluster may be gone
            client.cancel(futures)
        raise


def _size(result: Any) -> int:
    return int(result[1].nbytes if type(result) is tuple else result)
