"""The notebook's variables, and the actions that the magics and the monitor's buttons share.

    scope       the variables that a line sees
    variables   which variables hold which memory
    actions     attach, keep and unlink; the variables follow

`Workspace` remembers which variable belongs to which segment.
"""

from __future__ import annotations

import importlib
import weakref
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import ModuleType

    from IPython.core.interactiveshell import InteractiveShell

    from shmkernel.workspace.scope import Scope

_KEY = "_shmkernel_workspace"


class Workspace:
    """The variables of one shell. ``bound`` maps a segment's name to the variable that was set to its value."""

    def __init__(self, shell: InteractiveShell | None) -> None:
        self.shell = shell
        self.bound: dict[str, str] = {}
        self.mode = "auto"  # of attach, if none is given; the magics set their default
        self.allow_pickle = "signed"  # likewise

    @property
    def space(self) -> dict[str, Any]:
        """The user's variables."""
        space: dict[str, Any] = self.shell.user_ns if self.shell else {}
        return space

    def forget_unused(self, *_: object) -> None:
        """Let go of values that no variable holds any more. IPython calls this after each cell."""
        if self.bound:
            _variables().forget_unused(self.space)

    def unbind(self, name: str) -> None:
        """Delete the variable that was set to a segment's value, if it still is that."""
        variable = self.bound.pop(name, "")
        if variable in self.space and _variables().segment_of(self.space[variable]) == name:
            del self.space[variable]
        self.forget_unused()

    def bind(self, scope: Scope, variable: str, value: object, name: str, *, read: bool = False) -> None:
        """Set a variable to a segment's value, in the given scope."""
        scope.bind(variable, value, read=read)
        if self.space.get(variable) is value:
            self.bound[name] = variable
            try:
                weakref.ref(value)
            except TypeError:  # such as a text
                _variables().remember(self.space, value, name)
            if self.shell:
                self.shell.push({variable: value})  # so that IPython no longer hides a name of its own


def _variables() -> ModuleType:
    """Import what needs numpy: loading the extension does without."""
    return importlib.import_module("shmkernel.workspace.variables")


def of(shell: InteractiveShell | None) -> Workspace:
    """Return the workspace of a shell, the same at each call. Without a shell return a new, empty one."""
    if shell is None:
        return Workspace(None)
    workspace: Workspace = vars(shell).setdefault(_KEY, Workspace(shell))
    return workspace
