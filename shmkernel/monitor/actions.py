"""Carry out the actions of the monitor's buttons."""

from __future__ import annotations

from typing import TYPE_CHECKING

import shmkernel as shm
from shmkernel._core import registry
from shmkernel.errors import ArgumentError, Cure, NotFoundError
from shmkernel.workspace import actions, variables
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
            ((_, text),) = actions.attach(workspace, scope, {name: variables.usual(name)})
        case "keep":
            (text,) = actions.keep(workspace, scope, [name])
        case "close":
            (text,) = actions.close(workspace, scope, [name])
        case "end":
            (text,) = actions.keep(workspace, scope, [name], _ending(name))
        case "unlink":
            (text,) = actions.unlink([name])
        case _:
            raise ArgumentError(f"{verb!r} is nothing that the monitor does")
    return text


def _ending(name: str) -> str:
    """Return the lifetime of what is no longer kept: its owner's, or that of its holders if the owner has ended."""
    info = shm.info(name)
    if info.owner_alive:
        return "session"
    if info.attached or info.elsewhere:
        return "attached"
    raise ArgumentError(
        f"{name!r} would go at once: its owner has ended, and nobody has it attached",
        Cure("Remove it", "unlink", name),
        name=name,
    )
