"""What this process has attached, known by weak references."""

from __future__ import annotations

import os
import sys
import weakref
from typing import TYPE_CHECKING, Any, NamedTuple

from shmkernel import kinds
from shmkernel._core import fork, interrupts, paths, records, registry

if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable

    View = Callable[[mmap.mmap, str, str], object]  # mapping, path and mode to what is handed out

Key = tuple[int, int, str]
guard = interrupts.Guard()
_open: dict[Key, Held] = {}
_known: dict[str, None] = {}  # the paths of the last segments that this process has had
_KNOWN = 4096
# Filled by `shmkernel.stdlib`: what is handed out in place of a kind's own view, and who is told of each new value.
views: dict[str, View] = {}
on_put: list[Callable[[object, str], None]] = []
_closed: dict[int, Held] = {}  # not given out any more, but viewed; by id(), since a dead reference has no hash


class Segment(NamedTuple):
    """What a mapping is of; ``mode`` is how it is mapped."""

    stat: os.stat_result
    mode: str
    path: str
    name: str
    kind: str
    record: records.Record | None


class Held(weakref.ref["mmap.mmap"]):
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
    value: weakref.ref[Any]


def get(found: os.stat_result, mode: str) -> Any:  # noqa: ANN401  an array, or what another kind gives out
    """Return the object that is given out for this file in this mode already, or None."""
    held = _open.get((found.st_dev, found.st_ino, mode))
    return None if held is None or held.value() is None else intact(held)


def intact(held: Held) -> Any:  # noqa: ANN401
    """Return the object over a mapping, as it was when it was first given out.

    ``x.shape = ...``, ``x.dtype = ...`` or ``x.flags.writeable = False`` change the array object itself, which is its
    user's: who asks next gets another array over the same memory.
    """
    value, mapping = held.value(), held()
    if mapping is None or (value is not None and (held.form is None or _form(value) == held.form)):
        return value
    fresh = kinds.named(held.kind).open(mapping, held.path, held.key[2])
    with guard:
        if held.value() is value:  # another thread may have been here
            held.value, held.form = weakref.ref(fresh), _form(fresh)
    return held.value()


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
    held = _held(mapping, value, segment)
    with guard:
        first = _open.get(held.key)
        if first is not None:
            if first.value() is not None:
                return intact(first)
            _closed[id(first)] = first
        _open[held.key] = held
    return value


def note(mapping: mmap.mmap, value: object, segment: Segment) -> None:
    """Remember a mapping whose object is its maker's alone: it is not given out again."""
    held = _held(mapping, value, segment)
    with guard:
        _closed[id(held)] = held


def retire(mapping: mmap.mmap | None) -> None:
    """Give out a mapping's object no more, since that was closed."""
    with guard:
        for key, held in _open.items():
            if mapping is not None and held() is mapping:
                _closed[id(held)] = _open.pop(key)
                return


def _held(mapping: mmap.mmap, value: object, segment: Segment) -> Held:
    held = Held(mapping, _let_go)
    found, mode, held.path, held.name, held.kind, held.record = segment
    held.key = (found.st_dev, found.st_ino, mode)
    # a store is mapped in part, the rest of it lies elsewhere
    held.size = len(mapping) if len(mapping) == found.st_size else registry.size(found)
    held.start = -1
    held.value, held.form = weakref.ref(value), _form(value)
    _known[held.path] = None
    while len(_known) > _KNOWN:
        _known.pop(next(iter(_known)), None)
    held.last_unlinks = held.record is not None and held.record.lifetime == "attached"
    return held


def set_lifetime(inode: int, lifetime: str) -> None:
    """Heed a new lifetime in what is mapped already; other processes leave it to their watchdogs."""
    for held in everything():
        if held.key[1] == inode:
            held.last_unlinks = lifetime == "attached"


def of(mapping: mmap.mmap | None) -> Held | None:
    """Return what is known of a mapping."""
    return next((held for held in alive() if held() is mapping), None) if mapping is not None else None


def alive() -> list[Held]:
    """Return the mappings of this process that are alive, of whatever folder."""
    with guard:
        return [held for held in (*_open.values(), *_closed.values()) if held() is not None]


def everything() -> list[Held]:
    """Return the segments that this process has mapped, those closed under living views too."""
    here = paths.folder()
    return [held for held in alive() if os.path.dirname(held.path) == here]


def forget(path: str) -> list[Held]:
    """Give out the objects of the segment at this path no more; return those whose mapping views keep alive."""
    with guard:
        for key in [key for key, held in _open.items() if held.path == path]:
            held = _open.pop(key)
            _closed[id(held)] = held
        return [held for held in _closed.values() if held.path == path and held() is not None]


def had(path: str) -> bool:
    """Say whether this process has had a segment at this path attached."""
    return path in _known


def _let_go(held: Held, *, ending: Callable[[], bool] = sys.is_finalizing) -> None:
    """Forget a mapping that has gone, and with it the attachment; the last one out may have to unlink."""
    if ending():  # modules fall apart around us; the watchdog will see to it
        return
    with guard:
        if _open.get(held.key) is held:
            del _open[held.key]
        else:
            _closed.pop(id(held), None)
    if held.last_unlinks:
        registry.unlink_unused(held.key[1])


fork.on("attachments", before=guard.before_fork, in_parent=guard.in_parent, in_child=guard.in_child)
