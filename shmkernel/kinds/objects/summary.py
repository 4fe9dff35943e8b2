"""Describe an object by its first parts: what a listing shows of it without reading its content."""

from __future__ import annotations

import contextlib
import platform
import sys
from itertools import islice
from typing import TYPE_CHECKING, Any

from shmkernel.kinds.objects.layout import Buffer, Head, short

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_ROWS = 24  # parts that are shown
_SCALARS = (bool, int, float, complex, type(None))
_NUMBER = 20  # digits of a number that is shown
_LONG = 1 << (3 * _NUMBER)


def head(value: object, content: str, buffers: Sequence[Buffer], copied: int, names: Iterable[str] = ()) -> Head:
    """Describe a value; `names` are modules that its stream refers to."""
    return Head(
        content, short(f"{type(value).__module__}.{type(value).__qualname__}"), text(value),
        sum(buffer.nbytes for buffer in buffers), copied, platform.python_version(), versions(["numpy", *names]),
        [[short(name), text(part)] for name, part in islice(_parts(value), _ROWS)],
    )  # fmt: skip


def versions(names: Iterable[str]) -> dict[str, str]:
    """Return the versions of the packages of these modules that say one and are loaded."""
    packages = dict.fromkeys(name.partition(".")[0] for name in names)
    told = {package: getattr(sys.modules.get(package), "__version__", None) for package in packages}
    return {package: short(version) for package, version in told.items() if isinstance(version, str)}


def text(value: Any) -> str:
    """Describe a value in a few words.

    Examples
    --------
    >>> text([1, 2]), text("a text"), text({"a": 1})
    ('list of 2', "'a text'", 'dict of 1')
    """
    kind = type(value)
    if kind in _SCALARS:
        return kind.__name__ if kind is int and abs(value) > _LONG else repr(value)
    if kind in (str, bytes):
        return short(repr(value[:_LETTERS]) + ("…" if len(value) > _LETTERS else ""))
    if kind in (list, tuple, set, frozenset, dict):
        return f"{kind.__name__} of {len(value)}"
    name = short(kind.__qualname__)
    package = kind.__module__.partition(".")[0]
    with contextlib.suppress(Exception):  # what has no shape, or none to ask for
        if package in ("numpy", "scipy", "torch"):
            return short(f"{name} {value.dtype} {tuple(value.shape)}")
        if package in ("pandas", "polars", "pyarrow"):
            return short(f"{name} {tuple(value.shape)}")
    return name


_LETTERS = 60


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield names and values of the parts of a value."""
    kind = type(value)
    if kind in (list, tuple):
        yield from ((f"[{at}]", part) for at, part in enumerate(value))
    elif kind is dict:
        yield from ((f"[{text(key)}]", part) for key, part in value.items())
    elif isinstance(getattr(value, "__dict__", None), dict):
        yield from ((f".{name}", part) for name, part in vars(value).items())
    else:
        yield "", value
