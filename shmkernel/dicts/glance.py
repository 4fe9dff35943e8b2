"""Dicts to look at: rows of key, type and value, in the order of insertion, read in one snapshot."""

from __future__ import annotations

import mmap
import os
import reprlib
from typing import TYPE_CHECKING, Any

from shmkernel import names
from shmkernel.dicts import entries, meta, store
from shmkernel.preview import Look, Preview, Source, grid, nothing, page

if TYPE_CHECKING:
    import lmdb

_FAR = 5_000  # keys: what comes later is not shown, since the way there is on foot
_COLUMNS = [("type", ""), ("value", "")]
_short = reprlib.Repr()
_short.maxstring = _short.maxother = 70


def preview(source: Source, look: Look, count: int) -> Preview:
    """Show a page of the keys. Nobody waits for it, and it does not count as attached."""
    if not count:
        return nothing("no keys")
    if not source.path:
        return nothing("its name is gone, and what it holds is seen by who has it alone")
    with open(source.path, "rb") as file:
        home = names.runtime("dicts", str(os.fstat(file.fileno()).st_ino))
        mapping = mmap.mmap(file.fileno(), 2 * meta.PAGE, access=mmap.ACCESS_READ)
    opened = store.connect(home, mapping, names.called(source.path))
    txn = opened.reading()
    try:
        rows = page(look, min(count, _FAR))
        placed, _ = entries.walk(txn, None, rows.stop)
        raws, found = entries.keys_of(placed[rows.start :])
        texts = [_row(txn, raw) for raw in raws]
    finally:
        txn.abort()
    note = f"the first {_FAR:,} of {count:,} keys" if count > _FAR else ""
    return grid(_COLUMNS, [_short.repr(key) for key in found], texts, rows.start, min(count, _FAR), note=note)


def _row(txn: lmdb.Transaction[bytes], raw: bytes) -> tuple[str, str]:
    entry = txn.get(raw)
    if entry is None:
        return "", ""
    if entries.is_file(entry):
        return "array", "in a file of its own"
    return _told(entries.value_of(entry))


def _told(value: Any) -> tuple[str, str]:  # noqa: ANN401
    if hasattr(value, "dtype") and getattr(value, "size", 0) > 8:  # noqa: PLR2004  as many as fit
        return "array", f"{value.dtype} {value.shape}"
    return type(value).__name__, _short.repr(value)
