"""Read and set variables as the line that called a magic would.

A magic is a call in the user's code. The frame of that code says which variables the line sees:

    a cell, a script      the frame's globals
    a function            its locals, if its compiled code knows the name; else globals
    a class body, exec    the mapping that the statements there write to; else globals

A local variable of a function is rebound through the frame: by its proxy (PEP 667), before Python 3.13 by the C API's
PyFrame_LocalsToFast, as debuggers do. Each change is read back: if it failed, the user would go on with a private
value and not notice.
"""

from __future__ import annotations

import builtins
import ctypes
import inspect
import keyword
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from shmkernel.errors import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import CodeType, FrameType

_MISSING = object()
_INTERNAL = ("IPython.", "shmkernel.notebook.", "shmkernel.workspace.", "traitlets.", "decorator.")


def is_variable(name: str) -> bool:
    """Return whether a variable can have this name. Names of segments may contain dots."""
    return name.isidentifier() and not keyword.iskeyword(name) and name != "__debug__"


class Scope(Mapping[str, Any]):
    """The variables that the calling line sees. Without a calling frame, the notebook's variables."""

    def __init__(self, user: dict[str, Any], frame: FrameType | None = None) -> None:
        self._user = user
        self._frame = frame
        self._globals: Mapping[str, Any] = frame.f_globals if frame else user
        self._locals: Any = frame.f_locals if frame else user  # a dict, a proxy, or the mapping given to exec
        self._function = _function(frame, self._locals) if frame else None
        # A new global variable belongs to the cell or the script: not to the module of a library's function.
        library = self._locals is not self._globals and self._globals.get("__name__") != "__main__"
        self._beyond: Any = user if library else self._globals

    def __getitem__(self, name: str) -> Any:
        for space in self._spaces():
            if (value := space.get(name, _MISSING)) is not _MISSING:
                return value
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter({name: None for space in self._spaces() for name in space})

    def __len__(self) -> int:
        return len(list(iter(self)))

    def flat(self) -> dict[str, Any]:
        """Return all that the line sees as one dict: to read the variables one by one takes a call for each."""
        return {**self._user, **self._globals, **self._locals}

    def is_local(self, name: str) -> bool:
        """Return whether the name is a local variable of the function or class body with the line."""
        return self._locals is not self._globals and self._knows(name)

    @property
    def filename(self) -> str:
        """The file name of the code with the calling line."""
        return self._frame.f_code.co_filename if self._frame else ""

    def target(self, name: str) -> Mapping[str, Any]:
        """Return the namespace that a new variable of this name would belong to."""
        beyond = self._locals is self._globals or not self._knows(name)  # as `is_local`: most lines take no call
        space: Mapping[str, Any] = self._beyond if beyond else self._locals
        return space

    def check(self, name: str, *, read: bool = False) -> None:
        """Raise ArgumentError if the name is a variable that the line cannot change, or with `read` cannot read."""
        if self._locals is self._globals:  # a cell, or a module: no function is around it
            return
        if self._knows(name):
            if read and self._function and name not in self._locals and name in self:
                message = f"{name} is a variable of this function, and has no value yet. For the notebook's {name}"
                raise ArgumentError(f"{message} write a line before: global {name}", name=name)
            return
        if around := _around(self._frame, name):
            message = f"{name} is a variable of {around}, around this code. Share it there, or write a line before"
            raise ArgumentError(f"{message}: nonlocal {name}", name=name)

    def bind(self, name: str, value: object, *, read: bool = False) -> None:
        """Set the variable. With `read`, set it in the namespace that it was read from."""
        if not self.is_local(name):
            space = next((space for space in self._spaces() if name in space), None) if read else None
            beyond: Any = self._beyond if space is None else space
            beyond[name] = value
        elif self._function is None:
            self._locals[name] = value
        else:
            _rebind(self._function, name, value)

    def remark(self, name: str) -> str:
        """Return a remark on a variable that was set: a function's line has set a global, or it hides a builtin."""
        if hasattr(builtins, name):
            text = f" (it hides Python's {name}: del {name} brings that back)"
        elif self._locals is self._globals or self.is_local(name):
            return ""
        else:
            text = f" (the global variable {name})"
        return text if is_variable(name) else ""

    def callers(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Yield the callers of the calling function, each with its local variables."""
        frame = self._frame.f_back if self._frame else None
        while (frame := _outside(frame)) is not None:
            if frame is not self._function and frame.f_code.co_flags & inspect.CO_OPTIMIZED:
                yield frame.f_code.co_name, frame.f_locals
            frame = frame.f_back

    def _spaces(self) -> list[Mapping[str, Any]]:
        spaces = [self._locals, self._globals, self._user]
        return [space for at, space in enumerate(spaces) if not any(space is earlier for earlier in spaces[:at])]

    def _knows(self, name: str) -> bool:
        """Return whether the name belongs to the innermost scope; for a function its code object says so."""
        if self._function:
            code = self._function.f_code
            return name in (*code.co_varnames, *code.co_cellvars, *code.co_freevars)
        return name in self._locals or (self._locals is not self._globals and name not in self._globals)


def calling(user: dict[str, Any]) -> Scope:
    """Return the scope of the line that called the magic: the innermost frame outside IPython and shmkernel."""
    return Scope(user, _outside(sys._getframe(1)))  # noqa: SLF001  inspect would read the sources of all frames


def _outside(frame: FrameType | None) -> FrameType | None:
    """Return the frame, or the first of its callers that is neither IPython's nor ours."""
    while frame is not None and f"{frame.f_globals.get('__name__', '')}.".startswith(_INTERNAL):
        frame = frame.f_back
    return frame


def _function(frame: FrameType, space: Mapping[str, Any]) -> FrameType | None:
    """Return the function frame that these local variables belong to; ``%time`` runs its line in a frame of its own."""
    if frame.f_code.co_flags & inspect.CO_OPTIMIZED:
        return frame
    if space is frame.f_globals:
        return None
    caller: FrameType | None = frame.f_back
    while caller is not None:
        if caller.f_code.co_flags & inspect.CO_OPTIMIZED and _same(caller.f_locals, space):
            return caller
        caller = caller.f_back
    return None


def _same(space: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return whether both are the local variables of one frame: each access to f_locals makes a new proxy."""
    return space is other or (type(space) is not dict and type(space) is type(other) and space == other)


def _around(frame: FrameType | None, name: str) -> str:
    """Return the name of the running function around the frame's code that has this variable, or an empty text."""
    while frame is not None and frame.f_code.co_name != "<module>":
        outer = _parent(frame)
        if outer is None:
            return ""
        code = outer.f_code
        if code.co_flags & inspect.CO_OPTIMIZED and name in (*code.co_varnames, *code.co_cellvars, *code.co_freevars):
            return code.co_name
        frame = outer
    return ""


def _parent(frame: FrameType) -> FrameType | None:
    code: CodeType = frame.f_code
    outer = frame.f_back
    while outer is not None and not any(constant is code for constant in outer.f_code.co_consts):
        outer = outer.f_back
    return outer


def _rebind(frame: FrameType, name: str, value: object) -> None:
    frame.f_locals[name] = value
    if sys.version_info < (3, 13):
        ctypes.pythonapi.PyFrame_LocalsToFast(ctypes.py_object(frame), ctypes.c_int(0))
    if frame.f_locals.get(name, _MISSING) is not value:
        raise ArgumentError(f"{name} cannot be changed from here. Write: {name} = %shm_attach {name}", name=name)
