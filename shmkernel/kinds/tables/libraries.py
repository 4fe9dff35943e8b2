"""Import the libraries of tables, and use each for the first time, while no other thread forks.

A first use is as a late import (`shmkernel._core.imports`): C++ initialises static variables then, and pyarrow imports
more with a lock of its own. A child that is forked meanwhile would wait for ever for a thread that it does not have.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
import time
from typing import TYPE_CHECKING, Any

from shmkernel._core import limits
from shmkernel._core.imports import importing, loaded
from shmkernel.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyarrow as pa

_used: set[str] = set()
_BUSY = 10.0  # seconds
_NAP = 0.001


def ready(name: str) -> Any:
    """Return a library that has been used.

    Raises
    ------
    ModuleNotFoundError
        If it is not installed.
    UnsupportedError
        If it cannot be loaded: its shared libraries do not fit into memory, for one.
    """
    if name in _used and (module := loaded(name)):
        return module
    with importing:
        try:
            module = importlib.import_module(name)
        except (ModuleNotFoundError, MemoryError):
            raise
        except Exception as error:
            limits.raise_told(error)
            raise UnsupportedError(f"{name} cannot be loaded: {error}") from error
        with contextlib.suppress(Exception):  # there may be too little memory: the use that follows says so
            _FIRST.get(name, lambda: None)()
            _used.add(name)
    return module


def _use_arrow() -> None:
    """Write a file and read it. No list becomes an array, for which pyarrow would import pandas."""
    arrow = importlib.import_module("pyarrow")
    ipc = importlib.import_module("pyarrow.ipc")
    batch = arrow.RecordBatch.from_arrays([arrow.nulls(1, arrow.string())], ["a"])
    sink = arrow.BufferOutputStream()
    with ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    ipc.open_file(arrow.BufferReader(sink.getvalue())).read_all().validate(full=True)


def _use_pandas() -> None:
    """Have pyarrow look for pandas, and pandas for pyarrow."""
    pd = sys.modules["pandas"]
    column = pd.DataFrame({"a": ["a", None]})["a"]
    ready("pyarrow").array(column, from_pandas=True)


def _use_polars() -> None:
    arrow = ready("pyarrow")
    to_polars(arrow.table([arrow.nulls(1, arrow.string())], ["a"]))


_FIRST: dict[str, Callable[[], None]] = {"pyarrow": _use_arrow, "pandas": _use_pandas, "polars": _use_polars}


class _Rows:
    """The rows of a table, for a library that would recognise a table of pyarrow."""

    def __init__(self, rows: pa.ChunkedArray) -> None:
        self._rows = rows

    def __arrow_c_stream__(self, schema: object = None) -> object:
        return self._rows.__arrow_c_stream__(schema)


def to_polars(table: pa.Table) -> Any:
    """Return a frame. Made by `polars.from_arrow` it would take polars' threads, which a forked child has not."""
    return sys.modules["polars"].Series(_Rows(table.to_struct_array())).struct.unnest()


def to_duckdb(table: pa.Table) -> Any:
    """Return a relation of the default connection, which may be busy with a call of another thread for some time.

    A child that is forked during such a call would find it busy for ever: forks wait until it has ended.
    """
    duckdb = sys.modules["duckdb"]
    until = time.monotonic() + _BUSY
    while True:
        try:
            with importing:
                return duckdb.from_arrow(table)
        except getattr(duckdb, "ResourceInUseException", ()):  # of version 2; before, it waits itself
            if time.monotonic() > until:
                raise
        time.sleep(_NAP)
