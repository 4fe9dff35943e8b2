"""The notebook's variables: which of them are segments, what holds memory, and how to let go of it."""

from __future__ import annotations

import gc
import keyword
import mmap
import re
import sys
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np
from IPython.core.interactiveshell import ExecutionResult

from shmkernel import kinds
from shmkernel.errors import ArgumentError
from shmkernel.notebook.scope import Scope
from shmkernel.verbs import attachments

if TYPE_CHECKING:
    from collections.abc import Mapping

    from IPython.core.interactiveshell import InteractiveShell

UNKNOWN = "something else"
_HIDDEN = re.compile(r"_+|_\d+|_oh|Out")  # where IPython keeps what was displayed


def is_variable(name: str) -> bool:
    """Say whether a variable can have this name: segments may have dots in theirs."""
    return name.isidentifier() and not keyword.iskeyword(name)


def origin(value: object) -> attachments.Attachment | None:
    """Return the segment that was handed out as this very object."""
    return next((one for one in attachments.everything() if one.value() is value), None)


def check_free(space: Mapping[str, Any], variable: str, name: str, cure: str) -> None:
    """Raise ArgumentError if the variable is anything but an array of the segment, of earlier ones too."""
    if variable not in space:
        return
    one = origin(space[variable])
    if one is None or one.name != name:
        message = f"your variable {variable} is something else ({kinds.a_type(space[variable])}). {cure}"
        raise ArgumentError(message, name=name, variable=variable)


def foundation(value: object) -> object:
    """Return what an array's memory belongs to: the array that allocated it, or the mapping."""
    while True:
        below = value.base if isinstance(value, np.ndarray) else value.obj if isinstance(value, memoryview) else None
        if below is None:
            return value
        value = below


def watch(value: object) -> weakref.ref[Any] | None:
    """Return a weak reference to the memory of an array, to see later whether it is still there."""
    return weakref.ref(foundation(value)) if isinstance(value, np.ndarray) else None


def is_shared(ref: weakref.ref[Any] | None) -> bool:
    """Say whether the memory is a segment's."""
    return ref is not None and isinstance(ref(), mmap.mmap)


def aliases(space: Mapping[str, Any], values: list[Any]) -> list[str]:
    """Return the variables that are one of these very objects; where IPython hides them does not count."""
    return [key for key, value in space.items() if any(value is one for one in values) and not _HIDDEN.fullmatch(key)]


def left(space: Mapping[str, Any], ref: weakref.ref[Any] | None) -> str:
    """Say what keeps memory alive that nobody should need any more: empty if nothing does.

    Of what was displayed, ``%reset out`` leaves a reference behind, in `user_ns_hidden`; ``%xdel`` does not.
    """
    if ref is None or ref() is None:
        return ""
    if not (known := _holders(space, ref())):
        gc.collect()  # it may be garbage in a cycle
    return "" if ref() is None else known or UNKNOWN


def release(shell: InteractiveShell, value: object) -> None:
    """Delete every variable that is the object, where IPython hides references too."""
    if value is None:  # gone already; del_var would take every variable that is None
        return
    result = shell.last_execution_result
    if result is None:  # del_var looks into it unasked
        shell.last_execution_result = ExecutionResult(None)
    shell.user_ns["_shmkernel_released"] = value
    shell.del_var("_shmkernel_released")
    if result is None:
        shell.last_execution_result = None


def forget_errors(shell: InteractiveShell) -> None:
    """Let go of the last error: the frames of its traceback hold arrays."""
    for name in ("last_type", "last_value", "last_traceback", "last_exc"):
        vars(sys).pop(name, None)
    vars(shell)["_last_traceback"] = None
    shell.InteractiveTB.tb = None
    if result := shell.last_execution_result:
        result.error_in_exec = result.error_before_exec = None


def _holders(space: Mapping[str, Any], memory: object) -> str:
    found = [key for key, value in space.items() if foundation(value) is memory and not _HIDDEN.fullmatch(key)]
    cached = [
        f"Out[{key}] (%xdel _{key})" for key, value in space.get("_oh", {}).items() if foundation(value) is memory
    ]
    callers = space.callers() if isinstance(space, Scope) else ()
    held = [
        f"{key} of {function}()" for function, local in callers for key, value in local.items()
        if foundation(value) is memory
    ]  # fmt: skip
    return ", ".join([*found, *cached, *held])
