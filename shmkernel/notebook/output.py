"""A magic whose value nobody takes makes no Out: that would hold the array for as long as the notebook lives.

IPython makes ``get_ipython().run_line_magic(...)`` of a magic. As a statement of its own that becomes
``bare(get_ipython().run_line_magic(...))``, which returns None for a value of ours. Whether it is ours, each of our
magics notes when it returns: so it does not matter by which alias, or under which ``%time``, it was called.
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

_SHOWN = ("shm_list", "shm_info", "shm_watch")  # these return what there is to see
_TIMED = "<timed "  # the file of a statement under %time, which hands its value on


class _Returned(threading.local):
    """What the last magic of ours in this thread returned, by its id: it is not kept alive."""

    identity = 0
    shown = False


_returned = _Returned()


class Bare(ast.NodeTransformer):
    """Wraps the calls of magics that are statements, and makes ``with`` statements of cells under ``%%shm_lock``."""

    def __init__(self, shell: InteractiveShell) -> None:
        self._shell = shell

    def visit(self, node: ast.AST) -> Any:  # noqa: ANN401  as in the base class
        """Look at statements alone: a large cell has few of them, and many expressions."""
        return node if isinstance(node, ast.expr) else super().visit(node)

    def visit_Module(self, node: ast.Module) -> ast.AST:
        """Compile what stands under a lock."""
        for at, one in enumerate(node.body):
            if isinstance(one, ast.Expr):
                verb, name = _magic(one.value)
                if verb == "run_cell_magic" and self._resolved(name) == "shm_lock":
                    node.body[at] = bodies.under(self._shell, one, self.transform)
        return self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> ast.stmt:
        """Wrap the call, if it is one of a magic."""
        verb, name = _magic(node.value)
        if verb and not (verb == "run_cell_magic" and self._resolved(name) == "shm_lock"):
            function = ast.parse(f"__import__({__name__!r}, fromlist=['bare']).bare", mode="eval").body
            node.value = ast.copy_location(ast.Call(function, [node.value], []), node.value)
        return node

    def transform(self, tree: Any) -> ast.Module:  # noqa: ANN401  whatever the transformations make of a module
        """Do to the body of a cell what IPython has done to the cell: all transformations up to this one."""
        for one in self._shell.ast_transformers:
            tree = one.visit(tree)
            if one is self:
                break
        found: ast.Module = ast.fix_missing_locations(tree)
        return found

    def _resolved(self, name: str) -> str:
        """Return the cell magic that an alias is for."""
        magics = self._shell.magics_manager.magics["cell"]
        for _ in magics:  # an alias may be one of itself
            name = getattr(magics.get(name), "magic_name", name)
        return name


def catch_up(bare: Bare) -> None:
    """Treat the rest of the cell that loads the extension, whose transformers ran before.

    Its statements are compiled one by one: run_ast_nodes has them as `nodelist`. A test watches that it does.
    """
    frame: FrameType | None = sys._getframe()  # noqa: SLF001  inspect would read the sources of all frames
    while frame is not None and frame.f_code.co_name != "run_ast_nodes":
        frame = frame.f_back
    for node in frame.f_locals.get("nodelist", ()) if frame is not None else ():
        ast.fix_missing_locations(bare.visit(node))


def returned(value: object, name: str) -> None:
    """Note what a magic of ours returns."""
    _returned.identity, _returned.shown = id(value), name in _SHOWN


def bare(value: object) -> object:
    """Return what becomes Out: nothing of ours. What there is to see is displayed."""
    if value is None or id(value) != _returned.identity:
        return value
    if sys._getframe(1).f_code.co_filename.startswith(_TIMED):  # noqa: SLF001
        return value
    _returned.identity = 0
    if _returned.shown:
        display(value)
    return None


def _magic(value: ast.expr) -> tuple[str, str]:
    """Return the method that calls a magic, and the magic's name, or empty texts."""
    match value:
        case ast.Call(
            func=ast.Attribute(
                value=ast.Call(func=ast.Name(id="get_ipython")), attr="run_line_magic" | "run_cell_magic" as verb
            ),
            args=[ast.Constant(value=str(name)), ast.Constant(), *_],
        ):
            return verb, name
    return "", ""
