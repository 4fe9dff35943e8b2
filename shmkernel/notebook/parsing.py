"""Parse the line of a magic into names, flags and an expression, and show errors in one line.

    line -> uncommented -> split at --from -> words (shlex) -> $n and {n} expanded -> argparse

A comment, a closing ``;`` and the Python expression after ``--from`` are removed before argparse sees the words,
because they may hold blanks, quotes and dashes. Variables, ``$n`` and ``{n}``, are expanded in every word.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import functools
import inspect
import re
import shlex
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from IPython.core.error import UsageError
from IPython.core.magic_arguments import MagicArgumentParser, magic_arguments

from shmkernel._core import paths
from shmkernel.errors import ArgumentError, ShmError
from shmkernel.workspace.scope import Scope

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_FROM = re.compile(r"(?:^|(?<=\s))--from(?:=|\s|$)")
_FILLED = re.compile(r"\$\$|\{\{|\}\}|\$\{([^{}]*)\}|\$([^\W\d]\w*(?:\.[^\W\d]\w*)*)|\{([^{}]*)\}")
_BRACES = re.compile(r"""("[^"]*"|'[^']*')|\{[^{}]*\}""")
_CHOICE = re.compile(r"(?<=[{,])[^{},]+(?=[,}])")  # of a metavar such as {C,F}
_GAP = re.compile(r"(?<=\d)\s+(?=\d)")
_LENGTH = re.compile(r"[\d,()\[\]]+")
_SIZE = re.compile(r"(\d{1,20}(?:\.\d{1,20})?) ?([KMGT]?)(?:i?B)?", re.IGNORECASE)
_TEXT_DTYPE = re.compile(r"[<>=|]?[SUa]\d*|str|bytes")


class MistypedError(ArgumentError, UsageError):
    """The parser does not understand a line.

    It is also a UsageError, because IPython's completer parses unfinished lines and catches nothing else.
    """


MistypedError.__name__ = "ArgumentError"  # shown in tracebacks; pickle uses __qualname__


class Helped(UsageError):  # noqa: N818  no error: the help was asked for, and is printed
    """Ends a magic that was called with ``-h``. Its message is the help text."""


class arguments(magic_arguments):  # noqa: N801  a decorator, as its base is
    """IPython's `magic_arguments` with our parser, made when it is first used; ``%shm_create?`` shows its help.

    To make the parsers of all magics takes 10 ms, which loading the extension would wait for.
    """

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Declare the parser from the `argument` decorators under this one."""
        parser = _Deferred(functools.partial(_parser_of, function))

        def getdoc() -> str:
            text: str = parser.format_help()
            return text

        function.parser = parser  # type: ignore[attr-defined]  # IPython reads it
        function.has_arguments = True  # type: ignore[attr-defined]  # IPython reads it
        function.getdoc = getdoc  # type: ignore[attr-defined]  # IPython calls it for help
        return function


class _Deferred:
    """Stands for an object that is made when one of its methods is first read."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._made = functools.cache(make)

    def __getattr__(self, name: str) -> Any:
        method = vars(self)[name] = getattr(self._made(), name)
        return method


def _parser_of(function: Callable[..., Any]) -> Parser:
    text = inspect.cleandoc(function.__doc__ or "")
    parser = Parser(function.__name__, description=text, formatter_class=_Formatter)
    parser.add_argument("-h", "--help", action=_Help, nargs=0, help="print this")
    for declared in reversed(getattr(function, "decorators", [])):
        declared.add_to_parser(parser, None)
    return parser


class Parser(MagicArgumentParser):
    """Accepts no abbreviated flags, and raises ArgumentError: a plain UsageError would not fail the cell."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.allow_abbrev = False
        self.color = False  # Python 3.14 would colour the docstrings

    def parse_line(self, line: str, scope: Mapping[str, Any] | None = None) -> argparse.Namespace:
        """Parse the text after the magic's name, and expand variables of the scope in it.

        ``expression`` of the result is the Python text after ``--from``, or None.
        """
        rest, expression = uncommented(line), None
        if "--from" in self._option_string_actions:
            rest, expression = split(rest)
        try:
            words = shlex.split(_BRACES.sub(lambda match: match[0] if match[1] else shlex.quote(match[0]), rest))
        except ValueError as error:
            self.error(f"{rest.strip()}: {error}")
        if scope is not None:
            words = [expanded(word, scope) for word in words]
            expression = expression and python(expression, scope)
        args = self.parse_args(_tied(words))
        args.expression = expression
        return args

    def flags(self) -> dict[str, tuple[str, ...] | None]:
        """Return the long flags, each with the values that its metavar lists; None if the flag takes no value."""
        return {
            flag: None if action.nargs == 0 else tuple(_CHOICE.findall(str(action.metavar)))
            for action in self._actions for flag in action.option_strings if flag.startswith("--")
        }  # fmt: skip

    def takes_names(self) -> bool:
        """Say whether the magic takes names of segments."""
        return any(action.dest == "names" for action in self._actions)

    def error(self, message: str) -> NoReturn:
        """Raise argparse's message as an error, with the flag that the user may have meant."""
        wrong = next((word for word in message.split() if word.startswith("--")), "").partition("=")[0].rstrip(":")
        hint = paths.hint(paths.near(wrong, self.flags())) if wrong not in self.flags() else ""
        raise MistypedError(f"%{self.prog}: {message}.{hint} Help: %{self.prog} -h")


