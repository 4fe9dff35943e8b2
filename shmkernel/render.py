"""Render segments for people: tables, cards and one-line descriptions, as HTML and as plain text.

HTML uses only the colours of JupyterLab's theme. Labels are file names, which may contain anything: HTML escapes
them, and `clean` replaces control characters, which a terminal would obey.
"""

from __future__ import annotations

import html
import os
import re
import shutil
import sys
import textwrap
import time
from typing import TYPE_CHECKING, Any

from shmkernel._core import capacity, paths
from shmkernel.errors import Cure

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from shmkernel.hosts.offering import Offer
    from shmkernel.verbs.listing import Holder, Info

FOREIGN = "another program"  # the owner in listings of a file without a record
_COLUMNS = ("name", "kind", "type", "size", "owner", "attached", "lifetime", "age")
RIGHT = {"size", "age"}  # columns of numbers
_MEASURES = {"type", "size", "created", "age"}  # columns, and facts, that consist of numbers and units
_INSIDE = re.compile(r"(?<=\d) (?=(?:[KMGT]i)?B\b|bytes|rows|columns|(?:s|min|h|d)\b)|(?<=\d,) (?=\d)")
# What gives way if a table is too wide for a terminal, in this order: a column, and its least width, 0 to leave it out.
_GIVING = (
    ("owner", 16), ("attached", 16), ("type", 16), ("name", 24), ("age", 0), ("lifetime", 0), ("owner", 10),
    ("attached", 10), ("type", 10), ("name", 16), ("kind", 0), ("owner", 0), ("attached", 0), ("name", 8),
)  # fmt: skip
MUCH = 1 << 20  # bytes: where each process copies so many, it is said how much is shared
_MOST = 100  # rows of a listing in a notebook
_SHOWN = 2  # holders named in a row of the table; the others are counted
_FINGERPRINT = 8  # digits shown of each of a cached value
_LIFETIMES = {
    "session": "until {owner} ends",
    "attached": "until the last process lets go of it",
    "keep": "until somebody unlinks it",
}


def age(seconds: float) -> str:
    """Write a time span in its largest unit.

    Examples
    --------
    >>> age(4.2), age(250), age(7300), age(200_000)
    ('4 s', '4 min', '2 h', '2 d')
    """
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def what(segment: Info) -> str:
    """Describe a segment's content: ``array int16 (344, 403), 270.8 KiB``.

    Of an object of which each process copies 1 MiB or more, it says how much: ``1.0 GiB shared, 14.0 MiB copied``.
    """
    size = capacity.human(segment.size)
    if segment.copied >= MUCH:
        size = f"{capacity.human(segment.size - segment.copied)} shared, {capacity.human(segment.copied)} copied"
    return clean(f"{segment.kind} {segment.type}, {size}")


def as_object(segment: Info) -> dict[str, object]:
    """Return a segment's facts for JSON; the processes that have it attached as their ids."""
    fields = segment._asdict() | {"attached": [holder.pid for holder in segment.attached]}
    fields["origin"] = segment.origin and segment.origin._asdict()
    del fields["mine"], fields["stayed"]  # of the process that lists
    return fields


def people(holders: Iterable[Holder], *, shown: int | None = None) -> str:
    """Name the first `shown` holders, notebooks without their extension, and count the others.

    Examples
    --------
    >>> from collections import namedtuple
    >>> holder = namedtuple("Holder", "pid label")
    >>> people([holder(1, "plot.ipynb"), holder(2, "prepare.ipynb"), holder(3, "a.py in lab")], shown=2)
    'plot, prepare +1'
    """
    labels = ["here" if holder.pid == os.getpid() else holder.label.removesuffix(".ipynb") for holder in holders]
    more = len(labels) - shown if shown is not None else 0
    return clean(", ".join(labels[:shown]) + (f" +{more}" if more > 0 else ""))


def owner(segment: Info) -> str:
    """Name a segment's owner, with its process id, "here" or "ended"."""
    ended = "ended" if segment.owner != FOREIGN else None
    where = "here" if segment.mine else segment.owner_pid if segment.owner_alive else ended
    return clean(f"{segment.owner} ({where})" if where else segment.owner)


