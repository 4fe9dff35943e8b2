"""Take the pictures of the monitor, from the project's folder.

uv run --group browser --group large python -m tests.browser.screenshots FOLDER [pair]

One for each kind of content, light; three dark; two narrow; one for each state. And ``pair.png`` and ``pair-dark.png``:
two notebooks side by side, the second with the monitor, as in the README. Those in ``docs/images`` have the same names.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.browser import lab

if TYPE_CHECKING:
    from playwright.sync_api import Page

PREPARE = """\
import numpy as np, shmkernel as shm
from matplotlib import cbook
elevation = shm.create("elevation", cbook.get_sample_data("jacksboro_fault_dem.npz")["elevation"])
time = np.linspace(0, 60, 200_000)
signal = shm.create("signal", np.sin(time) * np.exp(-time / 40) + np.random.default_rng(1).normal(0, 0.06, time.size))
scores = shm.create("scores", np.random.default_rng(2).integers(0, 100, (6, 9)), lifetime="keep")
volume = shm.create("volume", np.random.default_rng(3).normal(size=(24, 90, 120)).cumsum(1).cumsum(2))
y, x = np.mgrid[-2:2:360j, -3:3:540j]
parts = (np.sin(3 * x + y), np.cos(2 * y * x), np.sin(x * x + y * y))
picture = shm.create("picture", (127 + 120 * np.dstack(parts)).astype("uint8"))
"""
MORE = """\
import numpy as np, shmkernel as shm
config = shm.create("config", {"learning rate": 0.001, "epochs": 40, "shuffle": True, "seed": None, "layers": [64, 8]})
labels = shm.create("labels", ["forest", "water", "rock", 3, 0.5, None] * 12)
shm.publish("config")
header = shm.create("header", b"\\x89PNG\\r\\n\\x1a\\n" + bytes(range(256)) * 4)
people = shm.create("people", np.array([("Ada", 36, 1.68), ("Grace", 85, 1.60), ("Emmy", 53, 1.63)] * 30,
                    dtype=[("name", "U12"), ("age", "i4"), ("height", "f4")]))
camera = shm.create("camera", ring=8, shape=(120, 160), dtype="u1")
camera.put((np.add.outer(np.arange(120), np.arange(160)) % 256).astype("u1"))
import pandas as pd
n = 500_000
choose = np.random.default_rng(4)
trades = shm.create("trades", pd.DataFrame({
    "time": pd.date_range("2026-03-02 09:00", periods=n, freq="150ms"),
    "symbol": pd.Categorical.from_codes(choose.integers(0, 5, n), ["ash", "elm", "fir", "oak", "yew"]),
    "price": (100 + choose.normal(0, 0.02, n).cumsum()).round(2),
    "size": choose.integers(1, 500, n),
    "venue": pd.Series(choose.choice(["north", "south", None], n)),
    "closing": np.arange(n) % 97 == 0,
}))
words = shm.create("words", np.array([["north", "east"], ["south", "west"]] * 4))
class Regressor:
    pass
model = Regressor()
vars(model).update(weights=choose.normal(size=(400, 300)), bias=choose.normal(size=300), names=["area", "age"],
                   rate=0.01, fitted=True, history=[{"epoch": n, "loss": 1 / (n + 1)} for n in range(40)], note="run 7")
model = shm.create("model", model, allow_pickle=True)
"""
LEFT = (
    """\
