"""The thread behind a monitor: it looks at shared memory while somebody looks at the monitor, and sends what changed.

    page    hello -> all rows | see on, off, gone: a view appears, hides, closes | look: what to show
    thread  rows: those that changed | frame: the picture, if it changed | beat: still here

Everything goes in messages of at most 64 KiB. The thread is there only while a view is on a visible part of a visible
page: it ends when the last one has gone, and begins anew with the next, so that cells may be run again and again.
A page that vanished without a word is believed to look on for `_LEASE` seconds; while a cell runs, its signs of life
may have to wait, so that time counts only between cells.
"""

from __future__ import annotations

import json
import threading
import time
from typing import TYPE_CHECKING, Any

from shmkernel._core import descriptors
from shmkernel.errors import ShmError
from shmkernel.kinds.preview import Look, Preview
from shmkernel.monitor import preview
from shmkernel.monitor.rows import Board, as_json, usage_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from shmkernel.monitor.rows import Row, Usage

_LEASE = 30.0
_BEAT = 1.0
_MOST = 56 << 10  # bytes of rows in one message
_SHARE, _CREDIT = 0.02, 0.1  # of a processor's time; seconds of it that may be spent at once after a calm time
_SLOWEST = 1.0  # seconds
SOCKETS = 16  # descriptors that a thread's or a comm's sockets may take: zmq aborts the process when it gets none


class Sampler:
    """Samples in `turn`, which `start` calls from a thread of its own."""

    def __init__(self, send: Callable[[dict[str, Any], list[bytes]], None], interval: float) -> None:
        self.interval = interval
        self.busy = False  # a cell runs
        self._send = send
        self._board = Board()
        self._wake = threading.Event()
        self._closed = threading.Event()
        self._guard = threading.Lock()  # of whether there is a thread
        self._thread: threading.Thread | None = None
        self._greeted, self._everything = False, True
        self._views: dict[str, float] = {"": time.monotonic()}  # one is about to appear
        self._key, self._look = "", Look()
        self._frame: tuple[str, Preview] | None = None
        self._room: Usage | None = None
        self._sent = 0.0

    def start(self) -> None:
        """Begin to sample, if no thread does."""
        with self._guard:
            if self._thread is None and not self._closed.is_set():
                descriptors.check_spare(SOCKETS)
                self._thread = threading.Thread(target=self._run, name="shmkernel-monitor", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._closed.set()
        self._wake.set()

    def hello(self) -> None:
        """Send everything: a page has opened."""
        self._greeted = self._everything = True
        self._wake.set()

    def see(self, view: str, *, on: bool) -> None:
        """Heed that a view is seen, still seen, or no longer."""
        self._views.pop("", None)
        if on:
            self._views[view] = time.monotonic()
        else:
            self._views.pop(view, None)
        self._wake.set()

    def look(self, key: str, look: Look) -> None:
        """Show this row's segment from now on."""
        self._key, self._look = key, look
        self._wake.set()

    def looked_at(self) -> bool:
        """Say whether anybody looks."""
        now = time.monotonic()
        if self.busy:
            self._views = dict.fromkeys(self._views, now)
        self._views = {view: heard for view, heard in self._views.items() if now - heard < _LEASE}
        return bool(self._views)

    def turn(self) -> None:
        """Look once, and send what changed."""
        everything, self._everything = self._everything, not self._greeted
        self._board.chosen = self._key
        change = self._board.scan()
        rows = list(self._board.rows.values()) if everything else change.rows
        room = usage_of(self._board.rows.values())
        if everything or change.rows or change.gone or self._roughly(room):
            self._room = room
            parts = list(_parts(rows, change.gone))
            for number, part in enumerate(parts):
                ends = {"first": everything and number == 0, "last": everything and number == len(parts) - 1}
                self._tell({"do": "rows", "room": room._asdict(), **ends, **part})
        self._picture(anew=everything)

    def _picture(self, *, anew: bool) -> None:
        row = self._board.rows.get(self._key)
        if row is None:
            self._frame = None
            return
        key, look = self._key, self._look
        found = key, preview.see(row.info, look)
        if found != self._frame or anew:
            self._frame = found
            facts = {"do": "frame", "key": key, "form": found[1].form, **found[1].facts}
            self._tell(facts, [found[1].data])

    def _roughly(self, room: Usage) -> bool:
        """Say whether the use of the folder changed by more than others' noise."""
        last = self._room
        if last is None:
            return True
        return any(abs(a - b) > room.total >> 10 for a, b in zip(room, last, strict=True))

    def _tell(self, content: dict[str, Any], buffers: list[bytes] | None = None) -> None:
        self._send(content, buffers or [])
        self._sent = time.monotonic()

    def _ends(self) -> bool:
        """Say whether nobody looks any more; then this thread is no longer the one that samples."""
        with self._guard:
            if self._closed.is_set() or not self.looked_at():
                self._thread = None
        return self._thread is None

    def _run(self) -> None:
        pause, debt, last = 0.0, 0.0, time.monotonic()
        while not self._ends():
            due = time.monotonic() + pause
            while self._rests(due):
                self._tell({"do": "beat"})
            if self._closed.is_set() or not self.looked_at():
                continue
            began, asked = time.thread_time(), self._everything
            try:
                self.turn()
            except (ShmError, OSError) as error:  # the folder went, perhaps for a moment
                self._tell({"do": "trouble", "text": str(error)})
            now = time.monotonic()
            debt = max(-_CREDIT, debt + time.thread_time() - began - _SHARE * (now - last))
            debt = min(debt, 0.0) if asked else debt  # what a page that opens asks for is not paid off by being slow
            last = now
            pause = max(self.interval if self._greeted else _BEAT / 2, min(debt / _SHARE, _SLOWEST))

    def _rests(self, due: float) -> bool:
        """Sleep until there is something to do; True if that is only to say that the kernel lives."""
        woken = self._wake.wait(max(0.0, min(due, self._sent + _BEAT) - time.monotonic()))
        self._wake.clear()
        return not woken and time.monotonic() < due and self.looked_at()


def _parts(rows: list[Row], gone: list[str]) -> Iterator[dict[str, list[Any]]]:
    """Cut keys that went, and rows, into what fits a message; at least one, if empty."""
    part: dict[str, list[Any]] = {"gone": [], "rows": []}
    room = _MOST
    for kind, one in (*(("gone", key) for key in gone), *(("rows", as_json(row)) for row in rows)):
        size = len(json.dumps(one)) + 2
        if size > room:
            yield part
            part, room = {"gone": [], "rows": []}, _MOST
        part[kind].append(one)
        room -= size
    yield part
