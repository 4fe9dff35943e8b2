"""Adapters: values of libraries, taken apart into plain parts, and put together again.

An adapter has a name, the public name of a class: ``scipy.sparse.csr_matrix``. `to_parts` returns plain values for an
instance, or None if they would not be all of it. `from_parts` makes the value, without copying arrays. Parts that
this library has not written itself (`trusted`) are checked in full: a wrong index would end the process.

A value's adapter is found by its class, in modules that are loaded. Other packages add theirs by the entry point group
``shmkernel.adapters``: the name of the class, and an object with the two functions.
"""

from __future__ import annotations

import functools
import importlib
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from shmkernel._core.imports import importing
from shmkernel.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable


class Adapter(NamedTuple):
    """``to_parts(value)`` returns plain values, ``from_parts(library, parts, trusted)`` the value."""

    to_parts: Callable[[Any], Any]
    from_parts: Callable[..., Any]


def name_of(value: object) -> str | None:
    """Return the name of the adapter for a value, None if there is none."""
    kind = type(value)
    for library, classes in _ADAPTERS.items():
        if kind.__name__ in classes and getattr(sys.modules.get(library), kind.__name__, None) is kind:
            return f"{library}.{kind.__name__}"
    name = f"{kind.__module__}.{kind.__qualname__}"
    return name if name in _others() else None


def named(name: str) -> Any:
    """Return the adapter of this name; UnsupportedError if there is none."""
    library, _, kind = name.rpartition(".")
    if own := _ADAPTERS.get(library, {}).get(kind):
        return own
    if name in _others():
        with importing:
            return _others()[name].load()
    raise UnsupportedError(f"it holds a {name}, and no adapter for that is installed here")


def made(name: str, parts: Any, *, trusted: bool) -> Any:
    """Put a value together by the adapter of this name; UnsupportedError if its library is not installed."""
    adapter = named(name)
    if type(adapter) is not Adapter:
        return adapter.from_parts(parts)
    library = name.rpartition(".")[0]
    try:
        with importing:
            loaded = importlib.import_module(library)
    except ImportError as error:
        message = f"it holds a {name}, which needs {library.partition('.')[0]}: {error}"
        raise UnsupportedError(message) from None
    return adapter.from_parts(getattr(loaded, name.rpartition(".")[2]), parts, trusted)


@functools.cache
def _others() -> dict[str, Any]:
    with importing:
        from importlib.metadata import entry_points  # noqa: PLC0415  20 ms

        return {entry.name: entry for entry in entry_points(group="shmkernel.adapters")}


def _numpy() -> Any:
    return sys.modules["numpy"]


def _masked(value: Any) -> Any:
    if value._optinfo or type(value.data) is not _numpy().ndarray:  # noqa: SLF001  it has no other name
        return None
    mask = None if value.mask is _numpy().ma.nomask else value.mask
    return [value.data, mask, value._fill_value, value.hardmask]  # noqa: SLF001  None if nobody has set one


def _new_masked(kind: Any, parts: Any, _trusted: bool) -> Any:
    data, mask, fill, hard = parts
    made = kind(data, _numpy().ma.nomask if mask is None else mask, hard_mask=bool(hard), copy=False)
    if fill is not None:
        made._fill_value = _numpy().asarray(fill)  # noqa: SLF001  to set fill_value would cut a text
    return made


def _view(value: Any) -> Any:
    if vars(value).keys() - {"_getitem"}:  # a matrix notes whether it is being indexed
        return None
    dtype = _numpy().dtype((_numpy().void, value.dtype)) if value.dtype.names else value.dtype
    return value.view(dtype, _numpy().ndarray)


def _new_view(kind: Any, parts: Any, _trusted: bool) -> Any:
    return parts.view(kind)


def _compressed(value: Any) -> Any:
    return [value.shape, value.data, value.indices, value.indptr]


def _new_compressed(kind: Any, parts: Any, trusted: bool) -> Any:
    shape, data, indices, indptr = parts
    made = kind((data, indices, indptr), shape=shape, copy=False)
    made.data, made.indices, made.indptr = data, indices, indptr  # whatever type of index the constructor chose
    made.check_format(full_check=not trusted)
    return made


def _coordinates(value: Any) -> Any:
    return [value.shape, value.data, value.row, value.col] if len(value.shape) == _PLANE else None


def _new_coordinates(kind: Any, parts: Any, _trusted: bool) -> Any:
    shape, data, row, column = parts
    return kind((data, (row, column)), shape=shape, copy=False)  # it checks them


def _diagonals(value: Any) -> Any:
    return [value.shape, value.data, value.offsets]


def _new_diagonals(kind: Any, parts: Any, _trusted: bool) -> Any:
    shape, data, offsets = parts
    return kind((data, offsets), shape=shape, copy=False)  # it checks them


_PLANE = 2  # dimensions
_ADAPTERS: dict[str, dict[str, Adapter]] = {
    "numpy": dict.fromkeys(("recarray", "matrix"), Adapter(_view, _new_view)),
    "numpy.ma": {"MaskedArray": Adapter(_masked, _new_masked)},
    "scipy.sparse": {
        f"{form}_{what}": adapter
        for what in ("matrix", "array")
        for form, adapter in {
            **dict.fromkeys(("csr", "csc", "bsr"), Adapter(_compressed, _new_compressed)),
            "coo": Adapter(_coordinates, _new_coordinates),
            "dia": Adapter(_diagonals, _new_diagonals),
        }.items()
    },
}  # fmt: skip
