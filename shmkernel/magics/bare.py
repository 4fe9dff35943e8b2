"""A magic whose value nobody takes makes no Out: that would hold the array for as long as the notebook lives."""

from __future__ import annotations

import ast
import sys
from typing import TYPE_CHECKING, Any

from IPython.display import display

if TYPE_CHECKING:
    from types import FrameType

_SHOWN = ("shm_list", "shm_info", "shm_watch")  # these return what there is to see


class Bare(ast.NodeTransformer):
    """Turns ``%shm_attach x`` into ``(%shm_attach x, None)[1]``, and ``%shm_list`` into ``show(%shm_list)``.

    IPython has made ``get_ipython().run_line_magic(...)`` of the magics by then.
    """

    def visit(self, node: ast.AST) -> Any:  # noqa: ANN401  as in the base class
        """Look at statements alone: a large cell has few of them, and many expressions."""
        return node if isinstance(node, ast.expr) else super().visit(node)

    def visit_Expr(self, node: ast.Expr) -> ast.Expr:
        """Wrap the call, if it is one of ours."""
        name = _magic(node.value)
        if name.startswith("shm_"):
            node.value = _displayed(node.value) if name in _SHOWN else _dropped(node.value)
        return node


def catch_up(bare: Bare) -> None:
    """Treat the rest of the cell that loads the extension, whose transformers ran before.

    Its statements are compiled one by one: run_ast_nodes has them as `nodelist`. A test watches that it does.
    """
    frame: FrameType | None = sys._getframe()  # noqa: SLF001  inspect would read the sources of all frames
    while frame is not None and frame.f_code.co_name != "run_ast_nodes":
        frame = frame.f_back
    for node in frame.f_locals.get("nodelist", ()) if frame is not None else ():
        ast.fix_missing_locations(bare.visit(node))


def show(value: object) -> None:
    """Display what a bare magic returned, if anything: ``%shm_list -h`` has printed its help."""
    if value is not None:
        display(value)


def _magic(value: ast.expr) -> str:
    """Return the name of the magic that the expression calls, or an empty text."""
    match value:
        case ast.Call(
            func=ast.Attribute(value=ast.Call(func=ast.Name(id="get_ipython")), attr="run_line_magic"),
            args=[ast.Constant(value=str(name)), *_],
        ):
            return name
    return ""


def _dropped(call: ast.expr) -> ast.expr:
    pair = ast.Tuple([call, ast.Constant(None)], ast.Load())
    return ast.copy_location(ast.Subscript(pair, ast.Constant(1), ast.Load()), call)


def _displayed(call: ast.expr) -> ast.expr:
    function = ast.parse(f"__import__({__name__!r}, fromlist=['show']).show", mode="eval").body
    return ast.copy_location(ast.Call(function, [call], []), call)
