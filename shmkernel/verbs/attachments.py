"""Track this process's attachments by weak references."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import weakref
from typing import TYPE_CHECKING, Any, NamedTuple

from shmkernel import kinds
from shmkernel._core import fork, interrupts, paths, records, registry, segment_file
from shmkernel.errors import ShmError

if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable

    View = Callable[[mmap.mmap, str, str], object]  # makes a value from mapping, path and mode

Key = tuple[int, int, str, str | None]  # device, inode, mode, form
guard = interrupts.Guard()
_open: dict[Key, Attachment] = {}
_known: dict[str, None] = {}  # paths of the last segments that this process has had attached
_KNOWN = 4096
# Hooks that `shmkernel.stdlib` sets: values in place of a kind's own, and functions called for each new value
views: dict[str, View] = {}
on_put: list[Callable[[object, str], None]] = []
elsewhere: list[Callable[[str, bool], str | None]] = []  # called for a name that is not here (`copied`)
on_host: list[Callable[[str, int | None, float | None], int]] = []  # waits for a version of another host's segment
_closed: dict[int, Attachment] = {}  # closed, but views remain; keyed by id(), since a dead reference has no hash
_held: dict[str, mmap.mmap] = {}  # by path: mappings of values without weak references
_by_path: dict[str, dict[int, Attachment]] = {}  # both, so that to close one is not to look at all


class Segment(NamedTuple):
    """The segment that a mapping belongs to, and the mode of the mapping."""

    stat: os.stat_result
    mode: str
    path: str
    name: str
    kind: str
    record: records.Record | None
    form: str | None = None  # what `attach` was given as `as_`


class Attachment(weakref.ref["mmap.mmap"]):
    """A weak reference to a mapping; ``value`` is a weak reference to the object over it that `attach` returns.

    ``again`` is a second reference with a callback, for the case that Ctrl-C ends the first one's.
    """

    __slots__ = ("again", "form", "key", "kind", "last_unlinks", "name", "path", "record", "size", "start", "value")

    again: weakref.ref[mmap.mmap] | None

    form: object
    key: Key
    kind: str
    last_unlinks: bool
    name: str
    path: str
    record: records.Record | None
    size: int
    start: int  # address of the mapping, -1 until it is needed
    value: _Given


class _Given(weakref.ref[Any]):
    """A weak reference to a value of `attach`: `given` finds it among the object's weak references."""

    __slots__ = ("attachment",)

    attachment: Attachment | None


class _Nothing:
    """What a reference to no value has referred to."""


def get(status: os.stat_result, mode: str, form: str | None = None) -> Any:
    """Return the object that this process already has over this file in this mode and form, or None."""
    attachment = _open.get((status.st_dev, status.st_ino, mode, form))
    return None if attachment is None or attachment.value() is None else intact(attachment)


def intact(attachment: Attachment) -> Any:
    """Return the object over a mapping, or a new one if the user has changed its shape, dtype, strides or flags.

    ``x.shape = ...`` changes the array object itself. It stays with its user; the next `attach` returns a new array
    over the same memory.
    """
    value, mapping = attachment.value(), attachment()
    if mapping is None or (value is not None and (attachment.form is None or _form(value) == attachment.form)):
        return value
    try:
        fresh = kinds.named(attachment.kind).open(mapping, attachment.path, attachment.key[2])
    except ValueError as error:  # another process has damaged it since
        raise segment_file.damaged(attachment.name, error) from None
    with guard:
        if attachment.value() is value:  # else another thread was faster
            given_now = _Given(fresh)
            given_now.attachment = attachment
            attachment.value, attachment.form = given_now, _form(fresh)
    return attachment.value()


def _form(value: Any) -> object:
    """Return the attributes of an array that a user can change without changing its values; None for other objects."""
    try:
        value.__class__.dtype  # noqa: B018  of others, a method of their own may look for it, as xarray's does
        dtype = value.dtype
        fields = dtype.names and _fields(dtype)
        return value.shape, value.strides, dtype, fields, value.flags.num, id(value.base)
    except AttributeError:
        return None


def _fields(dtype: Any) -> object:
    """Return the names of fields: they can be changed in place, and the dtype still compares equal to itself."""
    return dtype.names and [(name, _fields(dtype[name])) for name in dtype.names]


def put(mapping: mmap.mmap, value: object, segment: Segment) -> Any:
    """Track a new mapping. Return the value to use, which may be that of another thread that was faster."""
    for hook in on_put:
        hook(value, segment.kind)
    attachment = _attachment_of(mapping, value, segment)
    with guard:
        first = _open.get(attachment.key)
        if first is not None:
            if first.value() is not None:
                return intact(first)
            _closed[id(first)] = first
        _index(attachment)
        _open[attachment.key] = attachment
    return value


def note(mapping: mmap.mmap, value: object, segment: Segment) -> None:
    """Track a mapping whose object is private to its maker: `get` does not return it.

    A value without weak references (a text) cannot tell when it is gone. If the lifetime is attached, the mapping is
    held until `forget`, so that the process counts as one that has it.
    """
    for hook in on_put if value is not mapping else ():
        hook(value, segment.kind)
    attachment = _attachment_of(mapping, value, segment)
    with guard:
        _index(attachment)
        _closed[id(attachment)] = attachment
        if attachment.last_unlinks and attachment.value() is None:
            _held[attachment.path] = mapping


