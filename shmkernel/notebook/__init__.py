"""The magics: what ``%load_ext shmkernel`` adds to a notebook.

    magics      the magics, their flags and help
    handlers    what each magic does, but for:
    sharing     %shm_create and %shm_load
    cell_lock   %%shm_lock
    cell_cache  %%shm_cache, which compares fingerprints
    output      suppresses the Out entry of an unassigned magic
    bodies      the statements of a %%shm_lock or %%shm_cache cell
    parsing     from a line to names, flags and expressions
    completion  names and flags for <TAB>
    wording     what an error says to run next, as a magic

What the monitor's buttons do too is in `shmkernel.workspace`.
Loading is quick: what carries out a magic is imported when the magic is first called, and numpy with a value.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from shmkernel import errors
from shmkernel.notebook.completion import matcher_for
from shmkernel.notebook.magics import ShmMagics, forget_bad_defaults
from shmkernel.notebook.output import OutputTransformer, catch_up
from shmkernel.notebook.wording import in_magics

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

_KEY = ShmMagics.__name__


def load(shell: InteractiveShell) -> None:
    """Add the magics, their completion and their display. A second call does nothing."""
    if _KEY in shell.magics_manager.registry:
        return
    forget_bad_defaults(shell.config)
    magics = ShmMagics(shell)
    magics.transformer, magics.matcher = OutputTransformer(shell), matcher_for(shell)
    shell.register_magics(magics)
    shell.events.register("post_run_cell", magics.workspace.forget_unused)
    shell.ast_transformers.append(magics.transformer)
    catch_up(magics.transformer)
    errors.word = in_magics  # not in every IPython: without the extension there are no magics to paste
    if shell.Completer is not None:
        shell.Completer.custom_matchers.append(magics.matcher)


def unload(shell: InteractiveShell) -> None:
    """Remove the magics. Variables, segments and the watchdog stay."""
    magics = shell.magics_manager.registry.pop(_KEY, None)
    if magics is None:
        return
    errors.word = errors.in_python
    with contextlib.suppress(ValueError):  # the user may have removed it
        shell.events.unregister("post_run_cell", magics.workspace.forget_unused)
    for kind, ours in magics.magics.items():
        for name in ours:
            shell.magics_manager.magics[kind].pop(name, None)
    _remove(shell.ast_transformers, magics.transformer)
    _remove(shell.configurables, magics)
    if shell.Completer is not None:
        _remove(shell.Completer.custom_matchers, magics.matcher)


def _remove(items: list[Any], item: object) -> None:
    if item in items:  # IPython removes a transformer that raised; the user may have removed others
        items.remove(item)
