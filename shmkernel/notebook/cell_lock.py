"""Carry out ``%%shm_lock``: hold a lock while a cell runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import shmkernel as shm
from shmkernel.errors import ArgumentError
from shmkernel.notebook import bodies, handlers
from shmkernel.notebook.parsing import in_one_line
from shmkernel.sync import locks

if TYPE_CHECKING:
    import argparse

    from shmkernel.notebook.magics import ShmMagics


class CellLock(locks.Lock):
    """A lock whose errors show in one line: a magic made the ``with`` statement that enters it."""

    enter = in_one_line(locks.Lock.enter)


def shm_lock(magics: ShmMagics, args: argparse.Namespace) -> Any:
    """Return the lock for a cell that was compiled into a ``with`` statement; run any other cell under the lock."""
    (name,) = args.names
    if args.cell is None:
        raise ArgumentError(f"the lock is for the rest of a cell, so it comes first in it: %%shm_lock {name}")
    handlers.tell_if_mistyped(name, "This locks the bare name")
    if isinstance(args.cell, bodies.Body):
        bodies.remember(args.cell, args.scope.filename)
        return CellLock(name, shared=args.shared, timeout=args.timeout)
    if bodies.awaits(magics.shell, args.cell):
        raise ArgumentError(
            f"a cell that awaits cannot run under a magic. Take the lock in it: async with shm.lock({name!r}):"
        )
    with shm.lock(name, shared=args.shared, timeout=args.timeout):
        bodies.run(magics.shell, args.cell, magics.transformer.transform, "shm_lock")
    return None
