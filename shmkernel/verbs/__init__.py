"""The verbs: what a user does with a segment. They join kinds, segment files and the registry.

    create    kind plans the layout -> segment_file: nameless file, reserved, filled, mapped -> registry: record, name
    attach    segment_file: open, lock, check -> kind from the record -> a view over the mapping; nothing is copied
    close     forget the view; the last reference to the mapping ends the attachment
    unlink    registry: remove the name; processes that have the segment attached keep its memory

This process keeps only weak references to its views. A strong one would keep 10 GB after ``del x``. The base of every
array is the mapping, so memory is never unmapped under a living view.

`shmkernel` finds the verbs in the modules. This package imports none of them, so that an attach imports no other verb.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
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
