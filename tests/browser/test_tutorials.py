"""The tutorials in JupyterLab: each as it is, and each as the open notebooks that it tells of."""

from __future__ import annotations

import configparser
import json
import re
import signal
from pathlib import Path

import pytest

from tests.browser import lab

pytestmark = pytest.mark.timeout(600)
FOLDER = Path(__file__).parents[2] / "notebooks"
TUTORIALS = sorted(FOLDER.glob("*.ipynb"))
WHOLE = [path for path in TUTORIALS if path.name[:2] in ("01", "05")]  # a peer with pictures and errors; a widget


def sanitized(text):
    """Take out of a text what differs from run to run, as nbval does."""
    rules = configparser.RawConfigParser()
    rules.read(FOLDER / "sanitize.cfg")
    for name in rules.sections():
        text = re.sub(rules[name]["regex"], rules[name]["replace"], text)
    return text


def said(outputs):
    """Return what outputs say: what was printed, then values and pictures, then errors."""
    printed, shown, raised = "", [], []
    for one in outputs:
        if one["output_type"] == "stream":
            printed += "".join(one["text"])
        elif one["output_type"] == "error":
            raised.append((one["ename"], sanitized(one["evalue"])))
        else:
            shown.append((sanitized("".join(one["data"]["text/plain"])), "image/png" in one["data"]))
    return sanitized(re.sub(r"(?m)^\w+: (killed|restarted|shut down)\n", "", printed)), shown, raised


def code(path):
    """Return the code cells of a tutorial, as pairs of text and outputs."""
    cells = json.loads(path.read_text())["cells"]
    return [("".join(cell["source"]), cell["outputs"]) for cell in cells if cell["cell_type"] == "code"]


def parts(text, own):
    """Cut a cell into what a reader with several notebooks does: pairs of a notebook, and a cell or a verb for it."""
    if peer := re.match(r"%%peer (\w+)\n", text):
        return [(f"{peer[1]}.ipynb", text[peer.end() :])]
    found, at = [], 0
    text = text.replace("%load_ext shmkernel.peer", "")
    for line in re.finditer(r"(?m)^%peer (\w+) (--\w+)\n?", text):
        found += [(own, text[at : line.start()]), (f"{line[1]}.ipynb", line[2])]
        at = line.end()
    return [(name, part) for name, part in [*found, (own, text[at:])] if part.strip()]


PANEL = "const panel = [...window.jupyterapp.shell.widgets('main')].find((one) => one.context?.path === path);"


@pytest.fixture
def page(page, server):
    """JupyterLab, in a page whose kernels end with it."""
    lab.load(page, server)
    return page


def outputs(book):
    """Return the outputs of all code cells of an open notebook, as they would be saved."""
    script = f"(path) => {{ {PANEL} return panel.content.model.toJSON().cells.map((cell) => cell.outputs); }}"
    return [one for one in book.page.evaluate(script, book.name) if one is not None]


def run(book, at):
    """Run a cell, in a kernel that may have been shut down, and return its outputs."""
    begin = f"async (path) => {{ {PANEL} const one = panel.sessionContext; if (!one.session?.kernel) "
    book.page.evaluate(begin + "await one.changeKernel({ name: 'python3' }); }", book.name)
    book.start(at)
    book.page.evaluate("() => window.last")
    return outputs(book)[at]


def end(book, how):
    """Do to a notebook's kernel what the menu does, or worse."""
    if how == "--kill":
        lab.kill(int(book.ask("__import__('os').getpid()")), signal.SIGKILL)
        book.page.locator(".jp-Dialog button.jp-mod-accept").click()  # it says that the kernel died, and starts again
        return
    verb = {"--restart": "restartKernel", "--shutdown": "shutdown"}[how]
    book.page.evaluate(f"async (path) => {{ {PANEL} await panel.sessionContext.{verb}(); }}", book.name)


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_a_tutorial_s_cells_say_the_same_in_notebooks_of_their_own(page, server, path):
    steps = [(text, parts(text, path.name), expected) for text, expected in code(path)]
    cells = {path.name: []}
    for _, todo, _ in steps:
        for name, part in todo:
            cells.setdefault(name, []).extend([part] * (not part.startswith("--")))
    books = {name: lab.Book(page, server, server.notebook(name, *texts)) for name, texts in cells.items()}
    at = dict.fromkeys(books, 0)
    for text, todo, expected in steps:
        found = []
        for name, part in todo:
            if part.startswith("--"):
                end(books[name], part)
            else:
                found += run(books[name], at[name])
                at[name] += 1
        assert said(found) == said(expected), text


@pytest.mark.parametrize("path", WHOLE, ids=lambda path: path.stem)
def test_a_tutorial_runs_whole_and_says_what_it_said(page, server, path):
    book = json.loads(path.read_text())
    for cell in book["cells"]:
        if cell["cell_type"] == "code":
            cell |= {"outputs": [], "execution_count": None}
    (server.root / "work" / path.name).write_text(json.dumps(book))
    opened = lab.Book(page, server, path.name)
    begin = "await window.jupyterapp.commands.execute('notebook:run-all-cells', { semanticWidget: panel.id });"
    page.evaluate(f"async (path) => {{ {PANEL} {begin} }}", path.name)
    done = "panel.content.model.toJSON().cells.every((one) => one.cell_type !== 'code' || one.execution_count)"
    page.wait_for_function(f"(path) => {{ {PANEL} return {done}; }}", arg=path.name)  # an error ends the command early
    for (text, expected), found in zip(code(path), outputs(opened), strict=True):
        assert said(found) == said(expected), text
