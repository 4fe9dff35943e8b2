"""The monitor on a terminal, ``shmkernel watch``, drawn with rich."""

from __future__ import annotations

import contextlib
import os
import re
import select
import struct
import sys
import termios
import time
import tty
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from shmkernel import render
from shmkernel._core import capacity, paths
from shmkernel.kinds.preview import Look, Preview
from shmkernel.monitor import preview, rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shmkernel.verbs.listing import Info

_FAR = 1 << 32  # beyond every row
_KEYS = {
    "\x1b[A": -1, "k": -1, "\x1b[B": 1, "j": 1, "\x1b[5~": -10, "\x1b[6~": 10,
    "\x1b[H": -_FAR, "\x1b[1~": -_FAR, "\x1b[F": _FAR, "\x1b[4~": _FAR,
}  # fmt: skip
_KEY = re.compile(r"\x1b\[[0-9;]*[A-Za-z~]|.", re.DOTALL)  # one read may return several keys
_END = ("q", "\x03", "\x04")
_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))  # of a Braille character, by column, from the top
_GREYS = " ░▒▓█"  # for terminals without colours
_SHADES = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))  # five of viridis
_HINT = "↑ ↓ PgUp PgDn Home End choose   q quit"
_TITLES = ("", "name", "kind", "type", "size", "owner", "attached", "lifetime", "age")
_HIGH = 12  # lines that leave room to what is said about columns
_ROOM = 10  # lines that the table leaves free


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Let the command line handle it; rich would exit with status 1."""
        raise BrokenPipeError


class Screen:
    """Draws the board and the preview of the chosen row."""

    def __init__(self, chosen: str = "", hint: str = "") -> None:
        self.board = rows.Board()
        self.chosen = chosen
        self._hint = [Text(hint, style="dim")] if hint else []

    def move(self, step: int) -> None:
        """Choose another row."""
        keys = self._keys()
        if keys:
            at = keys.index(self.chosen) if self.chosen in keys else 0
            self.chosen = keys[max(0, min(len(keys) - 1, at + step))]

    def draw(self, width: int, height: int) -> Group:
        """Sample once, and lay out the screen for this many columns and lines."""
        self.board.scan()
        keys = self._keys()
        if self.chosen not in keys:
            self.chosen = keys[0] if keys else ""
        if not keys:
            return Group(self._bar(width), *self._hint, Text(render.nothing()))
        shown = max(3, min(len(keys), height - _ROOM - height // 3))
        at = keys.index(self.chosen)
        first = max(0, min(at - shown // 2, len(keys) - shown))
        rest = height - shown - _ROOM + 4
        return Group(
            self._bar(width),
            *self._hint,
            self._table(keys[first : first + shown], width),
            Text(f"{first + 1} to {first + shown} of {len(keys)}" if shown < len(keys) else "", style="dim"),
            *self._content(width, max(rest, 3)),
        )

    def _keys(self) -> list[str]:
        return sorted(self.board.rows)

    def _bar(self, width: int) -> Text:
        room = rows.usage_of(self.board.rows.values())
        used = width * (room.total - room.free) // (room.total or 1)
        shared = width * (room.mine + room.shared) // (room.total or 1)
        bar = Text("█" * shared, style="blue").append("▒" * max(used - shared, 0), style="default")
        bar.append("░" * (width - used), style="dim default")
        count, size = len(self.board.rows), capacity.human(room.mine + room.shared)
        text = f"{count} segment{'s' * (count != 1)}, {size}. {render.clean(paths.folder())}: "
        text += f"{capacity.human(room.free)} available of {capacity.human(room.total)}"
        text = f"\n{render.shortened(text, width)}"
        if room.short:
            return bar.append(f"{text}: nearly full", style="bold red")
        return bar.append(text, style="default")

    def _table(self, keys: list[str], width: int) -> Table:
        lines = [_cells(self.board.rows[key].info) for key in keys]
        longest = [max(map(len, column)) for column in zip(_TITLES, *lines, strict=True)]
        widths = render.fitted(_TITLES, longest, width)
        table = Table(box=None, pad_edge=False, expand=True)
        for title, limit in zip(_TITLES, widths, strict=True):
            if limit:
                table.add_column(title, justify="right" if title in ("size", "age") else "left", no_wrap=True)
        for key, cells in zip(keys, lines, strict=True):
            fit = (
                Text(render.shortened(text, limit, middle=title == "name"))
                for title, text, limit in zip(_TITLES, cells, widths, strict=True)
                if limit
            )
            table.add_row(*fit, style="reverse" if key == self.chosen else "")
        return table

    def _content(self, width: int, height: int) -> list[Any]:
        info = self.board.rows[self.chosen].info
        shown = preview.of(info, Look())
        stats = "   ".join(f"{name} {value}" for name, value in shown.facts["stats"])
        title = Text(f"{info.name}   ", style="bold", no_wrap=True, overflow="ellipsis")
        title.append(f"{stats}   {shown.facts['note']}", style="not bold dim")
        return [title, picture(shown, width, height)]


def _cells(info: Info) -> tuple[str, ...]:
    return (
        _sign(info), f"{info.name} {info.state}".strip(), info.kind, render.clean(info.type), capacity.human(info.size),
        f"snapshot of {render.clean(render.origin(info))}" if info.origin else render.owner(info),
        f"{len(info.attached)} {render.people(info.attached, shown=1)}".strip(), info.lifetime,
        render.age(time.time() - info.created) if info.created else "",
    )  # fmt: skip


def _sign(info: Info) -> str:
    if info.state in ("damaged", "unreadable"):
        return "!"
    return "◆" if info.lifetime == "keep" else "●" if info.owner_alive else "○"


def picture(found: Preview, width: int, height: int) -> Text | Table:
    """Draw a preview in characters."""
    facts = found.facts
    if found.form == "line":
        values = struct.unpack(f"<{len(found.data) // 8}d", found.data) * (1 if facts["joined"] else 2)
        return Text(plot(values, facts["low"], facts["high"], width, height), style="cyan")
    if found.form in ("heat", "image"):
        high = max(1, min(height, facts["h"], width * facts["height"] // (2 * facts["width"])))
        return _map(found, max(1, min(width, round(2 * high * facts["width"] / facts["height"]))), high)
    if found.form == "grid":
        table = Table(box=None, pad_edge=False)
        for title in ("", *(name for name, _ in facts["columns"])):
            table.add_column(Text(render.clean(title)), no_wrap=True)
        about = facts.get("about", ()) if height > _HIGH else ()
        for row in about:
            table.add_row(*(Text(render.clean(cell)) for cell in row), style="dim")
        for row in facts["rows"][: height - len(about)]:
            table.add_row(*(Text(render.clean(cell)) for cell in row))
        return table
    if found.form == "hex":
        lines = [found.data[at : at + 16] for at in range(0, min(len(found.data), 16 * height), 16)]
        return Text("\n".join(f"{line.hex(' '):48} {_letters(line)}" for line in lines))
    return Text("")


def plot(values: tuple[float, ...], low: float, high: float, width: int, height: int) -> str:
    """Draw a line in Braille characters of eight dots; a column of dots spans all values that fall into it.

    The first half of `values` has the least value at each place, the second half the greatest. NaN leaves a gap.

    Examples
    --------
    >>> print(plot((0.0, 1.0, 2.0, 3.0) * 2, 0.0, 3.0, 2, 1))
    ⡠⠊
    """
    places = len(values) // 2
    columns = 2 * width
    top, span = 4 * height - 1, (high - low) or 1.0
    lines = [[0x2800] * -(-columns // 2) for _ in range(height)]
    for column in range(columns):
        first = column * places // columns
        part = slice(first, max(first + 1, (column + 1) * places // columns))
        inside = [value for value in (*values[:places][part], *values[places:][part]) if value == value]  # noqa: PLR0124  not NaN
        if not inside:
            continue
        ends = (round((max(low, min(high, end)) - low) / span * top) for end in (min(inside), max(inside)))
        for dot in range(next(ends), next(ends) + 1):
            lines[(top - dot) // 4][column // 2] |= _DOTS[column % 2][(top - dot) % 4]
    return "\n".join("".join(map(chr, line)) for line in lines)


def _map(found: Preview, width: int, height: int) -> Text:
    facts, text = found.facts, Text()
    for row in range(height):
        for column in range(width):
            at = (row * facts["h"] // height) * facts["w"] + column * facts["w"] // width
            if found.form == "image":
                colour = tuple(found.data[at * 3 : at * 3 + 3])
                share = sum(colour) / 3 / 255
            else:
                (value,) = struct.unpack_from("<f", found.data, at * 4)
                share = (value - facts["low"]) / ((facts["high"] - facts["low"]) or 1.0)
                colour = _shade(share)
            shade = "rgb({},{},{})".format(*colour)
            text.append(_GREYS[_level(share, len(_GREYS))], style=f"{shade} on {shade}")
        text.append("\n" if row < height - 1 else "")
    return text


def _shade(share: float) -> tuple[int, ...]:
    if share != share:  # noqa: PLR0124  NaN
        return 128, 128, 128
    place = max(0.0, min(1.0, share)) * (len(_SHADES) - 1)
    low = min(int(place), len(_SHADES) - 2)
    return tuple(round(a + (b - a) * (place - low)) for a, b in zip(_SHADES[low], _SHADES[low + 1], strict=True))


def _level(share: float, count: int) -> int:
    """Scale a share from 0 to 1 to a number below `count`; return 0 for NaN.

    Examples
    --------
    >>> _level(0.0, 5), _level(1.0, 5), _level(float("nan"), 5)
    (0, 4, 0)
    """
    return round(max(0.0, min(1.0, share)) * (count - 1)) if share == share else 0  # noqa: PLR0124  not NaN


def _letters(line: bytes) -> str:
    return "".join(chr(byte) if 31 < byte < 127 else "·" for byte in line)  # noqa: PLR2004  printable ASCII


def watch(name: str, interval: float) -> None:
    """Show the monitor until q or Ctrl-C is pressed. Without a terminal print it once."""
    console = _Console()
    if not (console.is_terminal and sys.stdin.isatty()):
        console.print(Screen(name).draw(console.width, console.height))
        return
    screen = Screen(name, _HINT)
    with _keys() as pressed, Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            live.update(screen.draw(console.width, console.height), refresh=True)
            keys = _KEY.findall(pressed(interval))
            if any(key in _END for key in keys):
                return
            screen.move(sum(_KEYS.get(key, 0) for key in keys))


@contextlib.contextmanager
def _keys() -> Iterator[Any]:
    """Read single keys from the terminal, and restore its settings afterwards."""
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)

    def pressed(patience: float) -> str:
        if not select.select([fd], [], [], patience)[0]:
            return ""
        return os.read(fd, 16).decode(errors="replace")

    tty.setcbreak(fd)
    try:
        yield pressed
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
