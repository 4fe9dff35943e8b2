"""Adapters: values of libraries, taken apart into plain parts, and put together again.

An adapter has a name, the public name of a class: ``scipy.sparse.csr_matrix``. `to_parts` returns plain values for an
instance, or None if they would not be all of it; or it raises UnsupportedError with the reason. `from_parts` makes the
value, without copying arrays. Parts that this library has not written itself (`trusted`) are checked in full: a wrong
index would end the process.

A value's adapter is found by its class, in modules that are loaded. Other packages add theirs by the entry point group
``shmkernel.adapters``: the name of the class, and an object with the two functions.

Where a value is pickled, its adapter keeps memory out of the stream too, unless its class does that itself.
"""

from __future__ import annotations

import functools
import importlib
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from shmkernel._core import limits
from shmkernel._core.imports import importing, loaded
from shmkernel.errors import UnsupportedError
from shmkernel.kinds.objects import arrays, labelled, tensors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class Adapter(NamedTuple):
    """``to_parts(value)`` returns plain values, ``from_parts(class, parts, trusted)`` the value."""

    to_parts: Callable[[Any], Any]
    from_parts: Callable[..., Any]


_ADAPTERS = {
    library: {kind: Adapter(*pair) for kind, pair in classes.items()}
    for library, classes in {**arrays.ADAPTERS, **labelled.ADAPTERS, **tensors.ADAPTERS}.items()
}
_PICKLED = ("numpy", "numpy.ma", "torch", "torch.nn")  # libraries whose pickles would hold the memory in the stream


def name_of(value: object) -> str | None:
    """Return the name of the adapter for a value, None if there is none."""
    return _of_class(type(value), _ADAPTERS)


def in_pickles(kind: type) -> str | None:
    """Return the name of the adapter for a class in a pickle, None if that is pickled as usual."""
    return _of_class(kind, _PICKLED)


def _of_class(kind: type, libraries: Iterable[str]) -> str | None:
    for library in libraries:
        if kind.__name__ in _ADAPTERS[library] and getattr(sys.modules.get(library), kind.__name__, None) is kind:
            return f"{library}.{kind.__name__}"
    name = f"{kind.__module__}.{kind.__qualname__}"
    return name if name in _others() else None


def named(name: str) -> Any:
    """Return the adapter of this name; UnsupportedError if there is none."""
    library, _, kind = name.rpartition(".")
    if own := _ADAPTERS.get(library, {}).get(kind):
        return own
    if name in _others():
        try:
            with importing:
                return _others()[name].load()
        except (ImportError, AttributeError) as error:
            limits.raise_told(error)
            raise UnsupportedError(f"the adapter for {name} cannot be loaded: {error}") from None
    raise UnsupportedError(f"it holds a {name}, and no adapter for that is installed here")


def made(name: str, parts: Any, *, trusted: bool) -> Any:
    """Put a value together by the adapter of this name; UnsupportedError if its library is not installed."""
    adapter = named(name)
    if type(adapter) is not Adapter:
        return adapter.from_parts(parts)
    library, _, kind = name.rpartition(".")
    if (module := loaded(library)) is None:
        try:
            with importing:
                module = importlib.import_module(library)
        except ImportError as error:
            limits.raise_told(error)
            message = f"it holds a {name}, which needs {library.partition('.')[0]}: {error}"
            raise UnsupportedError(message) from None
    return adapter.from_parts(getattr(module, kind), parts, trusted)


@functools.cache
def _others() -> dict[str, Any]:
    with importing:
        from importlib.metadata import entry_points  # noqa: PLC0415  20 ms

        return {entry.name: entry for entry in entry_points(group="shmkernel.adapters")}
