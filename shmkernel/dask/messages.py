"""Serialize with references for connections that agreed on it, with values for all others.

    dumps(message, context of the connection)
      agreed      array, table, ...     the family "dask":   header marked, a pickle with references
                  what contains some    the family "pickle": header marked, a pickle with references
                  a task, a graph       ToPickle:            a pickle with references
      not agreed  what the scheduler only passes on, marked:  read here, and sent as values

The scheduler passes on what it has not read. Who sent it agreed with the scheduler, and not with the host that it goes
to. So the scheduler, which sees the segment, replaces the references; it knows them by the mark in their headers.
"""

from __future__ import annotations

import functools
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

from distributed import client, protocol
from distributed.protocol import compression, pickle
from distributed.protocol.serialize import (
    Serialize,
    Serialized,
    families,
    merge_and_deserialize,
    pickle_dumps,
    pickle_loads,
    register_serialization_family,
)

from shmkernel.dask import agreement, pickling, tasks
from shmkernel.errors import ShmError
from shmkernel.stdlib import delivery
from shmkernel.verbs import attachments

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_MARK = "shmkernel"
_LIBRARIES = ("numpy", "pandas", "pyarrow", "shmkernel")  # of what the family "dask" takes, and lies in a segment


def install() -> None:
    """Put our functions in front of Dask's."""
    protocol.dumps = _with_agreement(protocol.dumps)
    protocol.loads = _without_os_errors(protocol.loads)
    pickle.dumps = _with_references(pickle.dumps)
    dumps, loads, _ = families["dask"]
    register_serialization_family("dask", _refer_first(dumps), _read_first(loads))
    dumps, loads, _ = families["pickle"]
    register_serialization_family("pickle", _marked(dumps), loads)
    client.Client._graph_to_futures = _for_scheduler(client.Client._graph_to_futures)  # noqa: SLF001  no other place


def _with_agreement(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def dumps(message: Any, *about: Any, context: Any = None, **options: Any) -> Any:
        agreed = agreement.holds(context)
        with agreement.serializing(agreed=agreed):
            return original(message if agreed else _resolved(message), *about, context=context, **options)

    return dumps


def _without_os_errors(original: Callable[..., Any]) -> Callable[..., Any]:
    """Read a message. Dask takes an OSError, as a NotFoundError is, for the end of the connection, and tries again."""

    @functools.wraps(original)
    def loads(*about: Any, **options: Any) -> Any:
        try:
            return original(*about, **options)
        except OSError as error:
            raise UnpicklingError(f"{type(error).__name__}: {error}") from error

    return loads


def _with_references(original: Callable[..., bytes]) -> Callable[..., bytes]:
    @functools.wraps(original)
    def dumps(value: object, *, buffer_callback: Any = None, protocol: int | None = None) -> bytes:
        if agreement.agreed() and attachments.alive():
            made = pickling.dumps(value, buffer_callback, protocol or pickling.PROTOCOL)
            if made is not None:
                return made
        try:
            return original(value, buffer_callback=buffer_callback, protocol=protocol)
        except ShmError as error:  # a ring has no values to send. An error here would end the stream of all tasks
            if not tasks.is_one(value):
                raise
            return tasks.failing(value, error)

    return dumps


def _refer_first(original: Callable[..., Any]) -> Callable[..., Any]:
    """Send as a reference what Dask has a serializer of its own for, if it lives in a segment."""

    def dumps(value: object, context: Any = None) -> Any:
        if agreement.agreed() and attachments.alive() and type(value).__module__.partition(".")[0] in _LIBRARIES:
            (header, frames), noted = delivery.noting(lambda: pickle_dumps(value, context))
            if noted:
                return {**header, _MARK: True}, frames
        return original(value, context=context)

    return dumps


def _read_first(original: Callable[..., Any]) -> Callable[..., Any]:
    def loads(header: dict[str, Any], frames: Sequence[Any]) -> Any:
        return pickle_loads(header, frames) if header.get(_MARK) else original(header, frames)

    return loads


def _marked(original: Callable[..., Any]) -> Callable[..., Any]:
    """Mark the pickles in which there are references."""

    def dumps(value: object, context: Any = None) -> Any:
        (header, frames), noted = delivery.noting(lambda: original(value, context=context))
        return ({**header, _MARK: True} if noted else header), frames

    return dumps


def _for_scheduler(original: Callable[..., Any]) -> Callable[..., Any]:
    """Pickle a graph for the scheduler that it goes to: the client does so before it writes the message."""

    @functools.wraps(original)
    def to_futures(self: Any, *about: Any, **options: Any) -> Any:
        comm = getattr(getattr(self, "scheduler_comm", None), "comm", None)
        with agreement.serializing(agreed=agreement.holds(getattr(comm, "handshake_options", None))):
            return original(self, *about, **options)

    return to_futures


def _resolved(message: Any) -> Any:
    """Return the message with values in place of references that are only passed on."""
    kind = type(message)
    if kind is Serialized:
        return _read(message) if _is_marked(message.header) else message
    if kind is dict:
        return {key: _resolved(value) for key, value in message.items()} if _any_marked(message.values()) else message
    if kind in (list, tuple):
        return kind(map(_resolved, message)) if _any_marked(message) else message
    return message


def _any_marked(parts: Any) -> bool:
    for part in parts:
        kind = type(part)
        if kind is Serialized:
            if _is_marked(part.header):
                return True
        elif (kind is dict and _any_marked(part.values())) or (kind in (list, tuple) and _any_marked(part)):
            return True
    return False


def _is_marked(header: Any) -> bool:
    return bool(header.get(_MARK)) or any(map(_is_marked, header.get("sub-headers", ())))


def _read(passed: Any) -> Any:
    """Return values to serialize anew; what cannot be read any more is an error where it arrives."""
    header, frames = passed.header, passed.frames
    try:
        if "compression" in header:
            frames = compression.decompress(header, frames)
        return Serialize(merge_and_deserialize(header, frames))
    except Exception as error:  # noqa: BLE001  any of the value's own code
        return Serialized({"serializer": "error"}, [f"{type(error).__name__}: {error}".encode()])
