"""Send shared values to other processes as references instead of copies.

Only picklers that send to a running process do this: multiprocessing's, and loky's and joblib's if they are loaded.
`pickle.dumps` and `copy.deepcopy` take the values: a pickle on disk must not hold a name that ends with a kernel.
What a reference is, and how it is read, is in `references`; `shmkernel.dask` sends them too.
"""

from __future__ import annotations

import functools
import pickle
from typing import TYPE_CHECKING, Any

import numpy as np

from shmkernel._core.import_hooks import after_import
from shmkernel.stdlib import delivery, functions, references, shareable_list, shared_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import ModuleType

    from numpy.typing import NDArray

_PROTOCOL = pickle.DEFAULT_PROTOCOL
_taught: list[ModuleType] = []  # those that have a `register`


def register(shared: Mapping[type, bool]) -> None:
    """Have values of these types sent as references: as the name that they are attached by, where that is true."""
    _teach_all()
    for kind, by_name in [*shared.items()]:
        if by_name and kind not in delivery.reducers:
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
        return references.view(array) or values(self, array)

    forward.__call__ = call


def reduce_named(value: Any, protocol: int = _PROTOCOL) -> Any:
    """Reduce a value of `attach` to its name, or to its content if the name belongs to another segment now."""
    return references.named(value) or value.__reduce_ex__(protocol)


def reduce_handle(value: Any, protocol: int = _PROTOCOL) -> Any:
    """Reduce a block or list. As in the stdlib, one made by its class is always sent by name."""
    if value._by_value:  # noqa: SLF001  the stdlib faces' own
        return reduce_named(value, protocol)
    delivery.note()
    return value.__reduce_ex__(protocol)


def reduce(array: NDArray[Any], protocol: int = _PROTOCOL, *, held: bool = False) -> Any:
    """Reduce a view of a segment to a reference, any other array to its values."""
    return references.view(array, held=held) or array.__reduce_ex__(protocol)


def reduce_subclass(array: NDArray[Any], protocol: int = _PROTOCOL, *, held: bool = False) -> Any:
    """Reduce an instance of a subclass in the same way."""
    reduced = references.view(array.view(np.ndarray), held=held)
    return (rebuild_subclass, (type(array), *reduced[1])) if reduced else array.__reduce_ex__(protocol)


def rebuild_subclass(kind: type[NDArray[Any]], *about: Any) -> NDArray[Any]:
    """Return the same view, of the same class."""
    return references.rebuild(*about).view(kind)


def reduce_masked(array: np.ma.MaskedArray[Any, Any], protocol: int = _PROTOCOL, *, held: bool = False) -> Any:
    """Reduce a masked array to a reference to its data, and its mask."""
    reduced = type(array.data) is np.ndarray and references.view(array.data, held=held)
    if not reduced:
        return array.__reduce_ex__(protocol)
    mask = None if np.ma.getmask(array) is np.ma.nomask else np.ma.getmaskarray(array)
    return rebuild_masked, (mask, array.fill_value, array.hardmask, *reduced[1])


def rebuild_masked(mask: object, fill: Any, hard: bool, *about: Any) -> np.ma.MaskedArray[Any, Any]:
    """Return the same view with its mask."""
    over: Any = np.ma.nomask if mask is None else mask
    data = references.rebuild(*about)
    made: np.ma.MaskedArray[Any, Any] = np.ma.MaskedArray(data, over, fill_value=fill, hard_mask=hard)
    return made


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
