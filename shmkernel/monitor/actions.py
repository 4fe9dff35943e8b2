"""What the monitor's buttons do. Each returns the line that says how it went, or raises an error of ours."""

from __future__ import annotations

import keyword
from typing import TYPE_CHECKING, Any

import shmkernel as shm
from shmkernel import render
from shmkernel._core import registry
from shmkernel.errors import ArgumentError, NotFoundError
from shmkernel.verbs import attachments

if TYPE_CHECKING:
    from collections.abc import Callable


def act(verb: str, name: str, inode: int, push: Callable[[dict[str, Any]], None], space: dict[str, Any]) -> str:
    """Do to a segment what a button says. `inode` is the one that was clicked on, 0 for one that is only here."""
    if inode and registry.inode_at(name) != inode:
        state = "unlinked" if registry.inode_at(name) is None else "replaced by another of its name"
        raise NotFoundError(f"{name!r} has been {state} meanwhile", name=name)
    if verb == "attach":
        return _attach(name, push, space)
    if verb == "keep":
        return _keep(name, push, space, nameless=not inode)
    if verb == "unlink":
        return _unlink(name)
    raise ArgumentError(f"{verb!r} is nothing that the monitor does")


def _attach(name: str, push: Callable[[dict[str, Any]], None], space: dict[str, Any]) -> str:
    if not name.isidentifier() or keyword.iskeyword(name):
        raise ArgumentError(f"{name!r} cannot be a variable: %shm_attach {name} --as NAME", name=name)
    if name in space and not any(one.name == name and one.value() is space[name] for one in attachments.everything()):
        message = f"your variable {name} is something else ({type(space[name]).__name__}): %shm_attach {name} --as NAME"
        raise ArgumentError(message, name=name)
    push({name: shm.attach(name)})
    info = shm.info(name)
    return f"{name}: {render.what(info)}, from {render.source(info)}, is your variable {name} now, writable"


def _keep(name: str, push: Callable[[dict[str, Any]], None], space: dict[str, Any], *, nameless: bool) -> str:
    """Keep a segment; what had lost its name is copied, and the notebook's variables follow."""
    old = [value for one in attachments.everything() if one.name == name and (value := one.value()) is not None]
    info = shm.keep(name)
    text = f"{name}: lifetime {info.lifetime}, until it is unlinked"
    if nameless:
        new = shm.attach(name)
        yours = [key for key, value in list(space.items()) if key[:1] != "_" and any(value is one for one in old)]
        push(dict.fromkeys(yours, new))
        names = " and ".join(yours)
        text += f"; a copy{f' and now your {names}' if names else ''}"
    if info.stayed:
        text += f". {render.people(info.stayed)} still on the old memory; there: %shm_attach {name}"
    return text


def _unlink(name: str) -> str:
    info = shm.info(name)
    shm.unlink(name)
    holders = render.people(info.attached)
    return f"{name}: unlinked{f'; still attached by {holders}' if holders else ''}"
