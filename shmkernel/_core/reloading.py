"""Keep IPython's ``%autoreload`` from reloading this package.

Before each cell autoreload executes modules again whose files have changed, after an upgrade say. The modules here
would then lose what this process has attached, locked and opened, and new classes would meet old objects. Autoreload
skips the modules in its `skip_modules`.
"""

from __future__ import annotations

import sys
from typing import Any

_PACKAGE = __name__.partition(".")[0]
_known: list[Any] = []  # shells in which `_exclude` is registered


class Skipped(dict[str, bool]):
    """The modules that autoreload skips, and all modules of this package, also those imported later."""

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or str(name).partition(".")[0] == _PACKAGE


def prevent() -> None:
    """Exclude this package, now and whenever autoreload is loaded later. Does nothing outside IPython."""
    getipython: Any = sys.modules.get("IPython.core.getipython")
    shell = getipython.get_ipython() if getipython else None
    if shell is not None and shell not in _known:
        _known.append(shell)
        shell.events.register("pre_run_cell", _exclude)  # runs before autoreload's if that is loaded later
        _exclude()


def _exclude(_: object = None) -> None:
    for shell in _known:
        magics = shell.magics_manager.registry.get("AutoreloadMagics")
        reloader = getattr(magics, "_reloader", None)
        if reloader is not None and not isinstance(reloader.skip_modules, Skipped):
            reloader.skip_modules = Skipped(reloader.skip_modules)
