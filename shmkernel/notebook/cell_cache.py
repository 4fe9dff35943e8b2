"""Carry out ``%%shm_cache``: run a cell, or attach what an earlier run of it has shared.

    %%shm_cache y --uses n
    begin   lock -> is y there, and are cell and n those of its recipe? -> attach it, and skip the cell
    the cell
    end     share y with its recipe, under the old name: only now is an earlier y replaced

The recipe, the fingerprints of the cell and of what it uses, is in the segment's record, so it ends with the segment.
An error or Ctrl-C in the cell skips `end`. The lock lets a second notebook wait for the first one's value. It has a
name of its own, so that the cell, and those who use the earlier value, may lock the segment.
"""

from __future__ import annotations

import ast
import re
import time
import weakref
from typing import TYPE_CHECKING, Any

from shmkernel import kinds, render
from shmkernel._core import records, registry, sessions
from shmkernel.errors import ArgumentError, TimedOutError
from shmkernel.notebook import bodies, fingerprints
from shmkernel.notebook.parsing import evaluate, in_one_line
from shmkernel.notebook.sharing import earlier, invitation
from shmkernel.sync import locks
from shmkernel.verbs import attachments, listing, staging
from shmkernel.workspace import actions, scope, variables

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from shmkernel._core.interrupts import Entry
    from shmkernel.notebook.magics import ShmMagics
    from shmkernel.sync.holds import Hold
    from shmkernel.workspace.scope import Scope

_LONGEST = 140  # characters of a name in the name of its lock
_runs: weakref.WeakValueDictionary[int, CellCache] = weakref.WeakValueDictionary()  # by number; `with` keeps them


def shm_cache(magics: ShmMagics, args: argparse.Namespace) -> Any:
    """Return what a cell that was compiled into a ``with`` statement enters; run any other cell here."""
    for name in args.names:
        if not scope.is_variable(name):
            message = f"{name} cannot be a variable, and %%shm_cache shares the variable NAME that the cell sets"
            raise ArgumentError(message, name=name)
        if name in args.uses:
            raise ArgumentError(f"{name} is what the cell makes: leave it out of --uses", name=name)
    line = " ".join(args.names)
    if args.cell is None or not args.cell.strip():
        raise ArgumentError(f"it is for the rest of a cell, which sets {line}, so it comes first: %%shm_cache {line}")
    if isinstance(args.cell, bodies.Body):
        bodies.remember(args.cell, args.scope.filename)
        run = CellCache(magics, args, args.cell.partition("\n")[2])
        _runs[args.cell.number] = run
        return run
    if bodies.awaits(magics.shell, args.cell):
        message = "a cell that awaits cannot run under a magic. Run it without, then share what it sets"
        raise ArgumentError(f"{message}: %shm_create {line} --lifetime keep")
    with CellCache(magics, args, args.cell) as run:
        if run.begin():
            bodies.run(magics.shell, args.cell, magics.transformer.transform, "shm_cache")
            run.end()
    return None


@in_one_line
def begin(number: int) -> bool:
    """Return whether the cell has to run. The compiled cell calls it."""
    return _runs[number].begin()


@in_one_line
def end(number: int) -> None:
    """Share what the cell has set. The compiled cell calls it at its end."""
    _runs[number].end()


