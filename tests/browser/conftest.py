"""One Jupyter server and one browser for all tests here; each test has a page and fresh kernels."""

from __future__ import annotations

import importlib.util
import os

import pytest

from tests.browser import lab
from tests.tutorials import Lacking, prepare_fonts

NEEDED = ("jupyterlab", "notebook", "playwright")


def missing():
    """Say what these tests lack, and the cure."""
    packages = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if packages:
        return f"{', '.join(packages)} not installed: uv run --group browser pytest tests/browser"
    if not os.path.exists(lab.CHROMIUM):
        return f"there is no {lab.CHROMIUM}: apt-get install chromium"
    return ""


@pytest.hookimpl(wrapper=True)
def pytest_collect_file(file_path, parent):
    found = yield
    if file_path.name.startswith("test_") and (why := missing()):
        return [Lacking.from_parent(parent, path=file_path, why=why)]
    return found


@pytest.fixture(scope="session")
def server():
    prepare_fonts()
    with lab.server() as found:
        yield found


@pytest.fixture(scope="session")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        found = play.chromium.launch(executable_path=lab.CHROMIUM, args=lab.FLAGS)
        yield found
        found.close()


@pytest.fixture
def page(browser, server):
    """A page to itself, whose kernels end with it."""
    others = server.sessions()
    with lab.page(browser, server) as found:
        yield found
    server.end(server.sessions() - others)


@pytest.fixture(scope="session")
def shared_page(browser, server):
    """JupyterLab, in a page that tests have one after the other: to load it takes longer than most of them."""
    with lab.page(browser, server) as found:
        lab.load(found, server)
        yield found


@pytest.fixture
def app(shared_page, server):
    """JupyterLab; ``app("a.ipynb")`` opens a notebook of three cells there, with a kernel that holds nothing."""
    shared_page.set_viewport_size(lab.SIZE)
    opened = []

    def open_(name):
        opened.append(lab.Book(shared_page, server, name, "", "", ""))
        return opened[-1].clear()

    yield open_
    for book in opened:
        book.clear()
    lab.innocent(shared_page)
