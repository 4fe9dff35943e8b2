"""The monitor in Notebook 7."""

import pytest

from tests.browser import lab
from tests.browser.test_lab import expect

pytestmark = pytest.mark.timeout(600)


def test_the_monitor_is_live_in_notebook_7(page, server):
    check = expect()
    cells = (
        "import shmkernel as shm, numpy as np\n%load_ext shmkernel\nx = shm.create('x', np.zeros((4, 5)))",
        "%shm_watch x",
        "import threading\nthreading.Timer(1, lambda: x.__setitem__((1, 1), 6)).start()",
    )
    server.notebook("seven.ipynb", *cells)
    page.goto(f"{server.url}/notebooks/seven.ipynb?token={lab.TOKEN}")
    page.wait_for_function("() => window.jupyterapp?.restored.then(() => true)")
    check(page.locator(".jp-Notebook .jp-Cell")).to_have_count(3)
    page.evaluate(
        """async () => {
            const panel = window.jupyterapp.shell.currentWidget;
            await panel.sessionContext.ready;
            await window.jupyterapp.commands.execute("notebook:run-all-cells", { semanticWidget: panel.id });
        }"""
    )
    monitor = page.locator(".shm-monitor")
    check(monitor.locator(".shm-status")).to_have_text("live")
    check(monitor.locator("tr[data-key=x]")).to_have_attribute("aria-selected", "true")
    check(monitor.locator(".shm-stats")).to_contain_text("max6")
    monitor.locator("[data-verb=unlink]").click()
    monitor.locator("[data-verb=yes]").click()
    check(monitor.locator(".shm-result")).to_contain_text("x: unlinked")
