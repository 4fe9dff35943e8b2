"""Attach, keep and unlink for the magics and the monitor's buttons; the notebook's variables follow.

Each function checks all names first, then yields a sentence about each that says what happened.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import shmkernel as shm
import shmkernel.stdlib  # it sets hooks of the verbs, which the magics call directly
from shmkernel import kinds, render
from shmkernel._core import capacity, registry, segment_file
from shmkernel.errors import ArgumentError
from shmkernel.verbs import attachments, listing
from shmkernel.workspace import variables
from shmkernel.workspace.scope import is_variable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from shmkernel.verbs.listing import Holder, Info
    from shmkernel.workspace import Workspace
    from shmkernel.workspace.scope import Scope

CONSENT = {"signed": None, "never": False, "always": True}  # by the notebook's setting: `allow_pickle` of `shm.attach`
_ACCESS = {"r+": "writable", "r": "read only", "c": "changes stay private"}
_WIDTH = 60  # characters


def attach(
    workspace: Workspace,
    scope: Scope,
    targets: Mapping[str, str],
    mode: str | None = None,
    form: str | None = None,
    *,
    overwrite: bool = False,
    allow_pickle: bool = False,
) -> Iterator[tuple[Any, str]]:
    """Set variables to segments, all or none; `targets` maps names to variables. Yield values and sentences."""
    for name, variable in targets.items():
        if not is_variable(variable):
            raise ArgumentError(f"{variable} cannot be a variable: %shm_attach {name} --as NAME", name=name)
        scope.check(variable)
        if not overwrite:
            line = f"%shm_attach {name}" if variable == name else f"%shm_attach {name} --as {variable}"
            cure = f"Keep both: %shm_attach {name} --as NAME. Replace it: {line} --overwrite"
            try:
                variables.check_free(scope.target(variable), variable, name, cure)
            except ArgumentError:
                if registry.inode_at(name) is None:  # its cure would not help
                    raise segment_file.missing(name) from None
                raise
    if mode is None and workspace.mode != "auto":
        mode = workspace.mode
    allow = True if allow_pickle else CONSENT[workspace.allow_pickle]
    values = [shm.attach(name, mode, as_=form, allow_pickle=allow) for name in targets]
    for (name, variable), value in zip(targets.items(), values, strict=True):
        yield value, _attached(workspace, scope, name, variable, value, mode)


def keep(workspace: Workspace, scope: Scope, names: Sequence[str], lifetime: str = "keep") -> Iterator[str]:
    """Change lifetimes. Of a segment that was unlinked, share a copy, and set the variables to it."""
    nameless = {name: attached(name) for name in names if registry.inode_at(name) is None}
    for name, held in nameless.items():
        if not any(attachment.value() is not None for attachment in held):
            raise segment_file.missing(name)
    stayed = {name: render.others(shm.info(name)) for name, held in nameless.items() if held}
    for name in names:
        copied = _named_again(workspace, scope, name, nameless[name], lifetime) if name in nameless else ""
        info = shm.info(name) if copied else shm.keep(name, lifetime)
        yield f"{name}: {copied}{render.what(info)}, shared {until(info)}{_still(name, stayed.get(name, []))}"


def close(workspace: Workspace, scope: Scope, names: Sequence[str]) -> Iterator[str]:
    """Delete the variables that hold the segments. The sentences say what still keeps the memory."""
    for name in names:
        shm.close(name)
        for attachment in attached(name):
            if workspace.shell:
                variables.release(workspace.shell, attachment.value())
        workspace.unbind(name)
        keepers = _keepers(scope, name)
        if variables.UNKNOWN in keepers and workspace.shell:  # perhaps the last traceback
            variables.forget_errors(workspace.shell)
            keepers = _keepers(scope, name)
        yield f"{name}: closed here. {_whereabouts(name, keepers)}"


def unlink(names: Sequence[str]) -> Iterator[str]:
    """Remove names. The sentences say what still uses the memory."""
    for name in names:
        if registry.inode_at(name) is None:
            raise segment_file.missing(name)
    for name in names:
        info = shm.info(name)
        shm.unlink(name)
        others = render.others(info)
        keepers = ["processes in another container let go"] if info.elsewhere else []
        if others:
            keepers.append(f"{render.people(others)} let{'s' * (len(others) == 1)} go")
        if attached(name):
            keepers.append(f"you run %shm_close {name} here")
        size = capacity.human(info.size)
        fate = f"stay in memory until {' and '.join(keepers)}" if keepers else "freed"
        yield f"{name}: unlinked, {size} {fate}"


def attached(name: str) -> list[attachments.Attachment]:
    """Return this process's attachments of segments that have, or had, this name."""
    return [attachment for attachment in attachments.everything() if attachment.name == name]


