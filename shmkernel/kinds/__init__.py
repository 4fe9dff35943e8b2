"""The kinds of values that a segment can hold: what each of them must be able to do, and which takes what.

A kind turns a value into the bytes of a format that the world reads already, and such bytes into a view.
The rest of the package knows no more of it than `Kind`. Kinds of other packages join through the entry point
group ``shmkernel.kinds``.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeGuard

from shmkernel._core.imports import importing
from shmkernel.errors import ArgumentError, RangeError, ShmError, UnsupportedError

if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable, Iterator

    from shmkernel.kinds.preview import Look, Preview, Source


class Plan(NamedTuple):
    """A value that is ready to be written: ``size`` bytes in all, of which ``pieces`` are the first.

    What the pieces leave is zero, and reserved, unless ``sparse``: then a store into a full memory kills.
    """

    size: int
    pieces: Callable[[], Iterator[memoryview]]
    sparse: bool = False
    build: Callable[[str, int, Callable[[int], None]], None] | None = None  # a Keeper's: folder, its file, progress


class Description(NamedTuple):
    """What a listing shows of a segment. ``text`` is the short form: ``int16 (344, 403)``."""

    text: str
    dtype: str | None = None
    shape: tuple[int, ...] | None = None
    order: str | None = None


class Kind(Protocol):
    """What the package asks of a kind of value."""

    name: str

    def recognises(self, value: object, options: Mapping[str, object]) -> bool:
        """Say whether a value, with these options of ``create``, is of this kind."""

    def plan(self, name: str, value: object, options: Mapping[str, object]) -> Plan:
        """Lay the value out; the pieces are made when they are written.

        Raises
        ------
        UnsupportedError
            If the value would not come back as it is.
        ArgumentError
            If the options make no sense together.
        """

    def load(self, name: str, path: str) -> Plan:
        """Lay out the content of a file that `save` wrote, or another program; read it when it is written."""

    def matches(self, head: bytes) -> bool:
        """Say whether a file without a record, which begins like this, is of this kind."""

    def open(self, mapping: mmap.mmap, path: str, mode: str) -> object:
        """Return a view of a mapped segment; raise ValueError if its bytes cannot be trusted.

        The mapping lives as long as the view does, and no longer.
        """

    def describe(self, head: bytes, size: int) -> Description:
        """Say what a segment of `size` bytes that begins with `head` holds; ValueError if it is damaged."""

    def preview(self, source: Source, look: Look) -> Preview:
        """Show what a segment holds: in 20 ms and 64 KiB at most, without a lock; ValueError if it is damaged."""


class Keeper(Kind, Protocol):
    """A kind whose segments are used through a library, which needs a folder to itself.

    The segment's file lies in the folder as `file`, and its plan has `build`, which writes it and what it needs beside
    it. The segment's name is another link to the file; the folder goes with the name.
    """

    file: str
    suffixes: tuple[str, ...]  # of the files that `load` reads

    def connect(self, mapping: mmap.mmap, home: str, name: str, mode: str) -> Any:  # noqa: ANN401
        """Return what is handed out, which keeps the mapping alive; errors are those of `open`.

        The mapping is of the file's first bytes, and says that it is attached.
        """

    def save(self, value: Any, path: str) -> Iterator[bytes]:  # noqa: ANN401
        """Write the content as a file for this path, in pieces."""


def keeps(kind: Kind) -> TypeGuard[Keeper]:
    """Say whether the kind's segments have a folder each."""
    return hasattr(kind, "connect")


_OURS = {  # in the order in which they are asked whether they take a value
    "ring": "shmkernel.kinds.rings.kind",
    "array": "shmkernel.kinds.array",
    "list": "shmkernel.kinds.lists.kind",
    "raw": "shmkernel.kinds.raw",
    "dict": "shmkernel.kinds.dicts.kind",
}
_PIECE = 16 << 20  # bytes read between two looks at Ctrl-C and the progress bar
HEAD = 16384  # bytes of a segment that are enough for `describe` and `matches`


@functools.cache
def _ours() -> dict[str, Kind]:
    with importing:  # with numpy, which faces do without
        return {kind: importlib.import_module(module).KIND for kind, module in _OURS.items()}


@functools.cache
def known() -> dict[str, Kind]:
    """Return all kinds by name: our own, then those of other packages."""
    found = dict(_ours())
    with importing:
        from importlib.metadata import entry_points  # noqa: PLC0415  20 ms, and our own kinds come first anyway

        for entry in entry_points(group="shmkernel.kinds"):
            found.setdefault(entry.name, entry.load())
    return found


