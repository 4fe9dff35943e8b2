"""Directives that write reference pages from the program itself: its parsers, its errors, its settings."""

from __future__ import annotations

import argparse
import inspect
from typing import TYPE_CHECKING

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

import shmkernel as shm
from shmkernel import cli, errors, peer
from shmkernel.magics.commands import ShmMagics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from docutils.nodes import Node
    from sphinx.application import Sphinx


def magics() -> Iterator[str]:
    """Write a section for each magic: what `%magic -h` prints."""
    found = {name: getattr(ShmMagics, name) for name in dir(ShmMagics) if name.startswith("shm_")}
    for name, magic in ({**found, "peer": peer.PeerMagics.peer}).items():
        yield from _section(f"%{name}", magic.parser.format_help())


def commands() -> Iterator[str]:
    """Write a section for each command: what `shmkernel COMMAND --help` prints."""
    parser = cli.argument_parser()
    (choices,) = (one.choices for one in parser._actions if isinstance(one, argparse._SubParsersAction))
    for name, command in choices.items():
        yield from _section(f"shmkernel {name}", command.format_help())


def settings() -> Iterator[str]:
    """Write a table of the magics' defaults."""
    yield from ("| setting | default | values | |", "|---|---|---|---|")
    for name, trait in ShmMagics.class_own_traits(config=True).items():
        values = ", ".join(f"`{value}`" for value in trait.values)
        yield f"| `ShmMagics.{name}` | `{trait.default_value}` | {values} | {trait.help} |"


def tree() -> Iterator[str]:
    """Write a table of the errors."""
    yield from ("| error | is also | when |", "|---|---|---|")
    for error in (*(getattr(shm, one) for one in sorted(shm.__all__) if one.endswith("Error")), peer.PeerError):
        also = [one.__name__ for one in error.__mro__[1:] if one.__module__ == "builtins" and one not in _OBVIOUS]
        when = " ".join((inspect.getdoc(error) or "").split())
        yield f"| `{error.__name__}` | {', '.join(f'`{one}`' for one in also)} | {when} |"


def api() -> Iterator[str]:
    """Write what Python's `dir(shmkernel)` has, errors aside, with its docstring."""
    yield "```{eval-rst}"
    for name in sorted({*shm.__all__, "list"}):
        value = getattr(shm, name)
        if inspect.isclass(value) and not issubclass(value, errors.ShmError):
            yield from (f".. autoclass:: shmkernel.{name}", "   :members:", "")
        elif inspect.isfunction(value):
            yield from (f".. autofunction:: shmkernel.{name}", "")
        elif not inspect.isclass(value):
            yield from (f".. autodata:: shmkernel.{name}", "   :no-value:", "")
    yield "```"


_OBVIOUS = (BaseException, Exception, object, LookupError)


def _section(title: str, text: str) -> Iterator[str]:
    yield from (f"## `{title}`", "", "```text", *text.rstrip().splitlines(), "```", "")


def _directive(write: Callable[[], Iterator[str]]) -> type[SphinxDirective]:
    class Written(SphinxDirective):
        def run(self) -> list[Node]:
            """Parse what was written as if it stood in the page."""
            node = nodes.section(document=self.state.document)
            self.state.nested_parse(StringList(list(write()), source=write.__name__), 0, node, match_titles=True)
            return node.children

    return Written


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the directives."""
    for write in (magics, commands, settings, tree, api):
        app.add_directive(f"shm-{write.__name__}", _directive(write))
    return {"parallel_read_safe": True}
