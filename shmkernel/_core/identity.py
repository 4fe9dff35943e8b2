"""Label this process for people: its notebook's name, or its program and folder.

Jupyter's servers and editors leave the notebook's name in the kernel. All inputs may be odd: names that are not UTF-8,
an `argv` that a program has replaced, a working directory that was removed. Then the label is shorter; none raises.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import sys

INITIAL = 0xEFFFFFFC  # the number of the machine's first pid namespace, which sees all processes: linux/proc_ns.h
_KERNEL = re.compile(r"(?:^|/)kernel-([^/]+)\.json$")
_TEXT = re.compile(r"\.(ipynb|md|Rmd|qmd|py|R|jl)$")  # what jupytext opens as a notebook
_NOTEBOOK = re.compile(r"\.ipynb$")
_RESULT = ("--output", "-o", "--to")  # the next word is the output, not the notebook that is run
_LONG = 80  # characters


def label() -> str:
    """Return the notebook's file name; without a notebook, the program and its folder.

    Examples
    --------
    >>> label().endswith(".ipynb") or " in " in label()
    True
    """
    for source in (_server, _editor, _nbval, _parents_notebook):
        with contextlib.suppress(Exception):
            if path := source():
                return plain(os.path.basename(path))
    return plain(f"{_program()} in {_folder()}")


def kernel_id() -> str | None:
    """Return the Jupyter kernel's id, from its connection file's name, if this is a kernel."""
    return next((plain(match[1]) for word in _words() if (match := _KERNEL.search(word))), None)


def pid_namespace() -> int:
    """Return the number of this process's pid namespace; 0 without /proc."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


def plain(text: str) -> str:
    r"""Return the text without unprintable characters, shortened in its middle to 80 characters.

    Examples
    --------
    >>> plain("caf\udce9\x1b[31m.ipynb")
    'caf??[31m.ipynb'
    """
    clean = text if text.isprintable() else "".join(char if char.isprintable() else "?" for char in text)
    return clean if len(clean) <= _LONG else f"{clean[: _LONG // 2 - 3]}...{clean[-_LONG // 2 :]}"


def _server() -> str | None:
    """JupyterLab, Notebook and consoles of a server set JPY_SESSION_NAME to a path."""
    path = os.environ.get("JPY_SESSION_NAME", "")
    return path if _TEXT.search(path) else None


def _editor() -> str | None:
    """Visual Studio Code sets a variable in the kernel's `__main__`."""
    path = getattr(sys.modules.get("__main__"), "__vsc_ipynb_file__", None)
    return path if isinstance(path, str) and path.endswith(".ipynb") else None


def _nbval() -> str | None:
    """Pytest sets "path.ipynb::Cell 0 (call)"."""
    path = os.environ.get("PYTEST_CURRENT_TEST", "").partition("::")[0]
    return path if path.endswith(".ipynb") else None


def _parents_notebook() -> str | None:
    """Find the notebook in the command line of the parent: nbconvert, papermill or jupytext started the kernel."""
    if not _is_kernel():
        return None
    with open(f"/proc/{os.getppid()}/cmdline", "rb") as file:
        words = [os.fsdecode(word) for word in file.read().split(b"\0")]
    programs = {os.path.basename(word) for word in words[:3]}
    kind = _TEXT if "jupytext" in programs else _NOTEBOOK
    pairs = itertools.pairwise(words)
    notebooks = [word for before, word in pairs if kind.search(word) and word[0] not in "-*" and before not in _RESULT]
    if "papermill" in programs:
        del notebooks[1:]  # its second argument is the output
    return notebooks[0] if len(notebooks) == 1 else None  # of several, which one runs is unknown


def _is_kernel() -> bool:
    words = _words()
    return bool(words) and (
        os.path.basename(words[0]) == "ipykernel_launcher.py" or ("-f" in words and words[-1].endswith(".json"))
    )


def _words() -> list[str]:
    """Return the strings in `sys.argv`, where a program may have put anything."""
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
