"""Find the notebook's variables that are segments, find what keeps memory alive, and delete references to it."""

from __future__ import annotations

import gc
import mmap
import re
import sys
import weakref
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from IPython.core.interactiveshell import ExecutionResult

from shmkernel import kinds
from shmkernel._core import records, registry
from shmkernel.errors import ArgumentError
from shmkernel.verbs import attachments
from shmkernel.workspace.scope import Scope

if TYPE_CHECKING:
    from collections.abc import Mapping

    from IPython.core.interactiveshell import InteractiveShell

UNKNOWN = "something else"
_plain: dict[int, tuple[object, str]] = {}  # by id: values without weak references, and their segments' names
_HIDDEN = re.compile(r"_+|_\d+|_oh|Out")  # IPython keeps displayed values in these


def usual(name: str) -> str:
    """Return the name of the variable that attach sets: a segment's, but for a snapshot that of its origin."""
    inode = registry.inode_at(name)
    record = records.read(inode) if inode is not None else None
    return record.origin.name if record and record.origin else name


def check_free(space: Mapping[str, Any], variable: str, name: str, cure: str) -> None:
    """Raise ArgumentError if the variable exists and is not a value of a segment of this name, present or earlier."""
    if variable in space and segment_of(space[variable]) != name:
        message = f"your variable {variable} is something else ({kinds.a_type(space[variable])}). {cure}"
        raise ArgumentError(message, name=name, variable=variable)


def segment_of(value: object) -> str | None:
    """Return the name of the segment that a value is, None if it is none."""
    if attachment := attachments.given(value):
        return attachment.name
    held, name = _plain.get(id(value), (None, None))
    return name if held is value else None


def remember(space: Mapping[str, Any], value: object, name: str) -> None:
    """Remember which segment a value without weak references is; it is held for that."""
    forget_unused(space)
    _plain[id(value)] = value, name


def forget_unused(space: Mapping[str, Any]) -> None:
    """Let go of the values that no variable holds any more."""
    if _plain:
        used = {id(value) for value in space.values()}
        for key in [key for key in _plain if key not in used]:
            _plain.pop(key, None)


def foundation(value: object) -> object:
    """Return the owner of an array's memory: the array that allocated it, or the mapping.

    An owner that has no weak references, such as bytes or a capsule, is left out: the array over it is returned.
    """
    while (below := _below(value)) is not None and type(below).__weakrefoffset__:
        value = below
    return value


def _below(value: Any) -> object:
    """Return what lends an array or a memoryview its memory; None for all else, and for a view that was released.

    `isinstance` would ask a lazy object, such as Django's settings, for its class, which may raise.
    """
    if issubclass(type(value), np.ndarray):
        return cast("object", value.base)
    try:
        return value.obj if type(value) is memoryview else None
    except ValueError:
        return None


def watch(value: object) -> weakref.ref[Any] | None:
    """Return a weak reference to the owner of an array's memory, to check later whether it was freed."""
    return weakref.ref(foundation(value)) if isinstance(value, np.ndarray) else None


def is_shared(ref: weakref.ref[Any] | None) -> bool:
    """Return whether the memory is a segment's mapping, and not that of another file."""
    mapping = ref() if ref else None
    return isinstance(mapping, mmap.mmap) and attachments.of(mapping) is not None


def aliases(space: Mapping[str, Any], values: list[Any]) -> list[str]:
    """Return the variables that are one of these objects, without the names in which IPython caches values."""
    objects = {id(value) for value in values}
    return [key for key, value in space.items() if id(value) in objects and not _HIDDEN.fullmatch(key)]


def left(space: Mapping[str, Any], ref: weakref.ref[Any] | None) -> str:
    """Return the names of what still keeps this memory alive, or an empty text.

    For an Out entry it names ``%xdel``: ``%reset out`` would leave a reference behind, in `user_ns_hidden`.
    """
    if ref is None or ref() is None:
        return ""
    if not (known := _holders(space, ref())):
        gc.collect()  # a reference cycle may keep it
    return "" if ref() is None else known or UNKNOWN


def release(shell: InteractiveShell, value: object) -> None:
    """Delete every variable that is this object, IPython's caches included."""
    if value is None:  # freed already; del_var would delete every variable that is None
        return
    result = shell.last_execution_result
    if result is None:  # del_var reads its attributes without a check
        shell.last_execution_result = ExecutionResult(None)
    shell.user_ns["_shmkernel_released"] = value
    shell.del_var("_shmkernel_released")
    if result is None:
        shell.last_execution_result = None


def forget_errors(shell: InteractiveShell) -> None:
    """Drop all references to the last error: the frames of its traceback keep arrays alive."""
    for name in ("last_type", "last_value", "last_traceback", "last_exc"):
        vars(sys).pop(name, None)
    vars(shell)["_last_traceback"] = None
    shell.InteractiveTB.tb = None
    if result := shell.last_execution_result:
        result.error_in_exec = result.error_before_exec = None


def _holders(space: Mapping[str, Any], memory: object) -> str:
    variables = [key for key, value in space.items() if foundation(value) is memory and not _HIDDEN.fullmatch(key)]
    cached = [
        f"Out[{key}] (%xdel _{key})" for key, value in space.get("_oh", {}).items() if foundation(value) is memory
    ]
    callers = space.callers() if isinstance(space, Scope) else ()
    held = [
        f"{key} of {function}()" for function, local in callers for key, value in local.items()
        if foundation(value) is memory
    ]  # fmt: skip
    return ", ".join([*variables, *cached, *held])
