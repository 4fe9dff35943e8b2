"""Register the at-fork handlers of all modules once, and run them in a stated order.

A forked child has one thread and a copy of everything else: descriptors, mappings, and mutexes that other threads of
the parent held. It may keep the attachments and nothing else. So each module that keeps descriptors or mutexes
registers handlers here:

    before       in the parent, in the order of STAGES: acquire the guards, so that no thread is in a guarded section
    fork
    in_parent    in the reverse order: release the guards
    in_child     in the reverse order: close what belongs to the parent, replace the guards

A guard that is held while another is acquired comes before it in STAGES. But a finalizer may enter any guard inside any
other, and an import may do anything. So `before` never waits for long: it returns True if another thread stays inside.
Then the fork releases all guards, so that this thread can go on, and tries again.

Before the handlers run in the child, CPython destroys what the parent's other threads kept in `threading.local`: their
objects die, and callbacks and finalizers run that `generation` does not protect yet. So they ask `inherited`.

CPython prints an exception of a handler, and forks all the same. So a handler that fails does not keep the others from
running, and a Ctrl-C that arrives in one is delivered again after the fork.
"""

from __future__ import annotations

import _thread
import functools
import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Handler = Callable[[], object]

STAGES = (
    "stores", "keeper", "sessions", "attachments", "waiters", "sync files", "channels", "descriptors", "imports",
    "garbage",
)  # fmt: skip
_LIMIT = 10.0  # seconds until a fork goes on: an import may itself wait for the thread that forks
_NAP = 0.001
generation = 0  # the number of forks between the process that imported this module and this one


class _Handlers(NamedTuple):
    before: Handler | None
    in_parent: Handler | None
    in_child: Handler | None


_handlers: dict[str, _Handlers] = {}
_interrupted = False
forking: set[int] = set()  # threads between `_before` and the end of what follows the fork
_forking_pid = 0  # of the process that called `_before`


def on(
    stage: str, *, before: Handler | None = None, in_parent: Handler | None = None, in_child: Handler | None = None
) -> None:
    """Register the handlers of a stage; a module that is imported again replaces its own.

    Examples
    --------
    >>> on("an unknown stage")
    Traceback (most recent call last):
    ValueError: 'an unknown stage' is no stage of a fork
    """
    if stage not in STAGES:
        raise ValueError(f"{stage!r} is no stage of a fork")
    _handlers[stage] = _Handlers(before, in_parent, in_child)


def inherited(made: int) -> bool:
    """Return whether what was made in this `generation` is the parent's; true from the child's first step on.

    Examples
    --------
    >>> inherited(generation), inherited(generation - 1)
    (False, True)
    """
    return made != generation or (bool(forking) and os.getpid() != _forking_pid)


def _in_order() -> list[_Handlers]:
    return [_handlers[stage] for stage in STAGES if stage in _handlers]


def _run(handlers: Iterable[Handler | None]) -> bool:
    """Run handlers; return whether one has returned True."""
    global _interrupted
    busy = False
    for handler in handlers:
        try:
            if handler is not None:
                busy |= handler() is True
        except KeyboardInterrupt:
            _interrupted = True
        except Exception:  # noqa: BLE001  the others have to run
            sys.excepthook(*sys.exc_info())
    return busy


def _before(*_: int) -> None:
    global _forking_pid
    if threading.get_ident() not in forking:
        end = time.monotonic() + _LIMIT
        while _run(handlers.before for handlers in _in_order()) and time.monotonic() < end:
            _run(handlers.in_parent for handlers in reversed(_in_order()))
            time.sleep(_NAP)
        _forking_pid = os.getpid()
        forking.add(threading.get_ident())


def _in_parent(attempt: int) -> None:
    global _interrupted
    if threading.get_ident() not in forking:
        return
    _interrupted |= attempt > 0
    _run(handlers.in_parent for handlers in reversed(_in_order()))
    forking.discard(threading.get_ident())
    if _interrupted:
        _interrupted = False
        main = threading.main_thread().ident or 0, signal.SIGINT
        # From a new thread: a signal that this one sends would be raised inside this function.
        _thread.start_new_thread(signal.pthread_kill, main)


def _in_child(*_: int) -> None:
    global generation, _forking_pid, _interrupted
    if threading.get_ident() not in forking:
        return
    generation += 1
    _forking_pid = os.getpid()  # only now: the generation shows from here on what is inherited
    _interrupted = False
    _run(handlers.in_child for handlers in reversed(_in_order()))
    forking.clear()


for _attempt in range(3):
    # A Ctrl-C during the fork raises KeyboardInterrupt before the first line of the next function here, which skips it.
    # So each is registered three times. A second call does nothing after a complete one; handlers can be repeated.
    os.register_at_fork(
        before=functools.partial(_before, _attempt),
        after_in_parent=functools.partial(_in_parent, _attempt),
        after_in_child=functools.partial(_in_child, _attempt),
    )
