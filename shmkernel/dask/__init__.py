"""Dask by reference: what lives in a segment crosses between client, scheduler and workers as a reference.

    import shmkernel.dask                                 in the client, before its cluster or connection
    dask scheduler --preload shmkernel.dask
    dask worker --preload shmkernel.dask ...

    agreement   two processes that connect find out whether they see the same folder of segments
    messages    what goes over such a connection is serialized with references
    pickling    the picklers that make them
    arrays      dask.array.from_array without a copy

An array, table, list or object that lives in a segment, or a slice of one, goes as the name, inode and offset of its
memory; `shmkernel.stdlib.references` makes and reads these. A connection to another host, or to a process that has not
imported this module, gets the values.
"""

from __future__ import annotations

try:
    import dask
    import distributed  # noqa: F401  every module here needs it
except ModuleNotFoundError as error:
    if error.name not in ("dask", "distributed"):
        raise
    message = f"No module named {error.name!r}. Install it, in a terminal: pip install 'shmkernel[dask]'"
    raise ModuleNotFoundError(message, name=error.name) from None

import dask.config

from shmkernel.dask import agreement, arrays, messages

__all__: list[str] = []


def _preload() -> None:
    """Have the workers of clusters that this process starts from now on import this module too."""
    for part in ("worker", "scheduler"):
        key = f"distributed.{part}.preload"
        given = dask.config.get(key, None) or []
        listed = [given] if isinstance(given, str) else [*given]
        if __name__ not in listed:
            dask.config.set({key: [*listed, __name__]})


agreement.install()
messages.install()
arrays.install()
_preload()
