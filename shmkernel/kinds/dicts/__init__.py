"""A mapping in an LMDB file: its keys and values as bytes, the file, and the object over it.

LMDB (https://www.symas.com/lmdb) is a B+ tree in one file that processes map. A writer copies the pages it
changes and names the new root last, so readers never wait and a writer that dies leaves nothing half-done. The
one tree of a store holds, so that any binding of LMDB reads it:

    key                       value, in MessagePack
    the key (keys.py)         [number, value]      (values.py)
    0xff, number (8 bytes)    the key again        which is the order of insertion

Half of the entries are thus keys of the dict, and how many there are stands in the first page. A store lies in a
folder of its own, `dicts/<inode>/` in the runtime folder, for LMDB finds its lock file by path: a store that is
renamed over another's name must not meet the other's lock. The public name is a hard link to it. The folder goes
with the name, in one step; a process that has the store open goes on with it.

    dicts/<inode>/data.mdb    the store
    dicts/<inode>/lock.mdb    LMDB's readers and its mutex
    dicts/<inode>/<id>.npy    a large array, referred to by a value
    dicts/<inode>/<id>.open   while somebody makes or removes it: a mark (array_files.py)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from shmkernel._core.imports import importing
from shmkernel.errors import UnsupportedError

if TYPE_CHECKING:
    from types import ModuleType

    from shmkernel.kinds.dicts import entries, mapping, operations, preview, reservation, store, values

__all__ = ["entries", "mapping", "operations", "preview", "reservation", "store", "values"]


def __getattr__(name: str) -> ModuleType:
    """Load a part at first use: LMDB and msgspec take 40 ms, and many a kernel shares arrays alone.

    LMDB may be missing: a new Python may have no wheel of it yet, and all but dicts works without it.
    """
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        with importing:
            return importlib.import_module(f"{__name__}.{name}")
    except ModuleNotFoundError as error:
        if error.name != "lmdb":
            raise
        message = "shared dicts need the package lmdb, which is not installed here. Install it: pip install lmdb"
        raise UnsupportedError(message, package="lmdb") from None
