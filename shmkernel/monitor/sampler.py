"""The thread behind a monitor: it samples shared memory while a view is visible, and sends what has changed.

    page to kernel    hello: send all rows | see: a view is visible, or no longer | look: show this segment
    kernel to page    rows: the changed rows | frame: the preview, if it changed | beat: the kernel is alive

A message has at most 64 KiB. The thread runs only while a view is visible: it ends when the last view is hidden or
closed, and the next visible view starts another. If a page vanishes without a message, its views count as visible for
`_LEASE` seconds. This time does not run while a cell runs, because the page's messages wait then.
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
_SHARE, _CREDIT = 0.02, 0.1  # share of a processor's time; seconds that may be saved up while nothing happens
_SLOWEST = 1.0  # seconds between samples at most
SOCKETS = 16  # descriptors for the sockets of a thread or comm: zmq aborts the process if it gets none


class Sampler:
    """Samples shared memory in a thread, which `start` starts."""

    def __init__(self, send: Callable[[dict[str, Any], list[bytes]], None], interval: float) -> None:
        self.interval = interval
        self.busy = False  # a cell is running
        self._send = send
        self._board = Board()
        self._wake = threading.Event()
        self._closed = threading.Event()
        self._guard = threading.Lock()  # protects _thread
        self._thread: threading.Thread | None = None
        self._greeted, self._everything = False, True
        self._views: dict[str, float] = {"": time.monotonic()}  # "": the first view, until it reports
        self._key, self._look = "", Look()
        self._frame: tuple[str, Preview] | None = None
        self._room: Usage | None = None
        self._sent = 0.0

    def start(self) -> None:
        """Start the thread unless it runs."""
        with self._guard:
            if self._thread is None and not self._closed.is_set():
                descriptors.check_spare(SOCKETS)
                self._thread = threading.Thread(target=self._run, name="shmkernel-monitor", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._closed.set()
        self._wake.set()

    def closed(self) -> bool:
        """Return whether it was closed."""
        return self._closed.is_set()

    def hello(self) -> None:
        """Send all rows: a page has opened."""
        self._greeted = self._everything = True
        self._wake.set()

    def set_visible(self, view: str, *, on: bool) -> None:
        """Note that a view is visible, or no longer."""
        self._views.pop("", None)
        if on:
            self._views[view] = time.monotonic()
        else:
            self._views.pop(view, None)
        self._wake.set()

    def select(self, key: str, look: Look) -> None:
        """Select the row whose preview is sent."""
        self._key, self._look = key, look
        self._wake.set()

    def watched(self) -> bool:
        """Return whether a view is visible."""
        now = time.monotonic()
        if self.busy:
            self._views.update(dict.fromkeys(self._views, now))
        for view, heard in [*self._views.items()]:  # a copy: the page's messages come in another thread
            if now - heard >= _LEASE:
                self._views.pop(view, None)
        return bool(self._views)

    def sample(self) -> None:
        """Sample once, and send what has changed."""
        everything, self._everything = self._everything, not self._greeted
        self._board.chosen = self._key
        change = self._board.scan()
        rows = list(self._board.rows.values()) if everything else change.rows
        room = usage_of(self._board.rows.values())
        if everything or change.rows or change.gone or self._usage_changed(room):
            self._room = room
            parts = list(_parts(rows, change.gone))
            for number, part in enumerate(parts):
                ends = {"first": everything and number == 0, "last": everything and number == len(parts) - 1}
                self._post({"do": "rows", "room": room._asdict(), **ends, **part})
        self._picture(anew=everything)

    def _picture(self, *, anew: bool) -> None:
        row = self._board.rows.get(self._key)
        if row is None:
            self._frame = None
            return
        key, look = self._key, self._look
        shown = preview.of(row.info, look)
        if (key, shown) != self._frame or anew:
            self._frame = key, shown
            self._post({"do": "frame", "key": key, "form": shown.form, **shown.facts}, [shown.data])

    def _usage_changed(self, room: Usage) -> bool:
        """Return whether the use of the folder has changed by more than a thousandth of its size."""
        last = self._room
        if last is None:
            return True
        return any(abs(a - b) > room.total >> 10 for a, b in zip(room, last, strict=True))

    def _post(self, content: dict[str, Any], buffers: list[bytes] | None = None) -> None:
        self._send(content, buffers or [])
        self._sent = time.monotonic()

    def _stop_if_unwatched(self) -> bool:
        """Return whether this thread has to end; if so, `start` may start another from now on."""
        with self._guard:
            if self._closed.is_set() or not self.watched():
                self._thread = None
        return self._thread is None

    def _run(self) -> None:
        pause, debt, last = 0.0, 0.0, time.monotonic()
        while not self._stop_if_unwatched():
            due = time.monotonic() + pause
            while self._sleep(due):
                self._post({"do": "beat"})
            if self._closed.is_set() or not self.watched():
                continue
            began, asked = time.thread_time(), self._everything
            try:
                self.sample()
            except (ShmError, OSError) as error:  # the folder is missing, perhaps only for a moment
                self._post({"do": "trouble", "text": str(error)})
            now = time.monotonic()
            debt = max(-_CREDIT, debt + time.thread_time() - began - _SHARE * (now - last))
            debt = (
                min(debt, 0.0) if asked else debt
            )  # sending all rows to a new page must not slow down the next samples
            last = now
            pause = max(self.interval if self._greeted else _BEAT / 2, min(debt / _SHARE, _SLOWEST))

    def _sleep(self, due: float) -> bool:
        """Sleep until the next sample or a message. Return True if only a beat is due."""
        woken = self._wake.wait(max(0.0, min(due, self._sent + _BEAT) - time.monotonic()))
        self._wake.clear()
        return not woken and time.monotonic() < due and self.watched()


def _parts(rows: list[Row], gone: list[str]) -> Iterator[dict[str, list[Any]]]:
    """Split rows and the keys of lost rows into messages that are small enough: at least one, perhaps empty."""
    part: dict[str, list[Any]] = {"gone": [], "rows": []}
    room = _MOST
    for kind, item in (*(("gone", key) for key in gone), *(("rows", as_json(row)) for row in rows)):
        size = len(json.dumps(item)) + 2
        if size > room:
            yield part
            part, room = {"gone": [], "rows": []}, _MOST
        part[kind].append(item)
        room -= size
    yield part
