"""The section of the Running panel and the item of the status bar, in JupyterLab and in Notebook."""

import os
import re

import numpy as np
import pytest

import shmkernel as shm
from shmkernel._core import registry, sessions
from tests.browser import lab
from tests.browser.test_lab import expect

pytestmark = pytest.mark.timeout(600)
HIDE = """() => {
    window.looks = 0; // of our part: others ask the same
    const visibilityState = () => {
        window.looks += new Error().stack.includes("shmkernel/static/memory.js");
        return "hidden";
    };
    Object.defineProperty(document, "visibilityState", { get: visibilityState, configurable: true });
}"""

SLOW = """() => { // a second takes a thousand, so what is asked at intervals is not asked
    const now = performance.now.bind(performance), start = now();
    performance.now = () => start + (now() - start) / 1000;
}"""


@pytest.fixture
def shared(server, monkeypatch):
    """A function that shares an array in the folder of the server. No kernel has to run for that."""
    monkeypatch.setenv("SHMKERNEL_DIR", str(server.folder))
    held = []

    def share(name, size, **options):
        held.append(shm.create(name, np.zeros(size, "u1"), **options))

    yield share
    held.clear()
    sessions.end()


@pytest.fixture
def panel(shared_page):
    """The Running panel of a JupyterLab that other tests use as well."""
    shared_page.set_viewport_size(lab.SIZE)
    shared_page.locator(".shm-status-item").click()
    yield shared_page.locator("#jp-running-sessions")
    shared_page.evaluate("() => window.jupyterapp.shell.collapseLeft()")


def row(panel, name):
    return panel.locator(f".shm-item[data-context={name}]")


def unlink(panel, name):
    """Press the x of a row, and return the dialog that asks; without the mouse, since rows move while others go."""
    row(panel, name).locator(".jp-RunningSessions-itemShutdown").dispatch_event("click")
    return panel.page.locator(".jp-Dialog")


def test_lab_shows_what_is_shared_before_any_cell_was_run(page, server, shared):
    check = expect()
    shared("early", 3_000)
    lab.load(page, server)
    status = page.locator(".shm-status-item")
    check(status).to_have_text(re.compile(r"^shm [\d.]+ (B|[KMG]iB)(, [\d.]+ [KMG]iB free)?$"))
    check(status).to_have_attribute("title", re.compile(re.escape(str(server.folder))))
    status.click()
    panel = page.locator("#jp-running-sessions")
    early = row(panel, "early")
    check(early).to_be_visible()
    check(early.locator(".shm-item-size")).to_have_text("3.1 KiB")
    check(early.locator(".shm-item-kind")).to_have_text("array")
    check(early.locator(".shm-item-people")).to_have_text(re.compile("^by .+, attached by .+"))
    hint = early.locator(".jp-RunningSessions-itemLabel").get_attribute("title")
    assert f"({os.getpid()})" in hint
    assert f"In {server.folder}" in hint
    check(panel.get_by_text("Shared Memory (SHMKERNEL_DIR)")).to_be_visible()
    shared("late", 5)
    check(row(panel, "late")).to_be_visible()
    shm.unlink("late")
    check(row(panel, "late")).to_have_count(0)


def test_the_status_bar_shows_what_a_cell_has_shared_once_the_cell_ends(page, server):
    check = expect()
    page.add_init_script(f"({SLOW})()")
    lab.load(page, server)
    status = page.locator(".shm-status-item")
    book = lab.Book(page, server, "bar.ipynb", "")
    book.does("import shmkernel as shm\nbar = shm.create('bar', size=98765432)")
    check(status).to_have_text(re.compile(r"^shm 94\.\d MiB"))
    book.does("shm.unlink('bar')")
    check(status).not_to_have_text(re.compile(r"^shm 94\.\d MiB"))


def test_a_click_on_a_name_shows_all_details(panel, server, shared):
    check = expect()
    shared("told", 7)
    row(panel, "told").locator(".shm-item-name").dispatch_event("click")
    dialog = panel.page.locator(".jp-Dialog")
    check(dialog.locator(".shm-details")).to_contain_text(f"{server.folder}/shmk-{os.geteuid()}-told")
    check(dialog.locator(".shm-details")).to_contain_text("%shm_attach told")
    dialog.get_by_text("Copy Attach Line").click()
    check(dialog).to_have_count(0)
    assert panel.page.evaluate("() => navigator.clipboard.readText()") == "%shm_attach told"


