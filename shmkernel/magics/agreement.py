"""Locks and waiting: ``%%shm_lock``, ``%shm_publish`` and ``%shm_wait``."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import shmkernel as shm
from shmkernel import memory, names, registry
from shmkernel.errors import ArgumentError

if TYPE_CHECKING:
    import argparse

    from shmkernel.magics.commands import ShmMagics


def lock(magics: ShmMagics, args: argparse.Namespace) -> None:
    """Run the rest of the cell under the lock.

    What the cell raises is shown as without the magic: IPython would add the frames of this one.
    """
    (name,) = args.names
    if args.cell is None:
        raise ArgumentError(f"the lock is for the rest of a cell, so it comes first in it: %%shm_lock {name}")
    shell: Any = magics.shell
    if _awaits(shell, args.cell):
        raise ArgumentError(
            f"a cell that awaits cannot run under a magic. Take the lock in it: async with shm.lock({name!r}):"
        )
    shown: list[list[str]] = []
    with shm.lock(name, shared=args.shared, timeout=args.timeout):
        shell._showtraceback = lambda *about: shown.append(about[-1])  # noqa: SLF001  where all of them arrive
        try:
            done = shell.run_cell(args.cell, store_history=False)
        finally:
            del shell._showtraceback  # noqa: SLF001
    error = done.error_in_exec or done.error_before_exec
    if error is not None:
        vars(error)["_render_traceback_"] = lambda: shown[-1] if shown else [str(error)]
        raise error


def _awaits(shell: Any, cell: str) -> bool:  # noqa: ANN401
    """Say whether a cell needs the event loop, which runs already: a magic is called from inside it."""
    with contextlib.suppress(RuntimeError, SyntaxError):
        asyncio.get_running_loop()
        return bool(shell.should_run_async(cell, transformed_cell=shell.transform_cell(cell)))
    return False


def publish(magics: ShmMagics, args: argparse.Namespace) -> Any:  # noqa: ANN401, ARG001
    """Raise versions."""
    found = [shm.publish(name) for name in args.names]
    print(", ".join(f"{name}: version {version}" for name, version in zip(args.names, found, strict=True)))
    return found[0] if len(found) == 1 else tuple(found)


def wait(magics: ShmMagics, args: argparse.Namespace) -> int:  # noqa: ARG001
    """Sleep until there is something new."""
    (name,) = args.names
    names.path_of(name)
    if registry.inode_at(name) is None:
        print(f"{memory.missing(name).message.partition(' Live')[0]} Waiting until there is one")
    version = shm.wait(name, args.since, args.timeout)
    print(f"{name}: version {version}")
    return version
