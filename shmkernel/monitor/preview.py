"""The preview of one segment. It reads with `os.pread` and does not attach; its kind limits how much it reads."""

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


def of(info: Info, look: Look) -> Preview:
    """Return a preview of a segment's content, or the reason why it cannot be read."""
    try:
        if info.state in GHOSTS:
            return _ghost(info, look)
        with segment_file.reading(info.path, info.name) as fd:
            source = Source(lambda at, size: os.pread(fd, size, at), os.fstat(fd).st_size, info.path)
            return _shown(info, source, look)
    except (OSError, ValueError) as error:
        return preview.nothing(render.clean(str(error)))
    except Exception as error:  # noqa: BLE001  bytes may be damaged, a kind may be a user's: the monitor must survive
        return preview.nothing(f"cannot be shown: {type(error).__name__}: {render.clean(str(error))}")


def _ghost(info: Info, look: Look) -> Preview:
    """Preview unlinked or replaced memory through this process's mapping of it."""
    for held in attachments.everything():
        mapping = held()
        if held.name == info.name and held.size == info.size and mapping is not None and held.key[2] != "c":
            return _shown(info, Source(attachments.reading(mapping), held.size), look)
    return preview.nothing("this notebook no longer has its memory")


def _shown(info: Info, source: Source, look: Look) -> Preview:
    if info.state == "damaged":
        return _with_note(preview.raw(source, look), info.type)
    if info.kind in ("file", "unknown"):
        return _with_note(preview.raw(source, look), "a file of another program")
    return kinds.named(info.kind).preview(source, look)


def _with_note(shown: Preview, note: str) -> Preview:
    shown.facts["note"] = render.clean(note)
    return shown
