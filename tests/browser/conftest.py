"""One Jupyter server and one browser for all tests here; each test has a page and fresh kernels."""

from __future__ import annotations

import importlib.util
import os

import pytest

from tests.browser import lab

NEEDED = ("jupyterlab", "notebook", "playwright")


def missing():
    """Say what these tests lack, and the cure."""
    packages = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if packages:
        return f"{', '.join(packages)} not installed: uv run --group browser pytest tests/browser"
    if not os.path.exists(lab.CHROMIUM):
        return f"there is no {lab.CHROMIUM}: apt-get install chromium"
    return ""


@pytest.fixture(scope="session")
def server():
    if reason := missing():
        installed = "not installed" not in reason  # the default groups lack the packages, in CI too
        (pytest.fail if installed and os.environ.get("CI") == "true" else pytest.skip)(reason)
    with lab.server() as found:
        yield found


@pytest.fixture(scope="session")
def browser(server):  # noqa: ARG001  it says what is missing
    from playwright.sync_api import sync_playwright  # noqa: PLC0415

    with sync_playwright() as play:
        found = play.chromium.launch(executable_path=lab.CHROMIUM, args=lab.FLAGS)
        yield found
        found.close()


@pytest.fixture
def page(browser, server):
    """A page whose scripts must not fail, and which must ask nobody but the server."""
    context = browser.new_context(viewport={"width": 1300, "height": 1000})
    context.set_default_timeout(lab.PATIENCE)
    found = context.new_page()
    failures, strangers = [], []
    found.on("pageerror", lambda error: failures.append(str(error)))
    found.on("request", lambda one: strangers.append(one.url) if lab.stranger(one.url, server.url) else None)
    yield found
    context.close()
    server.end_kernels()
    assert not [text for text in failures if "shm" in text.lower()]
    assert not strangers


@pytest.fixture
def app(page, server):
    """JupyterLab, restored; ``app("a.ipynb")`` opens a new notebook in it."""
    page.goto(f"{server.url}/lab?token={lab.TOKEN}&reset")
    page.wait_for_function("() => window.jupyterapp?.restored.then(() => true)")

    def open_(name):
        server.notebook(name, "", "", "")
        return lab.Book(page, server, name)

    return open_
