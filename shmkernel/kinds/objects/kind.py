"""Objects: a value that no other kind takes, as plain parts. It does not change once it is shared.

Each `attach` makes a new object, since people change theirs; the arrays in it are the segment's memory, and changes to
them stay private.
"""

from __future__ import annotations

import contextlib
import itertools
import weakref
from typing import TYPE_CHECKING, Any

from shmkernel import kinds
from shmkernel._core import capacity, paths
from shmkernel._core.imports import importing
from shmkernel.errors import DamagedError, UnsupportedError
from shmkernel.kinds import Description, Plan, preview
from shmkernel.kinds.objects import layout, summary

if TYPE_CHECKING:
    import mmap
    from collections.abc import Mapping
    from types import ModuleType

    from shmkernel.kinds.preview import Look, Preview, Source


class Object:
    """The object kind; see `shmkernel.kinds.Kind`."""

    name = "object"
    modes = ("c", "r")  # two processes that change one object would tear it
    fresh = True

    def recognises(self, value: object, options: Mapping[str, object]) -> bool:
        """Take any value: no other kind wants it. Whether it can be shared, `plan` finds out."""
        return value is not None

    def plan(self, name: str, value: object, options: Mapping[str, object]) -> Plan:
        """Plan a value: its stream is made here, its arrays are written from where they are."""
        kinds.only(name, "an object", options)
        plain = _plain()
        try:
            stream, buffers = plain.pack(value)
        except plain.NoValueError as error:
            raise _refused(name, value, error) from None
        head = summary.head(value, layout.PLAIN, buffers, len(stream))
        return Plan(*layout.lay_out(head, buffers, stream))

    def load(self, name: str, path: str) -> Plan:
        """Plan the content of a file that `save` wrote: what it says is put together and checked first."""
        import mmap  # noqa: PLC0415  only here

        try:
            with open(path, "rb") as file:
                mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            value = self.open_as(mapping, path, "c", None, trusted=False)
        except ValueError as error:
            message = f"{path} cannot be loaded: {error}. It has to be a file that an object was saved to"
            raise DamagedError(message, name=name, path=path) from None
        return self.plan(name, value, {})

    def matches(self, head: bytes) -> bool:
        """Return whether these are the first bytes of an object."""
        return head.startswith(layout.MAGIC)

    def open(self, mapping: mmap.mmap, path: str, mode: str) -> object:
        """Return a new object."""
        return self.open_as(mapping, path, mode, None, trusted=False)

    def open_as(self, mapping: mmap.mmap, path: str, mode: str, form: str | None, *, trusted: bool) -> object:
        """Return a new object; `trusted` says that this library wrote the file and nobody has written to it since."""
        opened = layout.open_(mapping)
        try:
            value = _plain().unpack(opened.stream, opened.buffers, trusted=trusted)
        except UnsupportedError as error:
            name = paths.called(path)
            raise UnsupportedError(f"{name!r} cannot be attached: {error.what}", name=name) from None
        with contextlib.suppress(TypeError):  # a text has no weak references: its arrays alone hold the mapping
            weakref.finalize(value, id, mapping).atexit = False
        return value

    def describe(self, head: bytes, size: int) -> Description:
        """Describe class, shape, and how much each process copies."""
        facts = layout.head_of(head, size)
        return Description(facts.text, f"{facts.type}: {_sizes(facts)}")

    def preview(self, source: Source, look: Look) -> Preview:
        """Preview the parts of the object, as they were when it was shared."""
        facts = layout.head_of(source.read(0, kinds.HEAD), source.size)
        rows = [[text] for _, text in facts.tree]
        made = ", ".join(f"{name} {version}" for name, version in {"Python": facts.python, **facts.modules}.items())
        stats = [("class", preview.short(facts.type)), ("memory", _sizes(facts)), ("made with", preview.short(made))]
        labels = itertools.chain((name for name, _ in facts.tree))
        return preview.grid([("", "")], labels, rows, 0, len(rows), stats=stats)


KIND = Object()
_KEYS = (int, str, bytes, float, bool, tuple, type(None))  # of a dict; other parts of a path are attributes


def _plain() -> ModuleType:
    """Import what needs numpy and msgspec: a listing does without."""
    with importing:
        from shmkernel.kinds.objects import plain  # noqa: PLC0415  see above

        return plain


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
    return UnsupportedError(message, name=name, type=type(value).__name__)
