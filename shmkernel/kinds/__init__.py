"""Kinds of values that a segment can hold: the interface of a kind, and the choice of the kind for a value.

A kind converts a value to the bytes of a widely read format, and such bytes to a view. The rest of the package uses the
interface `Kind` alone. Other packages add kinds through the entry point group ``shmkernel.kinds``.
"""

from __future__ import annotations

import functools
import importlib
import mmap
import os
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeGuard

from shmkernel._core import capacity
from shmkernel._core.imports import importing
from shmkernel.errors import ArgumentError, RangeError, ShmError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from shmkernel.kinds.preview import Look, Preview, Source

__all__ = [  # what a kind needs, ours or another package's; the rest is for the verbs
    "HEAD", "Description", "Keeper", "Kind", "Plan", "a_type", "known", "named", "only", "preview", "read",
]  # fmt: skip


class Plan(NamedTuple):
    """How to write a value: ``size`` in bytes, of which ``pieces`` yields the first.

    The bytes after the pieces are zero. They are reserved unless ``sparse`` is true: then a store there raises SIGBUS,
    which kills, if memory is full.
    """

    size: int
    pieces: Callable[[], Iterator[memoryview]]
    sparse: bool = False
    build: Callable[[str, int, Callable[[int], None]], None] | None = None  # a Keeper's: folder, its fd, progress
    grows: bool = False  # the size is an estimate: the file ends with the last piece
    compute: Callable[[int, Callable[[int], None]], None] | None = None  # what follows the pieces: fd, progress


class Consent(NamedTuple):
    """Whether `attach` may unpickle a segment: if asked to, never, or (None) if this user has signed it.

    ``suspect`` is the reason why its file is not trusted at all; ``owner`` names who made it.
    """

    allow: bool | None = None
    suspect: str = ""
    owner: str = ""


class Description(NamedTuple):
    """A segment's content, as listings show it. ``text`` is the short form: ``int16 (344, 403)``.

    ``copied`` are the bytes that each process copies when it attaches.
    """

    text: str
    dtype: str | None = None
    shape: tuple[int, ...] | None = None
    order: str | None = None
    copied: int = 0


class Kind(Protocol):
    """The interface of a kind.

    These members are optional:

    ``modes : tuple of str``
        The modes that a segment can be attached in, the default first. Without it: r+, r and c.
    ``forms : tuple of str``
        What `attach` takes as ``as_``: other forms of the value. With it comes
        ``open_as(mapping, path, mode, form, trusted) -> object``, in place of `open`: ``form`` is None for the value as
        it was shared, and ``trusted`` says that shmkernel wrote the file, and nobody has written to it since.
    ``describe_source(source) -> Description``
        Describe a segment, in place of `describe`, if its first bytes say too little.
    ``suffixes : tuple of str``, ``save(value, path) -> Iterator[bytes] | None``
        Which files `load` reads by this kind, and the content of a file in another format; None: the segment's bytes.
    ``formats : tuple of str``, ``write(name, value, path, file, progress) -> None``
        Write the content of a file whose name ends in one of these to an open file, in another format.

    ``explain(value) -> str | None``
        Return why this kind does not take a value that is almost of this kind, for example ``item 3 is a dict, and an
        item of a list is ...``; None for other values. It is called if no kind takes the value.
    ``fresh : bool``
        Whether each `attach` makes a new value. By default it returns the same one as long as that exists.
    ``pickles : bool``
        Whether segments of the kind may be pickled. `plan` then has an option ``allow_pickle``, `load` a parameter of
        that name, and `open_as` a parameter ``consent``, a `Consent`.
    ``by_name : bool``
        Whether multiprocessing sends a value of this kind as a reference to its segment. The default is True for a
        `Keeper`, else False.
    ``listen(home) -> None``
        Make all processes that change the value publish from now on, since a process waits for changes. For a `Keeper`
        whose library shows changes.
    """

    name: str

    def recognises(self, value: object, options: Mapping[str, object]) -> bool:
        """Return whether a value, with these options of ``create``, is of this kind."""

    def plan(self, name: str, value: object, options: Mapping[str, object]) -> Plan:
        """Return how to write the value; its pieces are made when they are written.

        Raises
        ------
        UnsupportedError
            If the value would not be read back unchanged.
        ArgumentError
            If the options contradict each other.
        """

    def load(self, name: str, path: str) -> Plan:
        """Return how to write the content of a file that `save` or another program wrote; it is read piece by piece."""

    def matches(self, head: bytes) -> bool:
        """Return whether a file without a record that begins with `head` is of this kind."""

    def open(self, mapping: mmap.mmap, path: str, mode: str) -> object:
        """Return a view of a mapped segment; raise ValueError if its bytes are damaged.

        The view holds the only reference to the mapping, so that both end together.
        """

    def describe(self, head: bytes, size: int) -> Description:
        """Describe a segment of `size` bytes that begins with `head`; ValueError if it is damaged."""

    def preview(self, source: Source, look: Look) -> Preview:
        """Return a preview in 20 ms and 64 KiB at most, without a lock; ValueError if the segment is damaged."""


