"""A real JupyterLab, with Notebook 7 on the same server, and pages of it in Chromium."""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from contextlib import contextmanager
from pathlib import Path

TOKEN = "for-tests"
CHROMIUM = "/usr/bin/chromium"
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
SIZE = {"width": 1180, "height": 1000}
SHOW = """() => { // undoes what a test has done to hide the page
    delete document.visibilityState;
    document.dispatchEvent(new Event("visibilitychange"));
}"""
CLEAR = """\
import os, shmkernel as shm, ipywidgets
ipywidgets.Widget.close_all()
for name in {one.name for one in shm.list() if not one.state and (one.mine or not one.owner_alive)}:
    try:
        shm.unlink(name)
    except shm.NotFoundError:
        pass
get_ipython().run_line_magic("reset", "-f")
"""
PATIENCE = 120_000  # milliseconds until a test gives up; what it waits for takes a second
SETTINGS = {
    "@jupyterlab/apputils-extension:notification": {
        "fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": True
    },
    "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"},
}  # fmt: skip


class Server:
    """One Jupyter server in a folder of its own; its kernels share a folder of segments of their own."""

    def __init__(self):
        self.root = Path(tempfile.mkdtemp(prefix="shmkernel-lab-"))
        self.folder = Path(tempfile.mkdtemp(prefix="shmkernel-lab-", dir="/dev/shm"))
        config = self.root / "config"
        (config / "labconfig").mkdir(parents=True)
        (config / "labconfig" / "default_setting_overrides.json").write_text(json.dumps(SETTINGS))
        (self.root / "work").mkdir()
        home = {"HOME": str(self.root), "JUPYTER_CONFIG_DIR": str(config), "JUPYTER_DATA_DIR": str(self.root / "data")}
        paths = os.pathsep.join(filter(None, [str(Path.cwd()), os.environ.get("PYTHONPATH", "")]))
        more = {"SHMKERNEL_DIR": str(self.folder), "PYTHONPATH": paths, "IPYTHONDIR": str(self.root / "ipython")}
        environment = os.environ | home | more | {"JUPYTERLAB_WORKSPACES_DIR": str(self.root / "workspaces")}
        environment.pop("PYTEST_CURRENT_TEST", None)
        self.log = (self.root / "log").open("w+")
        self.process = subprocess.Popen(
            [
                sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ServerApp.port=0",
                "--ServerApp.ip=127.0.0.1", f"--IdentityProvider.token={TOKEN}", "--LabApp.expose_app_in_browser=True",
                f"--ServerApp.root_dir={self.root / 'work'}", "--JupyterNotebookApp.expose_app_in_browser=True",
            ],
            env=environment, stdout=self.log, stderr=subprocess.STDOUT, cwd=self.root, start_new_session=True,
        )  # fmt: skip
        self.url = self._ready()

    def _ready(self):
        with open(f"/proc/{self.process.pid}/stat"):
            pass
        shown = subprocess.Popen(["tail", "-f", "-n", "+1", self.log.name], stdout=subprocess.PIPE, text=True)
        try:
            for line in shown.stdout:
                if found := re.search(r"(http://127\.0\.0\.1:(\d+))/lab", line):
                    self._wait_until_it_listens(int(found[2]))
                    return found[1]
                assert self.process.poll() is None, line
        finally:
            shown.kill()
            shown.communicate()
        raise AssertionError("the server did not start")

    def _wait_until_it_listens(self, port):
        """Try to connect: the server tells its address before it listens there."""
        while self.process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
            except ConnectionRefusedError:
                select.select([], [], [], 0.02)
            else:
                return

    def notebook(self, name, *cells):
        """Write a notebook, and return its name."""
        every = [
            {
                "cell_type": "code",
                "source": cell,
                "metadata": {},
                "outputs": [],
                "execution_count": None,
                "id": f"c{at}",
            }
            for at, cell in enumerate(cells)
        ]
        kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        book = {"cells": every, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}
        (self.root / "work" / name).write_text(json.dumps(book))
        return name

    def ask(self, path, method="GET"):
        """Call the server's API."""
        request = urllib.request.Request(
            f"{self.url}/api/{path}", method=method, headers={"Authorization": f"token {TOKEN}"}
        )
        with urllib.request.urlopen(request) as answer:
            return json.loads(answer.read() or "null")

    def kernel(self, name):
        """Return the id of a notebook's kernel."""
        return next(one["kernel"]["id"] for one in self.ask("sessions") if one["path"] == name)

    def sessions(self):
        """Return what runs."""
        return {one["id"] for one in self.ask("sessions")}

    def end(self, sessions):
        """Shut down."""
        for one in sessions:
            self.ask(f"sessions/{one}", "DELETE")

    def close(self):
        """End the server and its kernels."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.log.close()
        shutil.rmtree(self.root, ignore_errors=True)
        shutil.rmtree(self.folder, ignore_errors=True)


def kill(pid, how):
    """Send a signal to a kernel that a test started."""
    os.kill(pid, how)


@contextmanager
def page(browser, server):
    """Open a page whose scripts must not fail, and which must ask nobody but the server."""
    context = browser.new_context(viewport=SIZE)
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    context.set_default_timeout(PATIENCE)
    found = context.new_page()
    found.sins = []
    homes = (server.url, server.url.replace("http", "ws"), "data:", "blob:")
    found.on("pageerror", lambda error: "shm" in str(error).lower() and found.sins.append(str(error)))
    found.on("request", lambda one: one.url.startswith(homes) or found.sins.append(one.url))
    yield found
    innocent(found)
    context.close()


def innocent(page):
    """See that no script failed, and that nobody was asked but the server."""
    assert not page.sins


def load(page, server):
    """Open JupyterLab."""
    page.goto(f"{server.url}/lab?token={TOKEN}&reset")
    page.wait_for_function("() => window.jupyterapp?.restored.then(() => true)")
    page.evaluate("() => window.jupyterapp.commands.execute('application:toggle-left-area')")


@contextmanager
def server():
    """Run a server."""
    found = Server()
    try:
        yield found
    finally:
        found.close()


class Book:
    """An open notebook in JupyterLab, driven through the application's commands; `monitor` is a locator."""

    def __init__(self, page, server, name, *cells):
        self.page, self.server, self.name = page, server, name
        if cells and not (server.root / "work" / name).exists():
            server.notebook(name, *cells)
        self.panel = f".jp-NotebookPanel:has(.jp-Notebook)[id='{self._open()}']"
        self.monitor = page.locator(f"{self.panel} .shm-monitor")

    def _open(self):
        return self.page.evaluate(
            """async (path) => {
                const app = window.jupyterapp;
                const widget = await app.commands.execute("docmanager:open", { path, factory: "Notebook" });
                await widget.context.ready;
                await widget.context.sessionContext.ready;
                await widget.revealed;
                return widget.id;
            }""",
            self.name,
        )

    def clear(self):
        """Forget what cells made and show; a kernel that is busy is started anew."""
        busy = self.page.evaluate(
            """(path) => {
                const panel = [...window.jupyterapp.shell.widgets("main")].find((one) => one.context?.path === path);
                for (const cell of panel.content.widgets) {
                    cell.model.sharedModel.setSource("");
                    cell.model.outputs.clear();
                }
                return panel.sessionContext.session.kernel.status === "busy";
            }""",
            self.name,
        )
        if busy:
            self.server.ask(f"kernels/{self.server.kernel(self.name)}/restart", "POST")
        self.page.wait_for_function(
            """([path, code]) => {
                const panel = [...window.jupyterapp.shell.widgets("main")].find((one) => one.context?.path === path);
                const kernel = panel.sessionContext.session.kernel;
                if (kernel.connectionStatus !== "connected" || kernel.status !== "idle") return false;
                return kernel.requestExecute({ code, silent: true }).done.then(() => true, () => false);
            }""",
            arg=[self.name, CLEAR],
        )
        return self

    def show(self):
        """Bring this notebook to the front."""
        self.page.evaluate(
            """async (path) => {
                const widget = await window.jupyterapp.commands.execute("docmanager:open", { path });
                window.jupyterapp.shell.activateById(widget.id);
            }""",
            self.name,
        )
        return self

    def start(self, at):
        """Run a cell, without waiting for its end."""
        self.page.evaluate(
            """([path, at]) => {
                const app = window.jupyterapp;
                const panel = [...app.shell.widgets("main")].find((one) => one.context?.path === path);
                panel.content.activeCellIndex = at;
                panel.content.mode = "command";
                window.last = app.commands.execute("notebook:run-cell", { semanticWidget: panel.id });
            }""",
            [self.name, at],
        )

    def run(self, at):
        """Run a cell to its end; it must not fail."""
        self.start(at)
        self.page.evaluate("() => window.last")
        errors = self.errors()
        assert not errors, errors

    def errors(self):
        """Return the tracebacks that the notebook shows."""
        return self.page.locator(f"{self.panel} .jp-OutputArea-output[data-mime-type*='stderr']").all_inner_texts()

    def start_text(self, text, at):
        """Run a text as the given cell, without waiting for its end."""
        self.set(at, text)
        self.start(at)

    def ask(self, expression):
        """Return the text of an expression's value in this notebook's kernel, whichever is in front."""
        found = self.page.evaluate(
            """async ([path, expression]) => {
                const panel = [...window.jupyterapp.shell.widgets("main")].find((one) => one.context?.path === path);
                const content = { code: "", silent: true, user_expressions: { it: expression } };
                return (await panel.sessionContext.session.kernel.requestExecute(content).done).content;
            }""",
            [self.name, expression],
        )
        return found["user_expressions"]["it"]["data"]["text/plain"]

    def set(self, at, text):
        """Write a cell anew."""
        self.page.evaluate(
            """([path, at, text]) => {
                const panel = [...window.jupyterapp.shell.widgets("main")].find((one) => one.context?.path === path);
                panel.content.widgets[at].model.sharedModel.setSource(text);
            }""",
            [self.name, at, text],
        )

    def does(self, text, at=0):
        """Run a text as the given cell."""
        self.set(at, text)
        self.run(at)

    def row(self, key):
        """Locate a row of the monitor."""
        return self.monitor.locator(f"tr[data-key={json.dumps(key)}]")

    def button(self, verb):
        """Locate a button of the monitor."""
        return self.monitor.locator(f"[data-verb={verb}]")

    def prompt(self):
        """Locate what says whether the first cell runs."""
        return self.page.locator(f"{self.panel} .jp-InputPrompt").first

    def flashes(self, what):
        """Wait until a row or cell has shown that something happened to it."""
        self.page.wait_for_function("(what) => window.flashes.has(what)", arg=what)

    def restart_by_menu(self):
        """Restart the kernel of the notebook in front."""
        self.page.evaluate("() => { window.restarted = window.jupyterapp.commands.execute('kernelmenu:restart'); }")
        self.page.locator(".jp-Dialog button.jp-mod-accept").click()
        self.page.evaluate("() => window.restarted")

    def theme(self, name):
        """Change the theme."""
        self.page.evaluate("(theme) => window.jupyterapp.commands.execute('apputils:change-theme', { theme })", name)

    def watch(self, command="%load_ext shmkernel\nw = %shm_watch\nw", at=1):
        """Run the cell that shows the monitor, and wait for it to be live."""
        self.does(command, at)
        self.monitor.wait_for(timeout=PATIENCE)
        self.page.wait_for_function("(one) => one.textContent === 'live'", arg=self.status(), timeout=PATIENCE)
        return self.monitor

    def status(self):
        """Return the element that says whether the monitor is live."""
        return self.monitor.locator(".shm-status").element_handle()


def watching(page, server, notebook):
    """Open a new notebook, alone in the page, that shares the array x and shows a monitor."""
    load(page, server)
    array = "import numpy as np, shmkernel as shm\n%load_ext shmkernel\nx = shm.create('x', np.zeros((4, 5)))"
    server.notebook(notebook, array, "", "")
    found = Book(page, server, notebook)
    found.run(0)
    found.watch("%shm_watch")
    return found
