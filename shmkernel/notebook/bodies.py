"""The rest of a ``%%shm_lock`` cell is part of the cell: a ``with`` statement in it.

    %%shm_lock x        with get_ipython().run_cell_magic("shm_lock", "x", Body(...)):
    y = x.sum()             y = x.sum()
    y                       displayhook(y)

So errors, Stop, debuggers, and whatever shows tracebacks find nothing but the user's own code, and IPython runs one
cell, not one within another. The statement is made when the cell is compiled. Where a program runs the magic, nothing
is compiled: there `run` does the same.
"""

from __future__ import annotations

import ast
import linecache
from typing import TYPE_CHECKING, Any

from IPython.core.displayhook import DisplayHook
from IPython.core.error import InputRejected

if TYPE_CHECKING:
    from collections.abc import Callable

    from IPython.core.interactiveshell import InteractiveShell

    Transform = Callable[[Any], ast.Module]

_HELP = {"-h", "--help"}
_CALL = "get_ipython().run_cell_magic("  # how a cell that is one cell magic begins


class Body(str):
    """The text of a cell whose statements run in the ``with`` statement that this magic's value is for."""

    __slots__ = ()


def parsed(shell: InteractiveShell, body: str, transform: Transform, line: int = 1) -> ast.Module:
    """Return the statements of a body below this line of its cell; the last one shows its value, as in any cell."""
    blank = body[: len(body) - len(body.lstrip())].count("\n")  # lines that transform_cell drops
    text = "\n" * (line + blank) + shell.transform_cell(body)
    try:
        tree = transform(shell.compile.ast_parse(text, "%%shm_lock"))
    except SyntaxError as error:
        raise _rejected(error) from None
    _show(tree, shell.ast_node_interactivity, quiet=DisplayHook.semicolon_at_end_of_expression(text))
    return tree


def awaits(shell: InteractiveShell, body: str) -> bool:
    """Say whether a body needs the event loop, for which its cell would have to be compiled otherwise."""
    return bool(shell.should_run_async(body, transformed_cell=shell.transform_cell(body)))


def under(shell: InteractiveShell, statement: ast.Expr, transform: Transform) -> ast.stmt:
    """Return the ``with`` statement for one that calls the magic."""
    call: Any = statement.value
    line, body = (argument.value for argument in call.args[1:])
    if _HELP & {*line.split()} or not body.strip() or awaits(shell, body):
        return statement  # the magic itself says what there is to say
    tree = parsed(shell, body, transform, statement.lineno)
    source = f"%%shm_lock {line}\n{body}"
    made = ast.parse(f"__import__({__name__!r}, fromlist=['Body']).Body({source!r})", mode="eval")
    call.args[2] = made.body
    return ast.copy_location(ast.With([ast.withitem(call)], tree.body or [ast.Pass()]), statement)


def remember(source: Body, filename: str) -> None:
    """Let tracebacks and inspect find the lines of the cell, which IPython has kept as one call of a magic."""
    entry: Any = linecache.cache.get(filename)
    if entry and len(entry) > 1 and "".join(entry[2]).startswith(_CALL):
        linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)


def run(shell: InteractiveShell, body: str, transform: Transform) -> None:
    """Run a body for a program that calls the magic."""
    tree = parsed(shell, body, transform)
    name = shell.compile.cache(f"%%shm_lock\n{body}", shell.execution_count)
    compiler: Any = shell.compile
    exec(compiler(tree, name, "exec"), shell.user_ns)  # noqa: S102  the user's own cell


def _rejected(error: SyntaxError) -> SyntaxError:
    """Return the error as one that IPython shows as it shows those of any cell: without where it was raised."""
    kind = type(type(error).__name__, (InputRejected, type(error)), {"__module__": "builtins"})
    found: SyntaxError = kind(*error.args)
    return found


def _show(tree: ast.Module, interactivity: str, *, quiet: bool) -> None:
    """Pass to the display hook what IPython would show of a cell with these statements."""
    if quiet or not tree.body:
        return
    last = tree.body[-1]
    if interactivity == "last_expr_or_assign" and (name := _assigned(last)):
        tree.body.append(last := ast.copy_location(ast.Expr(ast.Name(name, ast.Load())), last))
    shown = tree.body if interactivity == "all" else [last] if interactivity != "none" else []
    for one in shown:
        if isinstance(one, ast.Expr):
            hook = ast.parse("__import__('sys').displayhook", mode="eval").body
            one.value = ast.copy_location(ast.Call(hook, [one.value], []), one.value)
    ast.fix_missing_locations(tree)


def _assigned(statement: ast.stmt) -> str:
    target: Any = None
    if isinstance(statement, ast.Assign):
        target = statement.targets[0]
    elif isinstance(statement, ast.AnnAssign | ast.AugAssign):
        target = statement.target
    return target.id if isinstance(target, ast.Name) else ""
