"""Raw bytes: a segment is what it holds, without a header. The standard library's SharedMemory attaches it."""

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
        """Take bytes, and a size alone; a memoryview of numbers means more than its bytes."""
        if isinstance(value, memoryview):
            return value.format in ("B", "b", "c")
        return isinstance(value, (bytes, bytearray)) or (value is None and options.get("size") is not None)

    def plan(self, name: str, value: object, options: Mapping[str, object]) -> Plan:
        """Lay out the bytes of `value`, or of its buffer; what `size` has beyond them is zero."""
        kinds.only(name, "a block of bytes", options, "size")
        body = memoryview(b"") if value is None else _bytes(name, value)
        size = body.nbytes if options.get("size") is None else _size(name, options["size"])
        if size < body.nbytes:
            raise ArgumentError(f"{name!r}: {body.nbytes} bytes do not fit into size {size}", name=name, size=size)
        if size == 0:
            raise ArgumentError(f"{name!r}: no block can have 0 bytes. Give bytes or a size", name=name)
        return Plan(size, lambda: iter((body,)))

    def load(self, name: str, path: str) -> Plan:
        """Lay out any file."""
        size = os.stat(path).st_size
        if size == 0:
            raise ArgumentError(f"{name!r}: {path} is empty, and no block can have 0 bytes", name=name, path=path)
        return Plan(size, lambda: kinds.read(path, 0, size))

    def matches(self, head: bytes) -> bool:  # noqa: ARG002
        """Say no: any bytes would do."""
        return False

    def open(self, mapping: mmap.mmap, path: str, mode: str) -> object:  # noqa: ARG002
        """Return a view of the bytes."""
        return memoryview(mapping)

    def describe(self, head: bytes, size: int) -> Description:  # noqa: ARG002
        """Say that there are bytes; a listing shows how many."""
        return Description("bytes")

    def preview(self, source: Source, look: Look) -> Preview:
        """Show the bytes."""
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
        raise ArgumentError(f"{name!r}: {wanted!r} is no size: give a number of bytes", name=name, size=wanted)
    return size
