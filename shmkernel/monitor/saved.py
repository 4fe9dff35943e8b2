"""The table of a moment, which a notebook file keeps of a monitor.

Viewers without widgets show it, such as GitHub, nbconvert and a notebook that is opened again without its kernel. It is
bounded, since files are kept in git: with the state of the widget, a monitor takes less than 20 KB.
"""

from __future__ import annotations

import html
import json
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from shmkernel import render
from shmkernel.errors import Cure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shmkernel.verbs.listing import Info

_ROWS = (20, 10, 5, 2, 1)  # the first number that fits
_ROOM = 15_000  # bytes
_WIDE = 120  # columns of the text, which a page has
_LONGEST = 48  # letters of a cell


class Saved(NamedTuple):
    """One table in three forms; the page makes a table of the cells where it has the widget, but no kernel."""

    text: str
    html: str
    cells: dict[str, Any]


def table(rows: Sequence[Info]) -> Saved:
    """Return the table of this moment, with as many rows as there is room for."""
    moment = time.strftime("%Y-%m-%d %H:%M:%S")
    if not rows:
        text = ". ".join(
            filter(None, [f"At {moment} nothing was shared", str(Cure("Share a variable", "create", "NAME"))])
        )
        return Saved(text, f"<div>{html.escape(text)}</div>", {"lines": [], "below": [text]})
    for most in _ROWS:
        found = _table(rows, most, f"As of {moment}. {Cure('Live', 'watch')}")
        if len(json.dumps(found, ensure_ascii=False).encode()) <= _ROOM:
            break
    return found


def _table(rows: Sequence[Info], most: int, moment: str) -> Saved:
    head, lines = render.cells(rows[:most], {})
    lines = [
        [
            render.shortened(text, _LONGEST if title != "note" else 2 * _LONGEST, middle=title == "name")
            for title, text in zip(head, line, strict=True)
        ]
        for line in lines
    ]
    below = [*render.footer(rows, most), moment]
    text = "\n".join([render.table(rows, most=most, width=_WIDE), moment])
    body = "".join(render.line_html("td", head, line) for line in lines)
    asides = "".join(f"<div>{render.unbroken(html.escape(one))}</div>" for one in below)
    found = f"<table><thead>{render.line_html('th', head, head)}</thead><tbody>{body}</tbody></table>{asides}"
    return Saved(text, found, {"lines": [head, *lines], "below": below})
