"""Files of objects in formats of others: ``.pkl``, by consent, ``.npz`` and ``.safetensors``, which need none."""

from __future__ import annotations

import pickle
import sys
from typing import IO, TYPE_CHECKING, Any, cast

import numpy as np

from shmkernel import kinds
from shmkernel._core import limits
from shmkernel.errors import DamagedError, UnsupportedError
from shmkernel.kinds import archives
from shmkernel.kinds.objects import plain
from shmkernel.kinds.objects.layout import Buffer

try:
    import cloudpickle
except ImportError:
    cloudpickle = None

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

PICKLES = (".pkl", ".pickle")
SUFFIXES = (*PICKLES, *archives.SUFFIXES)
_Pickler: Any = cloudpickle.Pickler if cloudpickle else pickle.Pickler


class _Counted:
    """A file that counts what is written, and keeps the error of a full disk apart from errors of the value."""

    failed: BaseException | None = None

    def __init__(self, file: IO[bytes], progress: Callable[[int], None]) -> None:
        self._file, self._progress = file, progress

    def write(self, data: Any) -> int:
        """Write and count the bytes."""
        try:
            self._file.write(data)
            self._progress(size := memoryview(data).nbytes)
        except OSError as error:
            self.failed = error
            raise
        return size


def write(name: str, value: Any, path: str, file: IO[bytes], progress: Callable[[int], None]) -> None:
    """Write a value in the format of the path's suffix; UnsupportedError if that would not hold all of it."""
    if not path.endswith(PICKLES):
        archives.write(archives.checked(name, value, path), path, file, progress)
        return
    counted = _Counted(file, progress)
    try:
        _Pickler(counted, protocol=5).dump(value)
    except Exception as error:
        if counted.failed is not None:
            raise
        limits.raise_told(error)
        message = f"{name!r}: {kinds.a_type(value)} cannot be pickled: {error}"
        raise UnsupportedError(message, name=name) from error


def unpickle(name: str, path: str) -> Any:
    """Return what a pickle file holds, by the consent of the caller; an error has the object's own beneath."""
    try:
        with open(path, "rb") as file:
            return pickle.load(file)  # noqa: S301  by consent
    except MemoryError:
        raise
    except (pickle.UnpicklingError, EOFError, OverflowError) as error:
        message = f"{path} cannot be loaded: {str(error) or type(error).__name__}. It has to be a whole pickle"
        raise DamagedError(message, name=name, path=path) from error
    except Exception as error:
        if isinstance(error, OSError) and error.filename == path:
            raise
        limits.raise_told(error)
        why = f"{type(error).__name__}: {error}"
        if isinstance(error, ModuleNotFoundError) and (package := (error.name or "").partition(".")[0]) != "":
            why = why if package in sys.modules else f"{package} is not installed here"
        message = f"{name!r}: {path} cannot be unpickled: {why}"
        raise UnsupportedError(message, name=name, path=path) from error


def arrays(name: str, path: str) -> tuple[dict[str, NDArray[Any]], dict[int, tuple[str, Buffer]]]:
    """Return the arrays of a file by name, and by their ids the order and bytes of those that are still in the file.

    In their place stand arrays of the same type and shape, which take no memory.
    """
    made: dict[str, NDArray[Any]] = {}
    later: dict[int, tuple[str, Buffer]] = {}
    for key, stored in archives.read(name, path).items():
        one = np.zeros((), stored.dtype)
        stand_in: NDArray[Any] = np.ndarray(stored.shape, stored.dtype, one, strides=(0,) * len(stored.shape))
        if plain.lies_apart(stand_in):
            later[id(stand_in)] = stored.order, Buffer(stored.nbytes, stored.pieces)
            made[key] = stand_in
        else:
            made[key] = _read(stored)
    return made, later


def _read(stored: archives.Stored) -> NDArray[Any]:
    data, order = bytearray(b"".join(stored.pieces())), cast("Any", stored.order)
    return np.ndarray(stored.shape, stored.dtype, data or None, order=order)
