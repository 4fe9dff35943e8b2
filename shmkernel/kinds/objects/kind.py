"""Objects: a value that no other kind takes, as plain parts. It does not change once it is shared.

Each `attach` makes a new object, since people change theirs; the arrays in it are the segment's memory, and changes to
them stay private.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
from typing import IO, TYPE_CHECKING, Any

from shmkernel import kinds
from shmkernel._core import capacity, closing, garbage, paths
from shmkernel._core.imports import importing, loaded
from shmkernel.errors import Cure, DamagedError, RefusedError, UnsupportedError
from shmkernel.kinds import Description, Plan, preview
from shmkernel.kinds.objects import layout, signing, summary

if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable, Mapping

    from shmkernel.kinds.preview import Look, Preview, Source


class Object:
    """The object kind; see `shmkernel.kinds.Kind`."""

    name = "object"
    modes = ("c", "r")  # two processes that change one object would tear it
    fresh = True
    pickles = True
    suffixes = (".pkl", ".pickle", ".npz", ".safetensors")
    formats = suffixes

    def recognises(self, value: object, options: Mapping[str, object]) -> bool:
        """Take any value: no other kind wants it. Whether it can be shared, `plan` finds out."""
        return value is not None

    def plan(self, name: str, value: object, options: Mapping[str, object]) -> Plan:
        """Plan a value: its stream is made here, its arrays are written from where they are."""
        kinds.only(name, "an object", options, "allow_pickle")
        plain = _part("plain")
        try:
            stream, buffers = plain.pack(value)
        except plain.NoValueError as error:
            if not options.get("allow_pickle"):
                raise _refused(name, value, error) from None
            return _pickled(name, value)
        head = summary.head(value, layout.PLAIN, buffers, len(stream))
        return Plan(*layout.lay_out(head, buffers, stream))

    def load(self, name: str, path: str, *, allow_pickle: bool = False) -> Plan:
        """Plan the content of a file: what it holds is made first, and shared as any other value."""
        with open(path, "rb") as file:
            other = not self.matches(file.read(len(layout.MAGIC))) and path.endswith(self.suffixes)
        if other:  # outside of the try: its errors say already what is wrong with a file of that format
            return self._import(name, path, allow_pickle=allow_pickle)
        try:
            opened = layout.open_(kinds.whole(path))
            if opened.head.content == layout.PICKLE and not allow_pickle:
                raise _unasked(name, f"{path} holds a pickled {opened.head.type}")
            value = self._value(name, opened, trusted=False)
        except ValueError as error:
            message = f"{path} cannot be loaded: {error}. It has to be a file that an object was saved to"
            raise DamagedError(message, name=name, path=path) from None
        return self.plan(name, value, {"allow_pickle": allow_pickle})

    def _import(self, name: str, path: str, *, allow_pickle: bool) -> Plan:
        """Plan the content of a file in another format; arrays are read when they are written to the segment."""
        files = _part("files")
        if not path.endswith(files.PICKLES):
            value, later = files.arrays(name, path)
            stream, buffers = _part("plain").pack(value, later)
            return Plan(*layout.lay_out(summary.head(value, layout.PLAIN, buffers, len(stream)), buffers, stream))
        if not allow_pickle:
            raise _unasked(name, f"{path} is a pickle")
        return self.plan(name, files.unpickle(name, path), {"allow_pickle": True})

    def write(self, name: str, value: object, path: str, file: IO[bytes], progress: Callable[[int], None]) -> None:
        """Write the object in the format of the path's suffix."""
        _part("files").write(name, value, path, file, progress)

    def matches(self, head: bytes) -> bool:
        """Return whether these are the first bytes of an object."""
        return head.startswith(layout.MAGIC)

    def open(self, mapping: mmap.mmap, path: str, mode: str) -> object:
        """Return a new object."""
        return self.open_as(mapping, path, mode, None, trusted=False)

    def open_as(
        self,
        mapping: mmap.mmap,
        path: str,
        mode: str,
        form: str | None,
        *,
        trusted: bool,
        consent: kinds.Consent | None = None,
    ) -> object:
        """Return a new object; `trusted` says that this library wrote the file and nobody has written to it since."""
        opened, name = layout.open_(mapping), paths.called(path)
        if opened.head.content == layout.PICKLE:
            _check(name, opened, consent or kinds.Consent())
        value = self._value(name, opened, trusted=trusted)
        with contextlib.suppress(TypeError):  # a text has no weak references: its arrays alone hold the mapping
            closing.keep_with(value, mapping)
        return value

    def _value(self, name: str, opened: layout.Opened, *, trusted: bool) -> object:
        with garbage.postponed if len(opened.stream) > _LARGE else contextlib.nullcontext():
            return self._made(name, opened, trusted=trusted)

    def _made(self, name: str, opened: layout.Opened, *, trusted: bool) -> object:
        if opened.head.content == layout.PICKLE:
            return _part("pickles").unpack(name, opened)
        if opened.head.content != layout.PLAIN:
            raise ValueError(f"its content is {opened.head.content!r}, which a later version of shmkernel may know")
        try:
            return _part("plain").unpack(opened.stream, opened.buffers, trusted=trusted)
        except UnsupportedError as error:
            raise UnsupportedError(f"{name!r} cannot be attached: {error.what}", name=name) from None

    def describe(self, head: bytes, size: int) -> Description:
        """Describe class, shape, and how much each process copies."""
        facts = layout.head_of(head, size)
        text = f"{facts.text}, pickled" if facts.content == layout.PICKLE else facts.text
        return Description(text, f"{facts.type}: {_sizes(facts)}", copied=min(max(facts.copied, 0), size))

    def preview(self, source: Source, look: Look) -> Preview:
        """Preview the parts of the object, as they were when it was shared."""
        facts = layout.head_of(source.read(0, kinds.HEAD), source.size)
        rows = [[text] for _, text in facts.tree]
        made = ", ".join(f"{name} {version}" for name, version in {"Python": facts.python, **facts.modules}.items())
        stats = [("class", preview.short(facts.type)), ("memory", _sizes(facts)), ("made with", preview.short(made))]
        labels = itertools.chain((name for name, _ in facts.tree))
        return preview.grid([("", "")], labels, rows, 0, len(rows), stats=stats)


