"""Hostile bytes: a coverage-guided fuzzer gives wrong bytes to each parser of bytes that come from elsewhere.

Allowed are a value and the package's errors. A fault is a death, a hang, another error, or memory and time beyond what
the input's size justifies. `targets` has the table of parsers.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.prove.report import Report

TITLE = "Hostile bytes"


def run(seconds: float, seed: int, report: Report) -> None:
    """Fuzz in a process of its own, whose modules are instrumented while it imports them."""
    if importlib.util.find_spec("atheris") is None:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        cure = "Run it on 3.11, 3.12 or 3.13: uv run --python 3.13 --group prove python -m tests.prove"
        print(f"hostile: atheris is missing, and has no wheel for Python {version}. {cure}", file=sys.stderr)
        raise SystemExit(2)
    folder = tempfile.mkdtemp(prefix="shmkernel-hostile-", dir="/dev/shm")
    arguments = ["--seconds", str(seconds), "--seed", str(seed), "--folder", folder]
    command = [sys.executable, "-m", "tests.prove.hostile", *arguments]
    env = {**os.environ, "SHMKERNEL_DIR": folder}
    try:
        with subprocess.Popen(command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            output, errors = process.communicate()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    total = 0
    for line in output.splitlines():
        name, count, lasted, faults = json.loads(line)
        total += count
        outcome = f"{len(faults)} faults" if faults else "harmless or an error of ours"
        report.add(f"{name}: wrong bytes", count, f"{outcome}, {count / lasted:,.0f} a second")
        for what, data in faults:
            again = f"python -m tests.prove.hostile {name} {data}"
            report.fault(f"{name}: {what}\n      with {again}", f"hostile --seed {seed}")
    report.add("all inputs", total, "faults as above" if report.faults else "no death, no hang, no foreign error")
    if process.returncode:
        report.fault(f"the fuzzer ended with status {process.returncode}: {errors[-500:]}", f"hostile --seed {seed}")
