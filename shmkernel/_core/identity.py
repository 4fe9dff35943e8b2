"""Whose process is this? The answers that Jupyter's servers and editors leave in a kernel.

What a label is made of is anybody's: names that are not UTF-8, an `argv` that a program has replaced, a folder that is
gone. A label is decoration, so whatever is missing or odd makes it shorter, and nothing makes it fail.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import sys

_KERNEL = re.compile(r"(?:^|/)kernel-([^/]+)\.json$")
_TEXT = re.compile(r"\.(ipynb|md|Rmd|qmd|py|R|jl)$")  # what jupytext opens as a notebook
_NOTEBOOK = re.compile(r"\.ipynb$")
_RESULT = ("--output", "-o", "--to")  # the next word is not what is run
_LONG = 80  # characters


def label() -> str:
    """Return the notebook's file name, or the program and its folder where there is no notebook.

    Examples
    --------
    >>> label().endswith(".ipynb") or " in " in label()
    True
    """
    for source in (_server, _editor, _nbval, _parents_notebook):
        with contextlib.suppress(Exception):
            if found := source():
                return plain(os.path.basename(found))
    return plain(f"{_program()} in {_folder()}")


def kernel_id() -> str | None:
    """Return the Jupyter kernel's id, from its connection file's name, if this is a kernel."""
    return next((plain(found[1]) for word in _words() if (found := _KERNEL.search(word))), None)


def pid_namespace() -> int:
    """Return a number that two processes share if their pids are of the same namespace; 0 where no /proc tells."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


def plain(text: str) -> str:
    r"""Return a text that every terminal and every encoding can take, cut in its middle if it is very long.

    Examples
    --------
    >>> plain("caf\udce9\x1b[31m.ipynb")
    'caf??[31m.ipynb'
    """
    clean = "".join(char if char.isprintable() else "?" for char in text)
    return clean if len(clean) <= _LONG else f"{clean[: _LONG // 2 - 3]}...{clean[-_LONG // 2 :]}"


def _server() -> str | None:
    """Lab, Notebook, and consoles under a server set a path."""
    found = os.environ.get("JPY_SESSION_NAME", "")
    return found if _TEXT.search(found) else None


def _editor() -> str | None:
    """Visual Studio Code sets a variable in the kernel."""
    found = getattr(sys.modules.get("__main__"), "__vsc_ipynb_file__", None)
    return found if isinstance(found, str) and found.endswith(".ipynb") else None


def _nbval() -> str | None:
    """Pytest says "path.ipynb::Cell 0 (call)"."""
    found = os.environ.get("PYTEST_CURRENT_TEST", "").partition("::")[0]
    return found if found.endswith(".ipynb") else None


def _parents_notebook() -> str | None:
    """Find the notebook in the command line of nbconvert, papermill, jupytext and the like, which start kernels."""
    if not _is_kernel():
        return None
    with open(f"/proc/{os.getppid()}/cmdline", "rb") as file:
        words = [os.fsdecode(word) for word in file.read().split(b"\0")]
    programs = {os.path.basename(word) for word in words[:3]}
    kind = _TEXT if "jupytext" in programs else _NOTEBOOK
    pairs = itertools.pairwise(words)
    found = [two for one, two in pairs if kind.search(two) and two[0] not in "-*" and one not in _RESULT]
    if "papermill" in programs:
        del found[1:]  # its second is the result
    return found[0] if len(found) == 1 else None  # of several, which nbconvert runs one after the other, nobody knows


def _is_kernel() -> bool:
    words = _words()
    return bool(words) and (
        os.path.basename(words[0]) == "ipykernel_launcher.py" or ("-f" in words and words[-1].endswith(".json"))
    )


def _words() -> list[str]:
    """Return the words of the command line that are text; a program may have put anything into `sys.argv`."""
    words = getattr(sys, "argv", None)
    return [word for word in words if isinstance(word, str)] if isinstance(words, list | tuple) else []


def _program() -> str:
    words = _words()
    if _is_kernel():
        return "kernel"
    program = words[0] if words else ""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    if spec is not None and isinstance(spec.name, str) and spec.origin == program:  # python -m X
        return spec.name.removesuffix(".__main__")
    return os.path.basename(program) or "python"


def _folder() -> str:
    try:
        return os.path.basename(os.getcwd()) or "/"
    except OSError:
        return "a removed folder"
