"""Code blocks of README and docs are tests: each document is run from top to bottom, in a folder of its own.

ipython     a notebook's cell
python      a piece of a program; with a __main__ guard a script
shell       bash, which stops at the first error
c, ...      compiled or interpreted
yaml, toml  only read
text        no code

What is not installed is skipped, with the cure; in CI only julia and torch may be, and their pages say so. With a block
the rest of its section is skipped, which may need what the block would have made; a section needs no other's blocks.
"""

from __future__ import annotations

import atexit
import functools
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from contextlib import ExitStack, chdir
from pathlib import Path

import pytest
import yaml
from IPython.core.interactiveshell import InteractiveShell
from sybil import Region, Sybil
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown import SkipParser
from sybil.parsers.markdown.lexers import FencedCodeBlockLexer
from traitlets.config import Config

from shmkernel import errors
from tests.helpers import PATIENCE, lacking, left, until

ROOT = Path(__file__).parent.parent
PACKAGES = {
    "Rscript": "apt-get install r-base-core", "node": "apt-get install nodejs", "cc": "apt-get install gcc libc6-dev",
    "numba": "uv run --group large pytest docs", "pandas": "uv run --group large pytest docs",
    "duckdb": "uv run --group large pytest docs", "ipyparallel": "uv run --group large pytest docs",
    "dask": "uv run --group large pytest docs", "distributed": "uv run --group large pytest docs",
}  # fmt: skip
UNTESTED = ["julia", "ray", "torch"]  # not in Debian; 200 MB; 900 MB
UNTESTED += ["pandas", "duckdb"] if sys.version_info >= (3, 15) else []  # no wheels yet
HOST = ["unshare", "--net", "ip", "link", "add", "type", "veth"]  # works where a page can make hosts with cables
_evaluate = PythonEvaluator()


def ipython(example):
    if "shell" not in example.namespace:
        InteractiveShell.clear_instance()
        quiet = Config({"HistoryManager": {"enabled": False}, "colors": "nocolor"})
        example.namespace["shell"] = InteractiveShell.instance(config=quiet)
    done = example.namespace["shell"].run_cell(example.parsed, store_history=True)
    error = done.error_in_exec or done.error_before_exec
    if error is not None:
        pytest.fail(f"{type(error).__name__}: {error}", pytrace=False)


def python(example):
    if "__main__" in example.parsed:
        _run(example, "py", sys.executable, "{file}")
    else:
        try:
            _evaluate(example)
        except ModuleNotFoundError as error:
            _missing(error.name)


def shell(example):
    _run(example, "sh", "bash", "-eu", "{file}")


def c(example):
    _run(example, "c", "cc", "-Wall", "-Werror", "-o", "program", "{file}")
    _run(example, "out", "./program", *_segments())


def javascript(example):
    _run(example, "js", "node", "{file}", *_segments())


def r(example):
    _run(example, "R", "Rscript", "{file}", *_segments())


def julia(example):
    _run(example, "jl", "julia", "{file}", *_segments())


def read_yaml(example):
    assert yaml.safe_load(example.parsed)


def read_toml(example):
    assert tomllib.loads(example.parsed)


_LANGUAGES = {
    "ipython": ipython, "python": python, "shell": shell, "c": c, "javascript": javascript, "r": r, "julia": julia,
    "yaml": read_yaml, "toml": read_toml,
}  # fmt: skip


def blocks(document):
    """Find the code blocks; what is no program has the language text."""
    for region in FencedCodeBlockLexer(r"\w+")(document):
        language = region.lexemes["language"]
        if language != "text":
            yield Region(region.start, region.end, region.lexemes["source"], _with_its_section(_LANGUAGES[language]))


def _with_its_section(evaluate):
    def run(example):
        skipped = example.namespace.setdefault("what was skipped", {})
        section = example.document.text.rfind("\n## ", 0, example.start)
        if section in skipped:
            pytest.skip(f"what it follows was skipped: {skipped[section]}")
        try:
            evaluate(example)
        except pytest.skip.Exception as why:
            skipped[section] = why
            raise

    return run


def _segments():
    """List what such a program is to open."""
    return map(str, Path(os.environ["SHMKERNEL_DIR"]).glob("shmk-*"))


def _run(example, suffix, program, *arguments):
    if not shutil.which(program):
        _missing(program)
    file = Path(f"block.{suffix}")
    file.write_text(example.parsed)
    command = [program, *(word.format(file=file) for word in arguments)]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        command, env=os.environ | {"PATH": path}, timeout=2 * PATIENCE, capture_output=True, text=True, check=False
    )
    if missing := done.returncode and re.search(r"ModuleNotFoundError: No module named '(\w+)", done.stderr):
        _missing(missing[1])
    assert done.returncode == 0, done.stdout + done.stderr


def _missing(program):
    if program in UNTESTED:
        pytest.skip(f"{program} is not installed")
    assert program in PACKAGES, program
    lacking(f"{program} is not installed: {PACKAGES[program]}")


@functools.cache
def _cannot_make_hosts():
    if importlib.util.find_spec("zenoh") is None or not all(map(shutil.which, ("ip", "nsenter", "unshare"))):
        return True
    return subprocess.run(HOST, capture_output=True, check=False).returncode != 0


def _setup(namespace):
    stack = namespace["stack"] = ExitStack()
    namespace["cannot_make_hosts"] = _cannot_make_hosts()
    namespace["get_config"] = Config  # as in the configuration files of Jupyter
    folder = tempfile.mkdtemp(prefix="shmkernel-docs-", dir="/dev/shm")
    stack.callback(_remove, folder)
    patch = stack.enter_context(pytest.MonkeyPatch.context())
    namespace["folder"] = folder
    patch.setenv("SHMKERNEL_DIR", folder)
    patch.setitem(sys.modules, "__main__", sys.modules["__main__"])  # where the shell puts its own
    patch.setattr(errors, "word", errors.in_python)  # the magics set it
    place = stack.enter_context(tempfile.TemporaryDirectory())
    patch.setenv("XDG_DATA_HOME", f"{place}/data")  # of the key that signs objects
    stack.enter_context(chdir(place))


def _remove(folder):
    from shmkernel.testing import remove  # a watchdog may make files meanwhile

    remove(folder)


def _teardown(namespace):
    from shmkernel import kinds
    from shmkernel._core import sessions

    kinds.known.cache_clear()  # a page has added a kind
    folder = namespace["folder"]
    with namespace.pop("stack"):
        if shell := namespace.pop("shell", None):
            atexit.unregister(shell.atexit_operations)  # it resets the shell again, and that collects garbage
            shell.reset(new_session=False)
            shell.run_line_magic("unload_ext", "shmkernel.peer")
            InteractiveShell.clear_instance()
        namespace.clear()
        loky = sys.modules.get("joblib.externals.loky.reusable_executor")
        if loky and loky._executor:  # its workers wait for more, with sessions of their own; its getter would make one
            loky._executor.shutdown(wait=True)
        sessions.end()
        until(lambda: all("/sync/" in path for path in left(folder)), "an empty folder")  # locks outlive segments


pytest_collect_file = Sybil(
    [SkipParser(), blocks], path=str(ROOT), patterns=["README.md", "CONTRIBUTING.md", "docs/**/*.md", "docs/*.md"],
    setup=_setup, teardown=_teardown,
).pytest()  # fmt: skip
