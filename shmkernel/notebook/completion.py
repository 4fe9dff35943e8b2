"""Completion after our magics: names of segments and variables, flags, values of flags, and nothing else.

It must be as fast with 1,000 segments as with ten, and may run off the main thread while a cell runs: it lists
the folder, and asks nobody.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from IPython.core.completer import SimpleCompletion, context_matcher

from shmkernel._core import paths, records

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from IPython.core.completer import CompletionContext, SimpleMatcherResult
    from IPython.core.interactiveshell import InteractiveShell

    Matcher = Callable[[CompletionContext], SimpleMatcherResult]

_LINE = re.compile(r"(?:^\s*%{0,2}|[\s=]%{1,2})(shm_[a-z]+)\s(.*)$")
_VALUES = {
    "--mode": ("r+", "r", "c"),
    "--lifetime": records.LIFETIMES,
    "--order": ("C", "F"),
    "--kind": ("array", "dict", "list", "raw"),
    "--dtype": ("float64", "float32", "int64", "int32", "int16", "uint8", "bool", "complex128", "datetime64[ns]"),
}
_FREE = (  # any value
    "--as", "--every", "--fill", "--list", "--ring", "--shape", "--since", "--size", "--timeout",
)  # fmt: skip
_SHARED = (list, tuple, dict, bytes, bytearray)
_SEGMENTS = (
    "shm_attach", "shm_close", "shm_unlink", "shm_keep", "shm_info", "shm_save", "shm_lock", "shm_publish", "shm_wait",
    "shm_watch",
)  # fmt: skip
_PRIORITY = 1000.0  # before the others, whose work is then spared


def matcher_for(shell: InteractiveShell) -> Matcher:
    """Make the matcher of a shell."""

    @context_matcher(identifier="shmkernel", priority=_PRIORITY)
    def matcher(context: CompletionContext) -> SimpleMatcherResult:
        found = _LINE.search(context.line_with_cursor[: context.cursor_position])
        parser = getattr(shell.find_line_magic(found[1]), "parser", None) if found else None
        if found is None or parser is None:
            return {"completions": []}
        fragment, kind, choices = _complete(shell, found[1], parser.flags(), found[2])
        return {
            "completions": [SimpleCompletion(one, type=kind) for one in choices if one.startswith(fragment)],
            "matched_fragment": fragment,
            "suppress": True,
            "ordered": True,
        }

    return matcher  # type: ignore[no-any-return]


def _complete(shell: InteractiveShell, verb: str, flags: list[str], text: str) -> tuple[str, str, Iterable[str]]:
    """Return what is being typed, what it is, and what it may become."""
    *words, fragment = re.split(r"\s+", text)
    flag, equals, value = fragment.partition("=")
    if equals and flag in _VALUES:
        return value, "value", _VALUES[flag]
    if fragment.startswith("-"):
        return fragment, "flag", [one for one in flags if one not in words]
    last = next((word for word in reversed(words) if word.startswith("--")), "")
    if words and words[-1] in _VALUES:
        return fragment, "value", _VALUES[words[-1]]
    if last == "--from":
        return fragment, "variable", _values(shell)
    if words and words[-1] in _FREE:
        return fragment, "value", ()
    if verb == "shm_create":
        return fragment, "variable", [one for one in _values(shell) if one not in words]
    if verb in _SEGMENTS and not (verb == "shm_save" and any(words)):  # a file's name, for others to complete
        return fragment, "segment", [one for one in paths.names() if one not in words]
    return fragment, "", ()


def _values(shell: InteractiveShell) -> list[str]:
    """List the variables that can be shared; numpy need not be loaded to see them."""
    hidden = shell.user_ns_hidden
    items: list[tuple[str, Any]] = list(shell.user_ns.items())
    found = (key for key, value in items if isinstance(value, _SHARED) or hasattr(type(value), "__array__"))
    return sorted(key for key in found if not key.startswith("_") and key not in hidden)