from matplotlib import cbook
sample = cbook.get_sample_data("jacksboro_fault_dem.npz")
elevation = sample["elevation"]""",
    "%load_ext shmkernel\n%shm_create elevation",
    'settings = {"learning rate": 0.001, "layers": [64, 8]}\n%shm_create settings',
)
LAST = "elevation[40:90, 60:160] = 1300  # plot.ipynb sees it"
RIGHT = (
    "%load_ext shmkernel\n%shm_attach elevation",
    "elevation.mean()",
    "%shm_watch elevation",
)
STILL = """(one) => { // what has changed glows at first, and is drawn again and again
    if (one.drawn !== one.dataset.drawn) one.since = performance.now();
    one.drawn = one.dataset.drawn;
    return performance.now() - one.since > 2000;
}"""
SIZE = {"width": 1180, "height": 1000}
PAIR = {"width": 1360, "height": 930}
NARROW = {"width": 520, "height": 1300}
KINDS = {
    "elevation": "monitor", "signal": "monitor-line", "scores": "monitor-numbers", "volume": "monitor-slices",
    "picture": "monitor-image", "config": "monitor-dict", "labels": "monitor-list", "header": "monitor-bytes",
    "people": "monitor-structure", "camera": "monitor-ring", "words": "monitor-strings", "trades": "monitor-table",
    "model": "monitor-object",
}  # fmt: skip


def shrink(path: Path) -> None:
    """Write a picture with 256 colours. Of the ways to choose them, this one keeps those of a small area."""
    from PIL import Image

    few = Image.open(path).convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    few.save(path, optimize=True)


def pair(page: Page, server: lab.Server, folder: Path) -> None:
    """Take two notebooks side by side."""
    page.set_viewport_size(PAIR)
    books = []
    for name, cells in (("prepare.ipynb", (*LEFT, LAST)), ("plot.ipynb", RIGHT)):
        server.notebook(name, *cells)
        page.evaluate(
            """async ([path, mode]) => {
                const options = { mode };
                await window.jupyterapp.commands.execute("docmanager:open", { path, factory: "Notebook", options });
            }""",
            [name, "split-right" if books else "tab-after"],
        )
        books.append(lab.Book(page, server, name))
        for at in range(3):
            books[-1].run(at)
    books[0].run(3)
    book = books[1]
    book.monitor.locator(".shm-stats", has_text="1300").wait_for()
    page.wait_for_function(STILL, arg=book.monitor.locator("canvas").element_handle())
    for theme, name in (("Light", "pair"), ("Dark", "pair-dark")):
        book.theme(f"JupyterLab {theme}")
        page.locator("#jupyterlab-splash").wait_for(state="detached")
        page.wait_for_function(
            "(one) => one.dataset.ink && one.dataset.ink === getComputedStyle(one).color",
            arg=book.monitor.locator("canvas").element_handle(),
        )
        page.mouse.move(0, 0)
        path = folder / f"{name}.png"
        page.screenshot(path=path, animations="disabled")
        shrink(path)
    book.theme("JupyterLab Light")
    server.end(server.sessions())
    page.set_viewport_size(SIZE)


def main(folder: Path, only: str = "") -> None:
    """Take them all, or only those of the two notebooks."""
    from playwright.sync_api import sync_playwright

    folder.mkdir(parents=True, exist_ok=True)
    with lab.server() as server, sync_playwright() as play:
        browser = play.chromium.launch(executable_path=lab.CHROMIUM, args=lab.FLAGS)
        page = browser.new_page(viewport=SIZE)
        page.set_default_timeout(lab.PATIENCE)
        lab.load(page, server)
        pair(page, server, folder)
        if only == "pair":
            return
        lab.load(page, server)  # it closes the two notebooks, one of which will be another of the same name
        for name, text in (("prepare.ipynb", PREPARE), ("train.ipynb", MORE)):
            server.notebook(name, text)
            lab.Book(page, server, name).run(0)
        server.notebook("plot.ipynb", "", "", "")
        book = lab.Book(page, server, "plot.ipynb")
        book.watch("%load_ext shmkernel\n%shm_watch", 0)

        def take(name: str) -> None:
            path = folder / f"{name}.png"
            book.monitor.screenshot(path=path, animations="disabled")
            shrink(path)

        def choose(segment: str) -> None:
            book.row(segment).click()
            page.wait_for_function(
                "(one) => one.querySelector('.shm-title').textContent && one.dataset.form !== 'none'",
                arg=book.monitor.locator(".shm-panel").element_handle(),
            )
            page.mouse.move(0, 0)

        for segment, name in KINDS.items():
            choose(segment)
            take(name)
        choose("scores")
        book.button("unlink").click()
        take("monitor-question")
        book.button("no").click()
        book.does("scores = 'mine'", 1)
        book.button("attach").click()
        book.monitor.locator(".shm-result[data-state=bad]").wait_for()
        take("monitor-error")
        choose("elevation")
        page.evaluate("() => window.jupyterapp.commands.execute('apputils:change-theme', { theme: 'JupyterLab Dark' })")
        page.wait_for_function("() => document.body.dataset.jpThemeLight === 'false'")
        page.locator("#jupyterlab-splash").wait_for(state="detached")
        page.wait_for_function(
            "(one) => one.dataset.ink === getComputedStyle(one).color",
            arg=book.monitor.locator("canvas").element_handle(),
        )
        take("monitor-dark")
        choose("signal")
        take("monitor-dark-line")
        choose("trades")
        take("monitor-dark-table")
        choose("signal")
        page.set_viewport_size(NARROW)
        take("monitor-narrow")
        choose("trades")
        take("monitor-narrow-table")
        page.set_viewport_size(SIZE)
        book.does("import shmkernel as shm; draft = shm.create('draft', shape=3); shm.unlink('draft')", 1)
        choose("draft (unlinked 0)")
        take("monitor-unlinked")
        book.theme("JupyterLab Light")
        server.end(one["id"] for one in server.ask("sessions") if one["path"] != book.name)
        for name in ("scores", "draft"):
            book.does(f"{name} = 0; shm.unlink('{name}') if '{name}' in shm.session else None", 1)
        book.monitor.locator(".shm-empty").filter(has_text="Nothing").wait_for()
        take("monitor-empty")
        server.end(server.sessions())
        page.wait_for_function("(one) => one.dataset.live === 'no'", arg=book.monitor.element_handle())
        take("monitor-disconnected")
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
