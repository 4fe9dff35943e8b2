"""The operations that `points` interrupts at each step: one line an operation, for all kinds one line a verb."""

from __future__ import annotations

import contextlib
import os
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import shmkernel as shm
from shmkernel._core import limits, paths, registry, sessions
from tests.prove.kinds import KINDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.prove.kinds import Subject

MINE, THEIRS = "mine", "theirs_{}"  # names: of what an operation makes; of what another process holds, for each kind


class Operation(NamedTuple):
    """Something to interrupt: `act` is called with what `before` returned, and `tidy` removes what they made."""

    group: str
    name: str
    act: Callable[[Any], Any]
    before: Callable[[], Any] = lambda: None
    cold: bool = False  # without a session


def tidy() -> None:
    """Remove what an operation has made in the folder of segments, and beside it."""
    for entry in os.listdir(folder := paths.folder()):
        name = paths.called(f"{folder}/{entry}")
        if not entry.startswith(".") and not name.startswith(THEIRS.format("")):
            with contextlib.suppress(FileNotFoundError):
                shm.unlink(name)
    for entry in os.listdir(_saved()):
        os.unlink(_saved(entry))


def _saved(name: str = "") -> str:
    """Return a path in the folder of files, which `points` makes beside the folder of segments."""
    return f"{paths.folder()}.files/{name}"


def operations() -> Iterator[Operation]:
    """Yield all operations."""
    for kind in KINDS:
        yield from _of(kind)
    yield from _once()
    yield from _stdlib()


def _of(kind: Subject) -> Iterator[Operation]:
    """Yield the operations on a segment of one kind."""
    theirs = THEIRS.format(kind.name)
    make = partial(kind.create, MINE, 1)
    attach = partial(shm.attach, theirs)

    def operation(
        group: str, verb: str, act: Callable[[Any], Any], before: Callable[[], Any] = lambda: None
    ) -> Operation:
        return Operation(group, f"{verb} {kind.name}", act, before)

    def close(held: list[Any]) -> None:
        held.clear()
        shm.close(theirs)

    def save_over(_: object) -> None:
        kind.save(theirs, _file(kind))

    yield operation("create", "create", lambda _: make())
    yield operation("create", "create attached", lambda _: make(lifetime="attached"))
    yield operation("create", "create kept", lambda _: make(lifetime="keep"))
    yield operation("create", "replace", lambda _: kind.create(MINE, 2, replace=True), make)
    yield operation("attach, close", "attach", lambda _: attach())
    yield operation("attach, close", "attach to read", lambda _: attach("r"))
    for form in kind.forms:
        yield operation("attach, close", f"attach as {form} a", lambda _, form=form: attach(as_=form))
    yield operation("attach, close", "close", close, lambda: [attach()])
    yield operation("attach, close", "close the last", list.clear, lambda: [make(lifetime="attached")])
    yield operation("unlink, keep, gc", "unlink", lambda _: shm.unlink(MINE), make)
    yield operation("unlink, keep, gc", "keep", lambda _: shm.keep(MINE), make)
    yield operation("read and change", "read", kind.stamps, attach)
    if (change := kind.change) is not None:
        yield operation("read and change", "change", lambda x: change(x, 3), attach)
        yield operation("lock, publish, wait", "publish", shm.publish, attach)
    if kind.value is not None:
        yield operation("save, load", "save", save_over)
        yield operation("save, load", "load", partial(_load, kind), partial(_save, kind))
    yield operation("lock, publish, wait", "lock", _lock, attach)
    yield operation("lock, publish, wait", "wait", lambda x: shm.wait(x, since=-1), attach)
    yield operation("list, info", "info", lambda _: _sound(shm.info(theirs)))


def _file(kind: Subject) -> str:
    return _saved(f"x{kind.suffix}")


def _save(kind: Subject) -> None:
    kind.save(THEIRS.format(kind.name), _file(kind))


def _load(kind: Subject, _: object) -> Any:
    return kind.load(MINE, _file(kind))


def _lock(x: Any, *, shared: bool = False) -> None:
    with shm.lock(x, shared=shared, timeout=20):
        pass


