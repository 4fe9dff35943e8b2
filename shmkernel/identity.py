"""Whose process is this? The answers that Jupyter's servers and editors leave in a kernel."""

from __future__ import annotations

import os
import re
import sys

_KERNEL = re.compile(r"(?:^|/)kernel-([^/]+)\.json$")


def label() -> str:
    """Return the notebook's file name, or the program and its folder where there is no notebook.

    Examples
    --------
    >>> label().endswith(".ipynb") or " in " in label()
    True
    """
    found = (
        os.environ.get("JPY_SESSION_NAME")  # Lab, Notebook, console under a server: a path
        or getattr(sys.modules.get("__main__"), "__vsc_ipynb_file__", None)
        or os.environ.get("PYTEST_CURRENT_TEST", "").partition("::")[0]  # nbval: "path.ipynb::Cell 0 (call)"
        or _parents_notebook()
    )
    if found and found.endswith(".ipynb"):
        return os.path.basename(found)
    program = os.path.basename(sys.argv[0] or "") if sys.argv else ""
    if program.endswith("ipykernel_launcher.py"):
        program = "kernel"
    return f"{program or 'python'} in {os.path.basename(os.getcwd()) or '/'}"


def kernel_id() -> str | None:
    """Return the Jupyter kernel's id, from its connection file's name, if this is a kernel."""
    return next((found[1] for word in sys.argv if (found := _KERNEL.search(word))), None)


def _parents_notebook() -> str | None:
    """Find the notebook in the command line of nbconvert, papermill and the like, which start kernels themselves."""
    if kernel_id() is None:
        return None
    try:
        with open(f"/proc/{os.getppid()}/cmdline") as file:
            words = file.read().split("\0")
    except OSError:
        return None
    return next((word for word in words if word.endswith(".ipynb")), None)
