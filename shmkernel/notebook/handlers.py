"""What each magic does: it calls a verb, changes the notebook's variables, and prints a sentence for each name."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import shmkernel as shm
from shmkernel import render
from shmkernel._core import capacity, paths, registry, segment_file
from shmkernel.errors import ArgumentError, NotFoundError
from shmkernel.notebook import bodies, sharing
from shmkernel.notebook.parsing import in_one_line
from shmkernel.sync import locks
from shmkernel.verbs import attachments
from shmkernel.workspace import actions, variables

if TYPE_CHECKING:
    import argparse

    from shmkernel.notebook.magics import ShmMagics
    from shmkernel.verbs.listing import Info
    from shmkernel.workspace.scope import Scope

shm_create = sharing.create
shm_load = sharing.load


class CellLock(locks.Lock):
    """A lock whose errors show in one line: a magic made the ``with`` statement that enters it."""

    enter = in_one_line(locks.Lock.enter)


def shm_attach(magics: ShmMagics, args: argparse.Namespace) -> Any:  # noqa: ANN401
    """Make variables of what is shared; all of them or none."""
    if args.variable and len(args.names) > 1:
        raise ArgumentError("--as names one variable, so give one NAME")
    if len(args.names) == 3 and args.names[1] == "as" and registry.inode_at("as") is None:  # noqa: PLR2004  x as y
        raise ArgumentError(f"write --as: %shm_attach {args.names[0]} --as {args.names[2]}", name=args.names[0])
    mode = args.mode or magics.mode
    targets = {name: args.variable or name for name in args.names}
    values = []
    for value, text in actions.attach(magics.workspace, args.scope, targets, mode, overwrite=args.overwrite):
        values.append(value)
        print(text)
    return values[0] if len(values) == 1 else tuple(values)


def shm_close(magics: ShmMagics, args: argparse.Namespace) -> None:
    """Delete the variables that are the segment's array, and say what still holds the memory."""
    for name in args.names:
        if not actions.attached(name):
            attachment = attachments.given(args.scope.get(name))
            hint = (
                f"Your {name} is {attachment.name}: %shm_close {attachment.name}"
                if attachment
                else "What is: %shm_list"
            )
            raise NotFoundError(f"{name!r} is not attached here. {hint}", name=name)
    for name in args.names:
        shm.close(name)
        for attachment in actions.attached(name):
            variables.release(magics.shell, attachment.value())
        magics.workspace.bound.pop(name, None)
        keepers = _keepers(args.scope, name)
        if variables.UNKNOWN in keepers:  # a traceback, perhaps
            variables.forget_errors(magics.shell)
            keepers = _keepers(args.scope, name)
        print(f"{name}: closed here. {_whereabouts(name, keepers)}")


def shm_unlink(magics: ShmMagics, args: argparse.Namespace) -> None:  # noqa: ARG001
    """Remove names, and say who still holds the memory."""
    for text in actions.unlink(args.names):
        print(text)


def shm_keep(magics: ShmMagics, args: argparse.Namespace) -> None:
    """Change lifetimes; what only this process has gets its name back, and the variable follows."""
    for text in actions.keep(magics.workspace, args.scope, args.names, args.lifetime or "keep"):
        print(text)


def shm_list(magics: ShmMagics, args: argparse.Namespace) -> render.Rows:  # noqa: ARG001
    """Return what is shared, to be shown as a table."""
    return _rows(magics, shm.list())


def shm_info(magics: ShmMagics, args: argparse.Namespace) -> render.Rows:
    """Return all that is known of segments, to be shown as cards."""
    return _rows(magics, [shm.info(name) for name in args.names], cards=True)


def shm_watch(magics: ShmMagics, args: argparse.Namespace) -> Any:  # noqa: ANN401, ARG001
    """Return a monitor, to be shown."""
    if len(args.names) > 1:
        raise ArgumentError(f"the content of one segment is shown first, so give one NAME, not {', '.join(args.names)}")
    return shm.watch(*args.names, **({"interval": args.every} if args.every is not None else {}))


def shm_save(magics: ShmMagics, args: argparse.Namespace) -> None:  # noqa: ARG001
    """Write a segment to a file."""
    (name,) = args.names
    shm.save(name, args.path)
    print(f"{name}: {capacity.human(os.stat(os.path.expanduser(args.path)).st_size)} written to {args.path}")


def shm_lock(magics: ShmMagics, args: argparse.Namespace) -> Any:  # noqa: ANN401
    """Return the lock for a cell that was compiled into a ``with`` statement; run any other cell under the lock."""
    (name,) = args.names
    if args.cell is None:
        raise ArgumentError(f"the lock is for the rest of a cell, so it comes first in it: %%shm_lock {name}")
    if isinstance(args.cell, bodies.Body):
        bodies.remember(args.cell, args.scope.filename)
        return CellLock(name, shared=args.shared, timeout=args.timeout)
    if bodies.awaits(magics.shell, args.cell):
        raise ArgumentError(
            f"a cell that awaits cannot run under a magic. Take the lock in it: async with shm.lock({name!r}):"
        )
    with shm.lock(name, shared=args.shared, timeout=args.timeout):
        bodies.run(magics.shell, args.cell, magics.bare.transform)
    return None