KIND = Object()
_LARGE = 1 << 16  # bytes of a stream, which may make many objects
_KEYS = (int, str, bytes, float, bool, tuple, type(None))  # of a dict; other parts of a path are attributes


def _part(name: str) -> Any:
    """Return a module of this kind that needs numpy or msgspec: a listing does without, and imports none."""
    full = f"{__package__}.{name}"
    if module := loaded(full):
        return module
    with importing:
        return importlib.import_module(full)


def _pickled(name: str, value: object) -> Plan:
    """Plan a value as a pickle, signed with the key of this user."""
    pickles = _part("pickles")
    stream, buffers, modules, shared = pickles.pack(name, value)
    head = summary.head(value, layout.PICKLE, buffers, len(stream), modules)
    head = head._replace(shared=shared, copied=head.copied + head.shared - shared)
    return Plan(*layout.lay_out(head, buffers, stream, signing.sign))


def _check(name: str, opened: layout.Opened, consent: kinds.Consent) -> None:
    """Raise RefusedError unless the object may be unpickled: its user has signed it, or the caller has asked for it."""
    what = f"{name!r} is a pickled {opened.head.type}{' of ' * bool(consent.owner)}{consent.owner}"
    if consent.suspect:
        raise RefusedError(f"{what}, and is never unpickled: {consent.suspect}", name=name, type=opened.head.type)
    if consent.allow is False:
        raise RefusedError(f"{what}, and to unpickle is not allowed here", name=name, type=opened.head.type)
    if not consent.allow and not signing.holds(opened.signature, opened.front, opened.stream):
        message = f"{what}. To unpickle it runs its code, and it is not signed with your key"
        cure = Cure("If you trust who made it", "attach", name, allow_pickle=True)
        raise RefusedError(message, cure, name=name, type=opened.head.type)


def _unasked(name: str, what: str) -> RefusedError:
    message = f"{name!r}: {what}. To load it runs its code"
    return RefusedError(message, Cure("If you trust who made it", allow_pickle=True), name=name)


def _sizes(facts: layout.Head) -> str:
    return f"{capacity.human(facts.shared)} shared, {capacity.human(facts.copied)} copied by each process"


def _refused(name: str, value: object, error: Any) -> UnsupportedError:
    """Make the error for a value that is not plain; `error` leads to the part that is not."""
    where = "".join(f"[{part!r}]" if type(part) in _KEYS else f".{part}" for part in error.path)
    reason = f": {error.reason}" if error.reason else ""
    if where:
        part = f"in it, {name.rpartition('.')[2]}{where} is {kinds.an(error.type)}{reason}"
        message = f"{name!r}: {kinds.a_type(value)} like this cannot be shared: {part}"
    else:
        message = f"{name!r}: {kinds.a_type(value)} cannot be shared as it is{reason}"
    cures = []
    if _part("pickles").may_be(value):
        cures = [Cure("It can be pickled, but then to attach it runs code", allow_pickle=True)]
    return UnsupportedError(message, *cures, name=name, type=type(value).__name__)
