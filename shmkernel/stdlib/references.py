"""References to shared memory, in place of values: made in one process, read in another one of the same host.

    array   -> the mapping that contains its addresses -> segment, offset, shape, strides -> the same view
    others  -> the attachment of the value             -> segment                         -> attach

An array is shared if all its bytes lie in a mapping of a segment, whatever object it is a view of. A name may belong to
another segment when a reference arrives, and a message to another host by then. So a reference says which start of the
machine, file system and inode it means, and when that was created; what is not the same is an error.

An object or table goes as any other value, and its arrays as references. Its segment does not change, so private memory
(mode c) is that of the segment until this process writes to it: then it goes by value. The receiver maps the segment
privately for each message, as if it had got the values: what it writes is seen in no other message.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import mmap
import os
import weakref
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from shmkernel import kinds
from shmkernel._core import capacity, closing, paths, records, registry, segment_file, sessions
from shmkernel.errors import NotFoundError
from shmkernel.stdlib import delivery, pages
from shmkernel.verbs import attachments, segments, staging

if TYPE_CHECKING:
    from numpy.typing import NDArray

Reduced = tuple[Any, ...]
_private: weakref.WeakValueDictionary[tuple[str, int], mmap.mmap] = weakref.WeakValueDictionary()  # by mark and inode


class Reference(NamedTuple):
    """Which segment something lies in. ``file`` is one in the folder of a store: its path there.

    ``mark`` is given for a part of a segment that does not change: it is mapped once for each mark.
    """

    name: str
    inode: int
    created: float | None
    mode: str
    file: str = ""
    mark: str = ""
    device: int = 0  # of the file system
    boot: str = ""  # the machine, and which start of it
    sender: int = 0  # a process that has it mapped, and so opened: it is asked if the name is gone


@functools.cache
def boot() -> str:
    """Return what the OS calls this start of the machine, and no other has; nothing without /proc."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def named(value: object) -> Reduced | None:
    """Return how to attach a value of `attach` elsewhere; None if its name belongs to another segment now."""
    attachment = next((attachment for attachment in attachments.alive() if attachment.value() is value), None)
    reference = attachment and _to(attachment)
    if reference is None:
        return None
    delivery.note()
    return rebuild_named, (reference,)


def rebuild_named(reference: Reference) -> Any:
    """Attach the segment in the receiving process."""
    _, value = _attached(reference, given=True)
    return value


def view(array: NDArray[Any], *, held: bool = False) -> Reduced | None:
    """Return how to make a view of a segment elsewhere; None if there is none to refer to.

    With `held` this process is asked for the memory if the segment loses its name on the way.
    """
    if array.flags.owndata:
        return None
    found = _at(*_bounds(array), array, held=held)
    if found is None:
        return None
    reference, start = found
    about = array.shape, array.strides, array.dtype, bool(array.flags.writeable)
    return rebuild, (reference, _address(array) - start, *about)


def rebuild(
    reference: Reference,
    offset: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    dtype: np.dtype[Any],
    writable: bool,
) -> NDArray[Any]:
    """Attach the segment in the receiving process, and return the same view."""
    try:
        attachment, whole = _mapped(reference) if reference.file or reference.mark else _attached(reference)
    except NotFoundError:
        if (nameless := _nameless(reference)) is None:
            raise
        attachment, whole = nameless
    mapping = attachment()
    assert mapping is not None, "its value is held here"
    if isinstance(whole, np.ndarray):
        given = (whole.shape, whole.strides, whole.dtype, bool(whole.flags.writeable), _address(whole))
        if given == (shape, strides, dtype, writable, _start(attachment, mapping) + offset):
            return whole
    view: NDArray[Any] = np.ndarray(shape, dtype, mapping, offset, strides)
    if not writable:
        view.flags.writeable = False
    return view


def _at(low: int, high: int, array: NDArray[Any], *, held: bool) -> tuple[Reference, int] | None:
    """Return a reference to what has these addresses, and its start."""
    found = _inside(low, high, held=held)
    found = found or (_in_file(low, high) if isinstance(_source(array), mmap.mmap) else None)
    if found is not None:
        delivery.note()
    return found


def _inside(low: int, high: int, *, held: bool) -> tuple[Reference, int] | None:
    """Return a reference to the mapping with these addresses, and its start; None if there is none to refer to."""
    for attachment in attachments.alive():
        mapping = attachment()
        if mapping is not None:
            start = _start(attachment, mapping)
            if start <= low and high <= start + len(mapping):
                reference = _to(attachment, (low, high), held=held)
                return reference and (reference, start)
    return None


