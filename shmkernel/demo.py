"""Two real kernels share an array, and one of them is killed.

Sockets, connection files, logs and IPython's files are in one temporary folder. Whatever happens, the demo ends both
kernels and removes their segments before it returns.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import sys
import tempfile
import textwrap
import time
from contextlib import ExitStack
from datetime import datetime
from typing import TYPE_CHECKING, Any

import shmkernel as shm
from shmkernel import kernels
from shmkernel._core import capacity, paths
from shmkernel.errors import ShmError

if TYPE_CHECKING:
    from collections.abc import Callable

_pressed: list[int] = []  # Ctrl-C
_GONE = 20.0  # seconds until a name must be gone, on a busy machine; the promise is 0.1
_HEIGHT = 4321  # meters: higher than anything in the data
_LARGE = 1 << 30  # bytes, unless a quarter of what is free is less
_ROW = 1 << 20  # bytes
_FIGURES = 30  # columns for a time and a size

_LOAD = """
from matplotlib import cbook
elevation = cbook.get_sample_data("jacksboro_fault_dem.npz")["elevation"]
"""
_HILLSHADE = """
def hillshade(height, azimuth=np.radians(315), altitude=np.radians(45), cell=85):
    north, east = np.gradient(height.astype(float), -cell, cell)
    slope, aspect = np.arctan(np.hypot(north, east)), np.arctan2(-east, -north)
    return np.sin(altitude) * np.cos(slope) + np.cos(altitude) * np.sin(slope) * np.cos(azimuth - aspect)

shade = hillshade({name})
"""
_NEXT = """
Next, in a notebook                   and in another
    %load_ext shmkernel                   %load_ext shmkernel
    %shm_create x                         %shm_attach x
An example of each magic: %shm_help"""


class Unmet(Exception):  # noqa: N818  not an error of the API
    """An expectation of the demo failed; the message completes "expected ..."."""


class Kernel(kernels.Kernel):
    """A kernel whose files lie in one folder. ``begin``, ``ready``, then cells and values."""

    def __init__(self, notebook: str, folder: str) -> None:
        super().__init__(notebook, f"{folder}/{notebook.removesuffix('.ipynb')}.json")
        self.pid, self._folder = 0, folder

    def begin(self) -> None:
        """Start the kernel, and do not wait."""
        env = os.environ | {"IPYTHONDIR": self._folder, "MPLCONFIGDIR": self._folder}
        with open(f"{self._folder}/{self.notebook}.log", "wb") as log:
            self.start(env=env, output=log, cwd=self._folder)

    def ready(self) -> None:
        """Wait until the kernel answers."""
        try:
            self.client.wait_for_ready(timeout=kernels.ANSWER)
        except RuntimeError as error:
            with open(f"{self._folder}/{self.notebook}.log", encoding="utf-8", errors="replace") as log:
                last = (log.read().strip().splitlines() or [str(error)])[-1]
            raise Unmet(f"the kernel of {self.notebook} to start, and it said: {last}") from None
        self.pid = self.process.pid

    def run(self, code: str) -> tuple[float, str]:
        """Run a cell; return the seconds that the kernel took, and what it printed."""
        printed: list[str] = []

        def output(message: dict[str, Any]) -> None:
            printed.append(message["content"].get("text", ""))

        reply = self._execute(code, output_hook=output)
        began = datetime.fromisoformat(reply["metadata"]["started"])
        return (reply["header"]["date"] - began).total_seconds(), "".join(printed).strip()

    def value(self, expression: str) -> str:
        """Return the repr of an expression."""
        found = self._execute("", user_expressions={"it": expression}, silent=True)["content"]["user_expressions"]["it"]
        if found["status"] != "ok":
            raise Unmet(f"{expression} in {self.notebook} to have a value, and it said: {found['evalue']}")
        return str(found["data"]["text/plain"])

    def _execute(self, code: str, **options: Any) -> dict[str, Any]:
        try:
            reply: dict[str, Any] = self.client.execute_interactive(
                code, store_history=False, timeout=kernels.ANSWER, **options
            )
        except TimeoutError:
            raise Unmet(f"{self.notebook} to answer within {kernels.ANSWER:.0f} s") from None
        content = reply["content"]
        if content["status"] != "ok":
            line = code.strip().splitlines()[-1]
            raise Unmet(f"{line} to succeed in {self.notebook}, and it said: {content['ename']}: {content['evalue']}")
        return reply


def main() -> int:
    """Run the demo; return 0 if everything worked as promised."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ShmError('the demo shows data that comes with matplotlib: pip install "shmkernel[demo]"')
    try:
        with ExitStack() as stack:
            _pressed.clear()
            stack.callback(signal.signal, signal.SIGINT, signal.signal(signal.SIGINT, _press))
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="shmkernel-"))  # short: it holds sockets
            first, second = (Kernel(f"{which}.ipynb", folder) for which in ("first", "second"))
            stack.callback(shm.gc)  # needed only if a watchdog has failed
            for kernel in (first, second):
                stack.callback(kernel.end)
            stack.callback(signal.signal, signal.SIGINT, signal.SIG_IGN)  # no interrupts while cleaning up
            _play(first, second)
    except Unmet as unmet:
        print(f"shmkernel demo: expected {unmet}", file=sys.stderr)
        return 1
    print(_NEXT)
    return 0