def shm_publish(magics: ShmMagics, args: argparse.Namespace) -> Any:  # noqa: ANN401, ARG001
    """Increase the versions, and print them."""
    versions = [shm.publish(name) for name in args.names]
    print(", ".join(f"{name}: version {version}" for name, version in zip(args.names, versions, strict=True)))
    return versions[0] if len(versions) == 1 else tuple(versions)


def shm_wait(magics: ShmMagics, args: argparse.Namespace) -> int:  # noqa: ARG001
    """Wait for a new version, print it and return it."""
    (name,) = args.names
    paths.path_of(name)
    if registry.inode_at(name) is None:
        print(f"{segment_file.missing(name).what} Waiting until there is one")
    version = shm.wait(name, args.since, args.timeout)
    print(f"{name}: version {version}")
    return version


def shm_gc(magics: ShmMagics, args: argparse.Namespace) -> None:  # noqa: ARG001
    """Clean up after the dead."""
    over = shm.gc(dry_run=args.dry_run)
    if not over:
        print("Nothing is left of kernels that ended")
        return
    size = capacity.human(sum(size for _, size in over))
    done = "would be unlinked: %shm_gc" if args.dry_run else "unlinked"
    print(f"{', '.join(name for name, _ in over)}: left by kernels that ended, {size}, {done}")


def shm_doctor(magics: ShmMagics, args: argparse.Namespace) -> None:  # noqa: ARG001
    """Print what was found, each with its cure."""
    for level, text, cure in shm.doctor():
        print(f"{level:4}  {text}{f': {cure}' if cure else ''}")


def shm_help(magics: ShmMagics, args: argparse.Namespace) -> None:  # noqa: ARG001
    """Print one screen."""
    print(_HELP)


def _keepers(scope: Scope, name: str) -> list[str]:
    return [text for attachment in actions.attached(name) if (text := variables.left(scope, attachment))]


def _whereabouts(name: str, keepers: list[str]) -> str:
    """Say where the memory of a closed segment is now."""
    if keepers:
        return f"Its memory stays attached, by a view of it: {', '.join(keepers)}"
    if registry.inode_at(name) is None:
        return "It is gone, and its memory free"
    return f"It stays shared: %shm_attach {name}. Remove it for all: %shm_unlink {name}"


def _rows(magics: ShmMagics, rows: list[Info], *, cards: bool = False) -> render.Rows:
    remarks = {info.name: text for info in rows if not info.state and (text := _remark(magics, info))}
    return render.Rows(rows, remarks, cards=cards)


def _remark(magics: ShmMagics, info: Info) -> str:
    """Say that a variable has parted from its segment, as it does in ``x = x + 1``."""
    variable = magics.workspace.bound.get(info.name, info.name if info.mine else "")
    if variable not in magics.workspace.space:
        return ""
    now = attachments.given(magics.workspace.space[variable])
    if now is not None and now.name == info.name:
        return ""
    back = f"%shm_create {variable}" if info.mine and variable == info.name else f"%shm_attach {info.name} --overwrite"
    return f"your {variable} is another object: {variable}[:] = ... would have kept it, {back}"


_HELP = """\
Share          %shm_create x                        the variable x becomes the shared array
               %shm_create x --from a[:, 0]         a copy of any expression; a stays as it is
without two    %shm_create x --shape 1000,1000 --dtype float32
copies         x[:] = ...                           made empty in shared memory, then filled there
Use elsewhere  %shm_attach x                        x is the array of the other notebook, not a copy
               %shm_attach x --as y --mode r        under another name, protected from writing
Look           %shm_list                            what is shared, by whom, who has it
               %shm_info x                          all that is known of one
               %shm_watch                           all of it live, and what it holds, with buttons
Let go         %shm_close x                         here; the others keep it
               %shm_unlink x                        the name goes, the memory with its last user
Lifetime       %shm_keep x                          survives this kernel, until unlinked
               %shm_keep x --lifetime session       ends with its owner again
Files          %shm_save x x.npy                    write it
               %shm_load x x.npy                    share what a file holds
Take turns     %%shm_lock x                         nobody else is under the lock meanwhile
Wait           %shm_wait x --timeout 10             sleep until there is something new
               %shm_publish x                       say so
Streams        %shm_create f --ring 64 --shape 480,640           f.put(a), for a in f: ...
Care           %shm_gc --dry-run                    what kernels left that died by force
               %shm_doctor                          what this machine allows, with cures
Flags of each  %shm_create -h                       Defaults: %config ShmMagics"""