def _write(x: Any) -> None:
    with shm.writing(x):
        x[:] = 3


def _fill_slot(ring: Any) -> None:
    with ring.slot() as frame:
        frame[:] = 3


def _wait_in_vain(x: Any) -> None:
    with contextlib.suppress(shm.TimedOutError):
        shm.wait(x, timeout=0.001)


def _follow(x: Any) -> None:
    next(iter(x.since(0)))


def _sound(info: shm.Info) -> None:
    assert info.state != "damaged" or "Permission denied" in info.type, info


def _list(_: object) -> None:
    for info in shm.list():
        _sound(info)


def _once() -> Iterator[Operation]:
    """Yield what does not depend on the kind, or what one kind alone can do."""
    array, list_, ring, dict_ = (partial(shm.attach, THEIRS.format(kind)) for kind in ("array", "list", "ring", "dict"))
    yield Operation("read and change", "write an array", _write, array)
    yield Operation("read and change", "copy an array", shm.snapshot, array)
    yield Operation("read and change", "set an item of a list", lambda x: x.__setitem__(0, 3), list_)
    yield Operation("read and change", "fill a slot of a ring", _fill_slot, ring)
    yield Operation("read and change", "follow a ring", _follow, ring)
    yield Operation("read and change", "set a key of a dict", lambda x: x.__setitem__("0", 3), _own_dict)
    yield Operation("read and change", "set a new key", lambda x: x.__setitem__("new", "text" * 500), _own_dict)
    yield Operation("read and change", "set a large array", lambda x: x.__setitem__("new", np.ones(5000)), _own_dict)
    yield Operation(
        "read and change", "grow a dict", lambda x: x.update({str(k): "t" * 999 for k in range(99)}), _own_dict
    )
    yield Operation("read and change", "delete a key", lambda x: x.pop("0"), _own_dict)
    yield Operation("read and change", "iterate over a dict", lambda x: [*x.items()], dict_)
    yield Operation("lock, publish, wait", "lock shared", partial(_lock, shared=True), array)
    yield Operation("lock, publish, wait", "wait in vain", _wait_in_vain, array)
    yield Operation("lock, publish, wait", "version", shm.version, array)
    yield Operation("unlink, keep, gc", "gc", lambda _: shm.gc())
    yield Operation("list, info", "list", _list)
    yield Operation("list, info", "doctor", lambda _: shm.doctor())
    yield Operation(
        "start, end", "start a session", lambda _: limits.explains(registry.begin)(), sessions.end, cold=True
    )
    yield Operation("start, end", "first create", lambda _: shm.create(MINE, 1), sessions.end, cold=True)
    yield Operation("start, end", "first attach", lambda _: array(), sessions.end, cold=True)
    yield Operation("start, end", "end a session", lambda _: sessions.end(), registry.begin, cold=True)


def _own_dict() -> Any:
    return shm.create(MINE, {"0": 1})


def _block() -> shm.SharedMemory:
    return shm.SharedMemory(MINE, create=True, size=100)


def _managed(_: object) -> None:
    with shm.SharedMemoryManager() as manager:
        manager.SharedMemory(100)
        manager.ShareableList([1, "text"])


def _stdlib() -> Iterator[Operation]:
    """Yield the operations of the classes that replace those of the standard library."""
    group = "SharedMemory, ShareableList"
    yield Operation(group, "SharedMemory", lambda _: _block())
    yield Operation(group, "SharedMemory without a name", lambda _: shm.SharedMemory(create=True, size=100))
    yield Operation(group, "SharedMemory attached", lambda _: shm.SharedMemory(MINE), _block)
    yield Operation(group, "SharedMemory.close", lambda block: block.close(), _block)
    yield Operation(group, "SharedMemory.unlink", lambda block: block.unlink(), _block)
    yield Operation(group, "ShareableList", lambda _: shm.ShareableList([1, "text"], name=MINE))
    yield Operation(
        group,
        "ShareableList attached",
        lambda _: shm.ShareableList(name=MINE),
        lambda: shm.ShareableList([1, "text"], name=MINE),
    )
    yield Operation(group, "SharedMemoryManager", _managed)
