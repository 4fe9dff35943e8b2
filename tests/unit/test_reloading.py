"""After an upgrade of the package a running notebook keeps its attachments and locks."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import IPython
import pytest

import shmkernel
from tests.helpers import PATIENCE

CELLS = """
import os, sys
from pathlib import Path
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

shell = InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}))
cells, root = sys.argv[1].split("; "), Path(sys.argv[2])
for cell in cells:
    shell.run_cell(cell).raise_error()
shell.run_cell("x, d = shm.create('x', shape=3), shm.create('d', {'a': 1})").raise_error()
shell.run_cell("imported = [one for key, one in sys.modules.items() if key.startswith('shmkernel')]").raise_error()
for path in root.rglob("*.py"):
    with path.open("a") as file:
        file.write("\\n_newer = 1\\n")
    os.utime(path, (path.stat().st_mtime + 10,) * 2)
shell.run_cell("d['b'] = 2; assert dict(d) == {'a': 1, 'b': 2}").raise_error()
shell.run_cell("assert [one.mine for one in shm.list()] == [True, True]").raise_error()
shell.run_cell("import shmkernel.stdlib.manager as it; assert 'SharedMemoryManager' in dir(it)").raise_error()
shell.run_cell("assert not [one for one in imported if hasattr(one, '_newer')], 'reloaded'").raise_error()
shell.run_cell("shm.unlink('x'); shm.unlink('d'); print('as before')").raise_error()
"""  # fmt: skip
MODE = "2-" if IPython.version_info[0] > 8 else "2"  # the dash: execute modules again, as IPython 8 always does
AUTORELOAD = (
    f"get_ipython().run_line_magic('load_ext', 'autoreload'); get_ipython().run_line_magic('autoreload', '{MODE}')"
)


@pytest.mark.parametrize(
    "cells",
    [
        f"import sys; {AUTORELOAD}; import shmkernel as shm",
        f"import sys, shmkernel as shm; shm.list(); {AUTORELOAD}",
        f"import sys, shmkernel as shm; get_ipython().run_line_magic('load_ext', 'shmkernel'); {AUTORELOAD}",
    ],
)
def test_autoreload_leaves_the_package_as_it_was_imported(shm_dir, tmp_path, cells):
    shutil.copytree(Path(shmkernel.__file__).parent, tmp_path / "shmkernel")
    done = subprocess.run(
        [sys.executable, "-c", CELLS, cells, tmp_path / "shmkernel"],
        env=os.environ | {"PYTHONPATH": str(tmp_path), "SHMKERNEL_DIR": str(shm_dir), "IPYTHONDIR": str(tmp_path)},
        cwd=tmp_path, timeout=PATIENCE, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.endswith("as before\n"), done.stdout + done.stderr
