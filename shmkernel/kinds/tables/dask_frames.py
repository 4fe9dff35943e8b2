"""DataFrames and Series of Dask: each partition becomes a record batch, which its worker appends to the segment.

    front     magic, schema, dictionaries, a batch without rows      by the creator, last of all
    batches   in the order in which they were computed               by the workers, each in a place of its own
    footer    their places in the order of the partitions, summary   by the creator

A reader finds the batches by the footer, so their order in the file does not matter. A part of a file that a worker has
taken and not filled, since it died, is in no footer.
"""

from __future__ import annotations

import errno
import fcntl
import os
from typing import TYPE_CHECKING, Any, NamedTuple

from shmkernel._core import capacity, oflock, segment_file
from shmkernel._core.imports import importing
from shmkernel.errors import UnsupportedError
from shmkernel.kinds.dask import blocks, results
from shmkernel.kinds.tables import arrow_file, frames, libraries, metadata

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyarrow as pa

_ALIGNED = 64  # bytes
_TAKE, _FREE = oflock.request(fcntl.F_WRLCK, 1), oflock.request(fcntl.F_UNLCK, 1)  # held while the file is made longer
_UNKNOWN = "__UNKNOWN_CATEGORIES__"  # Dask's word for categories that differ from partition to partition


class Frame(NamedTuple):
    """What each partition has to be: ``kinds`` are the types of its columns, ``forms`` what pandas makes of them."""

    name: str
    schema: pa.Schema
    forms: list[Any]
    kinds: list[pa.DataType]


class FrameTarget(blocks.Target):
    """What a task calls with its partition."""

    def __init__(self, fd: int, frame: Frame) -> None:
        super().__init__(fd)
        self._frame = frame

    def __call__(self, part: Any, number: int) -> blocks.Stored | blocks.Values:
        """Store a partition, or return its bytes if this process cannot."""
        pieces, rows = _message(self._frame, part)
        size = sum(map(len, pieces))
        if not rows:
            return blocks.Stored(0)

        def store(fd: int) -> blocks.Stored:
            return blocks.Stored(size, (number, append(fd, self._frame.name, pieces), *_sizes(pieces, size), rows))

        done = self.act(store, blocks.Stored(0))
        return done or blocks.Values(size, (number, [bytes(piece) for piece in pieces], rows))


def plan(name: str, value: Any, origin: Callable[[dict[str, Any], pa.Schema], pa.Schema]) -> tuple[Frame, Any]:
    """Return what the partitions have to be, and a batch without rows; `origin` adds facts to a schema."""
    arrow = arrow_file.library(name)
    meta = _with_plain_index(value._meta)  # noqa: SLF001  Dask documents it
    x = blocks.variable(name)
    table, facts = frames.to_arrow(name, meta, arrow)
    if _UNKNOWN in str(facts["forms"]) or any(_UNKNOWN in str(one.chunks) for one in table.columns):
        known = f"{x}.cat.as_known()" if facts.get("column") else f"{x}.categorize()"
        what = f"{name!r}: Dask does not know the categories of this frame yet. Have Dask find them: {known}"
        raise UnsupportedError(what, name=name, expression=known)
    if "plain" in facts["index"]["forms"][0]:
        raise _differs(name, "its index is of objects")
    facts["index"]["freq"] = None  # as of what pandas.concat returns
    schema = origin(facts, table.schema)
    frame = Frame(name, schema, [*facts["forms"], *facts["index"]["forms"]], schema.types)
    return frame, arrow_file.empty(table, schema)


def front(frame: Frame, empty: Any) -> bytes:
    """Return the beginning of the file."""
    return _written(frame, empty, 1)[0]