def source(segment: Info) -> str:
    """Name a segment's owner for a notebook that attaches it."""
    ended = "" if segment.owner_alive or segment.owner == FOREIGN else " (ended)"
    return "this notebook" if segment.mine else clean(segment.owner + ended)


def origin(segment: Info) -> str:
    """Name the segment of another host that this one is a snapshot of; an empty text for none."""
    of = segment.origin
    return f"{of}, version {of.version}" if of else ""


def others(segment: Info) -> list[Holder]:
    """Return the processes that have a segment attached, without this one."""
    return [holder for holder in segment.attached if holder.pid != os.getpid()]


def note(segment: Info) -> str:
    """Say what is unusual about a segment, and what to run then."""
    if segment.state == "replaced":
        return _then("replaced", "attach", segment)
    if segment.state == "unlinked":
        why = "unlinked" if segment.owner_alive else "owner ended"
        if not (those := others(segment)):
            return _then(f"{why}, only here", "keep", segment)
        verb = "has" if len(those) == 1 else "have"
        return _then(f"{why}, {people(those, shown=_SHOWN)} {verb} it too. To share a copy", "keep", segment)
    return _then("damaged", "unlink", segment) if segment.state == "damaged" else segment.state


def _then(what: str, verb: str, segment: Info) -> str:
    return str(Cure(what, verb, segment.name)) or what


def nothing() -> str:
    """Say that there is no segment, and how to make one."""
    cures = Cure("Share a variable", "create", "NAME"), Cure("More", "help")
    return ". ".join(filter(None, ["Nothing is shared yet", *map(str, cures)]))


def table(
    rows: Sequence[Info],
    notes: Mapping[str, str] | None = None,
    *,
    most: int | None = None,
    width: int | None = None,
    below: Sequence[str] = (),
) -> str:
    """Lay out the first `most` segments as a table in plain text. `notes` maps names to remarks.

    `below` are the lines at its end, by default the total. Where the table is wider than `width`, notes go below their
    rows, and columns are shortened or left out.
    """
    if not rows:
        return nothing()
    head, rest = cells(rows[:most], notes or {})
    widths = [max(map(len, column)) for column in zip(head, *rest, strict=True)]
    ends = below or footer(rows, most)
    if width is None or sum(widths) + 2 * len(widths) - 2 <= width:
        return "\n".join([*(_line(head, line, widths) for line in (head, *rest)), *ends])
    titles = _COLUMNS
    widths = fitted(titles, widths[: len(titles)], width)
    lines = [_line(titles, titles, widths)]
    for cell, remark in ((line[: len(titles)], "".join(line[len(titles) :])) for line in rest):
        lines.append(_line(titles, cell, widths))
        lines += textwrap.wrap(remark, width, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)
    return "\n".join([*lines, *(part for text in ends for part in textwrap.wrap(text, width, break_on_hyphens=False))])


def _line(titles: Sequence[str], texts: Sequence[str], widths: Sequence[int]) -> str:
    fit = (
        shortened(text, width, middle=title == "name").rjust(width if title in RIGHT else 0).ljust(width)
        for title, text, width in zip(titles, texts, widths, strict=True)
        if width
    )
    return "  ".join(fit).rstrip()


def fitted(titles: Sequence[str], longest: Sequence[int], width: int) -> list[int]:
    """Return widths of a table's columns with which it fits into a terminal; 0 for a column to leave out.

    Examples
    --------
    >>> fitted(["name", "type", "size", "owner", "age"], [40, 9, 9, 30, 6], 80)
    [32, 9, 9, 16, 6]
    >>> fitted(["name", "type", "size", "owner", "age"], [40, 9, 9, 30, 6], 64)
    [24, 9, 9, 16, 0]
    """
    widths = dict(zip(titles, longest, strict=True))
    for title, least in _GIVING:
        over = sum(one + 2 for one in widths.values() if one) - 2 - width
        if over > 0 and title in widths:
            widths[title] = min(widths[title], max(least, widths[title] - over)) if least else 0
    return [*widths.values()]


def shortened(text: str, width: int, *, middle: bool = False) -> str:
    """Cut a text to a width at its end, or in the middle: two long names often begin alike.

    Examples
    --------
    >>> shortened("float64 (344, 403)", 12), shortened("run_of_monday_17", 11, middle=True)
    ('float64 (34…', 'run_o…ay_17')
    """
    if len(text) <= width:
        return text
    last = (width - 1) // 2 if middle else 0
    return f"{text[: width - 1 - last]}…{text[len(text) - last :]}"


