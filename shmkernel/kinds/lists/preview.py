"""Preview of a list: a grid of index, type and value (layout: `shmkernel.kinds.lists.layout`)."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from shmkernel.kinds.lists import layout
from shmkernel.kinds.preview import Look, Preview, Source, grid, nothing, page

if TYPE_CHECKING:
    from collections.abc import Sequence

_LONGEST = 400  # bytes read of a text
_COLUMNS = [("type", ""), ("value", "")]
_UNREADABLE = ("?", "cannot be read")


def preview(source: Source, look: Look) -> Preview:
    """Return a page of the items; ValueError if it is no list."""
    word = layout.WORD
    length = layout.count(source.read(0, word), source.size)
    if not length:
        return nothing("no items")
    rows = page(look, length)
    bounds = _words(source.read(word * (1 + rows.start), word * (len(rows) + 1)))
    start = word * (length + 2)
    formats = start + layout.word(source.read(word * (1 + length), word))
    if not start <= formats <= source.size - (word + 1) * length:
        raise ValueError("it is no list: the offsets of its items make no sense")
    kinds = _words(source.read(formats + word * rows.start, word * len(rows)))
    codes = source.read(formats + word * length + rows.start, len(rows))
    if not len(bounds) - 1 == len(kinds) == len(codes) == len(rows):
        raise ValueError("it is no list, or was cut")
    items = [
        _item(source.read(start + begin, min(end - begin, _LONGEST)), kind, code)
        if 0 <= begin < end <= formats - start
        else _UNREADABLE
        for begin, end, kind, code in zip(bounds, bounds[1:], kinds, codes, strict=False)
    ]
    return grid(_COLUMNS, map(str, rows), items, rows.start, length)


def _words(data: bytes) -> Sequence[int]:
    return struct.unpack(f"{len(data) // layout.WORD}q", data[: len(data) // layout.WORD * layout.WORD])


def _item(data: bytes, kind: int, code: int) -> tuple[str, str]:
    text = layout.text(kind)
    try:
        if text == layout.INT.rstrip(b"\0"):
            return "int", str(layout.word(data[:8]))
        if text == layout.FLOAT.rstrip(b"\0"):
            return "float", repr(struct.unpack("d", data[:8])[0])
    except struct.error:
        return _UNREADABLE
    if text == layout.BOOL.rstrip(b"\0"):
        return "bool", str(any(data[:8]))
    if text == layout.NONE.rstrip(b"\0"):
        return "None", "None"
    if (reader := layout.reader(kind)) is None:
        return _UNREADABLE
    exact = reader[1]
    size = int(text.rstrip(b"s "))
    value = data[:size] if exact else data[:size].rstrip(b"\0")
    return ("bytes", repr(value)) if code == layout.BYTES else ("str", value.decode(errors="replace"))
