"""Compile a ``%%shm_lock`` cell into a ``with`` statement.

    %%shm_lock x        with get_ipython().run_cell_magic("shm_lock", "x", Body(...)):
    y = x.sum()             y = x.sum()
    y                       displayhook(y)

So tracebacks, Stop and debuggers see only the user's code, and IPython does not run a cell within a cell. `under`
makes the statement when the cell is compiled. If a program calls the magic, no cell is compiled: `run` does the same.
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
_CALL = "get_ipython().run_cell_magic("  # IPython's source for a cell magic begins so


class Body(str):
    """The source of a cell whose statements were compiled into a ``with`` statement."""

    __slots__ = ()


def parsed(shell: InteractiveShell, body: str, transform: Transform, line: int = 1) -> ast.Module:
    """Return the statements of a body that follows `line`; the last one displays its value, as in any cell."""
    blank = body[: len(body) - len(body.lstrip())].count("\n")  # lines that transform_cell drops
    text = "\n" * (line + blank) + shell.transform_cell(body)
    try:
        tree = transform(shell.compile.ast_parse(text, "%%shm_lock"))
    except SyntaxError as error:
        raise _rejected(error) from None
    _show(tree, shell.ast_node_interactivity, quiet=DisplayHook.semicolon_at_end_of_expression(text))
    return tree


def awaits(shell: InteractiveShell, body: str) -> bool:
    """Return whether a body uses ``await``. Its cell would have to be compiled as a coroutine."""
    return bool(shell.should_run_async(body, transformed_cell=shell.transform_cell(body)))


def under(shell: InteractiveShell, statement: ast.Expr, transform: Transform) -> ast.stmt:
    """Return the ``with`` statement for a statement that calls the magic."""
    call: Any = statement.value
    line, body = (argument.value for argument in call.args[1:])
    if _HELP & {*line.split()} or not body.strip() or awaits(shell, body):
        return statement  # the magic itself prints the help, or raises
    tree = parsed(shell, body, transform, statement.lineno)
    source = f"%%shm_lock {line}\n{body}"
    made = ast.parse(f"__import__({__name__!r}, fromlist=['Body']).Body({source!r})", mode="eval")
    call.args[2] = made.body
    return ast.copy_location(ast.With([ast.withitem(call)], tree.body or [ast.Pass()]), statement)


def remember(source: Body, filename: str) -> None:
    """Put the cell's source into linecache, for tracebacks and inspect: IPython cached only the call of the magic."""
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
    """Return the error as an InputRejected too: IPython shows that without the frames that raised it."""
    kind = type(type(error).__name__, (InputRejected, type(error)), {"__module__": "builtins"})
    rejected: SyntaxError = kind(*error.args)
    return rejected


def _show(tree: ast.Module, interactivity: str, *, quiet: bool) -> None:
    """Wrap the expressions that IPython would display of such a cell in calls of the display hook."""
    if quiet or not tree.body:
        return
    last = tree.body[-1]
    if interactivity == "last_expr_or_assign" and (name := _assigned(last)):
        tree.body.append(last := ast.copy_location(ast.Expr(ast.Name(name, ast.Load())), last))
    shown = tree.body if interactivity == "all" else [last] if interactivity != "none" else []
    for statement in shown:
        if isinstance(statement, ast.Expr):
            hook = ast.parse("__import__('sys').displayhook", mode="eval").body
            statement.value = ast.copy_location(ast.Call(hook, [statement.value], []), statement.value)
    ast.fix_missing_locations(tree)


def _assigned(statement: ast.stmt) -> str:
    target: Any = None
    if isinstance(statement, ast.Assign):
        target = statement.targets[0]
    elif isinstance(statement, ast.AnnAssign | ast.AugAssign):
        target = statement.target
    return target.id if isinstance(target, ast.Name) else ""
