"""The monitor as a widget in a notebook: `watch`, and the kernel's side of the widget."""

from __future__ import annotations

import contextlib
import math
import os
import re
import threading
from typing import Any

import anywidget
import traitlets
from IPython.core.getipython import get_ipython

import shmkernel as shm
from shmkernel import render, workspace
from shmkernel._core import descriptors, paths
from shmkernel._core.imports import importing
from shmkernel.errors import ArgumentError, ShmError
from shmkernel.kinds.preview import Look
from shmkernel.monitor import actions, saved
from shmkernel.monitor.sampler import SOCKETS, Sampler

_STATIC = os.path.join(os.path.dirname(__file__), "static")
_PARTS = ("texts.js", "histogram.js", "pictures.js", "table.js", "buttons.js", "panel.js", "monitor.js")
_MODULE_WORDS = re.compile(
    r'^import [^;]*? from "\./[^"]*";\n|^export (?=(async )?(function|const|class) )', re.MULTILINE
)
_INODE = re.compile(r"[0-9]{1,20}")
_QUICK = 0.05  # seconds
_OURS = "application/vnd.shmkernel.monitor+json"  # shown by our extension of JupyterLab: lab/shmkernel/static/saved.js


def _read(part: str) -> str:
    with open(os.path.join(_STATIC, part), encoding="utf-8") as file:
        return file.read()


def _script() -> str:
    """Join the JavaScript modules into one, without their imports and exports: they have to be loaded as one text."""
    return "".join(_MODULE_WORDS.sub("", _read(part)) for part in _PARTS)


