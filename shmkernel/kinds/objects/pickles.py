"""Pickled objects: what is not plain, by consent of who shares it and of who attaches it. Unpickling runs code.

The stream is pickle protocol 5, its buffers are those of the segment. cloudpickle, if it is installed, pickles the
functions and classes of a notebook by their code. A class of a notebook becomes the class of that name which the
attaching notebook has defined, if it has, so that ``isinstance`` holds there.
"""

from __future__ import annotations

import io
import pickle
import platform
import re
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from shmkernel import kinds
from shmkernel.errors import UnsupportedError
from shmkernel.kinds.objects import summary
from shmkernel.kinds.objects.layout import Buffer, Head, Opened, whole

try:
    import cloudpickle
except ImportError:
    cloudpickle = None

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SMALL = 512  # bytes: a smaller buffer stays in the stream
_SEARCHED = 16 << 20  # bytes of a stream that are searched for modules
_GLOBAL = re.compile(rb"\x8c[\x01-\xff]([A-Za-z_][\w.]*)\x94\x8c")  # two short texts: a module, and a name in it
_CODE = b"_make_function"  # cloudpickle's, for a function by its code
_ENOUGH = 1 << 20  # bytes after which an object is believed to pickle
_INSTALL = "pip install 'shmkernel[objects]'"
_Base: Any = cloudpickle.Pickler if cloudpickle else pickle.Pickler


class _Pickler(_Base):  # type: ignore[misc]  # one of two classes
    """Leaves the memory of arrays out of the stream, of dates and of arrays with gaps too."""

    def reducer_override(self, value: Any) -> Any:
        """Return how to make a value again; NotImplemented: as usual."""
        if type(value) is np.ndarray and value.nbytes >= _SMALL and not value.dtype.hasobject:
            if value.dtype.kind in "mM" or not (value.flags.c_contiguous or value.flags.f_contiguous):
                return _array_again, _array_parts(value)
            return NotImplemented
        if cloudpickle and isinstance(value, type) and value.__module__ == "__main__":
            return notebook_class, (value.__qualname__, cloudpickle.dumps(value))
        return super().reducer_override(value) if cloudpickle else NotImplemented


def _array_parts(value: NDArray[Any]) -> tuple[Any, ...]:
    order = "F" if value.flags.f_contiguous and not value.flags.c_contiguous else "C"
    rows = value.T if order == "F" else np.ascontiguousarray(value)
    return pickle.PickleBuffer(rows.reshape(-1).view(np.uint8).data), value.dtype, value.shape, order


def _array_again(buffer: Any, dtype: np.dtype[Any], shape: tuple[int, ...], order: Any) -> NDArray[Any]:
    return np.ndarray(shape, dtype, buffer, order=order)


def notebook_class(name: str, code: bytes) -> Any:
    """Return the class that this notebook has defined under a name, else the one that was pickled."""
    found: Any = sys.modules.get("__main__")
    for part in name.split("."):
        found = getattr(found, "__dict__", {}).get(part)
    return found if isinstance(found, type) else pickle.loads(code)  # noqa: S301  by consent: it is a part of a pickle


def pack(name: str, value: object) -> tuple[bytes, list[Buffer]]:
    """Return the stream and the buffers of a value; UnsupportedError if it cannot be pickled."""
    buffers: list[pickle.PickleBuffer] = []

    def keep(buffer: pickle.PickleBuffer) -> bool:
        small = buffer.raw().nbytes < _SMALL
        if not small:
            buffers.append(buffer)
        return small

    file = io.BytesIO()
    try:
        _Pickler(file, protocol=5, buffer_callback=keep).dump(value)
    except Exception as error:
        raise UnsupportedError(
            f"{name!r}: {kinds.a_type(value)} cannot be pickled: {_why(error)}", name=name
        ) from error
    stream = file.getvalue()
    if not cloudpickle and b"__main__" in stream:
        message = f"{name!r}: it refers to a class or function of this notebook, which only cloudpickle can share"
        raise UnsupportedError(f"{message}. Install it, in a terminal: {_INSTALL}", name=name)
    return stream, [whole(buffer.raw()) for buffer in buffers]


def _why(error: Exception) -> str:
    if isinstance(error, RecursionError) or "recursion" in str(error):
        return "it is nested too deep"
    hint = "" if cloudpickle or "__main__" not in str(error) else f". With cloudpickle it may be: {_INSTALL}"
    return f"{str(error) or type(error).__name__}{hint}"


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
        _Pickler(_Enough(), protocol=5, buffer_callback=lambda _: False).dump(value)
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
        message = f"{name!r}: its {head.type} cannot be unpickled: {_failure(error, head)}"
        raise UnsupportedError(message, name=name) from error


def _failure(error: Exception, head: Head) -> str:
    """Say what is missing or older here."""
    text = str(error) or type(error).__name__
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
