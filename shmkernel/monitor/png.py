"""A preview as a small PNG picture, written with the standard library alone."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shmkernel.kinds.preview import Preview

_SIDE = 256  # pixels of the longer side, at most 300 if the preview has so many
_PLOT = (320, 120)  # width and height of a line
_STOPS = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))  # least to greatest value
_NOTHING = (128, 128, 128)  # NaN
_PAPER, _INK = (255, 255, 255), (33, 90, 180)

_Colour = tuple[int, int, int]


def picture(shown: Preview) -> bytes | None:
    """Return a line, heat map or image as PNG, at most about 64 KiB; None for what is no picture.

    Examples
    --------
    >>> from shmkernel.kinds.preview import Preview
    >>> facts = {"low": 0.0, "high": 1.0, "h": 1, "w": 2}
    >>> picture(Preview("heat", facts, struct.pack("<2f", 0, 1)))[1:4]
    b'PNG'
    """
    if shown.form == "line":
        return _png(_plot(shown))
    if shown.form == "heat":
        low, high = shown.facts["low"], shown.facts["high"]
        values = struct.unpack(f"<{len(shown.data) // 4}f", shown.data)
        return _png(_enlarged([_shade(value, low, high) for value in values], shown))
    if shown.form == "image":
        colours = [*struct.iter_unpack("3B", shown.data)]
        return _png(_enlarged(colours, shown))
    return None


def _shade(value: float, low: float, high: float) -> _Colour:
    if value != value:  # noqa: PLR0124  NaN
        return _NOTHING
    share = (value - low) / (high - low) if high > low else 0.5
    at = min(max(share, 0.0), 1.0) * (len(_STOPS) - 1)
    left = min(int(at), len(_STOPS) - 2)
    red, green, blue = (round(a + (b - a) * (at - left)) for a, b in zip(_STOPS[left], _STOPS[left + 1], strict=True))
    return red, green, blue


def _enlarged(colours: list[_Colour], shown: Preview) -> list[list[_Colour]]:
    height, width = shown.facts["h"], shown.facts["w"]
    times = max(1, _SIDE // max(height, width))
    rows = (colours[at * width : (at + 1) * width] for at in range(height))
    large = ([colour for colour in row for _ in range(times)] for row in rows)
    return [row for row in large for _ in range(times)]


def _plot(shown: Preview) -> list[list[_Colour]]:
    """Draw each column from the least to the greatest value that falls into it, and on to the next column's values."""
    width, height = _PLOT
    low, high, dots = shown.facts["low"], shown.facts["high"], shown.facts["dots"]
    values = struct.unpack(f"<{len(shown.data) // 8}d", shown.data)
    least, most = values[:dots], values[-dots:]
    rows = [[_PAPER] * width for _ in range(height)]
    before: tuple[int, int] | None = None
    for column in range(width):
        part = range(column * dots // width, max((column + 1) * dots // width, column * dots // width + 1))
        found = [value for at in part for value in (least[at], most[at]) if low <= value <= high]
        if not found:
            before = None
            continue
        top, bottom = (
            round((height - 1) * (1 - ((value - low) / (high - low) if high > low else 0.5)))
            for value in (max(found), min(found))
        )
        begin = min(top, before[1]) if before else top
        end = max(bottom, before[0]) if before else bottom
        before = top, bottom
        for row in range(begin, end + 1):
            rows[row][column] = _INK
    return rows


def _png(rows: list[list[_Colour]]) -> bytes:
    """Encode rows of pixels: https://www.w3.org/TR/png-3/."""
    lines = b"".join(b"\0" + bytes(part for colour in row for part in colour) for row in rows)
    head = struct.pack(">2I5B", len(rows[0]), len(rows), 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(lines, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