def _to(
    attachment: attachments.Attachment, part: tuple[int, int] | None = None, *, held: bool = False
) -> Reference | None:
    """Return a reference to a segment, or to a part of it; None for private changes, or if another has its name."""
    device, inode, mode, _ = attachment.key
    created = attachment.record.created if attachment.record else None
    mark = _mark(attachment, part) if part else ""
    if mode == "c" and not mark:
        return None
    sender = os.getpid() if held else 0
    if file := _in_store(attachment.path):
        return Reference(attachment.name, inode, None, mode, file, "", device, boot())
    if os.path.dirname(attachment.path) != paths.folder() or registry.inode_at(attachment.name) != inode:
        return None
    return Reference(attachment.name, inode, created, mode, "", mark, device, boot(), sender)


def _mark(attachment: attachments.Attachment, part: tuple[int, int]) -> str:
    """Return which references share a mapping; nothing if the segment may change, or this process has changed it."""
    if "r+" in staging.modes_of(kinds.named(attachment.kind)):
        return ""
    if attachment.key[2] == "r":
        return "r"
    return (delivery.mark() or "") if pages.untouched(*part) else ""


def _in_file(low: int, high: int) -> tuple[Reference, int] | None:
    """Find the file at these addresses that shmkernel has not mapped itself: by numpy.memmap, in a shared dict."""
    try:
        with open("/proc/self/maps", "rb") as file:
            lines = file.readlines()
    except OSError:  # without /proc: send the values
        return None
    for line in lines:
        span, access, offset, _, inode, *rest = line.split(None, 5)
        begin, end = (int(part, 16) for part in span.split(b"-"))
        if begin <= low and high <= end:
            if not rest or access[3:] != b"s":
                return None
            reference = _to_file(os.fsdecode(rest[0].rstrip(b"\n")), int(inode), "r+" if access[1:2] == b"w" else "r")
            return reference and (reference, begin - int(offset, 16))
    return None


def _to_file(path: str, inode: int, mode: str) -> Reference | None:
    folder, _, base = path.rpartition("/")
    if folder == paths.folder():
        name = paths.called(path)
        record = records.read(inode)
        if record is None or record.name != name or registry.inode_at(name) != inode:
            return None
        if getattr(kinds.named(record.kind), "fresh", False):
            return None
        return Reference(name, inode, record.created, mode, "", "", os.stat(folder).st_dev, boot())
    file = _in_store(path)
    if not file or not os.path.exists(path) or (status := os.lstat(path)).st_ino != inode:
        return None
    return Reference(base, inode, None, mode, file, "", status.st_dev, boot())


def _in_store(path: str) -> str:
    """Return where in the folder of stores this is; nothing if it lies elsewhere."""
    stores = paths.runtime("stores") + "/"
    return path.removeprefix(stores) if path.startswith(stores) else ""


def _attached(reference: Reference, *, given: bool = False) -> tuple[attachments.Attachment, Any]:
    """Attach the segment of a reference; return its attachment and a value that keeps the mapping alive.

    With `given` the value is that of `attach`; else it may be the mapping itself.
    """
    _check_host(reference)
    name, inode, _, mode, *_ = reference
    if not given and registry.inode_at(name) == inode:
        for attachment in attachments.alive():
            if _is(attachment, reference) and (mapping := attachment()) is not None:
                value = attachment.value()
                return attachment, mapping if value is None else value
    try:
        value = segments.attach(name, mode)
    except NotFoundError as error:
        raise _unlinked(error, name) from None
    for attachment in attachments.alive():
        if _is(attachment, reference) and attachment.value() is value:
            return attachment, value
    raise _replaced(name)


def _is(attachment: attachments.Attachment, reference: Reference) -> bool:
    created = attachment.record.created if attachment.record else None
    same = (attachment.name, *attachment.key[:3]) == (
        reference.name, reference.device, reference.inode, reference.mode
    )  # fmt: skip
    return same and (created is None or reference.created is None or created == reference.created)


def _mapped(reference: Reference) -> tuple[attachments.Attachment, Any]:
    """Map a file in the folder of a store, or a segment that does not change."""
    _check_host(reference)
    name, inode, _, mode, file, mark, device, *_ = reference
    path, base = (f"{paths.runtime('stores')}/{file}" if file else paths.path_of(name)), os.path.basename(file) or name
    if (known := _private.get((mark, inode))) is not None and (attachment := attachments.of(known)) is not None:
        return attachment, known
    for attachment in attachments.alive() if mode != "c" else ():
        same = attachment.path == path and attachment.key[:3] == (device, inode, mode)
        if same and (mapping := attachment()) is not None:
            return attachment, mapping
    if not sessions.covers(path):  # with lifetime attached, this process may be the last holder
        with staging.room_for(base):
            registry.begin()
    try:
        fd, found = segment_file.attach(path, mode, base)
    except NotFoundError as error:
        raise _unlinked(error, base) from None
    try:
        record = None if file else records.of(found)
        same_time = record is None or record.created == reference.created
        if (found.st_dev, found.st_ino) != (device, inode) or not same_time:
            raise _replaced(base)
        mapping = segment_file.map_(fd, found.st_size, mode, base)
    finally:
        fd.close()
    kind = record.kind if record else "array"
    return _noted(mapping, attachments.Segment(found, mode, path, name, kind, record), mark)


