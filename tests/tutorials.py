"""A tutorial whose packages are not all installed is skipped, with the cure: a plugin of pytest."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import re
import subprocess
import sys

import pytest

from tests.helpers import lacking

NOT_YET = {"duckdb", "pandas", "polars"} if sys.version_info >= (3, 15) else set()  # no wheels
IMPORT = re.compile(r"^(?:import|from) (\w+)", re.MULTILINE)


@pytest.hookimpl(wrapper=True)
def pytest_collect_file(file_path, parent):
    found = yield
    if file_path.suffix != ".ipynb":
        return found
    cells = json.loads(file_path.read_text())["cells"]
    modules = {name for cell in cells for name in IMPORT.findall("".join(cell["source"]))}
    missing = sorted(name for name in modules if importlib.util.find_spec(name) is None)
    if "matplotlib" in modules - {*missing}:
        prepare_fonts()
    if not missing:
        return found
    why = f"{', '.join(missing)} not installed: uv run --group large pytest notebooks"
    return [Lacking.from_parent(parent, path=file_path, why=why, skipped={*missing} <= NOT_YET)]


@functools.cache
def prepare_fonts():
    """Have matplotlib list the fonts of this machine now: where that takes 5 s, a notebook's output would say so."""
    code = "import matplotlib.font_manager; print(matplotlib.get_cachedir())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True)
    os.environ["MPLCONFIGDIR"] = done.stdout.strip()


class Lacking(pytest.File):
    """A file whose tests cannot run, as one test that says why."""

    def __init__(self, *, why, skipped=False, **keywords):
        super().__init__(**keywords)
        self.why, self.skipped = why, skipped

    def collect(self):
        yield Reason.from_parent(self, name="what it needs")


class Reason(pytest.Item):
    def runtest(self):
        if self.parent.skipped:
            pytest.skip(self.parent.why)
        lacking(self.parent.why)
