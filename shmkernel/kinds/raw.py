"""Raw bytes: a segment has no header, and the standard library's SharedMemory attaches it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, cast

from shmkernel import kinds
from shmkernel._core import counts
from shmkernel.errors import ArgumentError, UnsupportedError
from shmkernel.kinds import Description, Plan, preview

if TYPE_CHECKING:
    import mmap
    from collections.abc import Mapping

    from shmkernel.kinds.preview import Look, Preview, Source


class Raw:
    """The raw kind; see `shmkernel.kinds.Kind`."""

    name = "raw"

    def recognises(self, value: object, options: Mapping[str, object]) -> bool:
        """Take bytes, or a size alone. A memoryview of numbers is not taken: its format would be lost."""
        if isinstance(value, memoryview):
            return value.format in ("B", "b", "c")
        return isinstance(value, (bytes, bytearray)) or (value is None and options.get("size") is not None)

    def plan(self, name: str, value: object, options: Mapping[str, object]) -> Plan:
        """Plan the bytes of `value`, followed by zeros up to `size`."""
        kinds.only(name, "a block of bytes", options, "size")
        body = memoryview(b"") if value is None else _bytes(name, value)
        size = body.nbytes if options.get("size") is None else _size(name, options["size"])
        if size < body.nbytes:
            raise ArgumentError(f"{name!r}: {body.nbytes} bytes do not fit into size {size}", name=name, size=size)
        if size == 0:
            raise ArgumentError(f"{name!r}: a block cannot have 0 bytes. Give bytes or a size", name=name)
        return Plan(size, lambda: iter((body,)))

    def load(self, name: str, path: str) -> Plan:
        """Plan the bytes of any file."""
        size = os.stat(path).st_size
        if size == 0:
            raise ArgumentError(f"{name!r}: {path} is empty, and a block cannot have 0 bytes", name=name, path=path)
        return Plan(size, lambda: kinds.read(path, 0, size))

    def matches(self, head: bytes) -> bool:
        """Return False: nothing in the bytes marks this kind."""
        return False

    def open(self, mapping: mmap.mmap, path: str, mode: str) -> object:
        """Return a view of the bytes."""
        return memoryview(mapping)

    def describe(self, head: bytes, size: int) -> Description:
        """Describe the content as bytes; a listing shows their size."""
        return Description("bytes")

    def preview(self, source: Source, look: Look) -> Preview:
        """Preview the bytes."""
        return preview.raw(source, look)


KIND = Raw()


def _bytes(name: str, value: object) -> memoryview:
    try:
        return memoryview(cast("bytes", value)).cast("B")
    except TypeError:
        message = f"{name!r}: {kinds.a_type(value)} has no bytes to share as they are"
        raise UnsupportedError(message, name=name, type=type(value).__name__) from None


def _size(name: str, wanted: object) -> int:
    size = counts.whole(wanted)
    if size is None or size < 0:
        raise ArgumentError(f"{name!r}: {wanted!r} is not a size: give a number of bytes", name=name, size=wanted)
    return size
