"""One memory for all your notebooks: share arrays between Jupyter kernels without copies."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING

if sys.platform != "linux":
    raise ImportError(
        f"shmkernel needs Linux (O_TMPFILE, /dev/shm, flock and inotify), and this is {sys.platform}. "
        "On macOS and Windows run Jupyter in a container or in WSL"
    )

from shmkernel._core.imports import importing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from IPython.core.interactiveshell import InteractiveShell

    from shmkernel.errors import *  # noqa: F403  for type checkers
    from shmkernel.hosts.joining import *  # noqa: F403  likewise
    from shmkernel.monitor.widget import watch as watch
    from shmkernel.stdlib.manager import ManagerError, SharedMemoryManager  # noqa: F401  likewise
    from shmkernel.stdlib.shareable_list import ShareableList as ShareableList
    from shmkernel.stdlib.shared_memory import SharedMemory as SharedMemory
    from shmkernel.verbs import *  # noqa: F403  for type checkers

_ERRORS = (
    "AbandonedError", "ArgumentError", "DamagedError", "FolderError", "FullError", "HostError", "LimitError",
    "LockError", "NotFoundError", "RangeError", "RefusedError", "ShmError", "TakenError", "TimedOutError",
    "UnsupportedError", "WatchdogError",
)  # fmt: skip
_MODULES = {
    "errors": _ERRORS,
    "hosts.joining": ("Offer", "join", "leave", "offers", "share", "unshare"),
    "verbs.doctor": ("Finding", "doctor"),
    "verbs.files": ("load", "save"),
    "verbs.listing": ("Holder", "Info", "info", "list"),
    "verbs.locking": ("changes", "lock", "publish", "snapshot", "version", "wait", "writing"),
    "verbs.segments": ("attach", "close", "create", "gc", "keep", "unlink"),
    "verbs.session": ("Session", "session"),
    "stdlib.manager": ("ManagerError", "SharedMemoryManager"),
    "stdlib.shareable_list": ("ShareableList",),
    "stdlib.shared_memory": ("SharedMemory",),
    "monitor.widget": ("watch",),
}
_HOME = {name: f"{__name__}.{module}" for module, names in _MODULES.items() for name in names}

__all__ = sorted({*_HOME} - {"list"})  # noqa: PLE0605  a star import must not hide the builtin


def __getattr__(name: str) -> object:
    """Load the API at first use (PEP 562), so that the watchdog and the command line need not import numpy."""
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415  slow, and rarely used

        try:
            return version(__name__)
        except PackageNotFoundError:  # copied, in a zip file, or frozen
            return "0+unknown"
    if name not in _HOME:
        raise AttributeError(f"module 'shmkernel' has no attribute {name!r}")
    _prevent_reloading()
    try:
        with importing:
            if name not in _ERRORS:
                importlib.import_module("shmkernel.stdlib")  # registers its hooks with the verbs
            value = globals()[name] = getattr(importlib.import_module(_HOME[name]), name)
    except OSError as error:  # no descriptor is left, for example; then `limits` could not be imported here either
        limits = sys.modules.get(f"{__name__}._core.limits")
        raise limits.explained(error) if limits else error from None
    return value


def __dir__() -> Sequence[str]:
    return [*__all__, "list"]


def _prevent_reloading() -> None:
    if "IPython" in sys.modules:
        from shmkernel._core import reloading  # noqa: PLC0415  lazy

        reloading.prevent()


def load_ipython_extension(shell: InteractiveShell) -> None:
    """Add the magics: ``%load_ext shmkernel``."""
    from shmkernel import notebook  # noqa: PLC0415  lazy

    _prevent_reloading()
    notebook.load(shell)


def unload_ipython_extension(shell: InteractiveShell) -> None:
    """Remove the magics. Variables, segments and the watchdog stay."""
    from shmkernel import notebook  # noqa: PLC0415  lazy

    notebook.unload(shell)
