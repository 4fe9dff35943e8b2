"""The documentation names only what exists."""

from __future__ import annotations

import argparse
import importlib.util
import inspect
import json
import pydoc
import re
from pathlib import Path

import pytest

import shmkernel as shm
from shmkernel import cli, kinds
from shmkernel._core import paths
from shmkernel.kinds import array
from shmkernel.kinds.dicts import lmdb_pages
from shmkernel.notebook.magics import ShmMagics
from shmkernel.notebook.peer import PeerError, PeerMagics

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
    text = page.read_text()
    code = "".join(re.findall(r"^```.*?^```", text, re.MULTILINE | re.DOTALL))
    named = re.findall(r"(?:`|run )shmkernel ([a-z]+)\b([^`|\n]*)", text)
    for name, rest in [*named, *re.findall(r"^shmkernel ([a-z]+)\b([^`|\n]*)", code, re.MULTILINE)]:
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
    path = ROOT / "docs/_ext/from_parsers.py"
    spec = importlib.util.spec_from_file_location("from_parsers", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    listed = re.findall(r"```{shm-api}\n(.*?)```", (ROOT / "docs/reference/api.md").read_text(), re.DOTALL)
    listed = [name for name in "".join(listed).split() if "." not in name]
    errors = re.findall(r"^\| `(\w+)`", "\n".join(module.tree()), re.MULTILINE)
    assert sorted([*listed, *errors]) == sorted([*shm.__all__, "list", "PeerError"])
    assert {f"%{name}" for name in magics()} == {*re.findall(r"^## `(%\w+)`", "\n".join(module.magics()), re.MULTILINE)}
    assert [*commands()] == re.findall(r"^## `shmkernel (\w+)`", "\n".join(module.commands()), re.MULTILINE)
    assert all(f"ShmMagics.{name}" in "\n".join(module.settings()) for name in ShmMagics.class_own_traits(config=True))


def test_every_path_that_the_reference_documents_leads_to_an_object():
    listed = re.findall(r"```{shm-api}\n(.*?)```", (ROOT / "docs/reference/api.md").read_text(), re.DOTALL)
    assert [name for name in " ".join(listed).split() if pydoc.locate(f"shmkernel.{name}") is None] == []


def test_every_error_says_when_it_comes_and_what_to_do():
    for name in (*(one for one in shm.__all__ if one.endswith("Error") and one != "ShmError"), "PeerError"):
        error = getattr(shm, name, PeerError)
        assert len(inspect.getdoc(error).split("\n\n")) == 2, name


def test_the_formats_are_those_of_the_kinds():
    page = (ROOT / "docs/reference/formats.md").read_text()
    ours = {name for name, kind in kinds.known().items() if type(kind).__module__.startswith("shmkernel.")}
    assert {*re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)} == ours


def test_the_configuration_names_every_variable_that_is_read():
    source = "".join(path.read_text() for path in ROOT.glob("shmkernel/**/*.py"))
    page = (ROOT / "docs/reference/configuration.md").read_text()
    assert {*re.findall(r"^\| `(SHM\w+)`", page, re.MULTILINE)} == {*re.findall(r"\bSHMKERNEL_[A-Z]+\b", source)}


def test_the_limits_are_those_of_the_program():
    page = " ".join((ROOT / "docs/reference/limits.md").read_text().split())
    assert f"have {array._LONGEST:,} characters" in page
    assert f"the file name may have {paths._NAME_MAX} bytes" in page
    assert f"{lmdb_pages.MAP >> 30} GiB at most" in page


def text_of(page):
    """Return a page's Markdown; a notebook's is in its cells."""
    if page.suffix == ".md":
        return page.read_text()
    cells = json.loads(page.read_text())["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


def anchors(page):
    """Return the anchors of a page's headings, made as GitHub and MyST make them."""
    text = re.sub(r"^```.*?^```", "", text_of(page), flags=re.MULTILINE | re.DOTALL)
    return {
        re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")
        for title in re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    }


@pages
def test_every_link_and_every_file_that_a_page_names_leads_somewhere(page):
    text = text_of(page)
    for link in re.findall(r"\]\(([^)\s]+)\)|(?:src|srcset|href)=\"([^\"]+)\"", text):
        target, _, anchor = "".join(link).partition("#")
        if target.startswith("https:"):
            continue
        found = page.parent / target.replace("tutorials/", "../notebooks/") if target else page
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), anchor
    for file in re.findall(r"`((?:tests|shmkernel|docs|notebooks|benchmarks)/[\w./-]+)`", text):
        assert (ROOT / file).exists(), file


DEFINED = "segment", "session", "owner", "attached", "lifetime", "version"


def prose(page):
    """Return a page's text without code, headings, HTML and pictures; references to the glossary stay as they are."""
    text = re.sub(r"^```.*?^```|^#[^\n]*|^ *<[^\n]*>$|!\[[^]]*\]", "", text_of(page), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"(\{term\}`[^`]+`)|`[^`]+`", lambda found: found[1] or "", text)


@pytest.mark.parametrize("page", [*ROOT.glob("docs/[!t]*/*.md")], ids=lambda page: page.name)
def test_each_page_links_its_first_use_of_a_defined_word_to_the_glossary_and_no_other(page):
    whole = prose(page) if page.name not in ("glossary.md", "what-has-been-tried.md") else ""  # a run writes the latter
    for word in DEFINED:
        text = re.sub(rf"\{{term\}}`(?!{word}`|[^`<]+ <{word}>`)[^`]+`", "", whole)  # links to other words
        first = re.search(rf"\b{word}s?\b", text, re.IGNORECASE)
        links = [link.start() for link in re.finditer(rf"\{{term\}}`(?:[^`<]+ <)?{word}>?`", text)]
        assert links == [first.start() - len("{term}`")] if first else not links, word


@pytest.mark.parametrize("page", [ROOT / "README.md", *ROOT.glob("notebooks/*.ipynb")], ids=lambda page: page.name)
def test_the_readme_and_each_tutorial_link_their_first_defined_word_to_the_glossary(page):
    first = re.search(rf"\b(?:{'|'.join(DEFINED)})s?\b(.*)", prose(page), re.IGNORECASE)
    assert first is None or re.match(r"\]\([\w./]+/glossary\.md\)", first[1]), first


def test_the_glossary_defines_these_words():
    assert {*DEFINED} <= {*re.findall(r"^\w+$", (ROOT / "docs/reference/glossary.md").read_text(), re.MULTILINE)}


def test_contributing_has_a_line_for_each_module():
    (tree,) = re.findall(
        r"^```text\n(shmkernel/\n.*?)^```", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE | re.DOTALL
    )
    listed = set()
    for folder, lines in re.findall(r"^(\S+/)\n((?: +.*\n)+)", tree, re.MULTILINE):
        listed |= {f"{folder}{name}.py" for name in re.findall(r"^ +(\S+)", lines, re.MULTILINE)}
    modules = {str(path.relative_to(ROOT)) for path in ROOT.glob("shmkernel/**/*.py") if path.stem != "__init__"}
    assert listed == modules


def test_the_readme_takes_one_look():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 100
