"""Tables: a segment is an Arrow IPC file, which every Arrow library opens. Nothing in it is ever unpickled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shmkernel import kinds
from shmkernel._core import closing, limits
from shmkernel.errors import ArgumentError, ShmError
from shmkernel.kinds import Description, Plan
from shmkernel.kinds.tables import arrow_file, incoming, metadata, outgoing, preview

if TYPE_CHECKING:
    import mmap
    from collections.abc import Iterator, Mapping

    from shmkernel.kinds.preview import Look, Preview, Source


class Table:
    """The table kind; see `shmkernel.kinds.Kind`."""

    name = "table"
    modes = ("c", "r")  # a table does not change once it is published
    forms = outgoing.FORMS
    suffixes = incoming.SUFFIXES

    def recognises(self, value: object, options: Mapping[str, object]) -> bool:
        """Take what gives its columns by Arrow's interface, and what pandas and polars have besides."""
        return incoming.recognises(value)

    def plan(self, name: str, value: object, options: Mapping[str, object]) -> Plan:
        """Plan an Arrow file, written batch by batch."""
        kinds.only(name, "a table", options)
        if incoming.is_dask(value):
            size, compute = incoming.dask(name, value)
            return Plan(size, lambda: iter(()), compute=compute)
        return _plan(name, incoming.table(name, value))

    def load(self, name: str, path: str) -> Plan:
        """Plan a table of the rows of a file, read batch by batch."""
        return _plan(name, incoming.file(name, path))

    def save(self, value: Any, path: str) -> Iterator[bytes] | None:
        """Yield the content of a Parquet, CSV or Feather file; None for the Arrow file as it is."""
        return outgoing.save(value, path)

    def matches(self, head: bytes) -> bool:
        """Return whether these are the first bytes of an Arrow file."""
        return head.startswith(metadata.MAGIC)

    def open(self, mapping: mmap.mmap, path: str, mode: str) -> object:
        """Return the table as what was shared."""
        return self.open_as(mapping, path, mode, None, trusted=False)

    def open_as(self, mapping: mmap.mmap, path: str, mode: str, form: str | None, *, trusted: bool) -> object:
        """Return the table as what was shared, or in the form of another library.

        `trusted` says that this library wrote the file and nobody has written to it since.
        """
        table = arrow_file.mapped(mapping, trusted=trusted)
        try:
            value = outgoing.value(table, mapping, form, trusted=trusted)
        except (ShmError, MemoryError):
            raise
        except Exception as error:  # noqa: BLE001  a library may raise anything for odd metadata
            limits.raise_told(error)
            if form is not None:
                message = f"{form} cannot hold this table: {error}. As it is: as_='arrow'"
                raise ArgumentError(message, form=form) from None
            raise ValueError(f"its metadata makes no sense ({type(error).__name__}: {error})") from None
        closing.keep_with(value, mapping)  # of no rows, or copied, it holds the mapping all the same
        return value

    def describe(self, head: bytes, size: int) -> Description:
        """Describe a table of which only the beginning is known."""
        if not self.matches(head):
            raise ValueError("its first bytes are not those of an Arrow file")
        return Description("of unknown size")

    def describe_source(self, source: Source) -> Description:
        """Describe rows, columns and types."""
        self.describe(source.read(0, 8), source.size)
        return preview.description(source)

    def preview(self, source: Source, look: Look) -> Preview:
        """Preview a page of rows."""
        return preview.of(source, look)


def _plan(name: str, given: incoming.Incoming) -> Plan:
    return Plan(given.size, lambda: arrow_file.pieces(name, given.schema, given.batches), grows=True)


KIND = Table()
