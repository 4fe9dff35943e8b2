"""The documentation names what exists, and nothing else."""

from __future__ import annotations

import argparse
import importlib.util
import re
from pathlib import Path

import pytest

import shmkernel as shm
from shmkernel import cli
from shmkernel.magics.commands import ShmMagics
from shmkernel.peer import PeerMagics

ROOT = Path(__file__).parent.parent.parent
PAGES = [
    *ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("docs/how-to/*.md"), *ROOT.glob("docs/concepts/*.md"),
    *ROOT.glob("docs/reference/*.md"), *ROOT.glob("notebooks/*.ipynb"),
]  # fmt: skip
pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def magics():
    found = {name: getattr(ShmMagics, name) for name in dir(ShmMagics) if name.startswith("shm_")}
    return {**found, "peer": PeerMagics.peer}


def commands():
    (choices,) = (one.choices for one in cli.argument_parser()._actions if isinstance(one, argparse._SubParsersAction))
    return choices


def flags(parser):
    return {flag for action in parser._actions for flag in action.option_strings}


@pages
def test_every_magic_that_a_page_names_exists_with_its_flags(page):
    known = magics()
    for name, rest in re.findall(r"%(shm_\w+|peer\b)([^`%\n\\|]*)", page.read_text()):
        if name.endswith("_"):  # a prefix
            continue
        assert name in known
        assert {*re.findall(r"(?<!\S)--[a-z][\w-]*", rest)} <= flags(known[name].parser), rest


@pages
def test_every_command_that_a_page_names_exists_with_its_flags(page):
    known = commands()
    for name, rest in re.findall(r"(?:^|`|run )shmkernel ([a-z]+)\b([^`|\n]*)", page.read_text(), re.MULTILINE):
        assert name in known
        assert {*re.findall(r"(?<!\S)--[a-z][\w-]*", rest)} <= flags(known[name]), rest


@pages
def test_every_function_that_a_page_names_exists(page):
    for name in re.findall(r"\bshm\.([A-Za-z]\w*)", page.read_text()):
        assert hasattr(shm, name), name


@pytest.mark.parametrize("module", [*ROOT.glob("shmkernel/**/*.py")], ids=lambda path: str(path.relative_to(ROOT)))
def test_every_magic_that_a_message_names_exists(module):
    assert {*re.findall(r"%(shm_\w*[a-z])\b", module.read_text())} <= {*magics()}


def test_the_reference_omits_nothing_that_is_public():
    pytest.importorskip("sphinx")
    path = ROOT / "docs/_ext/from_parsers.py"
    spec = importlib.util.spec_from_file_location("from_parsers", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    listed = re.findall(r":: shmkernel\.(\w+)", "\n".join(module.api()))
    errors = re.findall(r"^\| `(\w+)`", "\n".join(module.tree()), re.MULTILINE)
    assert sorted([*listed, *errors]) == sorted([*shm.__all__, "list", "PeerError"])
    assert {f"%{name}" for name in magics()} == {*re.findall(r"^## `(%\w+)`", "\n".join(module.magics()), re.MULTILINE)}
    assert [*commands()] == re.findall(r"^## `shmkernel (\w+)`", "\n".join(module.commands()), re.MULTILINE)
    assert all(f"ShmMagics.{name}" in "\n".join(module.settings()) for name in ShmMagics.class_own_traits(config=True))


def test_the_readme_takes_one_look():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 100
