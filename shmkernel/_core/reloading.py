"""``%autoreload`` leaves this package as it was imported.

Its modules know what this process has attached, locked and opened. Executed again after an upgrade, they would forget
that, and new classes would meet old objects. IPython reloads before a cell whatever file has changed; it asks
`skip_modules` whether to.
"""

from __future__ import annotations

import sys
from typing import Any

_PACKAGE = __name__.partition(".")[0]
_known: list[Any] = []  # the shells that ask us before each cell


class Skipped(dict[str, bool]):
    """The modules that autoreload skips, and all of ours, those too that are imported later."""

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or str(name).partition(".")[0] == _PACKAGE


def prevent() -> None:
    """Exclude this package, now and when autoreload is loaded later. Outside IPython there is nothing to do."""
    found: Any = sys.modules.get("IPython.core.getipython")
    shell = found.get_ipython() if found else None
    if shell is not None and shell not in _known:
        _known.append(shell)
        shell.events.register("pre_run_cell", _exclude)  # before autoreload's, if that is loaded later
        _exclude()


def _exclude(_: object = None) -> None:
    for shell in _known:
        magics = shell.magics_manager.registry.get("AutoreloadMagics")
        reloader = getattr(magics, "_reloader", None)
        if reloader is not None and not isinstance(reloader.skip_modules, Skipped):
            reloader.skip_modules = Skipped(reloader.skip_modules)
