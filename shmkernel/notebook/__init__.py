"""The magics: what ``%load_ext shmkernel`` adds to a notebook.

    commands    the magics, their flags and help
    actions     what the verbs do to segments and to the notebook's variables
    agreement   locks and waiting
    variables   who holds what in the notebook's namespace
    scope       the variables that the calling line sees
    bare        a magic whose value nobody takes makes no Out
    bodies      the rest of a %%shm_lock cell
    completion  names and flags for <TAB>

Loading costs little: numpy comes with the first verb that needs it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shmkernel.notebook.completion import matcher_for
from shmkernel.notebook.magics import ShmMagics, forget_bad_defaults
from shmkernel.notebook.output import Bare, catch_up

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

_KEY = ShmMagics.__name__


def load(shell: InteractiveShell) -> None:
    """Add the magics, their completion and their display; once is enough."""
    if _KEY in shell.magics_manager.registry:
        return
    forget_bad_defaults(shell.config)
    magics = ShmMagics(shell)
    magics.bare, magics.matcher = Bare(shell), matcher_for(shell)
    shell.register_magics(magics)
    shell.ast_transformers.append(magics.bare)
    catch_up(magics.bare)
    if shell.Completer is not None:
        shell.Completer.custom_matchers.append(magics.matcher)


def unload(shell: InteractiveShell) -> None:
    """Take them away again; variables, segments and the watchdog stay."""
    magics = shell.magics_manager.registry.pop(_KEY, None)
    if magics is None:
        return
    for kind, ours in magics.magics.items():
        for name in ours:
            shell.magics_manager.magics[kind].pop(name, None)
    _remove(shell.ast_transformers, magics.bare)
    _remove(shell.configurables, magics)
    if shell.Completer is not None:
        _remove(shell.Completer.custom_matchers, magics.matcher)


def _remove(items: list[Any], item: object) -> None:
    if item in items:  # IPython unregisters a transformer that fails, a user may have removed the others
        items.remove(item)
