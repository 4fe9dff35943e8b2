"""``%%shm_cache`` in two notebooks and over a restart."""

import pytest

from tests.helpers import PATIENCE
from tests.kernels.kernel import Kernel

CELL = """%%shm_cache x
open({0!r} + "began", "w").close()
while not os.path.exists({0!r} + "go"):
    time.sleep(0.01)
x = np.arange(5)"""


@pytest.fixture
def other(tmp_path_factory, shm_dir):
    started = Kernel("other.ipynb", tmp_path_factory.mktemp("other"))
    yield started
    started.end()


@pytest.mark.long
def test_two_notebooks_run_a_cell_once_and_its_value_survives_a_restart(kernel, other, tmp_path):
    cell = CELL.format(f"{tmp_path}/")
    for one in (kernel, other):
        one("%load_ext shmkernel\nimport os, time, numpy as np")
    kernel.client.execute(cell)
    other("import time\nwhile not os.path.exists({!r}): time.sleep(0.01)".format(f"{tmp_path}/began"))
    asked = other.client.execute(cell)
    waits = said(other, asked)
    assert waits.startswith("x: writer.ipynb (")
    assert waits.endswith("runs a cell for it; waiting for its value\n")
    (tmp_path / "go").touch()
    assert said(other, asked).startswith("x: attached, array int64 (5,), 168 B, made ")
    assert other.client.get_shell_msg(timeout=PATIENCE)["content"]["status"] == "ok"
    assert kernel.client.get_shell_msg(timeout=PATIENCE)["content"]["status"] == "ok"

    kernel.manager.restart_kernel(now=True)
    kernel.client.wait_for_ready(timeout=PATIENCE)
    kernel("%load_ext shmkernel\nimport os, time, numpy as np")
    (tmp_path / "go").unlink()  # the cell would never end
    line = kernel(cell)
    assert line.startswith("x: attached, array int64 (5,), 168 B, made ")
    assert line.endswith(" ago by writer.ipynb (ended). The cell was not run (to run it: --refresh)\n")
    assert kernel("print(x.sum())\n%shm_unlink x").startswith("10\nx: unlinked")


def said(kernel, asked):
    """Return the next line that a cell prints."""
    text = ""
    while not text.endswith("\n"):
        message = kernel.client.get_iopub_msg(timeout=PATIENCE)
        if message["parent_header"]["msg_id"] == asked and message["msg_type"] == "stream":
            text += message["content"]["text"]
    return text
