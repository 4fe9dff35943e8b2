"""Suppress the Out entry of an unassigned magic: it would keep the array alive.

IPython compiles a magic into ``get_ipython().run_line_magic(...)``. If that is a statement, this module wraps it:
``suppressed(get_ipython().run_line_magic(...))``. `suppressed` returns None for the value that one of our magics has
just returned. It compares the value, not the magic's name, so aliases and ``%time`` work too.
"""

from __future__ import annotations

import ast
import sys
import threading
from typing import TYPE_CHECKING, Any

from IPython.display import display

from shmkernel.notebook import bodies

if TYPE_CHECKING:
    from types import FrameType

    from IPython.core.interactiveshell import InteractiveShell

_SHOWN = ("shm_list", "shm_info", "shm_watch")  # their value is to be displayed
_TIMED = "<timed "  # file name of a statement under %time, which returns the statement's value itself


class _Returned(threading.local):
    """The id of the value that the last of our magics in this thread returned. A reference would keep it alive."""

    identity = 0
    shown = False


_returned = _Returned()


class OutputTransformer(ast.NodeTransformer):
    """Wraps magics that are statements in `suppressed`, and compiles cells as `bodies` says."""

    def __init__(self, shell: InteractiveShell) -> None:
        self._shell = shell

    def visit(self, node: ast.AST) -> Any:
        """Skip expressions: only statements matter, and a large cell has few of them."""
        return node if isinstance(node, ast.expr) else super().visit(node)

    def visit_Module(self, node: ast.Module) -> ast.AST:
        """Compile the cells of ``%%shm_lock`` and ``%%shm_cache``."""
        for at, statement in enumerate(node.body):
            if isinstance(statement, ast.Expr) and (magic := self._compiled(statement.value)):
                node.body[at] = bodies.under(self._shell, statement, self.transform, magic)
        return self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> ast.stmt:
        """Wrap the statement if it calls a magic."""
        if _magic(node.value)[0] and not self._compiled(node.value):
            function = ast.parse(f"__import__({__name__!r}, fromlist=['suppressed']).suppressed", mode="eval").body
            node.value = ast.copy_location(ast.Call(function, [node.value], []), node.value)
        return node

    def transform(self, tree: Any) -> ast.Module:
        """Transform a cell's body as IPython has transformed the cell: by all transformers up to this one."""
        for transformer in self._shell.ast_transformers:
            tree = transformer.visit(tree)
            if transformer is self:
                break
        module: ast.Module = ast.fix_missing_locations(tree)
        return module

    def _compiled(self, value: ast.expr) -> str:
        """Return the cell magic that an expression calls, if its cell is compiled into a ``with`` statement."""
        verb, name = _magic(value)
        resolved = self._resolved(name) if verb == "run_cell_magic" else ""
        return resolved if resolved in bodies.MAGICS else ""

    def _resolved(self, name: str) -> str:
        """Return the cell magic that an alias stands for."""
        magics = self._shell.magics_manager.magics["cell"]
        for _ in magics:  # bounded, because aliases may form a cycle
            name = getattr(magics.get(name), "magic_name", name)
        return name


def catch_up(transformer: OutputTransformer) -> None:
    """Transform the rest of the cell that loads the extension: IPython transformed it before our transformer existed.

    IPython's run_ast_nodes compiles the statements in its variable `nodelist` one by one. A test checks that it does.
    """
    frame: FrameType | None = sys._getframe()  # noqa: SLF001  inspect would read the sources of all frames
    while frame is not None and frame.f_code.co_name != "run_ast_nodes":
        frame = frame.f_back
    for node in frame.f_locals.get("nodelist", ()) if frame is not None else ():
        ast.fix_missing_locations(transformer.visit(node))


def returned(value: object, name: str) -> None:
    """Note the value that one of our magics is about to return."""
    _returned.identity, _returned.shown = id(value), name in _SHOWN


def suppressed(value: object) -> object:
    """Return the value for Out: None for a value of our magics, which is displayed if it is a listing."""
    if value is None or id(value) != _returned.identity:
        return value
    if sys._getframe(1).f_code.co_filename.startswith(_TIMED):  # noqa: SLF001  the caller
        return value
    _returned.identity = 0
    if _returned.shown:
        display(value)
    return None


def _magic(value: ast.expr) -> tuple[str, str]:
    """Return the method of IPython that calls a magic, and the magic's name; empty texts for other expressions."""
    match value:
        case ast.Call(
            func=ast.Attribute(
                value=ast.Call(func=ast.Name(id="get_ipython")), attr="run_line_magic" | "run_cell_magic" as verb
            ),
            args=[ast.Constant(value=str(name)), ast.Constant(), *_],
        ):
            return verb, name
    return "", ""