def _noted(mapping: mmap.mmap, segment: attachments.Segment, mark: str) -> tuple[attachments.Attachment, Any]:
    for hook in attachments.on_put:
        hook(np.empty(0), segment.kind)  # arrays over it can be sent on
    attachments.note(mapping, mapping, segment)
    made = attachments.of(mapping)
    assert made is not None
    if segment.mode == "c":
        _private[mark, segment.stat.st_ino] = mapping
    return made, mapping


def _nameless(reference: Reference) -> tuple[attachments.Attachment, Any] | None:
    """Map memory that lost its name on the way here, as long as its sender has it mapped; None if it has not.

    Only a tmpfs never uses the number of an inode again, so that it says which file is meant.
    """
    _, inode, _, mode, file, mark, device, *_ = reference
    if file or reference.boot != boot() or not reference.sender or os.stat(paths.folder()).st_dev != device:
        return None
    if not capacity.is_tmpfs(paths.folder()):
        return None
    if (known := _private.get((mark, inode))) is not None and (attachment := attachments.of(known)) is not None:
        return attachment, known
    for attachment in attachments.alive() if mode != "c" else ():
        if attachment.key[:3] == (device, inode, mode) and (mapping := attachment()) is not None:
            return attachment, mapping
    descriptors = f"/proc/{reference.sender}/fd"
    try:
        numbers = os.listdir(descriptors)
    except OSError:  # it has ended, or belongs to another user
        return None
    for number in numbers:
        path = f"{descriptors}/{number}"
        with contextlib.suppress(OSError):  # another thread of it has closed this one since
            status = os.stat(path)
            if (status.st_dev, status.st_ino) == (device, inode):
                return _opened(path, reference)
    return None


def _opened(path: str, reference: Reference) -> tuple[attachments.Attachment, Any]:
    """Map what another process has open."""
    name, mode = reference.name, reference.mode
    fd = closing.opened(os.open, path, (os.O_RDWR if mode == "r+" else os.O_RDONLY) | os.O_CLOEXEC)
    try:
        status = os.fstat(fd)
        if (status.st_dev, status.st_ino, status.st_uid) != (reference.device, reference.inode, os.geteuid()):
            raise _replaced(name)
        fcntl.flock(fd, fcntl.LOCK_SH)  # it counts as attached, as everywhere
        mapping = segment_file.map_(fd, status.st_size, mode, name)
    finally:
        fd.close()
    return _noted(mapping, attachments.Segment(status, mode, paths.path_of(name), name, "array", None), reference.mark)


def _check_host(reference: Reference) -> None:
    if reference.boot != boot():
        message = f"{reference.name!r} is a reference to memory of another host. Send the values: numpy.array(...)"
        raise NotFoundError(message, name=reference.name)


def _unlinked(error: NotFoundError, name: str) -> NotFoundError:
    message = (
        f"{error.what} It was unlinked while a reference to it was on its way here. One with lifetime "
        "'attached' goes with its last user: hold it where it was made until it has arrived, or give it lifetime "
        "'session'"
    )
    return NotFoundError(message, name=name, similar=[])


def _replaced(name: str) -> NotFoundError:
    message = f"{name!r} was replaced while a reference to it was on its way here. Send it again"
    return NotFoundError(message, name=name)


def _start(attachment: attachments.Attachment, mapping: mmap.mmap) -> int:
    if attachment.start < 0:
        attachment.start = _address(np.frombuffer(mapping, np.uint8))
    return attachment.start


def _source(value: Any) -> object:
    """Return the object at the end of an array's chain of bases."""
    while True:
        if isinstance(value, memoryview):
            value = value.obj
        elif isinstance(value, np.ndarray) or type(value).__name__ == "DummyArray":  # from as_strided
            value = value.base
        else:
            return value


def _bounds(array: NDArray[Any]) -> tuple[int, int]:
    """Return the addresses of an array's first byte and of the byte after its last."""
    low = high = _address(array)
    if not array.size:
        return low, high
    for length, stride in zip(array.shape, array.strides, strict=True):
        if stride < 0:
            low += (length - 1) * stride
        else:
            high += (length - 1) * stride
    return low, high + array.itemsize


def _address(array: NDArray[Any]) -> int:
    return int(array.__array_interface__["data"][0])