def compute(value: Any, frame: Frame, empty: Any, fd: int, progress: Callable[[int], None]) -> None:
    """Have the partitions appended to the file, then complete it."""
    with importing:
        import dask  # noqa: PLC0415  it is loaded, since the value is its

    target = FrameTarget(fd, frame)
    label, task = f"shmkernel-{target.secret.hex()}", dask.delayed(target, pure=True)
    parts = value.to_delayed()
    tasks = [task(part, number, dask_key_name=f"{label}-{number}") for number, part in enumerate(parts)]
    found: list[tuple[int, ...]] = []
    for result in results.of(frame.name, tasks, progress):
        if isinstance(result, blocks.Values):
            number, pieces, rows = result.about
            found.append((number, append(fd, frame.name, pieces), *_sizes(pieces, result.nbytes), rows))
        elif result.where:
            found.append(result.where)
    found.sort()
    blocks.close(fd, frame.name)
    tail = _written(frame, empty, len(found) or 1)[1]
    if found:
        tail = metadata.with_batches(tail, [(at, size, body) for _, at, size, body, _ in found])
    rows = sum(rows for *_, rows in found)
    append(fd, frame.name, [memoryview(arrow_file.with_summary(tail, frame.schema, rows))], aligned=8)
    segment_file.write(fd, front(frame, empty), 0)


def append(fd: int, name: str, pieces: list[Any], aligned: int = _ALIGNED) -> int:
    """Write pieces to the end of the file, and return where: other processes do the same at this moment."""
    size = sum(map(len, pieces))
    if capacity.lacks(size):
        raise capacity.full(name, size)
    fcntl.fcntl(fd, fcntl.F_OFD_SETLKW, _TAKE)  # for two calls
    try:
        start = -(-os.fstat(fd).st_size // aligned) * aligned
        capacity.check_file_size(name, start + size)
        os.ftruncate(fd, start + size)
    finally:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FREE)
    at = start
    try:
        for piece in pieces:
            segment_file.write(fd, piece, at)
            at += len(piece)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise capacity.full(name, size, code=error.errno) from None
    return start


def _message(frame: Frame, part: Any) -> tuple[list[memoryview], int]:
    """Return a partition as a record batch, as in a file; UnsupportedError if it is not what Dask was told."""
    name, arrow = frame.name, arrow_file.library(frame.name)
    libraries.ready("pandas")
    table, facts = frames.to_arrow(name, _with_plain_index(part), arrow)
    arrow_file.check_columns(name, table)
    forms = [*facts["forms"], *facts["index"]["forms"]]
    if table.schema.types != frame.kinds or forms != frame.forms:
        for column, kind, told in zip(table.column_names, table.schema.types, frame.kinds, strict=False):
            if kind != told:
                raise _differs(name, f"a partition has {kind} in column {column!r}, and Dask was told {told}")
        raise _differs(name, "a partition has other columns, dtypes or categories than Dask was told")
    table = arrow.Table.from_arrays(table.columns, schema=frame.schema)
    if not len(table):
        return [], 0
    (batch,) = table.combine_chunks().to_batches()
    sink = arrow_file.Sink()
    writer = arrow.ipc.new_stream(arrow.PythonFile(sink, mode="w"), frame.schema, options=arrow_file.options(arrow))
    writer.write_batch(batch.slice(0, 0))  # with it go the schema and the dictionaries
    for _ in sink.take():
        pass
    writer.write_batch(batch)
    return [piece for piece in sink.take() if len(piece)], len(table)


def _sizes(pieces: list[Any], size: int) -> tuple[int, int]:
    """Return the sizes of the metadata of a message, and of its body."""
    head = 8 + int.from_bytes(bytes(pieces[0][4:8]), "little")
    return head, size - head


def _written(frame: Frame, empty: Any, count: int) -> tuple[bytes, bytes]:
    """Return a file of batches without rows: what stands before its end, and its end."""
    arrow, sink = arrow_file.library(frame.name), arrow_file.Sink()
    writer = arrow.ipc.new_file(arrow.PythonFile(sink, mode="w"), frame.schema, options=arrow_file.options(arrow))
    for _ in range(count):
        writer.write_batch(empty)
    before = b"".join(map(bytes, sink.take()))
    writer.close()
    return before, b"".join(map(bytes, sink.take()))


def _with_plain_index(frame: Any) -> Any:
    """Return the frame with numbers as its index in place of a range: each partition has its own."""
    pd = libraries.ready("pandas")
    if isinstance(frame.index, pd.RangeIndex):
        return frame.set_axis(pd.Index(frame.index.to_numpy(), name=frame.index.name))
    return frame


def _differs(name: str, what: str) -> UnsupportedError:
    made = f"{blocks.variable(name)}.compute()"
    message = f"{name!r}: {what}. If it fits into memory: {made}"
    return UnsupportedError(message, name=name, expression=made)
