"""Pickled objects: what is not plain, by consent of who shares it and of who attaches it. Unpickling runs code.

The stream is pickle protocol 5, its buffers are those of the segment. What would put its memory into the stream is
reduced in other ways: arrays of dates or with gaps, tables of polars, and values that have an adapter.

cloudpickle, if it is installed, pickles the functions and classes of a notebook by their code. A class of a notebook
becomes the class of that name which the attaching notebook has defined, if it has, so that ``isinstance`` holds there.
"""

from __future__ import annotations

import io
import pickle
import platform
import re
import sys
import weakref
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from shmkernel import kinds
from shmkernel._core import limits
from shmkernel.errors import UnsupportedError
from shmkernel.kinds.objects import adapters, plain, summary, tables
from shmkernel.kinds.objects.layout import Buffer, Head, Opened, whole
from shmkernel.kinds.values import NoValueError

try:
    import cloudpickle
except ImportError:
    cloudpickle = None

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

_SMALL = 512  # bytes: a smaller buffer stays in the stream
_SEARCHED = 16 << 20  # bytes of a stream that are searched for modules
_GLOBAL = re.compile(rb"\x8c[\x01-\xff]([A-Za-z_][\w.]*)\x94\x8c")  # two short texts: a module, and a name in it
_CODE = b"_make_function"  # cloudpickle's, for a function by its code
_ENOUGH = 1 << 20  # bytes after which an object is believed to pickle
_INSTALL = "pip install 'shmkernel[objects]'"
_Base: Any = cloudpickle.Pickler if cloudpickle else pickle.Pickler


class Pickled(NamedTuple):
    """A stream, its buffers, and the modules that it needs. ``shared`` bytes of the buffers are not copied later."""

    stream: bytes
    buffers: list[Buffer]
    modules: list[str]
    shared: int


class _Token(bytearray):
    """Stands for memory in the list of buffers: what is written in its place, and whose it is."""

    value: object
    buffer: Buffer


class _Pickler(_Base):  # type: ignore[misc]  # one of two classes
    """Leaves memory out of the stream."""

    def __init__(self, file: Any, keep: Callable[[pickle.PickleBuffer], bool]) -> None:
        super().__init__(file, protocol=5, buffer_callback=keep)
        self.adapted: set[str] = set()
        self._ways: dict[type, Callable[[Any], Any] | None] = {}  # of classes, since it is asked for each object

    def reducer_override(self, value: Any) -> Any:
        """Return how to make a value again; NotImplemented: as usual."""
        kind = type(value)
        if kind not in self._ways:
            self._ways[kind] = self._way(kind)
        way = self._ways[kind]
        reduced = NotImplemented if way is None else way(value)
        if reduced is not NotImplemented or not cloudpickle:
            return reduced
        if isinstance(value, type) and value.__module__ == "__main__":
            return notebook_class, (value.__qualname__, cloudpickle.dumps(value))
        return super().reducer_override(value)

    def _way(self, kind: type) -> Callable[[Any], Any] | None:
        if kind is np.ndarray:
            return _array
        if kind.__module__.partition(".")[0] == "polars":
            return _table
        if name := adapters.in_pickles(kind):
            return lambda value: self._adapted(name, value)
        return None

    def _adapted(self, name: str, value: Any) -> Any:
        try:
            parts = adapters.named(name).to_parts(value)
        except UnsupportedError:
            parts = None
        if parts is None:
            return NotImplemented
        self.adapted.add(name)
        return adapted, (name, parts)


def _array(value: NDArray[Any]) -> Any:
    """Reduce an array that numpy would write into the stream."""
    if value.nbytes < _SMALL or value.dtype.hasobject:
        return NotImplemented
    contiguous = value.flags.c_contiguous or value.flags.f_contiguous
    if value.dtype.kind not in "mM" and contiguous:
        return NotImplemented
    order = "F" if value.flags.f_contiguous and not value.flags.c_contiguous else "C"
    token = _token(value, plain.buffer(value.T if order == "F" else value.view()))
    return array_again, (token, value.dtype, value.shape, order)


def _table(value: Any) -> Any:
    if not tables.is_table(value):
        return NotImplemented
    try:
        return table_again, (_token(value, tables.pack(value)),)
    except NoValueError:
        return NotImplemented


def _token(value: object, buffer: Buffer) -> pickle.PickleBuffer:
    token = _Token(1)
    token.value, token.buffer = value, buffer
    return pickle.PickleBuffer(token)


def array_again(buffer: Any, dtype: np.dtype[Any], shape: tuple[int, ...], order: Any) -> Any:
    """Return an array over a buffer."""
    return buffer.value if type(buffer) is _Token else np.ndarray(shape, dtype, buffer, order=order)


def table_again(buffer: Any) -> Any:
    """Return the table in a buffer."""
    return buffer.value if type(buffer) is _Token else tables.unpack(buffer, trusted=True)


def adapted(name: str, parts: Any) -> Any:
    """Return the value that an adapter has taken apart."""
    return adapters.made(name, parts, trusted=True)


def notebook_class(name: str, code: bytes) -> Any:
    """Return the class that this notebook has defined under a name, else the one that was pickled."""
    found: Any = sys.modules.get("__main__")
    for part in name.split("."):
        found = getattr(found, "__dict__", {}).get(part)
    return found if isinstance(found, type) else pickle.loads(code)  # noqa: S301  by consent: it is a part of a pickle