def _keepers(scope: Scope, name: str) -> list[str]:
    return [text for attachment in attached(name) if (text := variables.left(scope, attachment))]


def _whereabouts(name: str, keepers: list[str]) -> str:
    """Return a sentence about the memory of a closed segment."""
    if keepers:
        return f"Its memory stays attached, still used by {', '.join(keepers)}"
    if registry.inode_at(name) is None:
        return "No segment has this name any more"
    return f"It stays shared: %shm_attach {name}. Remove it for all: %shm_unlink {name}"


def until(info: Info) -> str:
    """Return how long a segment lives, and which magic makes it live longer."""
    longer = f" (longer: %shm_keep {info.name})" if info.lifetime == "session" else ""
    return f"until {end(info.lifetime, [info.name], 'this kernel' if info.mine else info.owner)}{longer}"


def end(lifetime: str, names: Sequence[str], owner: str = "this kernel") -> str:
    """Return what ends the life of segments."""
    return {
        "session": f"{owner} ends",
        "attached": "the last process lets go of it",
        "keep": f"%shm_unlink {' '.join(names)}",
    }[lifetime]


def _attached(workspace: Workspace, scope: Scope, name: str, variable: str, value: object, mode: str | None) -> str:
    """Set the variable, and return a sentence about it."""
    again, before = "", None
    if (now := scope.target(variable).get(variable)) is value:
        again = " (already attached)" if attachments.given(value) else ""  # not of None: there is one for all
    elif now is not None and attachments.given(now):
        before = variables.watch(now)
    del now
    workspace.bind(scope, variable, value, name)
    info = listing.of_value(name, value)
    usual = getattr(kinds.named(info.kind), "modes", ("r",) if info.origin else segment_file.MODES)[0]
    access = _ACCESS[mode or usual]
    title = name if variable == name else f"{variable} = {name}"
    source = f"snapshot of {render.origin(info)}" if info.origin else f"from {render.source(info)}"
    texts = [f"{title}: {render.what(info)},", f"{source}, {access}{again}{scope.remark(variable)}"]
    if before and before() is not variables.foundation(value) and (keepers := variables.left(scope, before)):
        texts[-1] += "."
        texts.append(f"The earlier one stays in memory, held by {keepers}")
    return in_lines(texts)


def in_lines(texts: Iterable[str]) -> str:
    """Join texts in lines that fit into a notebook of half a screen's width: JupyterLab breaks words of longer ones.

    Examples
    --------
    >>> print(in_lines(["x: array int16 (344, 403), 270.9 KiB,", "from a.ipynb,", "writable"]))
    x: array int16 (344, 403), 270.9 KiB, from a.ipynb,
        writable
    """
    lines: list[str] = []
    for text in texts:
        if lines and len(lines[-1]) + len(text) < _WIDTH:
            lines[-1] += f" {text}"
        else:
            lines.append(text)
    return "\n    ".join(lines)


def _named_again(
    workspace: Workspace, scope: Scope, name: str, nameless: list[attachments.Attachment], lifetime: str
) -> str:
    """Share a copy of an unlinked segment, and set the variables that held the old one to it."""
    old = [value for attachment in nameless if (value := attachment.value()) is not None]
    new = shm.create(name, old[0], lifetime=lifetime)
    rebound = variables.aliases(scope, old)
    for key in rebound:
        workspace.bind(scope, key, new, name, read=True)
    yours = f", now your {' and '.join(rebound)}" if rebound else ""
    return f"shared again as a copy{yours}; "


def _still(name: str, others: list[Holder]) -> str:
    """Name the processes that still have the memory of which a copy was made."""
    if not others:
        return ""
    verb = "has" if len(others) == 1 else "have"
    return f". {render.people(others)} still {verb} the old memory; there: %shm_attach {name}"
