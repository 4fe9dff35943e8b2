"""Call a function once a module is imported: at once if it is, else right after its import, whoever imports it.

Python has no event for this. So a finder comes first in `sys.meta_path`. It finds only the modules that are waited for,
by asking the other finders, and wraps their loader. After the import neither the module nor its spec refers to the
wrapper.
"""

from __future__ import annotations

import importlib
import sys
import threading
from typing import TYPE_CHECKING, Any

from shmkernel._core.imports import importing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

    Hook = Callable[[ModuleType], object]

_waiting: dict[str, list[Hook]] = {}
_loading: set[str] = set()  # modules that the wrapped loader executes now


class _Asking(threading.local):
    others = False  # whether this thread asks the other finders, which may ask all finders in turn


_asking = _Asking()


def after_import(name: str, hook: Hook) -> None:
    """Call ``hook(module)`` once, when the module of this name has been imported.

    Examples
    --------
    >>> after_import("sys", print)
    <module 'sys' (built-in)>
    """
    if hook not in _waiting.setdefault(name, []):
        _waiting[name].append(hook)
    if name not in sys.modules:
        if _finder not in sys.meta_path:
            sys.meta_path.insert(0, _finder)
    elif name not in _loading:
        with importing:
            _call_hooks(importlib.import_module(name))  # if another thread is importing it, this waits for the end


def _call_hooks(module: ModuleType) -> None:
    for hook in _waiting.pop(module.__name__, ()):
        try:
            hook(module)
        except Exception:  # noqa: BLE001  the import of another package must not fail because of this one
            sys.excepthook(*sys.exc_info())


class _Finder:
    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name not in _waiting or _asking.others:
            return None
        _asking.others = True
        try:
            finders = [finder for finder in sys.meta_path if finder is not self and hasattr(finder, "find_spec")]
            spec = next(filter(None, (finder.find_spec(name, path, target) for finder in finders)), None)
        finally:
            _asking.others = False
        if spec is not None and hasattr(spec.loader, "exec_module"):
            spec.loader = _Loader(spec.loader)  # type: ignore[assignment]  # it has all that the other has
        return spec


class _Loader:
    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__
        module.__spec__.loader = module.__loader__ = self._loader
        name = module.__name__
        _loading.add(name)
        try:
            self._loader.exec_module(module)
        finally:
            _loading.discard(name)
        _call_hooks(sys.modules.get(name, module))


_finder = _Finder()