def pack(name: str, value: object) -> Pickled:
    """Return the stream and the buffers of a value; UnsupportedError if it cannot be pickled, or not be read back."""
    given: list[Any] = []

    def keep(buffer: pickle.PickleBuffer) -> bool:
        memory = buffer.raw()
        token = memory.obj
        if type(token) is not _Token and memory.nbytes < _SMALL:
            return True
        given.append(token if type(token) is _Token else memory)
        return False

    file = _Stream()
    pickler = _Pickler(file, keep)
    try:
        pickler.dump(value)
    except MemoryError:
        raise
    except Exception as error:
        limits.raise_told(error)
        raise UnsupportedError(
            f"{name!r}: {kinds.a_type(value)} cannot be pickled: {_why(error)}", name=name
        ) from error
    stream = file.getvalue()
    if not cloudpickle and b"__main__" in stream:
        message = f"{name!r}: it refers to a class or function of this notebook, which only cloudpickle can share"
        raise UnsupportedError(f"{message}. Install it, in a terminal: {_INSTALL}", name=name)
    buffers = [one.buffer if type(one) is _Token else whole(one) for one in given]
    return Pickled(stream, buffers, [*modules(stream), *pickler.adapted], _shared(stream, given))


class _Memory(np.ndarray[Any, Any]):
    """The memory of a buffer. It has weak references, unlike a memoryview."""


def _shared(stream: bytes, given: Sequence[Any]) -> int:
    """Return how many bytes of the buffers an object refers to that is made again: others it has copied."""
    ours = sum(one.buffer.nbytes for one in given if type(one) is _Token)
    memories = [np.frombuffer(one, np.uint8).view(_Memory) for one in given if type(one) is not _Token]
    if not memories:
        return ours
    known = [(weakref.ref(memory), memory.nbytes) for memory in memories]
    left = iter(memories)
    pieces = [one if type(one) is _Token else next(left).data for one in given]
    memories.clear()
    try:
        made = pickle.loads(stream, buffers=pieces)  # noqa: S301  the caller has asked for consent
    except Exception:  # noqa: BLE001  it is made again when it is shared, and the error is reported then
        return ours + sum(size for _, size in known)
    pieces.clear()
    shared = ours + sum(size for memory, size in known if memory() is not None)
    del made
    return shared


def _why(error: Exception) -> str:
    if isinstance(error, RecursionError) or "recursion" in str(error):
        return "it is nested too deep"
    hint = "" if cloudpickle or "__main__" not in str(error) else f". With cloudpickle it may be: {_INSTALL}"
    return f"{str(error) or type(error).__name__}{hint}"


class _Stream(io.BytesIO):
    """The stream in memory. Ctrl-C is raised in a function of Python, so between two pieces of 64 KiB at the latest."""

    def write(self, data: Any) -> int:
        """Append a piece."""
        return super().write(data)


class _Enough(io.RawIOBase):
    """A file that takes the beginning of a stream."""

    left = _ENOUGH

    def write(self, data: Any) -> int:
        """Count the bytes; EOFError when there have been enough."""
        self.left -= len(data)
        if self.left < 0:
            raise EOFError
        return len(data)


def may_be(value: object) -> bool:
    """Return whether a value can be pickled, as far as its beginning tells."""
    try:
        _Pickler(_Enough(), lambda _: False).dump(value)
    except EOFError:
        return True
    except Exception:  # noqa: BLE001  what a value's own methods raise
        return False
    return True


def modules(stream: bytes) -> list[str]:
    """Return the modules that a stream refers to."""
    names = {name.decode() for name in _GLOBAL.findall(stream[:_SEARCHED])}
    return sorted(name for name in names if name in sys.modules)


def unpack(name: str, opened: Opened) -> Any:
    """Run the stream, and return the object; UnsupportedError says what is missing or older here."""
    head = opened.head
    here = platform.python_version()
    if _CODE in opened.stream and head.python.split(".")[:2] != here.split(".")[:2]:
        message = f"{name!r} holds functions of Python {head.python}, which Python {here} cannot run"
        raise UnsupportedError(message, name=name)
    try:
        return pickle.loads(opened.stream, buffers=opened.buffers)  # noqa: S301  the caller has asked for consent
    except MemoryError:
        raise
    except Exception as error:
        limits.raise_told(error)
        message = f"{name!r}: its {head.type} cannot be unpickled: {_failure(error, head)}"
        raise UnsupportedError(message, name=name) from error


def _failure(error: Exception, head: Head) -> str:
    """Say what is missing or older here."""
    text = str(error) or type(error).__name__
    if isinstance(error, UnsupportedError):  # of an adapter
        return error.what
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.partition(".")[0]
        if package not in sys.modules:
            return f"{package} {head.modules.get(package, '')}".rstrip() + " is not installed here"
    now = summary.versions(head.modules)
    other = [
        f"it was made with {package} {version}, here is {now[package]}"
        for package, version in head.modules.items()
        if package in now and now[package] != version
    ]
    return f"{type(error).__name__}: {text}{'; ' if other else ''}{', '.join(other)}"