def test_the_x_asks_names_the_holders_and_unlinks(panel, shared):
    check = expect()
    shared("asked", 7)
    dialog = unlink(panel, "asked")
    check(dialog).to_contain_text("Unlink asked?")
    check(dialog).to_contain_text(f"({os.getpid()})")
    dialog.get_by_text("Cancel").click()
    check(dialog).to_have_count(0)
    assert registry.inode_at("asked")
    unlink(panel, "asked").get_by_text("Unlink", exact=True).click()
    check(row(panel, "asked")).to_have_count(0)
    assert registry.inode_at("asked") is None


def test_what_was_made_anew_while_it_asked_stays(panel, shared):
    check = expect()
    shared("anew", 7)
    dialog = unlink(panel, "anew")
    check(dialog).to_contain_text("Unlink anew?")
    shared("anew", 8, replace=True)
    dialog.get_by_text("Unlink", exact=True).click()
    check(dialog).to_contain_text("'anew' belongs to another segment by now")
    dialog.locator("button").last.click()
    check(dialog).to_have_count(0)
    check(row(panel, "anew")).to_be_visible()
    assert registry.inode_at("anew")


def test_unlink_all_names_all_and_unlinks_them(panel, shared):
    check = expect()
    shared("first", 7)
    shared("second", 7)
    check(row(panel, "first")).to_be_visible()
    check(row(panel, "second")).to_be_visible()
    panel.get_by_text("Unlink All").click()
    dialog = panel.page.locator(".jp-Dialog")
    check(dialog).to_contain_text(re.compile("first.*, second"))
    check(dialog).to_contain_text(f"({os.getpid()})")
    dialog.get_by_text("Unlink All", exact=True).click()
    check(panel.locator(".shm-item")).to_have_count(0)
    assert registry.inode_at("first") is registry.inode_at("second") is None


def test_unlink_all_unlinks_what_its_question_named_and_nothing_if_it_is_cancelled(panel, shared):
    check = expect()
    shared("named", 7)
    check(row(panel, "named")).to_be_visible()
    panel.get_by_text("Unlink All").click()
    dialog = panel.page.locator(".jp-Dialog")
    check(dialog).to_contain_text("named")
    dialog.get_by_text("Cancel").click()
    check(dialog).to_have_count(0)
    assert registry.inode_at("named")
    panel.get_by_text("Unlink All").click()
    check(dialog).to_contain_text("named")
    shared("later", 7)
    check(row(panel, "later")).to_be_visible()  # the list behind the question is renewed
    dialog.get_by_text("Unlink All", exact=True).click()
    check(row(panel, "named")).to_have_count(0)
    assert registry.inode_at("later")
    assert registry.inode_at("named") is None


def test_the_server_is_asked_only_while_the_page_is_in_sight(panel, shared):
    check = expect()
    page, asked = panel.page, []
    page.on("request", lambda request: "shmkernel/segments" in request.url and asked.append(request.url))
    page.evaluate(HIDE)
    page.wait_for_function("() => window.looks > 0")  # what was asked before has been sent
    asked.clear()
    page.wait_for_function("() => window.looks > 8")  # four seconds; in sight it asks every two
    assert asked == []
    shared("unseen", 7)
    page.evaluate(lab.SHOW)
    check(row(panel, "unseen")).to_be_visible()


def test_the_section_is_in_notebook_7(page, server, shared):
    check = expect()
    shared("seven", 7)
    page.goto(f"{server.url}/tree?token={lab.TOKEN}")
    page.wait_for_function("() => window.jupyterapp?.restored.then(() => true)")
    page.locator(".lm-TabBar-tab", has_text="Running").click()
    panel = page.locator(".jp-RunningSessions")
    check(row(panel, "seven").locator(".shm-item-type")).to_have_text("uint8 (7,)")
    unlink(panel, "seven").get_by_text("Unlink", exact=True).click()
    check(row(panel, "seven")).to_have_count(0)
    assert registry.inode_at("seven") is None