def _play(first: Kernel, second: Kernel) -> None:
    taken = paths.names()
    wanted = ("dem", *(f"dem{number}" for number in range(2, 1000)))
    name = next(free for free in wanted if not {free, f"{free}_large"} & set(taken))
    path = os.path.realpath(paths.path_of(name))
    _say(f"Two kernels, one array in {paths.folder()}\n")
    for kernel in (first, second):
        kernel.begin()
    for kernel in (first, second):
        kernel.ready()

    _say(f"{first.notebook} (kernel {first.pid})")
    _cell(first, "%load_ext shmkernel")
    _cell(first, _LOAD, "elevation.nbytes", "read")
    _cell(first, f"%shm_create {name} --from elevation", f"{name}.nbytes", "copied")
    _say("        The first segment of a kernel also starts its watchdog.")

    _say(f"\n{second.notebook} (kernel {second.pid})")
    _cell(second, "%load_ext shmkernel")
    _cell(second, "import numpy as np")
    _cell(second, f"%shm_attach {name}", "0", "copied")
    _expect(second.value(f"{name}.sum()"), first.value("elevation.sum()"), "the sum of all heights, in both kernels")
    _cell(second, _HILLSHADE.format(name=name), "shade.nbytes", "computed")
    _cell(second, f"{name}[0, 0] = {_HEIGHT}", f"{name}.itemsize", "written")

    _say("\nA large array, attached and copied")
    rows = max(1, min(_LARGE, capacity.room().free // 4) // _ROW)
    _cell(first, f"%shm_create {name}_large --shape {rows},{_ROW // 8} --fill 1", f"{name}_large.nbytes", "made")
    attached = _cell(second, f"%shm_attach {name}_large", "0", "copied")
    copied = _cell(second, f"private = {name}_large.copy()", "private.nbytes", "copied")
    large = capacity.human(rows * _ROW)
    second.run("del private")

    _say("\nThe same pages")
    corner = f"int({name}[0, 0])"
    _expect(first.value(corner), str(_HEIGHT), f"{corner} in {first.notebook}, as written in {second.notebook}")
    _say(f"    {first.notebook} reads {_HEIGHT} at {name}[0, 0]")
    found = os.stat(path)
    device = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}"
    for kernel in (first, second):
        what = f"device {device}, inode {found.st_ino} in /proc/{kernel.pid}/maps"
        if not _maps(kernel.pid, device, found.st_ino):
            raise Unmet(f"{kernel.notebook} to have mapped {path}: {what}")
        _say(f"    {kernel.notebook} has mapped {what}")
    total = second.value(f"int({name}.sum())")

    _say(f"\nkill -9 the process group of {first.notebook}")
    began = time.perf_counter()
    first.kill()
    if not _until(lambda: not os.path.lexists(path)):
        raise Unmet(f"{path} to be gone {_GONE:.0f} s after the kill")
    gone = _ms(time.perf_counter() - began)
    _say(f"    {path} is gone after {gone}")
    _expect(second.value(f"int({name}.sum())"), total, f"the sum of {name} in {second.notebook}, as before the kill")
    _expect(second.value(corner), str(_HEIGHT), f"{corner} in {second.notebook}")
    _say(f"    {second.notebook} still reads all values, {_HEIGHT} at {name}[0, 0] among them")

    _say("\nThree promises, kept")
    _say(f"    no copy   {large} attached in {_ms(attached)}; a copy took {_ms(copied)}")
    _say(f"    no leak   the name was gone {gone} after the kill")
    _say(f"    no crash  {second.notebook} has lost nothing")


def _cell(kernel: Kernel, code: str, size: str = "", what: str = "") -> float:
    """Run a cell, print its last line with what it took and what it printed, and return the seconds."""
    seconds, printed = kernel.run(code)
    done = f"{capacity.human(int(kernel.value(size)))} {what}" if size else ""
    line, figures = f"    {code.strip().splitlines()[-1]}", f"{_ms(seconds):>9}  {done}".rstrip()
    width = min(shutil.get_terminal_size((110, 0)).columns, 110)
    place = width - _FIGURES
    _say(f"{line:<{place}}{figures}" if len(line) < place else f"{line}\n{' ' * place}{figures}")
    for text in printed.splitlines():
        _say(textwrap.fill(text, width, initial_indent=" " * 8, subsequent_indent=" " * 8, break_long_words=False))
    return seconds


def _say(line: str) -> None:
    """Print a finished step. Ctrl-C takes effect here, because an interrupt inside jupyter_client breaks it."""
    print(line, flush=True)
    if _pressed:
        raise KeyboardInterrupt


def _press(number: int, _: object) -> None:
    if _pressed:  # pressed twice: a step seems to hang
        raise KeyboardInterrupt
    _pressed.append(number)


def _expect(found: object, wanted: object, what: str) -> None:
    if found != wanted:
        raise Unmet(f"{what}, to be {wanted}, not {found}")


def _maps(pid: int, device: str, inode: int) -> bool:
    """Return whether a process has mapped a file, by device and inode: maps shows the path of the nameless file."""
    with open(f"/proc/{pid}/maps", encoding="utf-8", errors="replace") as file:
        return any(line.split()[3:5] == [device, str(inode)] for line in file)


def _until(true: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + _GONE
    while not (now := true()) and time.monotonic() < deadline:
        time.sleep(0.0001)
    return now


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"