def named(kind: str) -> Kind:
    """Return the kind of this name."""
    if found := _ours().get(kind) or known().get(kind):
        return found
    raise ArgumentError(f"kind {kind!r} is unknown. There are: {', '.join(known())}", kind=kind)


def for_value(name: str, value: object, options: Mapping[str, object]) -> Kind:
    """Return the kind that takes the value; it is never guessed."""
    if found := _first(lambda kind: kind.recognises(value, options)):
        return found
    if value is None:
        message = f"{name!r}: nothing to share. Give a value, or a shape, a size, or kind='dict'"
    elif isinstance(value, (list, tuple)):
        at = next((at for at, item in enumerate(value) if not _is_item(item)), 0)
        what = f"item {at} is {a_type(value[at])}, and an item of a list is an int, float, bool, str, bytes or None"
        message = f"{name!r}: {a_type(value)} like this cannot be shared: {what}"
    else:
        message = f"{name!r}: {a_type(value)} cannot be shared as it is"
    raise UnsupportedError(message, name=name, type=type(value).__name__)


def planned(name: str, value: object, options: Mapping[str, object], kind: str | None = None) -> tuple[Kind, Plan]:
    """Lay a value out by the kind of this name, or the one that takes it; an error says what to give instead."""
    try:
        maker = named(kind) if kind else for_value(name, value, options)
        return maker, maker.plan(name, value, options)
    except (UnsupportedError, RangeError) as error:
        raise _cured(error, name, value, options, kind) from None


def _cured(
    error: UnsupportedError | RangeError, name: str, value: object, options: Mapping[str, object], kind: str | None
) -> ShmError:
    """Add to an error what can be shared in the value's place."""
    with importing:
        from shmkernel.kinds import cures  # noqa: PLC0415  only for a message

    if value is None or isinstance(value, Mapping) or any(option is not None for option in options.values()):
        return error

    def works(made: object) -> bool:
        maker = named(kind) if kind else for_value(name, made, {})
        return maker.plan(name, made, {}).size > 0

    cure, expression = cures.propose(name.rpartition(".")[2], value, works)
    end = cure or "Shared are numpy arrays, numbers, bytes, flat lists, and dicts of such values"
    return type(error)(f"{error.message}. {end}", name=error.name, **error.facts, expression=expression)


def _is_item(value: object) -> bool:
    with importing:
        from shmkernel.kinds.lists import layout  # noqa: PLC0415

    return layout.may_be(type(value))


def for_bytes(head: bytes, *, foreign: bool = False) -> Kind | None:
    """Return the kind that a file without a record seems to be of; one that may be any program's is raw at least."""
    found = _first(lambda kind: kind.matches(head))
    return named("raw") if found is None and foreign else found


def a_type(value: object) -> str:
    """Name the type of a value, with its article.

    Examples
    --------
    >>> a_type(1), a_type("x")
    ('an int', 'a str')
    """
    kind = type(value).__name__
    return f"{'an' if kind[:1].lower() in 'aeio' or kind[:2] == 'nd' else 'a'} {kind}"


def only(name: str, what: str, options: Mapping[str, object], *allowed: str) -> None:
    """Raise ArgumentError if an option is given that a kind has no use for.

    Examples
    --------
    >>> only("x", "a list", {"size": None, "order": "F"})
    Traceback (most recent call last):
    shmkernel.errors.ArgumentError: 'x': a list takes no order
    """
    for option, value in options.items():
        if value is not None and option not in allowed:
            raise ArgumentError(f"{name!r}: {what} takes no {option}", name=name, option=option)


def read(path: str, offset: int, size: int) -> Iterator[memoryview]:
    """Yield a part of a file, piece by piece, each valid until the next."""
    with open(path, "rb", buffering=0) as file:
        file.seek(offset)
        room = memoryview(bytearray(min(size, _PIECE)))
        while size:
            count = file.readinto(room[:size])
            if not count:
                raise OSError(f"{path} became shorter while it was read")
            yield room[:count]
            size -= count


def for_path(path: str) -> Kind | None:
    """Return the kind that keeps its values in files named like this."""
    return _first(lambda kind: keeps(kind) and path.endswith(kind.suffixes))


def _first(suits: Callable[[Kind], bool]) -> Kind | None:
    """Return the first kind that suits; those of other packages are only looked for where none of ours does."""
    return next(filter(suits, _ours().values()), None) or next(filter(suits, known().values()), None)
