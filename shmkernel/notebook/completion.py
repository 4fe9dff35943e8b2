"""Complete names of segments and variables, flags, and values of flags after our magics.

It must be fast with 1,000 segments, and it may run in another thread while a cell runs. So it only lists the
folder, and takes no lock.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from IPython.core.completer import SimpleCompletion, context_matcher

from shmkernel._core import paths

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from IPython.core.completer import CompletionContext, SimpleMatcherResult
    from IPython.core.interactiveshell import InteractiveShell

    from shmkernel.notebook.parsing import Parser

    Matcher = Callable[[CompletionContext], SimpleMatcherResult]

_LINE = re.compile(r"(?:^\s*%{0,2}|[\s=]%{1,2})(shm_[a-z]+)\s(.*)$")
_DTYPES = ("float64", "float32", "int64", "int32", "int16", "uint8", "bool", "complex128", "datetime64[ns]")
_SHARED = (list, tuple, dict, bytes, bytearray)
_PRIORITY = 1000.0  # before all other matchers, which then need not run


def matcher_for(shell: InteractiveShell) -> Matcher:
    """Make the matcher of a shell."""

    @context_matcher(identifier="shmkernel", priority=_PRIORITY)
    def matcher(context: CompletionContext) -> SimpleMatcherResult:
        magic = _LINE.search(context.line_with_cursor[: context.cursor_position])
        parser = getattr(shell.find_line_magic(magic[1]), "parser", None) if magic else None
        if magic is None or parser is None:
            return {"completions": []}
        fragment, kind, choices = _complete(shell, magic[1], parser, magic[2])
        return {
            "completions": [SimpleCompletion(text, type=kind) for text in choices if text.startswith(fragment)],
            "matched_fragment": fragment,
            "suppress": True,
            "ordered": True,
        }

    return matcher  # type: ignore[no-any-return]  # IPython's decorator


def _complete(shell: InteractiveShell, verb: str, parser: Parser, text: str) -> tuple[str, str, Iterable[str]]:
    """Return the word being typed, its kind, and the words that it may become."""
    *words, fragment = re.split(r"\s+", text)
    values = {flag: _DTYPES if flag == "--dtype" else choices for flag, choices in parser.flags().items()}
    flag, equals, value = fragment.partition("=")
    if equals and (choices := values.get(flag)):
        return value, "value", choices
    if fragment.startswith("-"):
        return fragment, "flag", [name for name in values if name not in words]
    last = next((word for word in reversed(words) if word.startswith("--")), "")
    choices = values.get(words[-1]) if words else None
    if last == "--from" and not choices:
        return fragment, "variable", _values(shell)
    if choices is not None:
        return fragment, "value", choices
    if verb == "shm_create":
        return fragment, "variable", [name for name in _values(shell) if name not in words]
    if verb == "shm_load" or (verb == "shm_save" and any(words)) or not parser.takes_names():  # a new name, a file
        return fragment, "", ()
    return fragment, "segment", [name for name in paths.names() if name not in words]


def _values(shell: InteractiveShell) -> list[str]:
    """List the variables that can be shared, without importing numpy."""
    hidden = shell.user_ns_hidden
    items: list[tuple[str, Any]] = list(shell.user_ns.items())
    names = (key for key, value in items if isinstance(value, _SHARED) or hasattr(type(value), "__array__"))
    return sorted(name for name in names if not name.startswith("_") and name not in hidden)
