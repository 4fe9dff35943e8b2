"""Write cures as magics: ``%shm_unlink x``."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from shmkernel.errors import ArgumentError, Cure, in_python
from shmkernel.notebook.magics import ShmMagics

if TYPE_CHECKING:
    from shmkernel.notebook.parsing import Parser

_FLAGS = {"allow_pickle": "pickle"}  # options of Python that flags have another name for
_MARKS = str.maketrans({"$": "$$", "{": "{{", "}": "}}"})


def in_magics(cure: Cure) -> str:
    """Write a cure as a magic, or as Python if no magic does it or if a magic cannot take the name.

    Examples
    --------
    >>> in_magics(Cure("To write", "attach", "x", mode="r+")), in_magics(Cure("Remove it", "unlink", "/a {b}"))
    ('%shm_attach x --mode r+', "%shm_unlink '/a {{b}}'")
    >>> in_magics(Cure("Its bytes", "attach", "x", kind="raw"))
    "import shmkernel as shm; shm.attach('x', kind='raw')"
    """
    if not cure.verb:  # the failed call may have been a magic or Python
        return f"{' '.join(_flags(cure))} (in Python {in_python(cure)})"
    parser: Parser | None = getattr(getattr(ShmMagics, f"shm_{cure.verb}", None), "parser", None)
    words = [shlex.quote(str(value).translate(_MARKS)) for value in cure.arguments]
    line = " ".join([*words, *_flags(cure)])
    if parser is None or not _understood(parser, line, cure):
        return f"import shmkernel as shm; {in_python(cure)}"
    return f"%{parser.prog} {line}".rstrip()


def _flags(cure: Cure) -> list[str]:
    options = {_FLAGS.get(name, name): value for name, value in cure.options.items()}
    return [f"--{name}" if value is True else f"--{name} {value}" for name, value in options.items()]


def _understood(parser: Parser, line: str, cure: Cure) -> bool:
    """Return whether the parser reads the cure's arguments from the line."""
    if not line.isprintable():
        return False
    try:
        parsed: dict[str, Any] = vars(parser.parse_line(line, {}))
    except ArgumentError:
        return False
    return [*parsed.get("names", ()), *filter(None, [parsed.get("path")])] == [*map(str, cure.arguments)]
