"""A preview of one segment: found by its row, read by calls, bounded by its kind."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from shmkernel import kinds, render
from shmkernel._core import segment_file
from shmkernel.kinds import preview
from shmkernel.kinds.preview import Look, Preview, Source
from shmkernel.monitor.rows import GHOSTS
from shmkernel.verbs import attachments

if TYPE_CHECKING:
    from shmkernel.verbs.listing import Info


def see(info: Info, look: Look) -> Preview:
    """Show what a segment holds now; one that cannot be read says why."""
    try:
        if info.state in GHOSTS:
            return _ghost(info, look)
        with segment_file.reading(info.path, info.name) as fd:
            source = Source(lambda at, size: os.pread(fd, size, at), os.fstat(fd).st_size, info.path)
            return _shown(info, source, look)
    except (OSError, ValueError) as error:
        return preview.nothing(render.clean(str(error)))
    except Exception as error:  # noqa: BLE001  bytes may be anything, and a kind anybody's: the monitor goes on
        return preview.nothing(f"cannot be shown: {type(error).__name__}: {render.clean(str(error))}")


def _ghost(info: Info, look: Look) -> Preview:
    """Read what only this process still has, through the mapping that it has."""
    for one in attachments.everything():
        mapping = one()
        if one.name == info.name and one.size == info.size and mapping is not None and one.key[2] != "c":
            return _shown(info, Source(lambda at, size, of=mapping: of[at : at + size], one.size), look)  # type: ignore[misc]
    return preview.nothing("no memory of it is left here")


def _shown(info: Info, source: Source, look: Look) -> Preview:
    if info.state == "damaged":
        return _with_note(preview.raw(source, look), info.type)
    if info.kind in ("file", "unknown"):
        return _with_note(preview.raw(source, look), "a file of another program")
    return kinds.named(info.kind).preview(source, look)


def _with_note(found: Preview, note: str) -> Preview:
    found.facts["note"] = render.clean(note)
    return found
