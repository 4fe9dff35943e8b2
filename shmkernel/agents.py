"""What an agent may ask about shared memory: four functions that read, and change nothing.

The package jupyter-server-mcp offers them to agents as tools of a Jupyter server: it finds `TOOLS` by the entry point
group ``jupyter_server_mcp.tools``. ``shmkernel list``, ``info``, ``preview`` and ``doctor`` with ``--json`` print the
same. They attach nothing and unpickle nothing, and the size of an answer is bounded.
"""

from __future__ import annotations

import base64
import importlib
import struct
from typing import TYPE_CHECKING, Any

import shmkernel as shm
from shmkernel import kinds, render
from shmkernel._core import capacity, paths, segment_file
from shmkernel.kinds.preview import Look
from shmkernel.monitor import png
from shmkernel.monitor import preview as previews

if TYPE_CHECKING:
    from shmkernel.kinds.preview import Preview

TOOLS = [f"shmkernel.agents:{name}" for name in ("shm_list", "shm_describe", "shm_preview", "shm_doctor")]
_MOST = 50  # segments of a list, if the caller names no other number
_TEXT = 6000  # characters of a preview's text
_NUMBERS = 100  # of a line, and of a row and a column of a plane: 10 each


def shm_list(most: int = _MOST) -> dict:  # type: ignore[type-arg]  # tool servers read the annotation
    """List the shared memory segments of this user: arrays, tables, dicts and lists that notebooks share.

    Gives name, kind, type, size in bytes, owner and lifetime of each, the largest first, and the free memory.
    """
    rows = sorted(shm.list(), key=lambda info: -info.size)
    room = capacity.room()
    return {
        "folder": paths.folder(), "free": room.free, "total": len(rows),
        "segments": [render.as_object(info) for info in rows[: max(0, min(most, 500))]],
    }  # fmt: skip


def shm_describe(name: str) -> dict:  # type: ignore[type-arg]  # tool servers read the annotation
    """Describe one shared memory segment: dtype, shape, size, owner, who has it attached, and how to use it."""
    info = shm.info(name)
    modes = getattr(kinds.known().get(info.kind), "modes", segment_file.MODES)
    mode = ", mode='r'" if "r" in modes else ""  # else changes stay private in any case
    use = f"import shmkernel as shm; value = shm.attach({name!r}{mode})"
    people = [{"pid": holder.pid, "label": render.clean(holder.label)} for holder in info.attached[:50]]
    return {**render.as_object(info), "attached": people, "note": render.clean(render.note(info)), "python": use}


def shm_preview(name: str, start: int = 0) -> Any:
    """Show the content of a shared memory segment: statistics and some values as text, and a small picture of numbers.

    Of a table, dict or list it shows up to 50 rows from row `start`.
    """
    shown = preview(name, start)
    try:
        types: Any = importlib.import_module("mcp.types")
    except ModuleNotFoundError:  # called by something else than a tool server
        return shown
    blocks = [types.TextContent(type="text", text=shown["text"])]
    if shown["png"]:
        blocks.append(types.ImageContent(type="image", data=shown["png"], mimeType="image/png"))
    return blocks


def shm_doctor() -> dict:  # type: ignore[type-arg]  # tool servers read the annotation
    """Check this machine's shared memory. Each finding has a level (ok, note, warn, fail), a text and a cure."""
    return {"findings": [finding._asdict() for finding in shm.doctor()]}


def preview(name: str, start: int = 0) -> dict[str, Any]:
    """Return a preview as ``text``, and as ``png`` in base64, which is None for what is no picture.

    Examples
    --------
    >>> x = shm.create("x", [1.5, 2.5], dtype="float64")
    >>> print(preview("x")["text"])
    x: array float64 (2,), 144 B
    min 1.5, max 2.5, mean 2, NaN 0; of all 2 values
    1.5, 2.5
    >>> shm.unlink("x")
    """
    info = shm.info(name)
    shown = previews.of(info, Look(start=start))
    stats = ", ".join(f"{title} {value}" for title, value in shown.facts["stats"])
    head = f"{info.name}: {f'{info.state}, ' if info.state else ''}{render.what(info)}"
    text = "\n".join(filter(None, [head, "; ".join(filter(None, [stats, shown.facts["note"]])), *_lines(shown)]))
    image = png.picture(shown)
    return {
        "name": name, "form": shown.form, "text": text if len(text) <= _TEXT else f"{text[: _TEXT - 1]}…",
        "png": base64.b64encode(image).decode() if image else None,
    }  # fmt: skip


def _lines(shown: Preview) -> list[str]:
    facts = shown.facts
    if shown.form == "line" and not facts["joined"]:
        values = struct.unpack(f"<{facts['dots']}d", shown.data)[:_NUMBERS]
        more = facts["width"] - len(values)
        return [_numbers(values) + (f", … {more:,} more" if more else "")]
    if shown.form == "heat" and (facts["h"], facts["w"]) == (facts["height"], facts["width"]):
        rows, columns = facts["h"], facts["w"]
        values = struct.unpack(f"<{rows * columns}f", shown.data)
        few = range(min(rows, _NUMBERS // 10))
        more = rows > len(few) or columns > _NUMBERS // 10
        first = [_numbers(values[at * columns : at * columns + min(columns, _NUMBERS // 10)]) for at in few]
        return [*first, "…: the first rows and columns"] if more else first
    if shown.form == "grid":
        heads = [f"{title} ({kind})" if kind else title for title, kind in facts["columns"]]
        table = [*([["", *heads]] if any(heads) else []), *facts.get("about", ()), *facts["rows"]]
        last = facts["start"] + len(facts["rows"])
        return [
            *(render.clean(" | ".join(row)) for row in table),
            f"rows {facts['start']} to {last} of {facts['total']}",
        ]
    if shown.form == "hex":
        return [shown.data[at : at + 16].hex(" ") for at in range(0, len(shown.data), 16)]
    return []


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.6g}" for value in values)
