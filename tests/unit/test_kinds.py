"""The seam between kinds and the rest: a kind is its folder, one line in a list, its test and one line in the docs."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest

import shmkernel as shm
from shmkernel import kinds
from shmkernel.verbs import staging
from tests.helpers import PATIENCE

PACKAGE = Path(shm.__file__).parent
ROOT = PACKAGE.parent
OWN = sorted(kinds.OURS)
OUTSIDE = sorted(path for path in PACKAGE.rglob("*.py") if PACKAGE / "kinds" not in path.parents)


def trees(folder):
    for path in OUTSIDE:
        if PACKAGE / folder in path.parents:
            yield path, ast.walk(ast.parse(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("kind", ["ring", "dict"])
def test_nothing_outside_its_folder_names_the_modules_of_a_kind(kind):
    folder = kinds.OURS[kind].split(".")[2]
    wrong = re.compile(rf"kinds[./]{folder}\b|kinds import .*\b{folder}\b")
    found = [path for path in OUTSIDE if wrong.search(path.read_text(encoding="utf-8"))]
    others = [
        path for path in PACKAGE.glob("kinds/**/*.py") if path.parent.name != folder and path.name != "__init__.py"
    ]
    assert [*found, *(path for path in others if wrong.search(path.read_text(encoding="utf-8")))] == []


@pytest.mark.parametrize("folder", ["_core", "sync", "verbs"])
def test_what_all_kinds_rest_on_names_none(folder):
    named = {*OWN, *(f"{kind}s" for kind in OWN)} - {"list"}  # which is a verb, too
    options = {"ring"}  # of `create`
    for path, tree in trees(folder):
        texts = {node.value for node in tree if isinstance(node, ast.Constant) and isinstance(node.value, str)}
        assert not texts & (named - options if path.name == "segments.py" else named), path


@pytest.mark.parametrize("kind", OWN)
def test_each_kind_has_its_test_and_its_line_in_the_formats_page(kind):
    assert (ROOT / "tests" / "kinds" / f"test_{kind}.py").exists()
    formats = (ROOT / "docs" / "reference" / "formats.md").read_text(encoding="utf-8")
    assert len(re.findall(rf"^\| `{kind}` \|", formats, re.MULTILINE)) == 1


@pytest.mark.parametrize("kind", OWN)
def test_the_kind_of_a_name_is_imported_alone(kind):
    modules = [module for other, module in kinds.OURS.items() if other != kind]
    text = f"import sys; from shmkernel import kinds; kinds.named({kind!r}); print(*{{*sys.modules}} & {{*{modules}}})"
    ran = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert ran.stdout.strip() == ""


def test_a_process_that_asks_for_the_version_of_a_dict_loads_neither_numpy_nor_lmdb():
    shared = shm.create("x", {})
    text = (
        "import sys, shmkernel as shm; shm.version('x'); print(*{'numpy', 'lmdb'} & {*sys.modules}); "
        "sys.stdout.flush(); input(); print(shm.version('x'))"
    )
    with subprocess.Popen([sys.executable, "-c", text], stdin=-1, stdout=-1, text=True) as other:
        assert other.stdout.readline().strip() == ""
        shared["a"] = 1
        assert other.communicate("\n", timeout=PATIENCE)[0].strip() == "1"


class Proud:
    """A kind that takes nothing, and says why."""

    name = "proud"
    recognises = staticmethod(lambda *_: False)

    def explain(self, value):
        return "it is nothing to be proud of" if isinstance(value, Proud) else None


def test_a_kind_of_another_package_explains_why_it_refuses_a_value(monkeypatch):
    monkeypatch.setitem(kinds.known(), "proud", Proud())
    with pytest.raises(
        shm.UnsupportedError, match="'x': a Proud like this cannot be shared: it is nothing to be proud of"
    ):
        shm.create("x", Proud())
    with pytest.raises(shm.UnsupportedError, match="'x': an object cannot be shared as it is"):
        shm.create("x", object())


@pytest.mark.parametrize("modes", [("r",), ("c",), ("c", "r"), ("r+",), ("r+", "r"), ("r+", "c")])
def test_the_mode_that_a_refusal_proposes_is_one_of_the_kind(modes):
    film = SimpleNamespace(name="film", modes=modes)
    for mode in {"r+", "r", "c"} - {*modes}:
        with pytest.raises(shm.ArgumentError, match=f"a film .*mode {re.escape(mode)} has no use") as caught:
            staging.mode_of(film, "x", mode)
        assert str(caught.value).endswith(f"mode={modes[0]!r}")


def test_the_import_contract_lists_every_kind():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    (modules,) = (contract["modules"] for contract in contracts if contract["type"] == "independence")
    assert {module.split(".")[2] for module in modules} == {module.split(".")[2] for module in kinds.OURS.values()}


def test_every_name_for_kinds_of_other_packages_exists():
    assert all(hasattr(kinds, name) or importlib.import_module(f"shmkernel.kinds.{name}") for name in kinds.__all__)
