"""How segments look to people: in a notebook, on a terminal, in one line.

Every HTML has its plain text beside it, and takes its colours from JupyterLab's theme alone. Labels are file
names, so they are escaped, and what a terminal would act on is replaced.
"""

from __future__ import annotations

import html
import os
import time
from typing import TYPE_CHECKING, Any

from shmkernel._core import capacity, paths

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from shmkernel.verbs.listing import Holder, Info

FOREIGN = "another program"  # what a listing says of a file without a record
_COLUMNS = ("name", "kind", "type", "size", "owner", "attached", "lifetime", "age")
_RIGHT = {"size", "age"}
_MOST = 100  # rows of a listing in a notebook
_SHOWN = 2  # holders named in the table; the others are a number
_LIFETIMES = {
    "session": "until {owner} ends",
    "attached": "until the last to have it attached lets go",
    "keep": "until it is unlinked",
}
NOTHING = "Nothing is shared yet. Share a variable: %shm_create NAME. More: %shm_help"


def age(seconds: float) -> str:
    """Write a time span for people.

    Examples
    --------
    >>> age(4.2), age(250), age(7300), age(200_000)
    ('4 s', '4 min', '2 h', '2 d')
    """
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def what(one: Info) -> str:
    """Describe what a segment holds: ``array int16 (344, 403), 270.8 KiB``."""
    return clean(f"{one.kind} {one.type}, {capacity.human(one.size)}")


def people(holders: Iterable[Holder], *, shown: int | None = None) -> str:
    """Name holders, notebooks without their extension; beyond `shown` of them only count.

    Examples
    --------
    >>> from collections import namedtuple
    >>> holder = namedtuple("Holder", "pid label")
    >>> people([holder(1, "plot.ipynb"), holder(2, "prepare.ipynb"), holder(3, "a.py in lab")], shown=2)
    'plot, prepare +1'
    """
    found = ["here" if one.pid == os.getpid() else one.label.removesuffix(".ipynb") for one in holders]
    more = len(found) - shown if shown is not None else 0
    return clean(", ".join(found[:shown]) + (f" +{more}" if more > 0 else ""))


def owner(one: Info) -> str:
    """Name a segment's owner, with the kernel's process where that lives."""
    where = "here" if one.mine else one.owner_pid if one.owner_alive else "ended" if one.owner != FOREIGN else None
    return clean(f"{one.owner} ({where})" if where else one.owner)


def source(one: Info) -> str:
    """Say whose segment it is, to somebody who attaches it."""
    ended = "" if one.owner_alive or one.owner == FOREIGN else " (ended)"
    return "this notebook" if one.mine else clean(one.owner + ended)


def note(one: Info) -> str:
    """Say what is unusual about a segment, and what to run then."""
    if one.state == "replaced":
        return f"replaced: %shm_attach {one.name}"
    if one.state == "unlinked":
        others = [holder for holder in one.attached if holder.pid != os.getpid()]
        why = "unlinked" if one.owner_alive else "owner ended"
        if not others:
            return f"{why}, only here: %shm_keep {one.name}"
        verb = "has" if len(others) == 1 else "have"
        return f"{why}, {people(others, shown=_SHOWN)} {verb} it too. A copy with the name: %shm_keep {one.name}"
    if one.state == "damaged":
        return f"damaged: %shm_unlink {one.name}"
    return ""


def table(rows: Sequence[Info], notes: Mapping[str, str] | None = None, *, most: int | None = None) -> str:
    """Lay out segments as a table in plain text, the first of them; `notes` adds remarks by name."""
    if not rows:
        return NOTHING
    head, cells = _cells(rows[:most], notes or {})
    widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
    lines = [
        "  ".join(
            text.rjust(width) if title in _RIGHT else text.ljust(width)
            for title, text, width in zip(head, line, widths, strict=True)
        ).rstrip()
        for line in (head, *cells)
    ]
    return "\n".join([*lines, total(rows), *_others(rows, most)])


def table_html(rows: Sequence[Info], notes: Mapping[str, str] | None = None, *, most: int | None = None) -> str:
    """Lay out segments as a table in HTML, the first of them."""
    if not rows:
        return f"<div>{html.escape(NOTHING)}</div>"
    head, cells = _cells(rows[:most], notes or {})

    def line(tag: str, texts: Iterable[str]) -> str:
        return "".join(
            f'<{tag} style="text-align: {"right" if title in _RIGHT else "left"}">{html.escape(text)}</{tag}>'
            for title, text in zip(head, texts, strict=True)
        )

    body = "".join(f"<tr>{line('td', texts)}</tr>" for texts in cells)
    below = "".join(map(_aside, (total(rows), *_others(rows, most))))
    return f"<table><thead><tr>{line('th', head)}</tr></thead><tbody>{body}</tbody></table>{below}"


