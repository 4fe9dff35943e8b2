"""Run by the python of an environment that has the wheel alone: what it contains, and whether that works."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from pathlib import Path

import numpy as np
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

import shmkernel as shm

KNOWN = (".py", "py.typed", ".js", ".css")  # whatever else a wheel has came in by mistake
JUPYTER = {  # what Jupyter looks for below the environment's folder
    "etc/jupyter/jupyter_server_config.d/shmkernel.json",
    *(f"share/jupyter/labextensions/shmkernel/{name}" for name in ("install.json", "package.json")),
    *(
        f"share/jupyter/labextensions/shmkernel/static/{name}"
        for name in (
            "memory.js", "notebooks.js", "plugin.js", "questions.js", "remoteEntry.js", "saved.js",
            "section.js", "status.js", "style.css",
        )
    ),
}  # fmt: skip
CELLS = [  # two kernels
    "%load_ext shmkernel", "%load_ext shmkernel.peer", "import numpy as np\nx = np.arange(3)", "%shm_create x",
    "%%peer\n%load_ext shmkernel\n%shm_attach x\nx[0] = 7\n%shm_create mine --dict", "assert x[0] == 7",
    "%shm_attach mine", "%peer --kill", "%shm_list", "%shm_unlink x",
]  # fmt: skip


def command(*line, status=0):
    """Run the installed command, and return what it says."""
    done = subprocess.run(
        [Path(sys.executable).with_name("shmkernel"), *line], capture_output=True, text=True, check=False
    )
    assert done.returncode == status, done.stderr
    return done.stdout + done.stderr


def main(path):
    with zipfile.ZipFile(path) as wheel:
        every = [name for name in wheel.namelist() if ".dist-info/" not in name]
    files = [name for name in every if ".data/" not in name]
    assert all(name.startswith("shmkernel/") and name.endswith(KNOWN) for name in files), files
    assert "shmkernel/py.typed" in files
    assert {name.partition(".data/data/")[2] for name in every if name not in files} == JUPYTER
    prefix = Path(sysconfig.get_path("data"))
    extension = json.loads((prefix / "share/jupyter/labextensions/shmkernel/package.json").read_text())
    assert extension["version"] == shm.__version__, "pyproject.toml has another version than lab/shmkernel/package.json"
    assert (prefix / "share/jupyter/labextensions/shmkernel" / extension["jupyterlab"]["_build"]["load"]).is_file()
    server = json.loads((prefix / "etc/jupyter/jupyter_server_config.d/shmkernel.json").read_text())
    for module in server["ServerApp"]["jpserver_extensions"]:
        assert importlib.import_module(module)._jupyter_server_extension_points() == [{"module": module}]
    assert sysconfig.get_path("purelib") in shm.__file__, "not the wheel's"

    x = shm.create("wheel", np.arange(3))
    assert shm.attach("wheel") is x
    assert "wheel " in command("list")
    assert "watchdog" in command("doctor")
    assert 'pip install "shmkernel[demo]"' in command("demo", status=1)
    assert len(shm.watch().code) > 1000, "the monitor's script"
    shm.unlink("wheel")

    shell = InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}))
    for cell in CELLS:
        shell.run_cell(cell).raise_error()
    assert all(one.state == "unlinked" for one in shm.list())
    print(f"{Path(path).name}: {len(every)} files, and it works")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="shmkernel-test-", dir="/dev/shm") as folder:
        os.environ["SHMKERNEL_DIR"] = folder
        main(sys.argv[1])
