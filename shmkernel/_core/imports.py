"""Keep forks out of late imports, which a call makes when it first needs a module.

A child that is forked while another thread imports a module inherits the import lock without that thread, and would
wait for it for ever. So late imports run in ``with importing:``, and a fork waits until other threads have left it. It
also waits for imports of this package's modules elsewhere: unpickling starts them too. Threads do not wait for each
other here: Python's own import locks do that, and detect deadlocks.

A Ctrl-C inside importlib would leave its lock acquired, and every import of another thread waiting. So in the main
thread a Ctrl-C waits too, until the import has ended.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import signal
import sys
import threading
from threading import get_ident
from typing import TYPE_CHECKING, Any

from shmkernel._core import fork, interrupts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from shmkernel._core.interrupts import Entry, Kind

_PACKAGE = __name__.partition(".")[0]
_module_locks: dict[str, Callable[[], object]] = vars(importlib._bootstrap)["_module_locks"]  # noqa: SLF001  not public


class Importing(interrupts.Holding):
    """Makes forks wait: ``with importing: from x import y``.

    Examples
    --------
    >>> with importing:
    ...     import json
    """

    __slots__ = ("_guard", "_handler", "_inside", "_interrupted")

    def __init__(self) -> None:
        self._guard = interrupts.Guard()  # held over a fork, and while a thread enters
        self._inside: dict[Entry, int] = {}
        self._handler: Any = None  # of SIGINT, while the main thread imports
        self._interrupted = False

    def _enter(self, entry: Entry) -> None:
        entry.taken = True
        with self._guard:
            self._inside[entry] = get_ident()
        if get_ident() == threading.main_thread().ident and self._handler is None:
            handler = signal.getsignal(signal.SIGINT)
            if callable(handler):
                self._handler = handler  # first: the handler of another signal may raise in between
                with contextlib.suppress(ValueError):  # a subinterpreter gets no signals
                    signal.signal(signal.SIGINT, self._note)

    def _leave(self, entry: Entry | None, kind: Kind) -> None:
        del kind
        if entry is not None:
            self._abort(entry)

    def _abort(self, entry: Entry) -> None:
        self._inside.pop(entry, None)
        if get_ident() == threading.main_thread().ident and get_ident() not in [*self._inside.values()]:
            self._let_interrupt()

    def _note(self, number: int, frame: object) -> None:
        del number, frame
        self._interrupted = True
        if get_ident() not in [*self._inside.values()]:  # the error of another signal has skipped the end
            self._let_interrupt()

    def _let_interrupt(self) -> None:
        """Put the handler of SIGINT back, unless a module has set another; and call it if a Ctrl-C has come."""
        if self._handler is not None and signal.getsignal(signal.SIGINT) == self._note:
            signal.signal(signal.SIGINT, self._handler)
        self._handler = None
        if self._interrupted:
            self._interrupted = False
            signal.raise_signal(signal.SIGINT)

    def before_fork(self) -> bool:
        """Keep other threads from starting an import; return True if one imports already."""
        busy, me = self._guard.before_fork(), get_ident()
        return busy or any(thread != me for thread in [*self._inside.values(), *_importers()])

    def in_parent(self) -> None:
        """Let other threads import again."""
        self._guard.in_parent()

    def in_child(self) -> None:
        """Forget the parent's other threads."""
        self._inside.clear()
        self._guard.in_child()
        if self._handler is not None:  # another thread has forked while the main thread imported
            self._interrupted = False
            self._let_interrupt()


def _importers() -> Iterator[int]:
    """Yield the threads that import a module of this package: they own its lock in importlib."""
    for name, reference in [*_module_locks.items()]:
        if name.partition(".")[0] == _PACKAGE and (owner := getattr(reference(), "owner", None)):
            yield owner


def loaded(name: str) -> Any:
    """Return a module if it is completely imported, else None. This takes a hundredth of ``with importing:``.

    Examples
    --------
    >>> loaded("sys") is sys, loaded("shmkernel.nothing")
    (True, None)
    """
    module = sys.modules.get(name)
    return None if getattr(getattr(module, "__spec__", None), "_initializing", False) else module


@functools.cache
def original(name: str) -> Any:
    """Return a fresh copy of a module of the standard library, without the functions that others have replaced."""
    import importlib.util  # noqa: PLC0415  the watchdog shares this module, and starts faster without

    spec = sys.modules[name].__spec__ if name in sys.modules else importlib.util.find_spec(name)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


importing = Importing()
fork.on("imports", before=importing.before_fork, in_parent=importing.in_parent, in_child=importing.in_child)
