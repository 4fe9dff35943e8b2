"""Fingerprints of what a cached value depends on: the cell's source, and the values that ``--uses`` names.

A value is hashed by its content, down to the bytes that sharing it would write. So a value counts as unchanged after
a restart, when it was loaded again, and as changed after ``x[0] = 1``, which leaves no other trace. A cell and a
function are hashed by their syntax: without comments, blank lines and the layout of the text.
"""

from __future__ import annotations

import ast
import enum
import hashlib
import inspect
import os
import textwrap
import types
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from shmkernel import kinds
from shmkernel.errors import ArgumentError, ShmError
from shmkernel.verbs import attachments

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_FORM = "1"  # to be changed whenever a change here would give other values the same fingerprint
_SIZE = 32  # hexadecimal digits
_BY_REPR = {
    *(f"builtins.{name}" for name in ("NoneType", "bool", "float", "complex", "ellipsis", "range")),
    *(f"datetime.{name}" for name in ("date", "datetime", "time", "timedelta", "timezone")),
    "decimal.Decimal", "fractions.Fraction", "uuid.UUID",
}  # fmt: skip


def of_cell(names: Iterable[str], source: str) -> str:
    r"""Return the fingerprint of a cell that makes these names. The source is Python, without IPython's syntax.

    Examples
    --------
    >>> of_cell(["x"], "x = work(1)") == of_cell(["x"], "# slow\nx = work( 1 )\n")
    True
    """
    return _digest("cell", [*_text(",".join(names)), *_syntax(source)])


def of_value(expression: str, value: object) -> str:
    """Return the fingerprint of a value that ``--uses`` gives by this expression.

    Raises
    ------
    ArgumentError
        If the value cannot be compared with that of an earlier run.

    Examples
    --------
    >>> of_value("x", [1, "a"]) == of_value("x", [1, "a"]), of_value("x", 1) == of_value("x", 1.0)
    (True, False)
    """
    try:
        return _digest(expression, _parts(value))
    except (ShmError, RecursionError, OSError, SyntaxError, TypeError, ValueError) as error:
        what = kinds.a_type(value)
        if isinstance(error, _UnknownError) and str(error) != what:
            what += f" with {error}"
        message = (
            f"--uses {expression}: {what} cannot be compared with that of an earlier run. Name what it was made "
            "from: a number, a text, an array. Or leave it out, and run the cell by --refresh when it has changed"
        )
        raise ArgumentError(message, expression=expression) from None


class _UnknownError(TypeError):
    """A value somewhere inside has no content that can be hashed. The text names its type."""


def _digest(title: str, parts: Iterable[bytes | memoryview]) -> str:
    hashed = hashlib.sha256(f"{_FORM} {title}\0".encode())
    for part in parts:
        hashed.update(part)
    return hashed.hexdigest()[:_SIZE]


def _parts(value: Any) -> Iterator[bytes | memoryview]:
    """Yield the content of a value in a form that no other value has."""
    kind, held = type(value), attachments.given(value)
    shared = held.kind if held else ""
    name = f"{kind.__module__}.{kind.__qualname__}"
    if name in _BY_REPR or isinstance(value, enum.Enum):
        yield from _text(f"{name} {value!r}")
    elif kind is int:
        yield from _text(f"int {value:x}")
    elif kind is str:
        yield from _text("str")
        yield from _text(value)
    elif kind is bytes:
        yield from _text(f"bytes {len(value)}")
        yield value
    elif isinstance(value, os.PathLike):
        yield from _text(f"path {os.fspath(value)!r}")
    elif isinstance(value, (list, tuple)) or shared == "list":
        yield from _items(shared or kind.__name__, list(value))
    elif isinstance(value, dict) or shared == "dict":
        items = dict(value)
        yield from _items("dict", [*items, *items.values()])
    elif isinstance(value, (set, frozenset)):
        yield from _items(kind.__name__, sorted(_digest("", _parts(item)) for item in value))
    elif isinstance(value, types.FunctionType):
        yield from _syntax(textwrap.dedent(inspect.getsource(value)))
        yield from _items("closure", [cell.cell_contents for cell in value.__closure__ or ()])
    else:
        yield from _bytes(np.asarray(value) if isinstance(value, np.generic) else value)


def _items(name: str, items: list[Any]) -> Iterator[bytes | memoryview]:
    yield from _text(f"{name} {len(items)}")
    for item in items:
        yield from _parts(item)


def _bytes(value: object) -> Iterator[bytes | memoryview]:
    """Yield the bytes that sharing the value would write."""
    try:
        kind, plan = kinds.planned("x", value, {})
        if kinds.keeps(kind):
            raise _UnknownError(kinds.a_type(value))
    except ShmError:
        raise _UnknownError(kinds.a_type(value)) from None
    yield from _text(f"{kind.name} {0 if plan.grows else plan.size}")
    yield from plan.pieces()


def _syntax(source: str) -> Iterator[bytes]:
    """Yield the syntax tree of a source, breadth first, with the number of children of each node."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler has given them
        tree = ast.parse(source)
    for node in ast.walk(tree):
        yield from _text(type(node).__name__)
        for field, value in ast.iter_fields(node):
            if value is None or value == []:  # so that a field which a later Python adds changes nothing
                continue
            items = value if isinstance(value, list) else [value]
            marks = ["*" if isinstance(item, ast.AST) else f"{type(item).__name__} {item!r}" for item in items]
            yield from _text(f"{field} {len(marks)}")
            for mark in marks:
                yield from _text(mark)


def _text(text: str) -> Iterator[bytes]:
    data = text.encode("utf-8", "surrogatepass")
    yield b"%d:" % len(data)
    yield data
