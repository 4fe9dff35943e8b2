"""Run by the python of an environment that has the wheel alone: what it contains, and whether that works."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import numpy as np
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

import shmkernel as shm

WHEEL = sys.argv[1]
KNOWN = (".py", "py.typed", ".js", ".css")  # whatever else a wheel has came in by mistake


def main():
    with zipfile.ZipFile(WHEEL) as wheel:
        files = [name for name in wheel.namelist() if ".dist-info/" not in name]
    assert all(name.startswith("shmkernel/") and name.endswith(KNOWN) for name in files), files
    assert "shmkernel/py.typed" in files
    assert sysconfig.get_path("purelib") in shm.__file__, "not the wheel's"

    x = shm.create("wheel", np.arange(3))
    assert shm.attach("wheel") is x
    command = Path(sys.executable).with_name("shmkernel")
    assert "wheel " in subprocess.run([command, "list"], check=True, capture_output=True, text=True).stdout
    assert subprocess.run([command, "doctor"], check=False, capture_output=True).returncode == 0
    shm.unlink("wheel")

    shell = InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}))
    for line in ("%load_ext shmkernel", "%load_ext shmkernel.peer", "%shm_list", "%%peer\n1 + 1", "%peer --shutdown"):
        shell.run_cell(line).raise_error()
    print(f"{Path(WHEEL).name}: {len(files)} files, and it works")


if __name__ == "__main__":
    main()