class _Formatter(argparse.RawDescriptionHelpFormatter):
    def add_usage(self, usage: Any, actions: Any, groups: Any, prefix: str | None = "%") -> None:
        super().add_usage(usage, actions, groups, prefix)


class _Help(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        raise Helped(parser.format_help().rstrip())


def in_one_line(run: Callable[..., Any]) -> Callable[..., Any]:
    """Show errors of a magic in one line, and let them fail the cell.

    The error is raised again without its traceback: IPython keeps the last traceback, and its frames would keep
    half-made segments alive. An error with a `_render_traceback_` of its own keeps that.
    """

    @functools.wraps(run)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        try:
            return run(*args, **kwargs)
        except Helped as helped:
            print(helped)
            return None
        except (ShmError, KeyboardInterrupt) as error:
            failed: ShmError | KeyboardInterrupt = error.with_traceback(None)
            failed.__context__ = None
        vars(failed).setdefault("_render_traceback_", functools.partial(_one_line, failed.args))
        try:
            raise failed
        finally:
            del failed

    return guarded


def _one_line(args: tuple[object, ...]) -> list[str]:
    return [f"shmkernel: {args[0] if args else 'interrupted'}"]


def uncommented(line: str) -> str:
    """Remove a comment and a closing ``;``, which IPython passes to magics.

    Examples
    --------
    >>> uncommented("x --from d['# no'] ;  # a comment")
    "x --from d['# no']"
    """
    quote = ""
    for at, letter in enumerate(line):
        if quote:
            if letter == quote and line[at - 1] != "\\":
                quote = ""
        elif letter in "'\"":
            quote = letter
        elif letter == "#" and line[at - 1 : at].strip() == "":
            line = line[:at]
            break
    return line.strip().removesuffix(";").rstrip()


def split(line: str) -> tuple[str, str | None]:
    """Split a line into the part for argparse and the expression after ``--from``.

    The expression ends before the first ``--`` that follows a blank if the text up to there compiles; else the next
    ``--`` is tried, and at last the end of the line.

    Examples
    --------
    >>> split("x --from a[0, 1] - -1 --order F")
    ('x  --order F', 'a[0, 1] - -1')
    """
    match = _FROM.search(line)
    if not match:
        return line, None
    before, text = line[: match.start()], line[match.end() :]
    for end in (match.start() for match in re.finditer(r"\s--", text)):
        expression = text[:end].strip()
        if any(map(_is_python, (expression, _FILLED.sub("_", expression)))):
            return f"{before} {text[end:].lstrip()}", expression
    return before, text.strip()


def evaluate(expression: str, scope: Mapping[str, Any]) -> Any:
    """Evaluate an expression; raise ArgumentError with a message of one line if that fails."""
    try:
        space = {"numpy": sys.modules.get("numpy")}  # messages propose numpy.asarray(x)
        space |= scope.flat() if isinstance(scope, Scope) else scope
        return eval(compile(expression, "--from", "eval"), space)  # noqa: S307  the user's own cell
    except Exception as error:  # noqa: BLE001  whatever the expression raises
        first = (str(error).splitlines() or [""])[0]
        message = f"{expression}: {type(error).__name__}: {error.msg if isinstance(error, SyntaxError) else first}"
        raise ArgumentError(message, expression=expression, type=type(error).__name__) from None


def expanded(word: str, scope: Mapping[str, Any]) -> str:
    """Expand ``$n``, ``$n.attribute`` and ``{n}``; ``$$``, ``{{`` and ``}}`` stand for ``$``, ``{`` and ``}``.

    Examples
    --------
    >>> expanded("part_{n + 1}.$k", {"n": 2, "k": "a"}), expanded("$$5_{{n}}", {})
    ('part_3.a', '$5_{n}')
    """
    return _FILLED.sub(lambda match: _filled(match, scope), word)


def python(expression: str, scope: Mapping[str, Any]) -> str:
    """Return the Python code of ``--from``; expand ``{n}`` and ``$n`` if the text is not Python as it stands.

    ``{n}`` alone is Python, a set of one item. Sets cannot be shared, so it is expanded too.

    Examples
    --------
    >>> python("{'a': 1}", {}), python("part_{n}", {"n": 2}), python("{which}", {"which": "a[0]"})
    ("{'a': 1}", 'part_2', 'a[0]')
    """
    if not _is_python(expression):
        return expanded(expression, scope)
    tree = ast.parse(expression, "--from", "eval").body
    if isinstance(tree, ast.Set) and len(tree.elts) == 1:
        value = evaluate(ast.unparse(tree.elts[0]), scope)
        return value if isinstance(value, str) else ast.unparse(tree.elts[0])
    return expression


def number(text: str, dtype: str | None) -> object:
    """Read the value of ``--fill``: a number or truth value, else the text itself, for dates and strings.

    Examples
    --------
    >>> number("-1e-3", None), number("nan", None), number("2020-10-11", "M8[D]"), number("7", "U3")
    (-0.001, nan, '2020-10-11', '7')
    """
    if dtype and _TEXT_DTYPE.fullmatch(dtype):
        return text
    for read in (_literal, float, complex):
        with contextlib.suppress(ValueError):
            return read(text)
    return text


def lengths(text: str) -> tuple[int, ...]:
    """Read the value of ``--shape``: ``3,4``, ``3, 4`` or ``(3, 4)``.

    Examples
    --------
    >>> lengths("3, 4"), lengths("(10,)"), lengths("()")
    ((3, 4), (10,), ())
    """
    with contextlib.suppress(ValueError):
        value = _literal(_GAP.sub(",", text.strip()))
        shape = value if isinstance(value, (tuple, list)) else (value,)
        if all(type(length) is int for length in shape):
            return tuple(shape)
    raise ArgumentError(f"--shape {text} is not a shape. Examples: --shape 10, --shape 3,4", shape=text)


def literal(text: str) -> object:
    """Read the value of ``--list``.

    Examples
    --------
    >>> literal("[1, 'a', None]"), literal("1, 2")
    ([1, 'a', None], (1, 2))
    """
    try:
        return _literal(text)
    except ValueError:
        message = f"--list {text}: no list. Example, in quotes: --list \"[1, 'a', None]\". Of variables: --from [a, b]"
        raise ArgumentError(message, items=text) from None


def size(text: str) -> int:
    """Read the value of ``--size``, in bytes or in units of 1024.

    Examples
    --------
    >>> size("100"), size("64K"), size("1.5 MiB")
    (100, 65536, 1572864)
    """
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise ArgumentError(f"--size {text} is not a size. Examples: --size 100, --size 64K, --size 1.5G", size=text)
    return int(float(match[1]) * 1024 ** " KMGT".index(match[2].upper() or " "))


def _literal(text: str) -> Any:
    """Return the value of a Python literal; ValueError if it is none.

    Python raises TypeError for ``{[]}``, and MemoryError or RecursionError for what is nested too deep.
    """
    try:
        return ast.literal_eval(text)
    except (SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise ValueError(str(error)) from None


def _is_python(text: str) -> bool:
    with contextlib.suppress(SyntaxError, ValueError, MemoryError, RecursionError):  # the last two: nested too deep
        compile(text, "--from", "eval")
        return True
    return False


def _filled(match: re.Match[str], scope: Mapping[str, Any]) -> str:
    mark, names_ = match[0], (match[2] or "").split(".")
    if mark in ("$$", "{{", "}}"):
        return mark[0]
    expression = match[1] or match[3] or names_[0]
    if not expression.strip():
        raise ArgumentError(f"{mark} names no variable. For the characters themselves: {{{{}}}}")
    value, rest = evaluate(expression, scope), names_[1:]
    while rest and not callable(attribute := getattr(value, rest[0], callable)):
        value, rest = attribute, rest[1:]
    if value is None:
        raise ArgumentError(f"{mark} is None, so there is nothing to fill in", expression=expression)
    return ".".join([str(value), *rest])


def _tied(words: list[str]) -> list[str]:
    """Join flags to values that argparse would misread: ``--fill -1e-3``, ``--shape 3, 4``.

    Examples
    --------
    >>> _tied(["--fill", "-1e-3", "--shape", "(3,", "4)", "x"])
    ['--fill=-1e-3', '--shape=(3, 4)', 'x']
    """
    tied: list[str] = []
    for word in words:
        last = tied[-1] if tied else ""
        if last in ("--fill", "--shape"):
            tied[-1] += f"={word}"
        elif last.startswith("--shape=") and _LENGTH.fullmatch(word):
            tied[-1] += f" {word}"
        else:
            tied.append(word)
    return tied
