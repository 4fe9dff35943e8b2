"""Compile a cell of ``%%shm_lock`` or ``%%shm_cache`` into a ``with`` statement.

    %%shm_lock x        with get_ipython().run_cell_magic("shm_lock", "x", Body(...)):
    y = x.sum()             y = x.sum()
    y                       displayhook(y)

    %%shm_cache y       with get_ipython().run_cell_magic("shm_cache", "y", Body(...)):
    y = work()              if cell_cache.begin(1):
                                y = work()
                                cell_cache.end(1)

So tracebacks, Stop and debuggers see only the user's code, and IPython does not run a cell within a cell. `under`
makes the statement when the cell is compiled. If a program calls the magic, no cell is compiled: `run` does the same.
"""

from __future__ import annotations

import ast
import itertools
import linecache
from typing import TYPE_CHECKING, Any, Self

from IPython.core.displayhook import DisplayHook
from IPython.core.error import InputRejected

if TYPE_CHECKING:
    from collections.abc import Callable

    from IPython.core.interactiveshell import InteractiveShell

    Transform = Callable[[Any], ast.Module]

MAGICS = ("shm_lock", "shm_cache")
_HELP = {"-h", "--help"}
_numbers = itertools.count(1)
_CALL = "get_ipython().run_cell_magic("  # IPython's source for a cell magic begins so


class Body(str):
    """The source of a cell whose statements were compiled into a ``with`` statement, and the number of the cell."""

    __slots__ = ("number",)

    number: int

    def __new__(cls, source: str, number: int) -> Self:
        """Make it, as the compiled cell does."""
        body = super().__new__(cls, source)
        body.number = number
        return body


def parsed(shell: InteractiveShell, body: str, transform: Transform, magic: str, line: int = 1) -> ast.Module:
    """Return the statements of a body that follows `line`; the last one displays its value, as in any cell."""
    blank = body[: len(body) - len(body.lstrip())].count("\n")  # lines that transform_cell drops
    text = "\n" * (line + blank) + shell.transform_cell(body)
    try:
        tree = transform(shell.compile.ast_parse(text, f"%%{magic}"))
    except SyntaxError as error:
        raise _rejected(error) from None
    _show(tree, shell.ast_node_interactivity, quiet=DisplayHook.semicolon_at_end_of_expression(text))
    return tree


def awaits(shell: InteractiveShell, body: str) -> bool:
    """Return whether a body uses ``await``. Its cell would have to be compiled as a coroutine."""
    return bool(shell.should_run_async(body, transformed_cell=shell.transform_cell(body)))


def under(shell: InteractiveShell, statement: ast.Expr, transform: Transform, magic: str) -> ast.stmt:
    """Return the ``with`` statement for a statement that calls the magic."""
    call: Any = statement.value
    line, body = (argument.value for argument in call.args[1:])
    if _HELP & {*line.split()} or not body.strip() or awaits(shell, body):
        return statement  # the magic itself prints the help, or raises
    tree = parsed(shell, body, transform, magic, statement.lineno)
    number, source = next(_numbers), f"%%{magic} {line}\n{body}"
    call.args[2] = _ours(__name__, f"Body({source!r}, {number})")
    statements = tree.body or [ast.Pass()]
    if magic == "shm_cache":
        home = f"{__package__}.cell_cache"
        statements = [
            ast.If(_ours(home, f"begin({number})"), [*statements, ast.Expr(_ours(home, f"end({number})"))], [])
        ]
    made = ast.copy_location(ast.With([ast.withitem(call)], statements), statement)
    return ast.fix_missing_locations(made)


def _ours(module: str, call: str) -> ast.expr:
    """Return an expression that calls a function of ours, whatever names the user has."""
    function = call.partition("(")[0]
    return ast.parse(f"__import__({module!r}, fromlist=[{function!r}]).{call}", mode="eval").body


def remember(source: Body, filename: str) -> None:
    """Put the cell's source into linecache, for tracebacks and inspect: IPython cached only the call of the magic."""
    entry: Any = linecache.cache.get(filename)
    if entry and len(entry) > 1 and "".join(entry[2]).startswith(_CALL):
        linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)


def run(shell: InteractiveShell, body: str, transform: Transform, magic: str) -> None:
    """Run a body for a program that calls the magic."""
    tree = parsed(shell, body, transform, magic)
    name = shell.compile.cache(f"%%{magic}\n{body}", shell.execution_count)
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
