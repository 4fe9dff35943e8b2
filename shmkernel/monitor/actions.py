"""Carry out the actions of the monitor's buttons."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shmkernel._core import registry
from shmkernel.errors import ArgumentError, NotFoundError
from shmkernel.workspace import actions
from shmkernel.workspace.scope import Scope

if TYPE_CHECKING:
    from shmkernel.workspace import Workspace


def act(verb: str, name: str, inode: int, workspace: Workspace) -> str:
    """Carry out a button's action, and return a sentence about it; raise a ShmError if it fails.

    `inode` is that of the row that was clicked, 0 for unlinked memory: the name may belong to another segment by now.
    """
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
