"""Preview of a dict: a grid of key, type and value, in the order of insertion, read in one snapshot.

It reads views of the map, and copies and decodes only what a row shows of a value.
"""

from __future__ import annotations

import mmap
import os
import reprlib
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec import Raw, msgpack

from shmkernel._core import capacity, paths
from shmkernel.kinds import values
from shmkernel.kinds.dicts import entries, lmdb_pages, store
from shmkernel.kinds.preview import Look, Preview, Source, grid, nothing, page

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
_FAR = 5_000  # keys; later ones are not shown, since each step to them takes time
_LONG = 4 << 10  # bytes: longer keys and values are not decoded whole
_START = 280  # bytes decoded of a long text
_COLUMNS = [("type", ""), ("value", "")]
_HEADS = {  # by the first byte of a long value: its type, and the bytes of its length
    0xC5: ("bytes", 2), 0xC6: ("bytes", 4), 0xDA: ("str", 2), 0xDB: ("str", 4), 0xDC: ("list", 2), 0xDD: ("list", 4),
    0xDE: ("dict", 2), 0xDF: ("dict", 4), 0xC8: ("", 2), 0xC9: ("", 4),
}  # fmt: skip
_UNREADABLE = "?", "cannot be read"
_short = reprlib.Repr()
_short.maxstring = _short.maxother = 70
_array = msgpack.Decoder(tuple[str, tuple[int, ...], str, Raw]).decode
_stored = msgpack.Decoder(tuple[bytes, Raw]).decode


def preview(source: Source, look: Look, count: int) -> Preview:
    """Return a page of keys and values. No writer waits for it, and it does not count as attached."""
    if not count:
        return nothing("no keys")
    if not source.path:
        return nothing("its name is gone, and what it holds is seen by who has it alone")
    with open(source.path, "rb") as file:
        home = paths.store_folder(os.fstat(file.fileno()).st_ino)
        mapping = mmap.mmap(file.fileno(), 2 * lmdb_pages.PAGE, access=mmap.ACCESS_READ)
    opened = store.connect(home, mapping, paths.called(source.path))
    with opened.viewing() as txn:
        rows = page(look, min(count, _FAR))
        placed, _ = entries.walk(txn, None, rows.stop)
        shown = [_tried(_key, key) for key in placed[rows.start :]]
        texts = [_tried(_row, txn.get(raw)) if type(raw) is bytes else _UNREADABLE for raw, _ in shown]
        labels = [label for _, label in shown]
        del placed  # views must not outlive the transaction
    note = f"the first {_FAR:,} of {count:,} keys" if count > _FAR else ""
    return grid(_COLUMNS, labels, texts, rows.start, min(count, _FAR), note=note)


def _tried(show: Callable[[Any], T], packed: Any) -> T | tuple[str, str]:
    """Show a key or a value; damage to one of them leaves the others to be seen."""
    try:
        return show(packed)
    except Exception:  # noqa: BLE001  numpy, msgspec and datetime raise many types
        return _UNREADABLE


def _key(placed: memoryview) -> tuple[bytes, str]:
    """Return the bytes of a key, and its text to show."""
    if len(placed) > _LONG:
        raw, key = _stored(placed[1:])
        return raw, " ".join(_shown(memoryview(key)))
    raw, value = entries.key_of(bytes(placed))
    return raw, _short.repr(value)


def _row(entry: memoryview | None) -> tuple[str, str]:
    if entry is None:
        return "", ""
    if entries.is_file(entry):
        return "array", "in a file of its own"
    return _shown(entry[len(entries.head_of(entry)) :])


def _shown(packed: memoryview) -> tuple[str, str]:
    """Return the type of a value, and its text to show."""
    if len(packed) > _LONG:
        return _shown_by_head(packed)
    value = values.decode(packed)
    if hasattr(value, "dtype") and getattr(value, "size", 0) > 8:  # noqa: PLR2004  as many as fit
        return "array", f"{value.dtype} {value.shape}"
    return type(value).__name__, _short.repr(value)


def _shown_by_head(packed: memoryview) -> tuple[str, str]:
    first = packed[0]
    if first < 0xA0:  # noqa: PLR2004  a few large parts
        return ("list" if first & 0x10 else "dict"), _parts(first & 0x0F)
    kind, width = _HEADS[first]
    count, rest = int.from_bytes(packed[1 : 1 + width], "big"), packed[1 + width :]
    if kind == "str":
        return kind, f"{bytes(rest[:_START]).decode(errors='ignore')!r}"
    if kind == "bytes":
        return kind, f"{bytes(rest[:_START])!r}"
    if kind:
        return kind, _parts(count)
    kind, packed = values.NAMES.get(rest[0], "?"), rest[1:]
    if kind == "array":
        dtype, shape, _, _ = _array(packed)
        return kind, f"{values.dtype_of(dtype)} {shape}"
    if kind in ("tuple", "set", "frozenset"):
        return kind, _shown_by_head(packed)[1]
    return kind, capacity.human(count)


def _parts(count: int) -> str:
    return f"{count:,} item{'s' * (count != 1)}"