class Monitor(anywidget.AnyWidget):
    """A live view of shared memory, made by `watch`."""

    _esm = _read("saved.js")
    code = traitlets.Unicode(help="the monitor's script; the page forgets it, so it is not saved").tag(sync=True)
    style = traitlets.Unicode(help="the monitor's style sheet, which is not saved either").tag(sync=True)
    table = traitlets.Dict(help="the table of the moment when it was displayed last").tag(sync=True)
    look = traitlets.Dict(help="what is selected: key, axes, start").tag(sync=True)

    def __init__(self, name: str | None = None, interval: float = 0.25) -> None:
        self._shell: Any = get_ipython()
        super().__init__(
            code=_script(), style=_read("monitor.css"), table=saved.table(shm.list()).cells,
            look={"key": name or "", "axes": [], "start": 0, "form": ""},
        )  # fmt: skip
        self._sampler = Sampler(self._post, interval)
        self._sampler.select(name or "", Look())
        self.on_msg(self._on_message)
        if self.comm is not None:  # without this, clicks wait for the running cell (tested)
            setattr(self.comm, "_reply_subshell_for", lambda _, default: default)  # noqa: B010  private
        if self._shell is not None and self.comm is not None:
            self._shell.events.register("pre_execute", self._cell_begins)
            self._shell.events.register("post_execute", self._cell_ends)
        if self.comm is not None:
            self._sampler.start()

    def open(self) -> None:
        """Open the comm to the page, if there can be a page."""
        if _has_page(self._shell):
            super().open()

    def close(self) -> None:
        """End the thread, and remove the views."""
        self._sampler.close()
        if self._shell is not None:
            with contextlib.suppress(ValueError):
                self._shell.events.unregister("pre_execute", self._cell_begins)
                self._shell.events.unregister("post_execute", self._cell_ends)
        self._shell = None
        super().close()

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Add a table of the present state, for viewers without widgets, such as GitHub."""
        bundle: Any = super()._repr_mimebundle_(**kwargs) if self.comm is not None else {}
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle or {}, {})
        rows, width = shm.list(), render.terminal_width()
        if width:  # IPython in a terminal
            text = f"{render.table(rows, width=width)}\nLive: in JupyterLab, or in a terminal: shmkernel watch"
            return {**data, "text/plain": text}, metadata
        found = saved.table(rows)
        if self.comm is not None:
            self.table = found.cells
            data |= {_OURS: {"model_id": self.model_id}}
        return {**data, "text/plain": found.text, "text/html": found.html}, metadata

    def _cell_begins(self) -> None:
        self._sampler.busy = True

    def _cell_ends(self) -> None:
        self._sampler.busy = False

    def _post(self, content: dict[str, Any], buffers: list[bytes]) -> None:
        self.send(content, buffers)

    def _on_message(self, _: object, content: dict[str, Any], __: object) -> None:
        """Handle a message from the page; any other message is ignored."""
        match content:
            case {"do": "hello"}:
                self._sampler.hello()
                self._start_if_watched()
            case {"do": "see", "view": str(view), "on": bool(on)}:
                self._sampler.set_visible(view, on=on)
                self._start_if_watched()
            case {"do": "look", "key": str(key), "axes": list(axes), "start": int(start)} if _are_ints(axes):
                form = str(content.get("form", ""))
                self.look = {"key": key, "axes": axes, "start": start, "form": form}
                self._sampler.select(key, Look(tuple(axes), start, form))
            case {"do": "scan", "id": int(number), "name": str(name), "inode": str(inode)} if _INODE.fullmatch(inode):
                self._scan(number, name, int(inode))
            case {"do": "act", "id": int(number), "verb": str(verb), "name": str(name), "inode": str(inode)} if (
                _INODE.fullmatch(inode)
            ):
                self._act(number, verb, name, int(inode))

    def _start_if_watched(self) -> None:
        try:
            if self._sampler.watched():
                self._sampler.start()
        except OSError as error:
            self._post({"do": "trouble", "text": str(error)}, [])

    def _scan(self, number: int, name: str, inode: int) -> None:
        """Look at all values, which may take seconds, so in a thread of its own."""

        def run() -> None:
            with importing:
                from shmkernel.monitor import scan  # noqa: PLC0415  it needs numpy
            try:
                text, good = scan.statistics(name, inode, self._sampler.closed), True
            except (OSError, ValueError) as error:
                text, good = str(error), False
            if not self._sampler.closed():
                self._post({"do": "done", "id": number, "good": good, "text": render.clean(text)}, [])

        threading.Thread(target=run, name="shmkernel-scan", daemon=True).start()

    def _act(self, number: int, verb: str, name: str, inode: int) -> None:
        try:
            text, good = actions.act(verb, name, inode, workspace.of(self._shell)), True
        except (ShmError, OSError) as error:
            text, good = str(error), False
        self._post({"do": "done", "id": number, "good": good, "text": render.clean(text)}, [])


def _are_ints(axes: list[object]) -> bool:
    return all(isinstance(axis, int) for axis in axes)


def _has_page(shell: Any) -> bool:
    """Return whether a page can show the widget. nbconvert, papermill and nbval have no page, and allow no input.

    They would save an empty widget in place of the table.
    """
    kernel = getattr(shell, "kernel", None)
    request = kernel.get_parent().get("content", {}) if kernel else {}
    return bool(request.get("allow_stdin", True)) or os.environ.get("SERVER_SOFTWARE", "").startswith("voila")


def watch(name: str | None = None, *, interval: float = 0.25) -> Monitor:
    """Return a live view of shared memory. As the last line of a cell it is displayed as a widget.

    Parameters
    ----------
    name : str, optional
        Show the content of this segment first.
    interval : float
        Seconds between updates. The monitor uses at most 2 % of a processor, and nothing while it is not visible.

    Returns
    -------
    Monitor
        ``close()`` ends it.

    Raises
    ------
    ArgumentError
        A ValueError: the name is invalid, or the interval is below 0.05 s.

    Examples
    --------
    >>> import shmkernel as shm
    >>> x = shm.create("x", shape=3)
    >>> monitor = shm.watch("x")
    >>> monitor.close()
    >>> shm.unlink("x")
    """
    if name is not None:
        paths.path_of(name)
    if not _QUICK <= interval < math.inf:
        raise ArgumentError(f"interval {interval!r}: seconds between two looks, at least {_QUICK}", interval=interval)
    descriptors.check_spare(SOCKETS)
    return Monitor(name, interval)