def terminal_width() -> int | None:
    """Return the width of the terminal that standard output is, or None if it is none."""
    return shutil.get_terminal_size().columns if sys.stdout is not None and sys.stdout.isatty() else None


def table_html(rows: Sequence[Info], notes: Mapping[str, str] | None = None, *, most: int | None = None) -> str:
    """Lay out the first `most` segments as a table in HTML. `notes` maps names to remarks."""
    if not rows:
        return f"<div>{html.escape(nothing())}</div>"
    head, rest = cells(rows[:most], notes or {})
    body = "".join(line_html("td", head, texts) for texts in rest)
    ends = "".join(map(_aside, footer(rows, most)))
    return f"<table><thead>{line_html('th', head, head)}</thead><tbody>{body}</tbody></table>{ends}"


def line_html(tag: str, titles: Sequence[str], texts: Sequence[str]) -> str:
    """Return a line of a table, of cells with this tag."""
    cells = (
        f'<{tag} style="text-align: {"right" if title in RIGHT else "left"}">{_in_html(title, text)}</{tag}>'
        for title, text in zip(titles, texts, strict=True)
    )
    return f"<tr>{''.join(cells)}</tr>"


def _in_html(title: str, text: str) -> str:
    escaped = html.escape(text)
    return unbroken(escaped) if title in _MEASURES else escaped


def unbroken(text: str) -> str:
    """Keep numbers beside their units where a narrow page breaks lines. Other pages may drop a style sheet.

    Examples
    --------
    >>> print(unbroken("270.9 KiB of 1,000 rows, int16 (344, 403)").replace("\N{NO-BREAK SPACE}", "_"))
    270.9_KiB of 1,000_rows, int16 (344,_403)
    """
    return _INSIDE.sub("\N{NO-BREAK SPACE}", text)


def total(rows: Sequence[Info]) -> str:
    """Summarize the segments, the folder's use, and the container's memory limit."""
    return summary(len(rows), sum(row.size for row in rows))


def summary(segments: int, size: int) -> str:
    """Summarize so many segments of so many bytes, as `total` does."""
    room = capacity.room()
    count = f"{segments} segment{'s' * (segments != 1)}, {capacity.human(size)}"
    folder = f"{clean(paths.folder())}: {capacity.human(room.used)} of {capacity.human(room.total)} used"
    limit = f". Memory limit of this container: {capacity.human(room.container)}" if room.container else ""
    return f"{count}. {folder}, {capacity.human(room.free)} available{limit}"


def card(segment: Info, remark: str = "") -> str:
    """Show all details of one segment, in plain text."""
    pairs = facts(segment, remark)
    width = max(len(title) for title, _ in pairs)
    return "\n".join(f"{title.ljust(width)}  {text}" for title, text in pairs)


def card_html(segment: Info, remark: str = "") -> str:
    """Show all details of one segment, in HTML."""
    lines = (
        f'<tr><th style="text-align: left">{html.escape(title)}</th>'
        f'<td style="text-align: left">{_in_html(title, text)}</td></tr>'
        for title, text in facts(segment, remark)
    )
    return f"<table><tbody>{''.join(lines)}</tbody></table>"


