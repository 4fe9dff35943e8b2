"""Complete names of segments and variables, flags, and values of flags after our magics.

Names are completed in ``shm.attach("`` and the like too, and `%shm_save x` proposes a file such as x.npy.

It must be fast with 1,000 segments, and it may run in another thread while a cell runs. So it only lists the
folder, and takes no lock.
"""

from __future__ import annotations

import os
import re
import sys
import types
from typing import TYPE_CHECKING, Any

from IPython.core.completer import SimpleCompletion, context_matcher

from shmkernel._core import paths, records
from shmkernel._core.imports import importing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from IPython.core.completer import CompletionContext, SimpleMatcherResult
    from IPython.core.interactiveshell import InteractiveShell

    from shmkernel.notebook.parsing import Parser

    Matcher = Callable[[CompletionContext], SimpleMatcherResult]

_LINE = re.compile(r"(?:^\s*%{0,2}|[\s=]%{1,2})(shm_[a-z]+)\s(.*)$")
_CALL = re.compile(r"""(?:([^\W\d]\w*)\.)?([a-z]+)[(\[]\s*(?:(?:name|x)\s*=\s*)?["']([\w./]*)$""")
_TAKE_NAMES = {
    "attach", "changes", "close", "info", "keep", "load", "lock", "publish", "save", "session", "share", "snapshot",
    "unlink", "unshare", "version", "wait", "watch", "writing",
}  # fmt: skip
_DTYPES = ("float64", "float32", "int64", "int32", "int16", "uint8", "bool", "complex128", "datetime64[ns]")
_SELDOM = (  # types of values that few want to share
    type(None), bool, int, float, complex, type, types.ModuleType,
    types.FunctionType, types.BuiltinFunctionType, types.MethodType,
)  # fmt: skip
_PRIORITY = 1000.0  # before all other matchers, which then need not run


def matcher_for(shell: InteractiveShell) -> Matcher:
    """Make the matcher of a shell."""

    @context_matcher(identifier="shmkernel", priority=_PRIORITY)
    def matcher(context: CompletionContext) -> SimpleMatcherResult:
        line = context.line_with_cursor[: context.cursor_position]
        call, magic = _CALL.search(line), _LINE.search(line)
        parser = getattr(shell.find_line_magic(magic[1]), "parser", None) if magic else None
        choices: Sequence[str]
        if call and _takes_a_name(shell, call[1], call[2]):
            fragment, kind, choices = call[3], "segment", paths.names()
        elif magic and parser:
            fragment, kind, choices = _complete(shell, magic[1], parser, magic[2])
        else:
            return {"completions": []}
        completions = [SimpleCompletion(text, type=kind) for text in choices if text.startswith(fragment)]
        suppress = bool(completions) or not (call or kind == "path")  # else IPython proposes files
        return {"completions": completions, "matched_fragment": fragment, "suppress": suppress, "ordered": True}

    return matcher  # type: ignore[no-any-return]  # IPython's decorator


def _takes_a_name(shell: InteractiveShell, owner: str | None, function: str) -> bool:
    """Return whether a call is one of ours that takes a name first: ``shm.attach(``, or ``attach(`` if imported."""
    if function not in _TAKE_NAMES:
        return False
    if owner:
        return shell.user_ns.get(owner) is sys.modules["shmkernel"]
    return str(getattr(shell.user_ns.get(function), "__module__", "")).startswith("shmkernel.")


def _complete(shell: InteractiveShell, verb: str, parser: Parser, text: str) -> tuple[str, str, Sequence[str]]:
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
    if verb in ("shm_save", "shm_load") and any(words):
        return fragment, "path", _files(words[0], fragment) if verb == "shm_save" else ()
    if verb == "shm_load" or not parser.takes_names():  # a new name
        return fragment, "", ()
    return fragment, "segment", [name for name in paths.names() if name not in words]


def _files(name: str, fragment: str) -> list[str]:
    """Propose files to save a segment to, in the folder that was typed."""
    try:
        record = records.read(os.stat(paths.path_of(name)).st_ino)
    except (OSError, ValueError):  # no such name, or none at all
        return []
    if record is None:
        return []
    with importing:
        from shmkernel import kinds  # noqa: PLC0415  only now: loading the extension has to be quick
    kind: Any = kinds.named(record.kind)
    first = (".shm",) if record.kind == "object" else ()
    suffixes = dict.fromkeys((*first, *getattr(kind, "suffixes", ()), *getattr(kind, "formats", ())))
    return [f"{os.path.join(os.path.dirname(fragment), name)}{suffix}" for suffix in suffixes]


def _values(shell: InteractiveShell) -> list[str]:
    """List the variables that one may want to share: values, not numbers, modules, functions and classes."""
    hidden = shell.user_ns_hidden
    items: list[tuple[str, Any]] = list(shell.user_ns.items())
    names = (key for key, value in items if not issubclass(type(value), _SELDOM))
    return sorted(name for name in names if not name.startswith("_") and name not in hidden)