class Keeper(Kind, Protocol):
    """A kind whose segments are used through a library that needs a folder for each.

    The segment's file is `file` in the folder; its plan has `build`, which writes the file and others beside it. The
    segment's name is a second link to the file. Unlinking the name removes the folder.
    """

    file: str
    suffixes: tuple[str, ...]  # file names that `load` reads

    def connect(self, mapping: mmap.mmap, home: str, name: str, mode: str) -> Any:
        """Return the value for the user, which keeps the mapping alive; errors as for `open`.

        The mapping covers the file's first bytes; it keeps the segment attached.
        """

    def save(self, value: Any, path: str) -> Iterator[bytes]:
        """Yield the content of a file for this path, in pieces."""


def keeps(kind: Kind) -> TypeGuard[Keeper]:
    """Return whether each of the kind's segments has a folder."""
    return hasattr(kind, "connect")


def goes_by_name(kind: Kind) -> bool:
    """Return whether multiprocessing sends a value of the kind as a reference to its segment."""
    return bool(getattr(kind, "by_name", keeps(kind)))


OURS = {  # a value goes to the first kind that recognises it, and later ones are not imported
    "array": "shmkernel.kinds.array",
    "ring": "shmkernel.kinds.rings.kind",
    "list": "shmkernel.kinds.lists.kind",
    "raw": "shmkernel.kinds.raw",
    "dict": "shmkernel.kinds.dicts.kind",
    "table": "shmkernel.kinds.tables.kind",
    "object": "shmkernel.kinds.objects.kind",
}
LAST = "object"  # of a value that neither our own kinds nor those of other packages take
_LONG = 200  # characters of another library's error
_PIECE = 16 << 20  # bytes between two updates of the progress bar, where Ctrl-C can interrupt
ANY_BYTES = "raw"  # the kind that can read any file
UNMARKED = {  # kinds of whose files no bytes tell
    "list": "If a list was saved to it",
    "dict": "If a dict was saved to it",
    ANY_BYTES: "To share its bytes",
}
HEAD = 16384  # bytes of a segment that are enough for `describe` and `matches`


@functools.cache
def _own(kind: str) -> Kind:
    with importing:  # here, since kinds import numpy, which the command line can do without
        own: Kind = importlib.import_module(OURS[kind]).KIND
        return own


@functools.cache
def known() -> dict[str, Kind]:
    """Return all kinds by name: our own, then those of other packages."""
    kinds = {kind: _own(kind) for kind in OURS}
    with importing:
        from importlib.metadata import entry_points  # noqa: PLC0415  20 ms, and our own kinds come first anyway

        for entry in entry_points(group="shmkernel.kinds"):
            kinds.setdefault(entry.name, entry.load())
    return kinds


def named(kind: str) -> Kind:
    """Return the kind of this name, and import no other."""
    if kind in OURS:
        return _own(kind)
    if external := known().get(kind):
        return external
    raise ArgumentError(f"kind {kind!r} is unknown. Known kinds: {', '.join(known())}", kind=kind)


def described(kind: str, head: bytes, size: int, read: Callable[[int, int], bytes]) -> Description:
    """Describe a segment of a kind, as its `describe` does; for most arrays faster, and without numpy.

    `read` takes an offset and a size: some kinds need more than the first bytes.
    """
    if kind == "array":
        from shmkernel.kinds import npy_header  # noqa: PLC0415  it imports this module

        if what := npy_header.describe(head, size):
            return what
    reader = named(kind)
    if not hasattr(reader, "describe_source"):
        return reader.describe(head, size)
    from shmkernel.kinds.preview import Source  # noqa: PLC0415  it imports this module

    description: Description = reader.describe_source(Source(read, size))
    return description


def for_value(name: str, value: object, options: Mapping[str, object]) -> Kind:
    """Return the kind for a value; UnsupportedError if no kind takes it."""
    for own in OURS:  # as `_first` does, with fewer calls
        if own != LAST and (kind := _own(own)).recognises(value, options):
            return kind
    others = (kind for other, kind in known().items() if other not in OURS)
    if taker := next((kind for kind in others if kind.recognises(value, options)), None):
        return taker
    if value is None:
        message = f"{name!r}: nothing to share. Give a value, or a shape, a size, or kind='dict'"
        raise UnsupportedError(message, name=name, type="NoneType")
    return _own(LAST)


