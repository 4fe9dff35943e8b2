"""A second kernel's cell in JupyterLab."""

import pytest

from tests.browser.test_tutorials import outputs, run

pytestmark = pytest.mark.timeout(600)


def test_a_peer_s_progress_bar_moves_and_the_stop_command_reaches_it(app):
    book = app("first.ipynb")
    book.does("%load_ext shmkernel.peer")
    book.start_text(
        "%%peer\nfrom tqdm.notebook import tqdm\nimport threading\n"
        "bar = tqdm(total=4)\nbar.update(3)\nbar.refresh()\nthreading.Event().wait()",
        1,
    )
    book.page.locator(f"{book.panel} .widget-html-content", has_text="3/4").wait_for()
    book.page.evaluate("() => window.jupyterapp.commands.execute('notebook:interrupt-kernel')")
    book.page.evaluate("() => window.last")
    assert outputs(book)[1][-1]["ename"] == "KeyboardInterrupt"
    book.set(2, "%%peer\nprint(bar.n)")
    assert run(book, 2)[0]["text"] == "3\n"
