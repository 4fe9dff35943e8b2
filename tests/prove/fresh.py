"""Run a part of the proof in a fresh process, with a folder of segments to itself."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile

from shmkernel.testing import remove

LIMIT = 120  # seconds for a process to start, and to end after its time is over


@contextlib.contextmanager
def folder():
    """Make a folder of segments, and yield the environment in which processes use it."""
    path = tempfile.mkdtemp(prefix="shmkernel-prove-", dir="/dev/shm")
    try:
        yield {**os.environ, "SHMKERNEL_DIR": path, "OPENBLAS_NUM_THREADS": "1"}
    finally:
        remove(path)


def answer(function, *arguments, environment, seconds=0.0):
    """Call a function of a module of ours in a fresh process, and return what it returns, as JSON carries it."""
    module, name = function.__module__, function.__qualname__
    script = (
        f"import json\nfrom {module} import {name}\nprint(json.dumps({name}(*json.loads({json.dumps(arguments)!r}))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment, stdout=subprocess.PIPE, timeout=seconds * 2 + LIMIT, text=True, check=True,
    )  # fmt: skip
    return json.loads(done.stdout)
