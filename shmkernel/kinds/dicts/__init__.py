"""Shared dicts: a mapping stored in an LMDB file.

LMDB (https://www.symas.com/lmdb) is a B+ tree in one file that processes map. A writer copies the pages that it
changes, and writes the new root last. So readers never wait, and a writer that dies leaves the old state. Any binding
of LMDB can read a store, whose one tree holds:

    key                       value, in MessagePack
    the key (keys.py)         [number, value]      (kinds/values.py)
    0xff, number (8 bytes)    the key again        (the order of insertion)

So the dict has half as many keys as the tree has entries; the first two pages give that count. A store has a folder of
its own, `stores/<inode>/` in the runtime folder. LMDB finds its lock file by path, and a store that is renamed over
another one's name must not find the other one's lock. The segment's name is a hard link to the store. Unlinking the
name removes the folder in one step; a process that has the store open can continue to use it.

    stores/<inode>/data.mdb    the store
    stores/<inode>/lock.mdb    LMDB's readers and its mutex
    stores/<inode>/<id>.npy    a large array, referred to by a value
    stores/<inode>/<id>.open   a mark, while a transaction adds or deletes the array (array_files.py)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from shmkernel._core.imports import importing
from shmkernel.errors import UnsupportedError

if TYPE_CHECKING:
    from types import ModuleType

    from shmkernel.kinds import values
    from shmkernel.kinds.dicts import entries, errors, mapping, operations, preview, reservation, store

__all__ = ["entries", "errors", "mapping", "operations", "preview", "reservation", "store", "values"]


def __getattr__(name: str) -> ModuleType:
    """Import a module at first use: LMDB and msgspec take 40 ms, which kernels without dicts need not spend.

    LMDB may be missing, as in a new Python without its wheel: then everything but dicts works.
    """
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        with importing:
            return importlib.import_module(f"{'shmkernel.kinds' if name == 'values' else __name__}.{name}")
    except ModuleNotFoundError as error:
        if error.name != "lmdb":
            raise
        message = "shared dicts need the package lmdb, which is not installed here. Install it: pip install lmdb"
        raise UnsupportedError(message, package="lmdb") from None
