"""Compute collections where Dask is set to, and take what the tasks return one by one."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any

from shmkernel._core import limits
from shmkernel._core.imports import importing
from shmkernel.errors import ShmError
from shmkernel.kinds.dask.blocks import Stored, Values

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


def of(name: str, tasks: Sequence[Any], progress: Callable[[int], None]) -> Iterator[Stored | Values]:
    """Yield what tasks return that store parts of a segment."""
    try:
        yield from _results(tasks, progress)
    except (OSError, MemoryError) as error:
        if isinstance(error, ShmError) or (isinstance(error, OSError) and not limits.is_known(error)):
            raise
        # What a task had no memory or permission for is no limit of the segment.
        raise RuntimeError(f"{name!r}: a task of Dask failed: {error}") from error


def _results(tasks: Sequence[Any], progress: Callable[[int], None]) -> Iterator[Stored | Values]:
    with importing:
        import dask  # noqa: PLC0415  it is loaded, since the value is its
        import dask.callbacks  # noqa: PLC0415  as above

    def count(_: object, result: object, *about: object) -> None:  # noqa: ARG001  Dask calls it so
        if isinstance(result, (Stored, Values)):
            progress(result.nbytes)

    with dask.callbacks.Callback(posttask=count):  # Dask's own schedulers call it, in this thread
        computed = [*dask.persist(*tasks)]
    distributed = sys.modules.get("distributed")
    if distributed and (futures := distributed.futures_of(computed)):
        computed.clear()  # it would keep what has arrived
        for result in _gathered(futures, distributed):
            progress(result.nbytes)
            yield result
    else:
        for collection in computed:
            for result in collection.__dask_graph__().values():
                yield getattr(result, "value", result)  # releases of Dask differ


def _gathered(futures: list[Any], distributed: Any) -> Iterator[Stored | Values]:
    """Yield results as they arrive; what came by value one at a time."""
    client = futures[0].client
    waiting = distributed.as_completed(futures, loop=client.loop)
    try:
        for batch in waiting.batches():
            stored = [future for future in batch if future.type is Stored]
            yield from client.gather(stored)
            for future in batch:
                if future.type is not Stored:
                    yield future.result()
    except BaseException:
        with contextlib.suppress(Exception):  # the cluster may be gone
            client.cancel(futures)
        raise
