"""Pickle for a process of this host: what lives in a segment as a reference, the rest as Dask would."""

from __future__ import annotations

import collections
import copyreg
import functools
import inspect
import io
import pickle
from typing import TYPE_CHECKING, Any, ClassVar, cast

import cloudpickle
import numpy as np

from shmkernel._core.import_hooks import after_import
from shmkernel._core.imports import importing
from shmkernel.dask import tasks
from shmkernel.stdlib import delivery, reduction, references

if TYPE_CHECKING:
    from collections.abc import Callable

PROTOCOL = 5  # the first with buffers that are not copied into the pickle
_views = (reduction.reduce, reduction.reduce_subclass, reduction.reduce_masked)
_table: dict[type, Callable[[Any], Any]] = {}


class _Plain(pickle.Pickler):
    dispatch_table: ClassVar[Any] = collections.ChainMap(_table, copyreg.dispatch_table)  # type: ignore[misc]  # as documented


class _Cloud(cloudpickle.Pickler):  # type: ignore[misc]  # it has no types
    dispatch_table: ClassVar[Any] = collections.ChainMap(_table, cloudpickle.Pickler.dispatch_table)


def dumps(value: object, buffer_callback: Callable[[Any], object] | None, protocol: int) -> bytes | None:
    """Pickle a value, as one message; None if that is better left to Dask.

    Dask asks for an older `protocol` where it does not know who reads the pickle in the end. Whoever reads a reference
    has the same release of this package, and so knows ours.
    """
    _learn()
    made: bytes | None = delivery.as_message(_dumps, value, buffer_callback, protocol)
    return made


def _dumps(value: object, buffer_callback: Callable[[Any], object] | None, protocol: int) -> bytes | None:
    try:
        made, noted = delivery.noting(lambda: _dumped(_Plain, value, buffer_callback))
        if not noted and protocol < PROTOCOL:
            return None
        if not _has_main(value, made[0]):
            return _handed(value, made, buffer_callback, noted=noted)
    except Exception:  # noqa: BLE001  what a value raises, Dask reports
        noted = True
    if not noted:
        return None
    try:
        made, noted = delivery.noting(lambda: _dumped(_Cloud, value, buffer_callback))
    except Exception:  # noqa: BLE001  as above
        return None
    return _handed(value, made, buffer_callback, noted=True) if noted else None


def _dumped(kind: Any, value: object, buffer_callback: object) -> tuple[bytes, list[Any]]:
    buffers: list[Any] = []
    stream = io.BytesIO()
    kind(stream, protocol=PROTOCOL, buffer_callback=buffers.append if buffer_callback else None).dump(value)
    return stream.getvalue(), buffers


def _handed(
    value: Any, made: tuple[bytes, list[Any]], buffer_callback: Callable[[Any], object] | None, *, noted: bool
) -> bytes:
    if noted:
        delivery.note()  # for the message that this is a part of
        if tasks.is_one(value):
            made = _dumped(pickle.Pickler, tasks.Sent(*made, value.key), buffer_callback)
    stream, buffers = made
    if buffer_callback is not None:
        for buffer in buffers:
            buffer_callback(buffer)
    return stream


def _has_main(value: object, stream: bytes) -> bool:
    """Return whether cloudpickle has to take over: there is something in it that other processes cannot import."""
    return b"__main__" in stream or (
        getattr(inspect.getmodule(value), "__name__", None) in cloudpickle.list_registry_pickle_by_value()
    )


def _learn() -> None:
    """Take the reducers of the types that this process has shared, for buffers that are not copied."""
    if not delivery.reducers.keys() <= _table.keys():
        for kind, reducer in [*delivery.reducers.items()]:
            more = {"held": True} if reducer in _views else {}
            _table.setdefault(kind, functools.partial(cast("Any", reducer), protocol=PROTOCOL, **more))


def _buffer(buffer: Any) -> Any:
    """Reduce a buffer of pyarrow, of which its tables and the texts of pandas consist."""
    reduced = buffer.size and references.view(np.frombuffer(buffer, np.uint8), held=True)
    return (rebuild_buffer, reduced[1]) if reduced else buffer.__reduce_ex__(PROTOCOL)


def _texts(array: Any) -> Any:
    """Reduce a column that pandas keeps in pyarrow: pandas itself would copy it, to have one chunk."""
    chunks = array._pa_array.chunks  # noqa: SLF001  pandas' own pickles name it
    if len(chunks) != 1 or not any(map(_is_shared, filter(None, chunks[0].buffers()))):
        return array.__reduce_ex__(PROTOCOL)
    state = {**array.__dict__, "_pa_array": chunks[0], "_cache": {}}
    return copyreg.__newobj__, (type(array),), state  # type: ignore[attr-defined]  # typeshed lacks it


def _is_shared(buffer: Any) -> bool:
    return bool(buffer.size and references.view(np.frombuffer(buffer, np.uint8), held=True))


def rebuild_buffer(*about: Any) -> Any:
    """Return a buffer of pyarrow over the same memory."""
    with importing:
        import pyarrow as pa  # noqa: PLC0415  the sender has it

    return pa.py_buffer(references.rebuild(*about))


after_import("pyarrow.lib", lambda module: _table.setdefault(module.Buffer, _buffer))
after_import("pandas.core.arrays.arrow.array", lambda module: _table.setdefault(module.ArrowExtensionArray, _texts))
after_import("pandas.core.arrays.string_arrow", lambda module: _table.setdefault(module.ArrowStringArray, _texts))
