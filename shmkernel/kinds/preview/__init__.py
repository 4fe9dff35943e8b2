"""A bounded look at what a segment holds, for the monitor: pictures as a few numbers, values as short texts.

A preview reads through calls, never through a mapping of its own: a mapping would count as attached, would make the
OS allocate the holes of a sparse file, and would end this process if another program cut the file. What it gives
back is at most 64 KiB, whatever the segment's size: beyond that it samples, and says so. Nothing is locked, so a
value that is being written may be seen half-written.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

MOST = 48 << 10  # bytes of a preview; the rest of the 64 KiB is for what comes with it
_TEXT = 64  # characters of one value
_ROWS = 50  # of a grid, at once
_COLUMNS = 32
_LINE, _LINES = 16, 32  # bytes to a line, lines


class Source(NamedTuple):
    """Where a preview reads. ``path`` is empty for a segment whose name is gone."""

    read: Callable[[int, int], bytes]  # offset, size: may give fewer bytes
    size: int
    path: str = ""


class Look(NamedTuple):
    """What to look at: one position on each leading axis, the first row of a grid."""

    axes: tuple[int, ...] = ()
    start: int = 0


class Preview(NamedTuple):
    """What there is to see: ``form`` is line, heat, image, grid, hex or none; ``facts`` go to JSON.

    ``facts`` always has ``stats``, pairs of texts, and ``note``, a text. A picture's numbers are in ``data``.
    """

    form: str
    facts: dict[str, Any]
    data: bytes = b""


def nothing(note: str) -> Preview:
    """Return a preview of what cannot be seen, or is not there."""
    return Preview("none", {"stats": [], "note": note})


def short(text: str) -> str:
    """Cut a text to what a cell shows.

    Examples
    --------
    >>> short("x" * 100)[-3:]
    'xx…'
    """
    return text if len(text) <= _TEXT else f"{text[: _TEXT - 1]}…"


def page(look: Look, total: int, step: int = _ROWS) -> range:
    """Return which rows of `total` to show: a page that is full, wherever it starts."""
    start = max(0, min(look.start, total - step))
    return range(start, min(start + step, total))


def grid(
    columns: Sequence[tuple[str, str]],
    labels: Iterable[str],
    rows: Iterable[Sequence[str]],
    start: int,
    total: int,
    *,
    note: str = "",
    stats: Sequence[tuple[str, str]] = (),
) -> Preview:
    """Lay out texts as rows of cells: as many as fit, beginning with row `start` of `total`.

    `columns` are pairs of title and type.

    Examples
    --------
    >>> grid([("value", "")], "01", [["a"], ["b"]], 0, 2).facts["rows"]
    [['0', 'a'], ['1', 'b']]
    """
    more = len(columns) - _COLUMNS
    found: list[list[str]] = []
    room = MOST
    for label, row in zip(labels, rows, strict=False):
        line = [short(label), *map(short, row[:_COLUMNS])]
        room -= len(json.dumps(line))
        if room < 0:
            break
        found.append(line)
    if more > 0:
        note = f"{note + '; ' if note else ''}{more} more columns"
    heads = [[short(title), short(type_)] for title, type_ in columns[:_COLUMNS]]
    facts = {
        "columns": heads, "rows": found, "start": start, "step": len(found), "total": total, "stats": list(stats),
        "note": note,
    }  # fmt: skip
    return Preview("grid", facts)


def raw(source: Source, look: Look) -> Preview:
    """Show bytes as they are.

    Examples
    --------
    >>> raw(Source(lambda at, size: b"abc"[at : at + size], 3), Look()).data
    b'abc'
    """
    lines = page(look, -(-source.size // _LINE), _LINES)
    data = source.read(lines.start * _LINE, len(lines) * _LINE)[: len(lines) * _LINE]
    total = -(-source.size // _LINE)
    facts = {"start": lines.start, "step": len(lines), "total": total, "line": _LINE, "stats": [], "note": ""}
    return Preview("hex", facts, data)
