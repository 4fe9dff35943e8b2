"""A notebook with a monitor that was saved, exported, or opened again: it shows the table of that moment."""

import json
import os
import re
import subprocess
import sys

import nbformat
import pytest

from tests.browser import lab
from tests.browser.test_lab import PLUS, expect

pytestmark = pytest.mark.timeout(600)
WIDGETS = "@jupyter-widgets/jupyterlab-manager"
STATE = "application/vnd.jupyter.widget-state+json"
TYPE = "float64 (4,\N{NO-BREAK SPACE}5)"


@pytest.fixture
def book(page, server):
    """A notebook that shows a monitor, and the array x."""
    yield lab.watching(page, server, "kept.ipynb")
    (server.root / "work" / "kept.ipynb").unlink()


def save(book):
    """Save the notebook, and return what is in the file."""
    book.page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
    return (book.server.root / "work" / book.name).read_text()


def reopen(book):
    """Open the file in a new page, after its kernel has ended."""
    book.server.end(one["id"] for one in book.server.ask("sessions") if one["path"] == book.name)
    book.page.goto("about:blank")
    lab.load(book.page, book.server)
    return lab.Book(book.page, book.server, book.name).show()


def shows_the_table(book):
    check = expect()
    output = book.page.locator(f"{book.panel} .jp-OutputArea-output", has_text="float64 (4, 5)")
    check(output).to_be_visible()
    check(output).to_contain_text(re.compile(r"1 segment.* available.*As of \d{4}-"))
    check(book.page.locator(f"{book.panel} .jp-Notebook")).not_to_contain_text("Error displaying")
    check(output).not_to_contain_text("Nothing is shared")


def test_a_notebook_opened_again_without_its_kernel_shows_the_table(book):
    before = save(book)
    assert len(before) < 6_000
    again = reopen(book)
    shows_the_table(again)
    again.does(f"{PLUS}%load_ext shmkernel\ny = shm.create('y', shape=3)", 0)
    again.watch("%shm_watch")  # the same output is live again
    expect()(again.page.locator(f"{again.panel} table:visible", has_text="float64 (4, 5)")).to_have_count(0)


def test_the_table_goes_while_the_monitor_is_live(book):
    check = expect()
    output = book.page.locator(f"{book.panel} .jp-OutputArea-output", has=book.monitor)
    check(output.locator(".jp-RenderedHTML")).to_be_hidden()
    check(book.row("x")).to_be_visible()


def test_a_notebook_with_the_state_of_its_widgets_stays_small_and_shows_the_table(book):
    book.page.evaluate(f"() => window.jupyterapp.commands.execute('{WIDGETS}:saveWidgetState')")
    book.does("more = [shm.create(f'a_rather_long_name_of_a_segment_{n}', shape=3) for n in range(30)]", 0)
    book.watch("%shm_watch")
    book.does("del more; [shm.unlink(f'a_rather_long_name_of_a_segment_{n}') for n in range(30)]", 0)
    book.does("", 1)
    book.watch("%shm_watch")
    try:
        text = save(book)
    finally:
        book.page.evaluate(f"() => window.jupyterapp.commands.execute('{WIDGETS}:saveWidgetState')")
    states = json.loads(text)["metadata"]["widgets"][STATE]["state"].values()
    monitors = [one["state"] for one in states if one["model_module"] == "anywidget"]
    assert len(monitors) == 3  # the fixture's, whose output has gone, too
    assert all(len(json.dumps(one)) < 10_000 for one in monitors), [len(json.dumps(one)) for one in monitors]
    assert len(text) < 3 * 20_000
    shows_the_table(reopen(book))


def test_exports_of_a_saved_notebook_show_the_table(book):
    from nbconvert import HTMLExporter, MarkdownExporter

    save(book)
    saved = nbformat.read(book.server.root / "work" / book.name, as_version=4)
    html, _ = HTMLExporter().from_notebook_node(saved)
    seen = re.sub(r"<script.*?</script>", "", html, flags=re.DOTALL)
    text, _ = MarkdownExporter().from_notebook_node(saved)
    for shown in (seen, text):
        assert "<table>" in shown
        assert TYPE in shown
        assert "object at 0x" not in shown


@pytest.mark.parametrize("form", ["html", "markdown"])
def test_nbconvert_that_runs_a_notebook_shows_the_table(server, tmp_path, form):
    cells = f"{PLUS}%load_ext shmkernel\nx = shm.create('x', np.zeros((4, 5)))", "%shm_watch", "shm.unlink('x'); del x"
    path = server.root / "work" / server.notebook(f"run-{form}.ipynb", *cells)
    environment = os.environ | {"SHMKERNEL_DIR": str(server.folder), "HOME": str(tmp_path)}
    environment.pop("PYTEST_CURRENT_TEST", None)
    command = [sys.executable, "-m", "nbconvert", "--execute", "--to", form, "--stdout", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=200)
    assert done.returncode == 0, done.stderr
    seen = re.sub(r"<script.*?</script>", "", done.stdout, flags=re.DOTALL)
    assert "<table>" in seen
    assert TYPE in seen
    assert "As of " in seen
    assert "Nothing is shared" not in seen
    path.unlink()