def total(rows: Sequence[Info]) -> str:
    """Sum up: the segments, the folder, the container."""
    room = capacity.room()
    size = capacity.human(sum(one.size for one in rows))
    count = f"{len(rows)} segment{'s' * (len(rows) != 1)}, {size}"
    folder = f"{clean(paths.folder())}: {capacity.human(room.used)} of {capacity.human(room.total)} used"
    limit = f". Memory limit of this container: {capacity.human(room.container)}" if room.container else ""
    return f"{count}. {folder}, {capacity.human(room.free)} free{limit}"


def card(one: Info, remark: str = "") -> str:
    """Show all that is known of one segment, in plain text."""
    facts = _facts(one, remark)
    width = max(len(title) for title, _ in facts)
    return "\n".join(f"{title.ljust(width)}  {text}" for title, text in facts)


def card_html(one: Info, remark: str = "") -> str:
    """Show all that is known of one segment, in HTML."""
    lines = (
        f'<tr><th style="text-align: left">{html.escape(title)}</th>'
        f'<td style="text-align: left">{html.escape(text)}</td></tr>'
        for title, text in _facts(one, remark)
    )
    return f"<table><tbody>{''.join(lines)}</tbody></table>"


def clean(text: str) -> str:
    """Replace what is no character to see: a file name may hold a line break, or a terminal's commands."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


class Rows(list["Info"]):
    """What a listing returns: a plain list of Info, which a notebook shows as a table, or as cards."""

    def __init__(self, rows: Iterable[Info], notes: Mapping[str, str], *, cards: bool = False) -> None:
        super().__init__(rows)
        self._notes, self._cards = notes, cards

    def __getitem__(self, at: Any) -> Any:  # noqa: ANN401  as a list's
        found = super().__getitem__(at)
        return Rows(found, self._notes, cards=self._cards) if isinstance(at, slice) else found

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:  # noqa: ANN401, ARG002  IPython's protocol
        cards = (card(one, self._notes.get(one.name, "")) for one in self)
        printer.text("\n\n".join(cards) if self._cards else table(self, self._notes, most=_MOST))

    def _repr_html_(self) -> str:
        cards = (card_html(one, self._notes.get(one.name, "")) for one in self)
        return "".join(cards) if self._cards else table_html(self, self._notes, most=_MOST)


def _others(rows: Sequence[Info], most: int | None) -> list[str]:
    if most is None or len(rows) <= most:
        return []
    return [f"The first {most} are shown. The others: rows = %shm_list, then rows[{most}:{2 * most}]"]


def _cells(rows: Sequence[Info], notes: Mapping[str, str]) -> tuple[list[str], list[list[str]]]:
    remarks = [note(one) or notes.get(one.name, "") for one in rows]
    head = [*_COLUMNS, *(["note"] if any(remarks) else [])]
    return head, [[*_row(one), remark][: len(head)] for one, remark in zip(rows, remarks, strict=True)]


def _row(one: Info) -> list[str]:
    return [
        one.name, one.kind, clean(one.type), capacity.human(one.size), owner(one), _attached(one), one.lifetime,
        age(time.time() - one.created) if one.created else "",
    ]  # fmt: skip


def _attached(one: Info) -> str:
    if not one.attached:
        return "elsewhere" if one.elsewhere else "0"
    return f"{len(one.attached)}: {people(one.attached, shown=_SHOWN)}"


def _facts(one: Info, remark: str) -> list[tuple[str, str]]:
    opens = "   (numpy.load opens it)" if one.kind == "array" and not one.state else ""
    made = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(one.created)) if one.created else ""
    holders = ", ".join(f"{holder.label} ({holder.pid})" for holder in one.attached)
    lives = _LIFETIMES.get(one.lifetime, "").format(owner=one.owner)
    facts = [
        ("name", one.name),
        ("kind", one.kind),
        ("type", one.type),
        ("order", {"C": "C (rows first)", "F": "F (columns first)"}.get(one.order or "", "")),
        ("size", f"{capacity.human(one.size)} ({one.size} bytes)"),
        ("path", "" if one.state in ("replaced", "unlinked") else f"{one.path}{opens}"),
        ("owner", owner(one)),
        ("created", f"{made}, {age(time.time() - one.created)} ago" if one.created else ""),
        ("attached", holders or ("by processes elsewhere, in another container" if one.elsewhere else "nowhere")),
        ("lifetime", f"{one.lifetime}: {lives}"),
        ("version", str(one.version or "")),
        ("note", note(one) or remark),
    ]
    return [(title, clean(text)) for title, text in facts if text]


def _aside(text: str) -> str:
    return f'<div style="color: var(--jp-ui-font-color2)">{html.escape(text)}</div>'
