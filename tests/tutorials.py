"""A tutorial whose packages are not all installed is skipped, with the cure: a plugin of pytest."""

from __future__ import annotations

import importlib.util
import json
import re

import pytest

from tests.helpers import lacking

IMPORT = re.compile(r"^(?:import|from) (\w+)", re.MULTILINE)


@pytest.hookimpl(wrapper=True)
def pytest_collect_file(file_path, parent):
    found = yield
    if file_path.suffix != ".ipynb":
        return found
    cells = json.loads(file_path.read_text())["cells"]
    modules = {name for cell in cells for name in IMPORT.findall("".join(cell["source"]))}
    missing = sorted(name for name in modules if importlib.util.find_spec(name) is None)
    return [Lacking.from_parent(parent, path=file_path, missing=missing)] if missing else found


class Lacking(pytest.File):
    """A notebook that cannot run, as one test that says why."""

    def __init__(self, *, missing, **keywords):
        super().__init__(**keywords)
        self.missing = missing

    def collect(self):
        yield Reason.from_parent(self, name="packages")


class Reason(pytest.Item):
    def runtest(self):
        lacking(f"{', '.join(self.parent.missing)} not installed: uv run --group large pytest notebooks")
