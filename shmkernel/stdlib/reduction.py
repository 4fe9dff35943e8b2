"""Send shared values to other processes as references instead of copies.

Only picklers that send to a running process do this: multiprocessing's, and loky's and joblib's if they are loaded.
`pickle.dumps` and `copy.deepcopy` take the values: a pickle on disk must not hold a name that ends with a kernel.

    array   -> the mapping that contains its addresses -> segment, offset, shape, strides -> the same view
    others  -> the attachment of the value             -> segment                         -> attach

An array is shared if all its bytes lie in a mapping of a segment, whatever object it is a view of. A name may belong to
another segment when a reference arrives, so a reference has the inode and the time of creation too.

An object or table goes as any other value, and its arrays as references. Its segment does not change, so private memory
(mode c) is that of the segment until this process writes to it: then it goes by value. The receiver maps the segment
privately for each message, as if it had got the values: what it writes is seen in no other message.
"""

from __future__ import annotations

import functools
import mmap
import os
import pickle
import weakref
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from shmkernel import kinds
from shmkernel._core import paths, records, registry, segment_file
from shmkernel._core.import_hooks import after_import
from shmkernel.errors import NotFoundError
from shmkernel.stdlib import delivery, functions, pages, shareable_list, shared_memory
from shmkernel.verbs import attachments, segments, staging

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import ModuleType

    from numpy.typing import NDArray

Reduced = tuple[Any, ...]
_private: weakref.WeakValueDictionary[tuple[str, int], mmap.mmap] = weakref.WeakValueDictionary()  # by mark and inode
_taught: list[ModuleType] = []  # those that have a `register`


def register(shared: Mapping[type, str]) -> None:
    """Have values of these types sent as references: as the name that they are attached by, if their kind says so."""
    _teach_all()
    for kind, name in [*shared.items()]:
        if kind not in delivery.reducers and kinds.goes_by_name(kinds.named(name)):
            _register(kind, reduce_named)


@functools.cache
def _teach_all() -> None:
    """Patch the picklers that are imported, and each other one when it is."""
    delivery.teach()
    for name, lessons in LESSONS.items():
        for lesson in lessons:
            after_import(name, lesson)
    after_import("numpy.ma", lambda module: _register(module.MaskedArray, reduce_masked))  # numpy imports it lazily


def _register(kind: type, reducer: Callable[[Any], Any]) -> None:
    delivery.reducers[kind] = reducer
    for module in _taught:
        module.register(kind, reducer)


def _teach_functions(module: ModuleType) -> None:
    if functions.in_notebook():  # `register` has no effect on functions
        module.ForkingPickler.reducer_override = functions.reducer_override


def _teach(module: ModuleType) -> None:
    _taught.append(module)
    for kind, reducer in [*delivery.reducers.items()]:  # another thread may add one meanwhile
        module.register(kind, reducer)


def _teach_joblib(module: ModuleType) -> None:
    """Run before joblib's own reducer, which loses the strides of views of a numpy.memmap (joblib#1019)."""
    forward = getattr(module, "ArrayMemmapForwardReducer", None)
    if forward is None:  # an unknown version of joblib: it sends the values
        return
    values = forward.__call__

    def call(self: object, array: NDArray[Any]) -> object:
        return _reference(array) or values(self, array)

    forward.__call__ = call


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


def reduce_named(value: object) -> Any:
    """Reduce a value of `attach` to its name, or to its content if the name belongs to another segment now."""
    attachment = next((attachment for attachment in attachments.alive() if attachment.value() is value), None)
    reference = attachment and _to(attachment)
    if reference is None:
        return value.__reduce_ex__(pickle.DEFAULT_PROTOCOL)
    delivery.note()
    return rebuild_named, (reference,)


def reduce_handle(value: Any) -> Any:
    """Reduce a block or list. As in the stdlib, one made by its class is always sent by name."""
    if value._by_value:  # noqa: SLF001  the stdlib faces' own
        return reduce_named(value)
    delivery.note()
    return value.__reduce_ex__(pickle.DEFAULT_PROTOCOL)


def rebuild_named(reference: Reference) -> Any:
    """Attach the segment in the receiving process."""
    _, value = _attached(reference, given=True)
    return value


def reduce(array: NDArray[Any]) -> Any:
    """Reduce a view of a segment to a reference, any other array to its values."""
    return _reference(array) or array.__reduce_ex__(pickle.DEFAULT_PROTOCOL)


def reduce_subclass(array: NDArray[Any]) -> Any:
    """Reduce an instance of a subclass in the same way."""
    reduced = _reference(array.view(np.ndarray))
    return (rebuild_subclass, (type(array), *reduced[1])) if reduced else array.__reduce_ex__(pickle.DEFAULT_PROTOCOL)


def rebuild_subclass(kind: type[NDArray[Any]], *about: Any) -> NDArray[Any]:
    """Return the same view, of the same class."""
    return rebuild(*about).view(kind)


def reduce_masked(array: np.ma.MaskedArray[Any, Any]) -> Any:
    """Reduce a masked array to a reference to its data, and its mask."""
    reduced = type(array.data) is np.ndarray and _reference(array.data)
    if not reduced:
        return array.__reduce_ex__(pickle.DEFAULT_PROTOCOL)
    mask = None if np.ma.getmask(array) is np.ma.nomask else np.ma.getmaskarray(array)
    return rebuild_masked, (mask, array.fill_value, array.hardmask, *reduced[1])


def rebuild_masked(mask: object, fill: Any, hard: bool, *about: Any) -> np.ma.MaskedArray[Any, Any]:
    """Return the same view with its mask."""
    over: Any = np.ma.nomask if mask is None else mask
    made: np.ma.MaskedArray[Any, Any] = np.ma.MaskedArray(rebuild(*about), over, fill_value=fill, hard_mask=hard)
    return made


