"""Previews of segments for the monitor, bounded in size: pictures as a few numbers, values as short texts.

A preview reads the file with system calls. A mapping would count as attached, allocate the holes of a sparse file, and
raise SIGBUS if another program truncates the file. A preview takes 64 KiB at most: it shows a sample of a larger
segment, and says so. It takes no lock, so it may show a value that is half written.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

MOST = 48 << 10  # bytes of a preview's content; its facts take the rest of the 64 KiB
_HEADS = 12 << 10  # bytes: longer titles of a grid leave less room to its rows
_TEXT = 64  # characters of one value
_ROWS = 50  # of a grid's page
_COLUMNS = 32
_LINE, _LINES = 16, 32  # bytes of a line, lines of a page


class Source(NamedTuple):
    """What a preview reads. ``path`` is empty for an unlinked segment."""

    read: Callable[[int, int], bytes]  # offset, size: may give fewer bytes
    size: int
    path: str = ""


class Look(NamedTuple):
    """The part to show: a position on each leading axis, and the first row of a grid.

    ``form`` is empty, or another way to show numbers: table, histogram.
    """

    axes: tuple[int, ...] = ()
    start: int = 0
    form: str = ""


class Preview(NamedTuple):
    """A preview: ``form`` is line, heat, image, bars, grid, hex or none; ``facts`` are sent as JSON.

    ``facts`` always has ``stats``, pairs of texts, and ``note``, a text. ``data`` holds the numbers of a picture.
    """

    form: str
    facts: dict[str, Any]
    data: bytes = b""


def nothing(note: str) -> Preview:
    """Return a preview without content; `note` says why."""
    return Preview("none", {"stats": [], "note": note})


def short(text: str) -> str:
    """Cut a text to the 64 characters that a cell shows.

    Examples
    --------
    >>> short("x" * 100)[-3:]
    'xx…'
    """
    return text if len(text) <= _TEXT else f"{text[: _TEXT - 1]}…"


def page(look: Look, total: int, step: int = _ROWS) -> range:
    """Return the rows to show: a page of `step` rows that begins at ``look.start``, or earlier near the end."""
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
    about: Sequence[tuple[str, Sequence[str]]] = (),
) -> Preview:
    """Return a grid of texts: as many rows as fit, from row `start` of `total`.

    `columns` are pairs of title and type. `about` are lines on the columns, such as ``("max", ["7", "2.5"])``.

    Examples
    --------
    >>> grid([("value", "")], "01", [["a"], ["b"]], 0, 2).facts["rows"]
    [['0', 'a'], ['1', 'b']]
    """
    more = len(columns) - _COLUMNS
    heads = [[short(title), short(type_)] for title, type_ in columns[:_COLUMNS]]
    head_lines = [[label, *map(short, line[:_COLUMNS])] for label, line in about]
    lines: list[list[str]] = []
    room = min(MOST, _HEADS + MOST - len(json.dumps([heads, head_lines])))
    for label, row in zip(labels, rows, strict=False):
        line = [short(label), *map(short, row[:_COLUMNS])]
        room -= len(json.dumps(line))
        if room < 0:
            break
        lines.append(line)
    if more > 0:
        note = f"{note + '; ' if note else ''}{more} more columns"
    facts = {
        "columns": heads, "about": head_lines, "rows": lines, "start": start, "step": len(lines), "total": total,
        "stats": list(stats), "note": note,
    }  # fmt: skip
    return Preview("grid", facts)


def raw(source: Source, look: Look) -> Preview:
    """Return a page of bytes.

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
