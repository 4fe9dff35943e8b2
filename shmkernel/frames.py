"""Blocks that Ctrl-C has ended too early.

Ctrl-C can end a ``with`` before a line of its ``__exit__`` has run: 18 times in 20, where the body is one operation of
numpy's. Python has no way to prevent that, so it is found out: the frame whose ``with`` it was runs no more.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

_SUSPENDS = 0x20 | 0x80 | 0x200  # inspect.CO_GENERATOR, CO_COROUTINE, CO_ASYNC_GENERATOR, without the import
_known: set[Callable[..., object]] = set()


def ended(frame: FrameType | None) -> bool:
    """Say whether a frame runs no more; of a generator's, which may be suspended, nobody knows."""
    if frame is None or frame.f_code.co_flags & _SUSPENDS:
        return False
    running: FrameType | None = sys._getframe(1)  # noqa: SLF001
    while running is not None:
        if running is frame:
            return False
        running = running.f_back
    return True


def after_each_cell(act: Callable[..., object]) -> None:
    """Have a notebook call `act` after each cell."""
    if "IPython" in sys.modules and act not in _known:
        shell = sys.modules["IPython"].get_ipython()
        if shell is not None:
            shell.events.register("post_run_cell", act)
            _known.add(act)
