"""Instances of classes that the reader has loaded: dataclasses, named tuples, members of enumerations.

A class is looked up among the modules that are loaded, never imported: a file that says which module to import would
run its code. Nor is code of the class called, such as ``__init__`` or ``__post_init__``.
"""

from __future__ import annotations

import copyreg
import dataclasses
import enum
import sys
from typing import TYPE_CHECKING, Any, cast

from shmkernel.errors import UnsupportedError
from shmkernel.kinds.values import NoValueError

if TYPE_CHECKING:
    from collections.abc import Callable

    Parts = Callable[[object], bytes]


class Attribute(str):
    """The name of an attribute, in the path to a value."""

    __slots__ = ()


def encode(value: Any, parts: Parts) -> bytes | None:
    """Return module, name, and the content of an instance; None if its class is of another sort.

    NoValueError is raised if that would not be all of it.
    """
    kind: Any = type(value)
    if isinstance(value, enum.Enum):
        member = kind._member_map_.get(value._name_)
        if member is not value:
            raise NoValueError(value, "it is a combination of members: give its .value")
        return parts([*_name(value), value._name_])
    if isinstance(value, tuple) and _is_named_tuple(kind):
        if getattr(value, "__dict__", None):
            raise NoValueError(value, "its class has more than the fields of a named tuple")
        own = (*tuple.__iter__(value),)  # the class may iterate over more, as that of platform.uname() does
        return _named_parts(parts, _name(value), kind._fields, own)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _named_parts(parts, _name(value), *_fields(value))
    return None


def decode(module: str, name: str, *parts: Any) -> Any:
    """Return the instance of these parts; UnsupportedError if its class is not loaded here, or is another one."""
    kind = _found(module, name)
    fields = _names(kind) if isinstance(kind, type) else None
    if fields is None:
        first = f"first import {module}" if module != "__main__" else "define it here first, as where it was made"
        raise UnsupportedError(f"it holds an instance of the class {module}.{name}, which is not loaded here: {first}")
    if issubclass(kind, enum.Enum):
        (member,) = parts
        if member not in fields:
            message = f"it holds {name}.{member}; here the class {module}.{name} has {', '.join(fields)}"
            raise UnsupportedError(message)
        return kind._member_map_[member]
    names, given = parts[::2], parts[1::2]
    if names != fields or len(names) != len(given):
        raise UnsupportedError(
            f"it holds an instance of a class {module}.{name} with the fields {', '.join(map(str, names))}; "
            f"here that class has {', '.join(fields)}"
        )
    if issubclass(kind, tuple):
        return tuple.__new__(kind, given)
    made = object.__new__(kind)
    for field, value in zip(names, given, strict=True):
        object.__setattr__(made, field, value)
    return made


def _is_named_tuple(kind: Any) -> bool:
    fields = getattr(kind, "_fields", None)
    return issubclass(kind, tuple) and isinstance(fields, tuple) and {*map(type, fields)} <= {str}


def _names(kind: Any) -> tuple[str, ...] | None:
    """Return the names of a class's fields or members, None if it is a class of another sort."""
    if issubclass(kind, enum.Enum):
        return (*kind._member_map_,)
    if _is_named_tuple(kind):
        return cast("tuple[str, ...]", kind._fields)
    if dataclasses.is_dataclass(kind):
        return tuple(field.name for field in dataclasses.fields(kind))
    return None


def _name(value: Any) -> list[object]:
    kind = type(value)
    if _found(kind.__module__, kind.__qualname__) is not kind:
        raise NoValueError(value, f"its class {kind.__qualname__} is not found in its module {kind.__module__}")
    return [kind.__module__, kind.__qualname__]


def _fields(value: Any) -> tuple[list[str], list[Any]]:
    """Return the names and values of the fields of a dataclass; NoValueError if that is not all of it."""
    kind, names = type(value), [field.name for field in dataclasses.fields(value)]
    slots = cast("Any", copyreg)._slotnames(kind)  # noqa: SLF001  as pickle has them: of the bases too, and mangled
    held = {*getattr(value, "__dict__", ()), *(slot for slot in slots if hasattr(value, slot))}
    if more := sorted(held - {*names}):
        raise NoValueError(value, f"it has more than its fields: {', '.join(more)}")
    try:
        object.__new__(kind)
    except TypeError:  # a base with memory of its own, as that of a list
        raise NoValueError(value, "it has more than its fields: the value of its base") from None
    if missing := [name for name in names if not hasattr(value, name)]:
        raise NoValueError(value, f"its field {missing[0]} has no value")
    return names, [getattr(value, name) for name in names]


def _named_parts(parts: Parts, name: list[object], names: Any, values: Any) -> bytes:
    """Encode the fields; an error says which of them it was."""
    if len(names) != len(values):
        raise NoValueError(values, "it has more than its fields")
    try:
        return parts([*name, *(part for pair in zip(names, values, strict=True) for part in pair)])
    except NoValueError as error:
        at = cast("int", error.path[0]) - len(name)
        error.path = (Attribute(names[at // 2]), *error.path[1:])
        raise


def _found(module: str, name: str) -> Any:
    """Return the class of this name in a module that is loaded, or None."""
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, "__dict__", {}).get(part)
    return found
