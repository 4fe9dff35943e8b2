"""Directives that write reference pages from the program itself: its parsers, its errors, its settings."""

from __future__ import annotations

import argparse
import inspect
import pydoc
from typing import TYPE_CHECKING

import shmkernel as shm
from shmkernel import cli
from shmkernel.notebook import peer
from shmkernel.notebook.magics import ShmMagics

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
    """Write a table of the errors: a docstring's first paragraph says when, its second what to do."""
    yield from ("| error (is also) | when | what to do |", "|---|---|---|")
    for error in (*(getattr(shm, one) for one in sorted(shm.__all__) if one.endswith("Error")), peer.PeerError):
        also = [one.__name__ for one in error.__mro__[1:] if one.__module__ == "builtins" and one not in _OBVIOUS]
        paragraphs = [" ".join(one.split()) for one in (inspect.getdoc(error) or "").split("\n\n")]
        when, cure = paragraphs[:2] if error is not shm.ShmError else (paragraphs[0], "")
        names = f"`{error.__name__}`" + (f" ({', '.join(f'`{one}`' for one in also)})" if also else "")
        yield f"| {names} | {when} | {cure.replace('``', '`')} |"


def api(*wanted: str) -> Iterator[str]:
    """Write the docstrings of what is named, as `create` or `kinds.Kind`."""
    yield "```{eval-rst}"
    for name in wanted:
        value = pydoc.locate(f"shmkernel.{name}")
        if not callable(value):
            yield from (f".. autodata:: shmkernel.{name}", "   :no-value:", "")
        elif inspect.isclass(value):
            yield f".. autoclass:: shmkernel.{name}"
            if not issubclass(value, tuple):
                yield from ("   :members:", f"   :exclude-members: {', '.join(_INTERNAL)}")
            yield ""
        else:
            yield from (f".. autofunction:: shmkernel.{name}", "")
    yield "```"


_INTERNAL = ("over", "identity", "enter", "entering")  # methods for the package's own modules
_OBVIOUS = (BaseException, Exception, object, LookupError)


def _section(title: str, text: str) -> Iterator[str]:
    yield from (f"## `{title}`", "", "```text", *text.rstrip().splitlines(), "```", "")


def setup(app: Sphinx) -> dict[str, bool]:
    """Add a directive for each."""
    from docutils import nodes  # noqa: PLC0415  the tests read what is written without Sphinx
    from docutils.statemachine import StringList  # noqa: PLC0415  Sphinx alone has it
    from sphinx.util.docutils import SphinxDirective  # noqa: PLC0415  Sphinx alone has it

    def directive(write: Callable[..., Iterator[str]]) -> type[SphinxDirective]:
        class Written(SphinxDirective):
            has_content = True

            def run(self) -> list[Node]:
                """Parse what was written as if it stood in the page."""
                node = nodes.section(document=self.state.document)
                lines = StringList([*write(*" ".join(self.content).split())], source=write.__name__)
                self.state.nested_parse(lines, 0, node, match_titles=True)
                return node.children

        return Written

    for write in (magics, commands, settings, tree, api):
        app.add_directive(f"shm-{write.__name__}", directive(write))
    return {"parallel_read_safe": True}