class CellCache(locks.Lock):
    """The lock of a cached cell, and the two steps under it."""

    warns = False  # nothing is half written: a name is linked at the end

    def __init__(self, magics: ShmMagics, args: argparse.Namespace, body: str) -> None:
        super().__init__(f"shm_cache.{args.names[0]}"[:_LONGEST])
        self._shell, self._workspace, self._args = magics.shell, magics.workspace, args
        self._names: list[str] = args.names
        self._source: str = magics.shell.transform_cell(body)
        self._recipe = self._reason = ""
        self._began = 0.0
        self._before: dict[str, tuple[int | None, int]] = {}  # of each name: its inode, and the id of the variable

    @in_one_line
    def enter(self, entry: Entry, timeout: float | None) -> Hold:
        """Enter, and say whom it waits for."""
        try:
            return super().enter(entry, 0)
        except TimedOutError as error:
            who = error.facts["holder"] or "another notebook"
            print(f"{', '.join(self._names)}: {who} runs a cell for it; waiting for its value")
        return super().enter(entry, timeout)

    def begin(self) -> bool:
        """Attach the names and return False if they have this recipe; return True if the cell has to run."""
        args, space = self._args, scope.calling(self._shell.user_ns)
        cell = fingerprints.of_cell(sorted(self._names), self._source)
        uses = {one: fingerprints.of_value(one, evaluate(one, space)) for one in args.uses}
        self._recipe = " ".join([cell, *sorted(uses.values())])
        self._reason = "--refresh" if args.refresh else self._changed(cell, uses)
        if not self._reason:
            for name in self._names:
                self._attach(space, name)
            return False
        for name in self._names:
            staging.check(name, args.mode, "keep", self._may_replace)
            self._before[name] = registry.inode_at(name), id(space.get(name))
        self._began = time.monotonic()
        return True

    def end(self) -> None:
        """Share the variables that the cell has set, all or none, with the recipe."""
        space, took = scope.calling(self._shell.user_ns), time.monotonic() - self._began
        sets = _set_by(self._source)
        for name in self._names:
            if name not in space or (id(space[name]) == self._before[name][1] and not sets(name)):
                message = f"the cell has set no variable {name}, so nothing is cached. It has to say: {name} = ..."
                raise ArgumentError(message, name=name)
        shared_by_cell = [name for name in self._names if self._is_shared(name, space[name])]
        fresh = [name for name in self._names if name not in shared_by_cell]
        private = {name: variables.watch(space[name]) for name in fresh}
        remarks = {name: earlier(name) for name in fresh}
        values = dict(zip(fresh, self._shared(space, fresh), strict=True))
        for name in shared_by_cell:
            values[name] = space[name]
            self._kept(name)
        for name in self._names:
            self._workspace.bind(space, name, values[name], name)
            info = listing.of_value(name, values[name])
            keepers = variables.left(space, private.get(name))
            texts = [f"{name}: {render.what(info)}.", f"Made by the cell in {took:.1f} s ({self._reason})."]
            texts += remarks.get(name, [])
            if keepers and name in fresh:
                texts.append(f"Its private copy stays in memory, held by {keepers}.")
            print(actions.in_lines(texts))
        print(invitation(self._names, "keep"))

    def _changed(self, cell: str, uses: dict[str, str]) -> str:
        """Return why the cell has to run; an empty text if the names have this recipe."""
        found = [record.recipe if (record := _record(name)) else "" for name in self._names]
        if missing := [name for name, recipe in zip(self._names, found, strict=True) if not recipe]:
            return f"there was no {' and no '.join(missing)}"
        other = next((recipe for recipe in found if recipe != self._recipe), None)
        if other is None:
            return ""
        known = other.split()
        if cell not in known[:1]:
            return "the cell has changed"
        changed = [one for one, digest in uses.items() if digest not in known]
        return f"{' and '.join(changed) or '--uses'} {'have' if changed[1:] else 'has'} changed"

    def _may_replace(self, record: records.Record | None) -> bool:
        """Allow to replace what this magic has made, or the cell itself."""
        if record is None:
            return bool(self._args.replace)
        before, _ = self._before.get(record.name, (record.inode, 0))
        mine = sessions.mine()
        by_cell = before != record.inode and mine is not None and record.owner == mine.id
        return bool(self._args.replace or record.recipe or by_cell)

    def _attach(self, space: Scope, name: str) -> None:
        targets = {name: name}
        for value, _ in actions.attach(self._workspace, space, targets, self._args.mode, overwrite=True):
            info = listing.of_value(name, value)
            old = render.age(time.time() - (info.created or 0))
            print(
                f"{name}: attached, {render.what(info)}, made {old} ago by {render.source(info)}. "
                "The cell was not run (to run it: --refresh)"
            )

    def _is_shared(self, name: str, value: object) -> bool:
        """Return whether the cell itself has shared the value under this name, so that no copy is needed."""
        held = attachments.given(value)
        inode = registry.inode_at(name)
        if held is None or held.name != name or held.key[1] != inode or held.key[2] == "c":
            return False
        return inode != self._before[name][0] and self._args.mode in (None, held.key[2])

    def _shared(self, space: Scope, names: list[str]) -> list[Any]:
        """Share variables, all or none."""
        drafts: list[staging.Draft] = []
        try:
            for name in names:
                kind, plan = kinds.planned(name, space[name], {"allow_pickle": self._args.allow_pickle or None})
                made = staging.make(name, kind, plan, self._args.mode, "keep")
                drafts.append(made._replace(record=made.record._replace(recipe=self._recipe)))
                del plan
        except BaseException:
            staging.discard(drafts)
            drafts.clear()  # an interrupt's traceback keeps this frame
            raise
        return staging.name_all(drafts, self._may_replace) if drafts else []

    def _kept(self, name: str) -> None:
        """Keep what the cell itself has shared, and note the recipe."""
        with staging.room_for(name), registry.locked():
            inode = registry.inode_at(name)
            record = records.read(inode) if inode is not None else None
            if record is not None and inode is not None:
                records.change(record._replace(lifetime="keep", recipe=self._recipe))
                attachments.set_lifetime(inode, "keep")


def _record(name: str) -> records.Record | None:
    inode = registry.inode_at(name)
    return records.read(inode) if inode is not None else None


def _set_by(source: str) -> Callable[[str], bool]:
    """Return a function that tells whether a cell may set a variable: it is a target, or part of a magic's text."""
    nodes = [*ast.walk(ast.parse(source))]
    targets = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    texts = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return lambda name: name in targets or any(re.search(rf"\b{name}\b", text) for text in texts)
