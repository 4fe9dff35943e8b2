"""What this process has attached, known by weak references."""

from __future__ import annotations

import os
import sys
import weakref
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from shmkernel import kinds
from shmkernel._core import fork, interrupts, paths, records, registry

if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable

    View = Callable[[mmap.mmap, str, str], object]  # mapping, path and mode to what is handed out

Key = tuple[int, int, str]
guard = interrupts.Guard()
_open: dict[Key, Attachment] = {}
_known: dict[str, None] = {}  # the paths of the last segments that this process has had
_KNOWN = 4096
# Filled by `shmkernel.stdlib`: what is handed out in place of a kind's own view, and who is told of each new value.
views: dict[str, View] = {}
on_put: list[Callable[[object, str], None]] = []
_closed: dict[int, Attachment] = {}  # not given out any more, but viewed; by id(), since a dead reference has no hash


class Segment(NamedTuple):
    """What a mapping is of; ``mode`` is how it is mapped."""

    stat: os.stat_result
    mode: str
    path: str
    name: str
    kind: str
    record: records.Record | None


class Attachment(weakref.ref["mmap.mmap"]):
    """One mapping, for as long as it lives; ``value`` is the object given out over it, while that lives."""

    __slots__ = ("form", "key", "kind", "last_unlinks", "name", "path", "record", "size", "start", "value")

    form: object
    key: Key
    kind: str
    last_unlinks: bool
    name: str
    path: str
    record: records.Record | None
    size: int
    start: int  # the address, once it was asked for
    value: _Given


class _Given(weakref.ref[Any]):
    """Refers to an object that was given out. So its attachment is found by the object, among the references to it."""

    __slots__ = ("attachment",)

    attachment: Attachment | None

    def __init__(self, value: object, attachment: Attachment) -> None:  # noqa: ARG002  __new__ takes the value
        self.attachment = attachment

    def __new__(cls, value: object, attachment: Attachment) -> Self:  # noqa: ARG004  __init__ notes it
        return super().__new__(cls, value)


def get(status: os.stat_result, mode: str) -> Any:  # noqa: ANN401  an array, or what another kind gives out
    """Return the object that is given out for this file in this mode already, or None."""
    attachment = _open.get((status.st_dev, status.st_ino, mode))
    return None if attachment is None or attachment.value() is None else intact(attachment)


def intact(attachment: Attachment) -> Any:  # noqa: ANN401
    """Return the object over a mapping, as it was when it was first given out.

    ``x.shape = ...``, ``x.dtype = ...`` or ``x.flags.writeable = False`` change the array object itself, which is its
    user's: who asks next gets another array over the same memory.
    """
    value, mapping = attachment.value(), attachment()
    if mapping is None or (value is not None and (attachment.form is None or _form(value) == attachment.form)):
        return value
    fresh = kinds.named(attachment.kind).open(mapping, attachment.path, attachment.key[2])
    with guard:
        if attachment.value() is value:  # another thread may have been here
            attachment.value, attachment.form = _Given(fresh, attachment), _form(fresh)
    return attachment.value()


def _form(value: Any) -> object:  # noqa: ANN401
    """Return what a user can change about an array without touching its values; None for what is no array."""
    try:
        return value.shape, value.strides, value.dtype, _fields(value.dtype), value.flags.num, id(value.base)
    except AttributeError:
        return None


def _fields(dtype: Any) -> object:  # noqa: ANN401
    """Return the names of fields, which change in place, and leave a dtype equal to itself."""
    return dtype.names and [(name, _fields(dtype[name])) for name in dtype.names]


def put(mapping: mmap.mmap, value: object, segment: Segment) -> Any:  # noqa: ANN401
    """Remember a new mapping; return the value to give out, which another thread may have made before."""
    for hook in on_put:
        hook(value, segment.kind)
    attachment = _attachment_of(mapping, value, segment)
    with guard:
        first = _open.get(attachment.key)
        if first is not None:
            if first.value() is not None:
                return intact(first)
            _closed[id(first)] = first
        _open[attachment.key] = attachment
    return value


def note(mapping: mmap.mmap, value: object, segment: Segment) -> None:
    """Remember a mapping whose object is its maker's alone: it is not given out again."""
    attachment = _attachment_of(mapping, value, segment)
    with guard:
        _closed[id(attachment)] = attachment


def retire(mapping: mmap.mmap | None) -> None:
    """Give out a mapping's object no more, since that was closed."""
    with guard:
        for key, attachment in _open.items():
            if mapping is not None and attachment() is mapping:
                _closed[id(attachment)] = _open.pop(key)
                return


def _attachment_of(mapping: mmap.mmap, value: object, segment: Segment) -> Attachment:
    made = Attachment(mapping, _let_go)
    status, mode, made.path, made.name, made.kind, made.record = segment
    made.key = (status.st_dev, status.st_ino, mode)
    # a store is mapped in part, the rest of it lies elsewhere
    made.size = len(mapping) if len(mapping) == status.st_size else registry.size(status)
    made.start = -1
    made.value, made.form = _Given(value, made), _form(value)
    _known[made.path] = None
    while len(_known) > _KNOWN:
        _known.pop(next(iter(_known)), None)
    made.last_unlinks = made.record is not None and made.record.lifetime == "attached"
    return made


def set_lifetime(inode: int, lifetime: str) -> None:
    """Heed a new lifetime in what is mapped already; other processes leave it to their watchdogs."""
    for attachment in everything():
        if attachment.key[1] == inode:
            attachment.last_unlinks = lifetime == "attached"


def of(mapping: mmap.mmap | None) -> Attachment | None:
    """Return what is known of a mapping."""
    return next((ref for ref in weakref.getweakrefs(mapping) if isinstance(ref, Attachment)), None)


def given(value: object) -> Attachment | None:
    """Return the segment that was given out as this very object, if it is one of the present folder."""
    found = next((ref.attachment for ref in weakref.getweakrefs(value) if type(ref) is _Given), None)
    if found is None or found() is None or os.path.dirname(found.path) != paths.folder():
        return None
    return found


def alive() -> list[Attachment]:
    """Return the mappings of this process that are alive, of whatever folder."""
    with guard:
        return [attachment for attachment in (*_open.values(), *_closed.values()) if attachment() is not None]


def everything() -> list[Attachment]:
    """Return the segments that this process has mapped, those closed under living views too."""
    here = paths.folder()
    return [attachment for attachment in alive() if os.path.dirname(attachment.path) == here]


def forget(path: str) -> list[Attachment]:
    """Give out the objects of the segment at this path no more; return those whose mapping views keep alive."""
    with guard:
        for key in [key for key, attachment in _open.items() if attachment.path == path]:
            attachment = _open.pop(key)
            _closed[id(attachment)] = attachment
        return [attachment for attachment in _closed.values() if attachment.path == path and attachment() is not None]


def had(path: str) -> bool:
    """Say whether this process has had a segment at this path attached."""
    return path in _known


def _let_go(attachment: Attachment, *, ending: Callable[[], bool] = sys.is_finalizing) -> None:
    """Forget a mapping that has gone, and with it the attachment; the last one out may have to unlink."""
    if ending():  # modules fall apart around us; the watchdog will see to it
        return
    with guard:
        if _open.get(attachment.key) is attachment:
            del _open[attachment.key]
        else:
            _closed.pop(id(attachment), None)
    attachment.value.attachment = None  # they refer to each other
    if attachment.last_unlinks:
        registry.unlink_unused(attachment.key[1])


fork.on("attachments", before=guard.before_fork, in_parent=guard.in_parent, in_child=guard.in_child)
