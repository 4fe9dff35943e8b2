"""Shared arrays on their way to another process: a reference travels, not the values.

Only what sends to a process that lives now does so: multiprocessing's pickler, loky's and joblib's if they are loaded.
`pickle.dumps` and `copy.deepcopy` take the values, since a pickle on disk must not hold a name that dies with a
kernel.
"""

from __future__ import annotations

import functools
import multiprocessing.reduction  # noqa: F401  so that there is one to teach
import pickle
import sys
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from shmkernel import functions, registry
from shmkernel.errors import NotFoundError, ShmError
from shmkernel.sync.rings import Ring
from shmkernel.verbs import held, life

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from numpy.typing import NDArray

Reduced = tuple[Any, ...]
_LOOPS = {("multiprocessing.pool", "worker"), ("concurrent.futures.process", "_process_worker")}
_types: dict[type, Callable[[Any], Any]] = {}
_taught: list[ModuleType] = []  # those that have a `register`


def register() -> None:
    """Teach the picklers that are loaded to send references. To be repeated: others may be loaded by then."""
    for name in [*_lessons]:
        if module := sys.modules.get(name):
            _lessons.pop(name)(module)


def register_named(kind: type) -> None:
    """Teach them to send an object of this type as the name it is attached by."""
    _register(kind, reduce_named)


def _register(kind: type, reducer: Callable[[Any], Any]) -> None:
    _types[kind] = reducer
    for module in _taught:
        module.register(kind, reducer)


def _teach_multiprocessing(module: ModuleType) -> None:
    if functions.in_notebook():  # the dispatch table, which `register` fills, is not asked about functions
        module.ForkingPickler.reducer_override = functions.reducer_override
    _teach(module)


def _teach(module: ModuleType) -> None:
    _taught.append(module)
    for kind, reducer in _types.items():
        module.register(kind, reducer)


def _teach_joblib(module: ModuleType) -> None:
    """Step in before joblib's own reducer: that loses the strides of views of a numpy.memmap (joblib#1019)."""
    forward = getattr(module, "ArrayMemmapForwardReducer", None)
    if forward is None:  # another joblib than we know: it will send the values
        return
    values = forward.__call__

    def call(self: object, array: NDArray[Any]) -> object:
        return _reference(array) or values(self, array)

    forward.__call__ = call


def reduce_named(value: object) -> Any:  # noqa: ANN401
    """Reduce what was handed out to its name, or to its values if that leads elsewhere now."""
    one = next((one for one in held.everything() if one.value() is value), None)
    if one is None or registry.inode_at(one.name) != one.key[1]:
        return value.__reduce_ex__(pickle.DEFAULT_PROTOCOL)
    return rebuild_named, (one.name, one.key[1], one.key[2])


class Lost:
    """Stands for what was unlinked on its way to a worker; whatever the task does with it raises the error.

    The loop of a worker would die of that error while it unpickles its task, and the Pool wait for ever.
    """

    def __init__(self, error: ShmError) -> None:
        vars(self)["error"] = error

    def __getattr__(self, _: str) -> NoReturn:
        self()

    def __reduce__(self) -> NoReturn:  # nor is it a result
        self()

    def __call__(self, *_: object, **__: object) -> NoReturn:
        """Raise the error that reaches whoever sent the task."""
        raise vars(self)["error"]


for _name in {*dir(np.ndarray)} - {*dir(object)}:
    if _name.startswith("__") and callable(getattr(np.ndarray, _name)):  # what operators look for in the class alone
        setattr(Lost, _name, Lost.__call__)


def _for_workers(rebuild: Callable[..., Any]) -> Callable[..., Any]:
    """Let a worker survive what cannot be rebuilt; anybody else who receives it gets the error at once."""

    @functools.wraps(rebuild)
    def rebuilt(*about: Any) -> Any:  # noqa: ANN401
        try:
            return rebuild(*about)
        except ShmError as error:
            caller = sys._getframe(2)  # noqa: SLF001  beyond the queue's get()
            if (caller.f_globals.get("__name__"), caller.f_code.co_name) in _LOOPS:
                return Lost(error.with_traceback(None))
            raise

    return rebuilt


@_for_workers
def rebuild_named(name: str, inode: int, mode: str) -> Any:  # noqa: ANN401
    """Attach in the receiving process."""
    value = life.attach(name, mode)
    if not any(one.key[1] == inode and one.value() is value for one in held.everything()):
        message = f"{name!r} was replaced while a reference to it was on its way here. Send it again"
        raise NotFoundError(message, name=name)
    return value


def reduce(array: NDArray[Any]) -> Any:  # noqa: ANN401  what pickle takes
    """Reduce a view of a segment to where it lies, anything else to its values."""
    return _reference(array) or array.__reduce_ex__(pickle.DEFAULT_PROTOCOL)


def _reference(array: NDArray[Any]) -> Reduced | None:
    mapping: Any = array
    while isinstance(mapping, np.ndarray):
        mapping = mapping.base
    one = next((one for one in held.everything() if mapping is not None and one() is mapping), None)
    if one is None or one.key[2] == "c" or registry.inode_at(one.name) != one.key[1]:
        return None  # not ours, private changes, or a name that leads elsewhere
    offset = _address(array) - _address(np.frombuffer(mapping, np.uint8))
    writable = bool(array.flags.writeable)
    return rebuild, (one.name, one.key[1], one.key[2], offset, array.shape, array.strides, array.dtype, writable)


@_for_workers
def rebuild(
    name: str,
    inode: int,
    mode: str,
    offset: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    dtype: np.dtype[Any],
    writable: bool,
) -> NDArray[Any]:
    """Attach in the receiving process, and cut out the same view."""
    whole: NDArray[Any] = life.attach(name, mode)
    one = next((one for one in held.everything() if one.value() is whole), None)
    mapping = one() if one else None
    if one is None or mapping is None or one.key[1] != inode:
        message = f"{name!r} was replaced while a reference to it was on its way here. Send it again"
        raise NotFoundError(message, name=name)
    begin = _address(whole) - _address(np.frombuffer(mapping, np.uint8))
    given = (whole.shape, whole.strides, whole.dtype, whole.flags.writeable, begin)
    if given == (shape, strides, dtype, writable, offset):
        return whole
    source: Any = mapping
    if whole.nbytes:  # a view of the whole keeps that alive, so that the next reference finds it attached
        source, offset = whole.reshape(-1, order="A").view(np.uint8), offset - begin
    view: NDArray[Any] = np.ndarray(shape, dtype, source, offset, strides)
    view.flags.writeable = writable
    return view


def _address(array: NDArray[Any]) -> int:
    return int(array.__array_interface__["data"][0])


_register(np.ndarray, reduce)
_register(Ring, reduce_named)
_lessons: dict[str, Callable[[ModuleType], None]] = {
    "multiprocessing.reduction": _teach_multiprocessing,
    "loky.backend.reduction": _teach,
    "joblib.externals.loky.backend.reduction": _teach,
    "joblib._memmapping_reducer": _teach_joblib,
}
