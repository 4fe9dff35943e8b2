"""Show a progress bar for copies that take over a second, in a notebook or on a terminal."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Self

from shmkernel._core.imports import importing

if TYPE_CHECKING:
    from types import TracebackType

    from tqdm import tqdm

_PATIENCE = 1.0  # seconds; importing tqdm takes a tenth of one


class Progress:
    """Counts copied bytes, and shows a bar once the copy has taken a second.

    Examples
    --------
    >>> with Progress("x", total=10) as progress:
    ...     progress(10)
    """

    def __init__(self, label: str, total: int) -> None:
        self._label, self._total, self._done = label, total, 0
        self._start = time.monotonic()
        self._bar: tqdm[None] | None = None
        self._wanted = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._bar is not None:
            with contextlib.suppress(Exception):
                self._bar.close()

    def __call__(self, count: int) -> None:
        """Count `count` more bytes as done."""
        self._done += count
        if self._wanted and (self._bar is not None or time.monotonic() - self._start > _PATIENCE):
            try:
                self._update(count)
            except Exception:  # noqa: BLE001  a stream that is closed, full or None must not fail the copy
                self._wanted = False

    def _update(self, count: int) -> None:
        if self._bar is None:
            self._bar = self._show()
        else:
            self._bar.update(count)

    def _show(self) -> tqdm[None]:
        with importing:
            from tqdm.auto import tqdm  # noqa: PLC0415  slow

        # A class of its own for each bar. The lock that tqdm makes is one of multiprocessing: since Python 3.14 that
        # starts a process, and leaves a file in /dev/shm if both are killed. And a child that is forked while another
        # thread draws would wait for it. tqdm's monitor is a thread that never ends.
        bar: Any = type("tqdm", (tqdm,), {"monitor_interval": 0})
        bar.set_lock(threading.RLock())
        notebook = "ipykernel" in sys.modules  # tqdm hides its bar if the stream is no terminal, as in a kernel
        made: tqdm[None] = bar(
            desc=self._label, total=self._total, initial=self._done, unit="B", unit_scale=True, unit_divisor=1024,
            disable=False if notebook else None, leave=False,
        )  # fmt: skip
        return made