def planned(
    name: str, value: object, options: Mapping[str, object], kind: str | None = None, *, called: str | None = None
) -> tuple[Kind, Plan]:
    """Lay a value out by the kind of this name, or the one that takes it; an error says what to give instead.

    `called` is the expression that gives the value, if no variable `name` does.
    """
    allow_pickle = options.get("allow_pickle")
    options = {option: given for option, given in options.items() if option != "allow_pickle"}
    maker = None
    try:
        maker = named(kind) if kind else for_value(name, value, options)
        return maker, maker.plan(
            name, value, options | ({"allow_pickle": allow_pickle} if getattr(maker, "pickles", False) else {})
        )
    except (UnsupportedError, RangeError) as error:
        if error.facts.keys() & {"package", "expression"}:  # what is to be installed, or given instead
            raise
        return _instead()(error, maker, name, value, options, kind, allow_pickle=allow_pickle, called=called)
    except (ShmError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001  a library, and a value's own methods, may raise anything
        return _instead()(error, maker, name, value, options, kind, allow_pickle=allow_pickle, called=called)


def last() -> Kind:
    """Return the kind of a value that no other takes."""
    return _own(LAST)


def _instead() -> Callable[..., tuple[Kind, Plan]]:
    with importing:
        from shmkernel.kinds import refusals  # noqa: PLC0415  only for values that are refused

    return refusals.instead


def for_bytes(head: bytes, *, foreign: bool = False) -> Kind | None:
    """Return the kind whose format a file without a record has; if none, raw for a `foreign` file, else None."""
    matching = _first(lambda kind: kind.matches(head))
    return named(ANY_BYTES) if matching is None and foreign else matching


def a_type(value: object) -> str:
    """Return the name of a value's type, with its article.

    Examples
    --------
    >>> a_type(1), a_type("x")
    ('an int', 'a str')
    """
    return an(type(value))


def an(type_: type) -> str:
    """Return the name of a type, with its article."""
    return with_article(type_.__name__)


def with_article(kind: str) -> str:
    """Return the name of a type or kind with its article."""
    return f"{'an' if kind[:1].lower() in 'aeio' or kind[:2] == 'nd' else 'a'} {kind}"


def operand(expression: str) -> str:
    """Return an expression so that a method may follow it.

    Examples
    --------
    >>> operand("a.b"), operand("a + b")
    ('a.b', '(a + b)')
    """
    return expression if expression.replace(".", "").isidentifier() else f"({expression})"


def said(error: Exception) -> str:
    r"""Return what another library's error says, in one line.

    Examples
    --------
    >>> said(KeyError("a")), said(TypeError("no table\n  of an int"))
    ("KeyError: 'a'", 'no table of an int')
    """
    text = " ".join(str(error).split())
    text = text if len(text) <= _LONG else f"{text[:_LONG]}..."
    return text if isinstance(error, (TypeError, ValueError)) and text else f"{type(error).__name__}: {text}"


def only(name: str, what: str, options: Mapping[str, object], *allowed: str) -> None:
    """Raise ArgumentError if an option is given that is not `allowed`.

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
    """Yield a part of a file piece by piece; each piece is valid until the next."""
    with open(path, "rb", buffering=0) as file:
        file.seek(offset)
        room = memoryview(bytearray(min(size, _PIECE)))
        while size:
            count = file.readinto(room[:size])
            if not count:
                raise OSError(f"{path} became shorter while it was read")
            yield room[:count]
            size -= count


def whole(path: str) -> memoryview:
    """Return the bytes of a file, which are not mapped: another program may shorten it, and to read beyond would kill.

    LimitError is raised if it does not fit into memory.
    """
    size = os.path.getsize(path)
    capacity.check_memory(f"{path} takes", size, path=path)
    room, done = memoryview(mmap.mmap(-1, max(size, 1), flags=mmap.MAP_PRIVATE))[:size], 0
    for piece in read(path, 0, size):
        room[done : done + len(piece)] = piece
        done += len(piece)
    return room


def for_file(path: str, head: bytes) -> Kind:
    """Return the kind to load a file with: by its name, by its first bytes, or the one whose error says what can be."""
    return for_suffix(path) or for_bytes(head) or named("array")


def for_suffix(path: str) -> Kind | None:
    """Return the kind that loads all files of this suffix, None if there is none."""
    return _first(lambda kind: path.endswith(getattr(kind, "suffixes", ())))


def _first(suits: Callable[[Kind], bool]) -> Kind | None:
    """Return the first kind that suits; kinds of other packages are loaded only if none of ours does."""
    return next(filter(suits, map(_own, OURS)), None) or next(filter(suits, known().values()), None)
