"""Measure what the first use in a process takes, each time in a process of its own, beside the best peer."""

from __future__ import annotations

import os
import subprocess
import sys
from multiprocessing import shared_memory

import numpy as np
import pytest

import shmkernel as shm

ROUNDS = 15
SHELL = """
import numpy as np
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
"""
LOADED = SHELL + "shell.run_line_magic('load_ext', 'shmkernel')\n"
BLOCK = f"first_use_{os.getpid()}"
STDLIB = f"""
from multiprocessing.shared_memory import SharedMemory
block = SharedMemory("{BLOCK}")
x = np.ndarray(1000, buffer=block.buf)
"""
KEEP = f"""
from multiprocessing import resource_tracker
resource_tracker.unregister("/{BLOCK}", "shared_memory")  # else it deletes the block when this process ends
"""
CASES = {  # before, what is measured, after; all in one new process
    "import numpy": ("", "import numpy", ""),
    "%load_ext autoreload": (SHELL, "shell.run_line_magic('load_ext', 'autoreload')", ""),
    "%load_ext shmkernel": (SHELL, "shell.run_line_magic('load_ext', 'shmkernel')", ""),
    "the stdlib's import and attach": ("import numpy as np", STDLIB, KEEP),
    "import shmkernel, shm.attach": ("import numpy as np", "import shmkernel as shm; x = shm.attach('first')", ""),
    "import shmkernel, shm.create": (
        "import numpy as np",
        "import shmkernel as shm; x = shm.create('y', np.ones(3))",
        "",
    ),
    "%shm_attach": (LOADED, "shell.run_line_magic('shm_attach', 'first')", ""),
    "%shm_create": (LOADED, "shell.run_line_magic('shm_create', 'y --shape 3')", ""),
    "shmkernel list": ("import sys; sys.argv[1:] = ['list']", "from shmkernel.cli import main; main()", ""),
}


def _took(before: str, line: str, after: str) -> float:
    """Return the milliseconds that a line takes after others in a fresh process."""
    script = f"{before}\nimport time\nbegan = time.perf_counter()\n{line}\ntook = time.perf_counter() - began\n{after}"
    code = f"{script}\nprint('\\n', took * 1e3)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


@pytest.mark.usefixtures("shm_dir")
def test_the_first_use_in_a_process() -> None:
    kept = shm.create("first", np.arange(1000.0))
    block = shared_memory.SharedMemory(BLOCK, create=True, size=kept.nbytes)
    took: dict[str, list[float]] = {case: [] for case in CASES}
    try:
        for _ in range(ROUNDS):
            for case, times in took.items():
                times.append(_took(*CASES[case]))
    finally:
        block.close()
        block.unlink()
        shm.unlink("first")
    for case, times in took.items():
        print(f"\n{case:32} {min(times):7.1f} ms at least, {sorted(times)[ROUNDS // 2]:7.1f} in the middle", end="")
