"""What happens around a fork: the one registration of at-fork handlers, and their order.

A child has one thread and a copy of everything else: descriptors, mappings, mutexes that other threads of the parent
held at that moment. It inherits attachments and nothing else. So each module that keeps descriptors or mutexes says
here what a fork has to do about them:

    before       in the parent, in the order of STAGES: take the guards, so that no other thread is in the middle
    fork
    in_parent    in the reverse order: give the guards back
    in_child     in the reverse order: let go of what is the parent's, replace the guards

A guard that is held while another is taken stands before that in STAGES. No handler waits for a thread, except for a
guard, which is held for moments only and never while something blocks.

Handlers cannot raise: CPython prints what they raise and forks all the same. So each runs by itself, and a Ctrl-C that
arrives in one is delivered again after the fork.
"""

from __future__ import annotations

import _thread
import functools
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Handler = Callable[[], object]

STAGES = ("imports", "dicts", "keeper", "sessions", "attachments", "names", "waiters", "sync files", "descriptors")
generation = 0  # how many forks lie between this process and the one that imported this module


class _Handlers(NamedTuple):
    before: Handler | None
    in_parent: Handler | None
    in_child: Handler | None


_handlers: dict[str, _Handlers] = {}
_interrupted = False
_forking: set[int] = set()  # threads that have prepared a fork, and not done all that has to follow it


def on(
    stage: str, *, before: Handler | None = None, in_parent: Handler | None = None, in_child: Handler | None = None
) -> None:
    """Say what a fork has to do at this stage; a module that is loaded anew replaces its handlers.

    Examples
    --------
    >>> on("an unknown stage")
    Traceback (most recent call last):
    ValueError: 'an unknown stage' is no stage of a fork
    """
    if stage not in STAGES:
        raise ValueError(f"{stage!r} is no stage of a fork")
    _handlers[stage] = _Handlers(before, in_parent, in_child)


def _in_order() -> list[_Handlers]:
    return [_handlers[stage] for stage in STAGES if stage in _handlers]


def _run(handlers: Iterable[Handler | None]) -> None:
    global _interrupted  # noqa: PLW0603  told after the fork
    for handler in handlers:
        try:
            if handler is not None:
                handler()
        except KeyboardInterrupt:
            _interrupted = True
        except Exception:  # noqa: BLE001  the others have to run
            sys.excepthook(*sys.exc_info())


def _before(*_: int) -> None:
    if threading.get_ident() not in _forking:
        _run(one.before for one in _in_order())
        _forking.add(threading.get_ident())


def _in_parent(turn: int) -> None:
    global _interrupted  # noqa: PLW0603
    if threading.get_ident() not in _forking:
        return
    _interrupted |= turn > 0
    _run(one.in_parent for one in reversed(_in_order()))
    _forking.discard(threading.get_ident())
    if _interrupted:
        _interrupted = False
        main = threading.main_thread().ident or 0, signal.SIGINT
        _thread.start_new_thread(signal.pthread_kill, main)  # sent by this thread, it would be raised in this function


def _in_child(*_: int) -> None:
    global generation, _interrupted  # noqa: PLW0603
    if threading.get_ident() not in _forking:
        return
    generation += 1
    _interrupted = False
    _run(one.in_child for one in reversed(_in_order()))
    _forking.clear()


for _turn in range(3):
    # Ctrl-C during the fork itself is raised before the first line of what is called then, which ends at once. So each
    # is called again; whatever they call may be done twice.
    os.register_at_fork(
        before=functools.partial(_before, _turn),
        after_in_parent=functools.partial(_in_parent, _turn),
        after_in_child=functools.partial(_in_child, _turn),
    )
