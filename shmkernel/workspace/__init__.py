"""The variables of a notebook, and what the magics and the monitor's buttons both do with them.

scope       the variables that a line sees
variables   which of them are segments, what keeps memory in use, and how to let go of it
actions     attach, keep and unlink; the variables follow, and a sentence says what happened
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from shmkernel.workspace.scope import Scope

_KEY = "_shmkernel_workspace"


class Workspace:
    """The variables of one shell. ``bound`` has the variable that was made of a segment, by the segment's name."""

    def __init__(self, shell: InteractiveShell | None) -> None:
        self._shell = shell
        self.bound: dict[str, str] = {}

    @property
    def space(self) -> dict[str, Any]:
        """The user's variables."""
        space: dict[str, Any] = self._shell.user_ns if self._shell else {}
        return space

    def bind(self, scope: Scope, variable: str, value: object, name: str, *, read: bool = False) -> None:
        """Make a variable of a segment's value where the scope says."""
        scope.bind(variable, value, read=read)
        if self.space.get(variable) is value:
            self.bound[name] = variable
            if self._shell:
                self._shell.push({variable: value})  # so that IPython no longer hides a name of its own


def of(shell: InteractiveShell | None) -> Workspace:
    """Return the workspace of a shell: the same for every caller. Without a shell it is empty, and new."""
    if shell is None:
        return Workspace(None)
    workspace: Workspace = vars(shell).setdefault(_KEY, Workspace(shell))
    return workspace