def _reference(array: NDArray[Any]) -> Reduced | None:
    if array.flags.owndata:
        return None
    low, high = _bounds(array)
    found = _inside(low, high) or (_in_file(low, high) if isinstance(_source(array), mmap.mmap) else None)
    if found is None:
        return None
    reference, start = found
    delivery.note()
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
    attachment, whole = _mapped(reference) if reference.file or reference.mark else _attached(reference)
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


def _inside(low: int, high: int) -> tuple[Reference, int] | None:
    """Return a reference to the mapping with these addresses, and its start; None if there is none to refer to."""
    for attachment in attachments.alive():
        mapping = attachment()
        if mapping is not None:
            start = _start(attachment, mapping)
            if start <= low and high <= start + len(mapping):
                reference = _to(attachment, (low, high))
                return reference and (reference, start)
    return None


def _to(attachment: attachments.Attachment, part: tuple[int, int] | None = None) -> Reference | None:
    """Return a reference to a segment, or to a part of it; None for private changes, or if another has its name."""
    created = attachment.record.created if attachment.record else None
    mode, mark = attachment.key[2], _mark(attachment, part) if part else ""
    if mode == "c" and not mark:
        return None
    if file := _in_store(attachment.path):
        return Reference(attachment.name, attachment.key[1], None, mode, file)
    if os.path.dirname(attachment.path) != paths.folder() or registry.inode_at(attachment.name) != attachment.key[1]:
        return None
    return Reference(attachment.name, attachment.key[1], created, mode, "", mark)


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
        return Reference(name, inode, record.created, mode)
    file = _in_store(path)
    if not file or not os.path.exists(path) or os.lstat(path).st_ino != inode:
        return None
    return Reference(base, inode, None, mode, file)


def _in_store(path: str) -> str:
    """Return where in the folder of stores this is; nothing if it lies elsewhere."""
    stores = paths.runtime("stores") + "/"
    return path.removeprefix(stores) if path.startswith(stores) else ""


def _attached(reference: Reference, *, given: bool = False) -> tuple[attachments.Attachment, Any]:
    """Attach the segment of a reference; return its attachment and a value that keeps the mapping alive.

    With `given` the value is that of `attach`; else it may be the mapping itself.
    """
    _teach_all()
    name, inode, _, mode, *_ = reference
    if not given and registry.inode_at(name) == inode:
        for attachment in attachments.alive():
            if _is(attachment, reference) and (mapping := attachment()) is not None:
                value = attachment.value()
                return attachment, mapping if value is None else value
    try:
        value = segments.attach(name, mode)
    except NotFoundError as error:
        raise _unlinked(name, error) from None
    for attachment in attachments.alive():
        if _is(attachment, reference) and attachment.value() is value:
            return attachment, value
    message = f"{name!r} was replaced while a reference to it was on its way here. Send it again"
    raise NotFoundError(message, name=name)


def _unlinked(name: str, error: NotFoundError) -> NotFoundError:
    message = (
        f"{error.what} It was unlinked while a reference to it was on its way here. One with lifetime "
        "'attached' goes with its last user: hold it where it was made until it has arrived, or give it lifetime "
        "'session'"
    )
    return NotFoundError(message, name=name, similar=[])


def _is(attachment: attachments.Attachment, reference: Reference) -> bool:
    created = attachment.record.created if attachment.record else None
    same = (attachment.name, attachment.key[1], attachment.key[2]) == (reference.name, reference.inode, reference.mode)
    return same and (created is None or reference.created is None or created == reference.created)


def _mapped(reference: Reference) -> tuple[attachments.Attachment, Any]:
    """Map a file in the folder of a store, or a segment that does not change."""
    _teach_all()
    name, inode, _, mode, file, mark = reference
    path = f"{paths.runtime('stores')}/{file}" if file else paths.path_of(name)
    if (known := _private.get((mark, inode))) is not None and (attachment := attachments.of(known)) is not None:
        return attachment, known
    for attachment in attachments.alive() if mode != "c" else ():
        if attachment.path == path and attachment.key[1:3] == (inode, mode) and (mapping := attachment()) is not None:
            return attachment, mapping
    try:
        fd, found = segment_file.attach(path, mode, os.path.basename(file) or name)
    except NotFoundError as error:
        raise _unlinked(name, error) from None
    try:
        record = None if file else records.of(found)
        if found.st_ino != inode or (record is not None and record.created != reference.created):
            what = "an array of a dict" if file else repr(name)
            raise NotFoundError(f"{what} was replaced while a reference to it was on its way here", name=name)
        mapping = segment_file.map_(fd, found.st_size, mode, os.path.basename(file) or name)
    finally:
        fd.close()
    kind = record.kind if record else "array"
    attachments.note(mapping, mapping, attachments.Segment(found, mode, path, name, kind, record))
    made = attachments.of(mapping)
    assert made is not None
    if mode == "c":
        _private[mark, inode] = mapping
    return made, mapping


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


_register(np.ndarray, reduce)
for _kind in (np.memmap, np.recarray, np.matrix):
    _register(_kind, reduce_subclass)
_register(shared_memory.SharedMemory, reduce_handle)
_register(shareable_list.ShareableList, reduce_handle)
LESSONS: dict[str, tuple[Callable[[ModuleType], None], ...]] = {
    "multiprocessing.reduction": (_teach_functions, _teach),
    "loky.backend.reduction": (_teach,),
    "joblib.externals.loky.backend.reduction": (_teach,),
    "joblib._memmapping_reducer": (_teach_joblib,),
}
