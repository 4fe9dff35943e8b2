"""The verbs: what a person does with a segment. Here kinds, registry and memory come together.

    create    kind lays the value out -> memory: nameless file, reserved, filled, mapped -> registry: record, name
    attach    memory: open, lock, check -> kind by the record -> a view over the mapping; nothing is copied
    close     forget the view; the mapping, and with it the attachment, goes with the last reference to it
    unlink    registry: the name goes; who has the segment attached keeps its memory

A session holds weak references only. A strong one would pin 10 GB after ``del x``; an array's base chain ends at
the mapping, so memory is never unmapped under a living view.
"""

from __future__ import annotations

from shmkernel.verbs.doctor import Finding, doctor
from shmkernel.verbs.files import load, save
from shmkernel.verbs.listing import Holder, Info, info, list  # noqa: A004  the verb's name in every face
from shmkernel.verbs.locking import changes, lock, publish, snapshot, version, wait, writing
from shmkernel.verbs.segments import attach, close, create, gc, keep, unlink
from shmkernel.verbs.session import Session, session

__all__ = [
    "Finding", "Holder", "Info", "Session", "attach", "changes", "close", "create",
    "doctor", "gc", "info", "keep", "list", "load", "lock", "publish", "save", "session", "snapshot", "unlink",
    "version", "wait", "writing",
]  # fmt: skip
