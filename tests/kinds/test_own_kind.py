"""The kind of the documentation, which uses public names alone, passes the contract."""

from __future__ import annotations

import ast
import datetime as dt
import re
from pathlib import Path

import pytest

import shmkernel as shm
from shmkernel import kinds, stdlib
from shmkernel.stdlib import reduction
from shmkernel.testing import KindContract

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "own-kind.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
DEFINITIONS = [block for block in BLOCKS if "class " in block]
NAMES = {}
for _block in DEFINITIONS:
    exec(_block, NAMES)
PUBLIC = {"shmkernel": None, "shmkernel.kinds": kinds.__all__, "shmkernel.testing": ["KindContract"]}


class TestDays(NAMES["TestDays"]):
    """As the page has it."""

    @pytest.fixture(autouse=True)
    def known(self, monkeypatch):
        monkeypatch.setitem(kinds.known(), "days", NAMES["KIND"])


del NAMES["TestDays"]


def test_where_it_is_known_no_longer_its_values_fail_no_import_of_a_pickler(monkeypatch):
    monkeypatch.setitem(kinds.known(), "days", NAMES["KIND"])
    shm.create("days", [dt.date(2026, 1, 2)])
    monkeypatch.undo()
    stdlib._teach(reduction)


def test_it_uses_public_names_alone():
    for block in BLOCKS:
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Import):
                assert {alias.name for alias in node.names} <= {"datetime", "struct", "shmkernel"}
            if isinstance(node, ast.ImportFrom) and node.module == "shmkernel":
                assert [alias.name for alias in node.names] == ["kinds"]
            elif isinstance(node, ast.ImportFrom):
                assert {alias.name for alias in node.names} <= {*PUBLIC[node.module]}


def test_the_contract_of_the_page_is_the_one_that_ships():
    assert issubclass(TestDays, KindContract)