def clean(text: str) -> str:
    """Replace characters that are not printable: a file name may hold line breaks or terminal escapes."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


class Rows(list["Info"]):
    """A list of Info, which a notebook shows as a table, or with `cards` as cards."""

    def __init__(self, rows: Iterable[Info], notes: Mapping[str, str], *, cards: bool = False) -> None:
        super().__init__(rows)
        self._notes, self._cards = notes, cards

    def __getitem__(self, at: Any) -> Any:
        part = super().__getitem__(at)
        return Rows(part, self._notes, cards=self._cards) if isinstance(at, slice) else part

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:  # noqa: ARG002  IPython's protocol
        cards = (card(row, self._notes.get(row.name, "")) for row in self)
        width = terminal_width()
        printer.text("\n\n".join(cards) if self._cards else table(self, self._notes, most=_MOST, width=width))

    def _repr_html_(self) -> str:
        cards = (card_html(row, self._notes.get(row.name, "")) for row in self)
        return "".join(cards) if self._cards else table_html(self, self._notes, most=_MOST)


class Offers(list["Offer"]):
    """A list of what hosts share, which is shown as a table."""

    def __str__(self) -> str:
        if not self:
            return f"No host shares anything. {Cure('If this one has not joined others', 'join')}"
        head = ("name", "kind", "type", "size", "version", "owner")
        rows = [head] + [
            (str(one), one.kind, clean(one.type), capacity.human(one.size), str(one.version), clean(one.owner))
            for one in self
        ]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join(_line(head, row, widths) for row in rows)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:  # noqa: ARG002  IPython's protocol
        printer.text(str(self))


def footer(rows: Sequence[Info], most: int | None) -> list[str]:
    """Return the lines below a table of the first `most` segments."""
    if most is None or len(rows) <= most:
        return [total(rows)]
    return [
        total(rows),
        f"Only the first {most} are shown. For the others: rows = {Cure('', 'list')}, then rows[{most}:{2 * most}]",
    ]


def cells(rows: Sequence[Info], notes: Mapping[str, str]) -> tuple[list[str], list[list[str]]]:
    """Return the titles of a table of segments and the texts of its cells."""
    remarks = [note(row) or notes.get(row.name, "") for row in rows]
    head = [*_COLUMNS, *(["note"] if any(remarks) else [])]
    return head, [[*_row(row), remark][: len(head)] for row, remark in zip(rows, remarks, strict=True)]


def _row(segment: Info) -> list[str]:
    return [
        segment.name, segment.kind, clean(segment.type), capacity.human(segment.size), owner(segment),
        _attached(segment), segment.lifetime, age(time.time() - segment.created) if segment.created else "",
    ]  # fmt: skip


def _attached(segment: Info) -> str:
    if not segment.attached:
        return "elsewhere" if segment.elsewhere else "0"
    return f"{len(segment.attached)}: {people(segment.attached, shown=_SHOWN)}"


def facts(segment: Info, remark: str = "") -> list[tuple[str, str]]:
    """Return all details of one segment: titles, and texts that are safe to print."""
    opens = "   (numpy.load opens it)" if segment.kind == "array" and not segment.state else ""
    made = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(segment.created)) if segment.created else ""
    holders = ", ".join(f"{holder.label} ({holder.pid})" for holder in segment.attached)
    lives = _LIFETIMES.get(segment.lifetime, "").format(owner=segment.owner)
    pairs = [
        ("name", segment.name),
        ("kind", segment.kind),
        ("type", segment.type),
        (
            "class" if segment.kind == "object" else "columns",
            "" if not segment.dtype or segment.dtype in segment.type else segment.dtype,
        ),
        ("order", {"C": "C (rows first)", "F": "F (columns first)"}.get(segment.order or "", "")),
        ("size", f"{capacity.human(segment.size)} ({segment.size} bytes)"),
        ("path", "" if segment.state in ("replaced", "unlinked") else f"{segment.path}{opens}"),
        ("owner", owner(segment)),
        ("created", f"{made}, {age(time.time() - segment.created)} ago" if segment.created else ""),
        ("attached", holders or ("by a process in another container" if segment.elsewhere else "nowhere")),
        ("lifetime", f"{segment.lifetime}: {lives}"),
        ("version", str(segment.version or "")),
        ("recipe", _recipe(segment.recipe)),
        ("snapshot of", f"{origin(segment)}, inode {segment.origin.inode}" if segment.origin else ""),
        ("note", note(segment) or remark),
    ]
    return [(title, clean(text)) for title, text in pairs if text]


def _recipe(recipe: str) -> str:
    """Tell of the fingerprints by which a cached cell knows its value; short ones, to compare by eye."""
    parts = [fingerprint[:_FINGERPRINT] for fingerprint in recipe.split()]
    uses = f", --uses {', '.join(parts[1:])}" if parts[1:] else ""
    return f"cached cell {parts[0]}{uses}" if parts else ""


def _aside(text: str) -> str:
    return f'<div style="color: var(--jp-ui-font-color2)">{unbroken(html.escape(text))}</div>'
