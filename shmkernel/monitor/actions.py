"""What the monitor's buttons do. Each returns the sentence that says what happened, or raises an error of ours."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shmkernel._core import registry
from shmkernel.errors import ArgumentError, NotFoundError
from shmkernel.workspace import actions
from shmkernel.workspace.scope import Scope

if TYPE_CHECKING:
    from shmkernel.workspace import Workspace


def act(verb: str, name: str, inode: int, workspace: Workspace) -> str:
    """Do to a segment what a button says. `inode` is the one that was clicked on, 0 for one that is only here."""
    if inode and registry.inode_at(name) != inode:
        state = "unlinked" if registry.inode_at(name) is None else "replaced by another of its name"
        raise NotFoundError(f"{name!r} has been {state} meanwhile", name=name)
    scope = Scope(workspace.space)
    match verb:
        case "attach":
            ((_, text),) = actions.attach(workspace, scope, {name: name})
        case "keep":
            (text,) = actions.keep(workspace, scope, [name])
        case "unlink":
            (text,) = actions.unlink([name])
        case _:
            raise ArgumentError(f"{verb!r} is nothing that the monitor does")
    return text
