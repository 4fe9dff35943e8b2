"""The monitor as a widget in a notebook: `watch`, and the model whose other half is JavaScript."""

from __future__ import annotations

import contextlib
import math
import os
import re
from typing import Any

import anywidget
import traitlets
from IPython.core.getipython import get_ipython

import shmkernel as shm
from shmkernel import render, workspace
from shmkernel._core import descriptors, paths
from shmkernel.errors import ArgumentError, ShmError
from shmkernel.kinds.preview import Look
from shmkernel.monitor import actions
from shmkernel.monitor.sampler import SOCKETS, Sampler

_STATIC = os.path.join(os.path.dirname(__file__), "static")
_PARTS = ("texts.js", "pictures.js", "table.js", "panel.js", "monitor.js")
_MODULE_WORDS = re.compile(
    r'^import [^;]*? from "\./[^"]*";\n|^export (?=(async )?(function|const|class) )', re.MULTILINE
)
_QUICK = 0.05  # seconds
_SAVED = 20  # rows that a notebook keeps of a monitor


def _script() -> str:
    """Join the modules into the one that a widget may have: their imports of each other go, and their exports."""
    texts = []
    for part in _PARTS:
        with open(os.path.join(_STATIC, part), encoding="utf-8") as file:
            texts.append(_MODULE_WORDS.sub("", file.read()))
    return "".join(texts)


class Monitor(anywidget.AnyWidget):
    """A live view of what shared memory holds. Make one with `watch`."""

    _esm = _script()
    _css = os.path.join(_STATIC, "monitor.css")
    look = traitlets.Dict(help="what is selected: key, axes, start").tag(sync=True)

    def __init__(self, name: str | None = None, interval: float = 0.25) -> None:
        self._shell: Any = get_ipython()
        super().__init__(look={"key": name or "", "axes": [], "start": 0})
        self._sampler = Sampler(self._tell, interval)
        self._sampler.look(name or "", Look())
        self.on_msg(self._hear)
        if self.comm is not None:  # else a click waits for the running cell (guarded by a test)
            setattr(self.comm, "_reply_subshell_for", lambda _, default: default)  # noqa: B010  private
        if self._shell is not None and self.comm is not None:
            self._shell.events.register("pre_execute", self._cell_begins)
            self._shell.events.register("post_execute", self._cell_ends)
        if self.comm is not None:
            self._sampler.start()

    def open(self) -> None:
        """Open the way to a page, if there may be one."""
        if _has_page(self._shell):
            super().open()

    def close(self) -> None:
        """End the sampling, and remove the view."""
        self._sampler.close()
        if self._shell is not None:
            with contextlib.suppress(ValueError):
                self._shell.events.unregister("pre_execute", self._cell_begins)
                self._shell.events.unregister("post_execute", self._cell_ends)
        self._shell = None
        super().close()

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:  # noqa: ANN401
        """Give viewers without widgets, GitHub's among them, a table of now."""
        found: Any = super()._repr_mimebundle_(**kwargs) if self.comm is not None else {}
        data, metadata = found if isinstance(found, tuple) else (found or {}, {})
        rows = shm.list()
        texts = {"text/plain": render.table(rows, most=_SAVED), "text/html": render.table_html(rows, most=_SAVED)}
        return {**data, **texts}, metadata

    def _cell_begins(self) -> None:
        self._sampler.busy = True

    def _cell_ends(self) -> None:
        self._sampler.busy = False

    def _tell(self, content: dict[str, Any], buffers: list[bytes]) -> None:
        self.send(content, buffers)

    def _hear(self, _: object, content: dict[str, Any], __: object) -> None:
        """Answer the page."""
        match content:
            case {"do": "hello"}:
                self._sampler.hello()
                self._goes_on()
            case {"do": "see", "view": str(view), "on": bool(on)}:
                self._sampler.see(view, on=on)
                self._goes_on()
            case {"do": "look", "key": str(key), "axes": list(axes), "start": int(start)}:
                self.look = {"key": key, "axes": axes, "start": start}
                self._sampler.look(key, Look(tuple(map(int, axes)), start))
            case {"do": "act", "id": int(number), "verb": str(verb), "name": str(name), "inode": str(inode)}:
                self._act(number, verb, name, int(inode))

    def _goes_on(self) -> None:
        try:
            if self._sampler.looked_at():
                self._sampler.start()
        except OSError as error:
            self._tell({"do": "trouble", "text": str(error)}, [])

    def _act(self, number: int, verb: str, name: str, inode: int) -> None:
        try:
            text, good = actions.act(verb, name, inode, workspace.of(self._shell)), True
        except (ShmError, OSError) as error:
            text, good = str(error), False
        self._tell({"do": "done", "id": number, "good": good, "text": render.clean(text)}, [])


def _has_page(shell: Any) -> bool:  # noqa: ANN401
    """Say whether a page may show a widget. nbconvert, papermill and nbval have none, and can ask nobody for input.

    A widget would be saved there as a picture of nothing, in place of the table.
    """
    kernel = getattr(shell, "kernel", None)
    asked = kernel.get_parent().get("content", {}) if kernel else {}
    return bool(asked.get("allow_stdin", True)) or os.environ.get("SERVER_SOFTWARE", "").startswith("voila")


def watch(name: str | None = None, *, interval: float = 0.25) -> Monitor:
    """Show what shared memory holds, live: a widget, as the last line of a cell.

    Parameters
    ----------
    name : str, optional
        The segment whose content is shown first.
    interval : float
        Seconds between two looks. The monitor never takes more than 2 % of a processor, and none while nobody sees it.

    Returns
    -------
    Monitor
        Its ``close()`` ends it.

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