def _index(attachment: Attachment) -> None:
    """Add to the attachments of its path. Call it with the guard, and first: what it has, `_let_go` removes."""
    _by_path.setdefault(attachment.path, {})[id(attachment)] = attachment


def retire(mapping: mmap.mmap | None) -> None:
    """Stop returning a mapping's object, because it was closed."""
    with guard:
        attachment = of(mapping) if mapping is not None else None
        if attachment is not None and _open.get(attachment.key) is attachment:
            _closed[id(attachment)] = _open.pop(attachment.key)


def _attachment_of(mapping: mmap.mmap, value: object, segment: Segment) -> Attachment:
    made = Attachment(mapping, _let_go)
    status, mode, made.path, made.name, made.kind, made.record, form = segment
    made.key = (status.st_dev, status.st_ino, mode, form)
    # of a store only the first bytes are mapped; the rest is in other files
    made.size = len(mapping) if len(mapping) == status.st_size else registry.size(status)
    made.start = -1
    made.form = _form(value)
    try:
        made.value = _Given(value)
    except TypeError:  # a text, a list
        made.value = _Given(_Nothing())
    made.value.attachment = made
    _known[made.path] = None
    while len(_known) > _KNOWN:
        _known.pop(next(iter(_known)), None)
    made.last_unlinks = made.record is not None and made.record.lifetime == "attached"
    made.again = weakref.ref(mapping, functools.partial(_let_go_again, made))  # last: it is complete now
    return made


def set_lifetime(inode: int, lifetime: str) -> None:
    """Apply a changed lifetime to this process's mappings. Other processes' watchdogs handle theirs."""
    for attachment in everything():
        if attachment.key[1] == inode:
            attachment.last_unlinks = lifetime == "attached"


def of(mapping: mmap.mmap | None) -> Attachment | None:
    """Return the attachment of a mapping, if it has one."""
    return next((ref for ref in weakref.getweakrefs(mapping) if isinstance(ref, Attachment)), None)


def given(value: object) -> Attachment | None:
    """Return the attachment whose value is this object, if its segment is in the present folder."""
    found = next((ref.attachment for ref in weakref.getweakrefs(value) if type(ref) is _Given), None)
    if found is None or found() is None or os.path.dirname(found.path) != paths.folder():
        return None
    return found


def alive() -> list[Attachment]:
    """Return this process's living attachments in all folders."""
    with guard:
        return [attachment for attachment in (*_open.values(), *_closed.values()) if attachment() is not None]


def everything() -> list[Attachment]:
    """Return this process's attachments in the present folder, closed ones that still have views included."""
    here = paths.folder()
    return [attachment for attachment in alive() if os.path.dirname(attachment.path) == here]


def reading(mapping: mmap.mmap) -> Callable[[int, int], bytes]:
    """Return what reads a mapping by offset and size; ValueError if its file is shorter by now: a read would kill."""

    def read(at: int, count: int) -> bytes:
        with contextlib.suppress(OSError):  # a program that becomes a daemon has closed the mapping's descriptor
            if mapping.size() < len(mapping):  # of the file, which other processes may have open without its name
                raise ValueError("its file became shorter")
        return mapping[at : at + count]

    return read


def forget(path: str) -> list[Attachment]:
    """Stop returning objects of the segment at this path. Return the attachments that views keep alive."""
    _held.pop(path, None)
    with guard:
        there = [*_by_path.get(path, {}).values()]
        for attachment in there:
            if _open.get(attachment.key) is attachment:
                _closed[id(attachment)] = _open.pop(attachment.key)
        return [attachment for attachment in there if attachment() is not None]


def copied(name: str, *, refresh: bool = False) -> str | None:
    """Return the name of a snapshot of what another host shares as `name`, copied if it is not here; None if none does.

    With `refresh` it is copied again if it has a new version.
    """
    if type(name) is not str or name.startswith("/"):
        return None
    try:
        return next(filter(None, (look(name, refresh) for look in elsewhere)), None)
    except ShmError as error:
        raise error from None  # that the name is not here says nothing more


def had(path: str) -> bool:
    """Return whether this process has ever had a segment at this path attached."""
    return path in _known


def _let_go(attachment: Attachment, *, ending: Callable[[], bool] = sys.is_finalizing) -> None:
    """Forget a freed mapping. If its lifetime is attached and it was the last one, unlink the segment.

    Python drops a KeyboardInterrupt in a callback, and what the callback had left to do. So there are two, one after
    the other: a second call does nothing after a complete one.
    """
    if ending() or getattr(attachment, "again", None) is None:
        return  # modules are being torn down, and the watchdog does it; or it was never complete, or is done
    with guard:
        if _open.get(attachment.key) is attachment:
            del _open[attachment.key]
        else:
            _closed.pop(id(attachment), None)
        there = _by_path.get(attachment.path, {})
        there.pop(id(attachment), None)
        if not there:
            _by_path.pop(attachment.path, None)
    attachment.value.attachment = None  # they refer to each other
    if attachment.last_unlinks:
        with contextlib.suppress(OSError):  # nobody would see the error; the next sweep unlinks
            registry.unlink_unused(attachment.key[1])
        attachment.last_unlinks = False
    attachment.again = None  # likewise


def _let_go_again(attachment: Attachment, _: object, let_go: Callable[[Attachment], None] = _let_go) -> None:
    let_go(attachment)  # a default: at the end of the process the module's own names are gone


fork.on("attachments", before=guard.before_fork, in_parent=guard.in_parent, in_child=guard.in_child)
