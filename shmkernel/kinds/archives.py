"""Files of several arrays: ``.npz``, as numpy.savez writes it, and ``.safetensors``. Reading one runs no code of it.

Reading checks the heads at once. The arrays are read piece by piece when a segment is filled, so that they are never
in memory twice. All numbers of a file are checked against its size before they are used.

    .npz          a zip archive with a ``.npy`` file for each array
    .safetensors  size of the head (8 bytes), head (JSON: dtype, shape and place of each array), bytes of the arrays
"""

from __future__ import annotations

import errno
import json
import math
import os
import zipfile
from typing import IO, TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from shmkernel import kinds
from shmkernel._core import closing
from shmkernel.errors import Cure, DamagedError, UnsupportedError
from shmkernel.kinds import dtypes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from numpy.typing import NDArray

    from shmkernel._core.closing import Descriptor

SUFFIXES = (".npz", ".safetensors")
_PIECE = 16 << 20  # bytes between two updates of the progress bar, where Ctrl-C can interrupt
_LONGEST = 100 << 20  # bytes of a head; the library reads no longer one
_TYPES = {  # of .safetensors
    "BOOL": "?", "U8": "u1", "I8": "i1", "U16": "<u2", "I16": "<i2", "F16": "<f2", "U32": "<u4", "I32": "<i4",
    "F32": "<f4", "C64": "<c8", "U64": "<u8", "I64": "<i8", "F64": "<f8",
}  # fmt: skip
_NAMES = {np.dtype(code): name for name, code in _TYPES.items()}
_FOREIGN = ("BF16", "F8_", "F6_", "F4")  # types that numpy has not
_TIME = (1980, 1, 1, 0, 0, 0)  # of all members: the same arrays give the same file


class Stored(NamedTuple):
    """An array in a file; ``pieces`` reads its bytes."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    order: str
    nbytes: int
    pieces: Callable[[], Iterator[memoryview]]


def read(name: str, path: str) -> dict[str, Stored]:
    """Return the arrays of a file; DamagedError, now or when they are read, if it is damaged.

    Raises
    ------
    UnsupportedError
        If numpy has no such arrays, or they hold Python objects.
    """
    try:
        return _tensors(name, path) if path.endswith(".safetensors") else _members(name, path)
    except Exception as error:  # noqa: BLE001  zipfile, zlib and numpy raise many types
        raise _wrong(name, path, error) from None


def write(arrays: Mapping[str, NDArray[Any]], path: str, file: IO[bytes], progress: Callable[[int], None]) -> None:
    """Write arrays that `checked` has returned, in the format that the path's suffix names."""
    (_write_tensors if path.endswith(".safetensors") else _write_members)(arrays, file, progress)


def checked(name: str, value: Any, path: str) -> dict[str, NDArray[Any]]:
    """Return a value as arrays by name; UnsupportedError if a file of this format would not hold all of it."""
    suffix = os.path.splitext(path)[1]
    if not hasattr(value, "items"):
        raise _unfit(name, path, f"a {suffix} file holds a mapping of arrays, and it is {kinds.a_type(value)}")
    arrays = {}
    for key, item in value.items():
        if type(key) is not str or not _is_text(key) or "\0" in key:
            raise _unfit(name, path, f"names in a {suffix} file are texts, and {key!r} is none")
        array = _array(item)
        if array is None:
            raise _unfit(name, path, f"a {suffix} file holds arrays, and {key!r} is {kinds.a_type(item)}")
        if suffix == ".safetensors":
            if array.dtype.newbyteorder("<") not in _NAMES:
                raise _unfit(name, path, f"a {suffix} file has no arrays of {array.dtype}, as {key!r} is")
            if key == "__metadata__":
                raise _unfit(name, path, f"in a {suffix} file no array has the name {key!r}")
        arrays[key] = array
    return arrays


def _array(value: Any) -> NDArray[Any] | None:
    """Return an array, or the array over the memory of a tensor; None for others."""
    if type(value).__module__.partition(".")[0] == "torch" and hasattr(value, "detach"):
        try:
            value = value.detach().numpy()
        except (TypeError, RuntimeError):  # of a type that numpy has not, or on a graphics card
            return None
    return value if type(value) in (np.ndarray, np.memmap) else None


def _is_text(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text)


def _unfit(name: str, path: str, why: str) -> UnsupportedError:
    other = f"{os.path.splitext(path)[0]}.shm"
    return UnsupportedError(f"{name!r}: {why}", Cure("As it lies in memory", "save", name, other), name=name, path=path)


def _wrong(name: str, path: str, error: Exception) -> Exception:
    """Return the error to raise for a file that cannot be read."""
    if isinstance(error, (DamagedError, UnsupportedError, MemoryError)):
        return error
    if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # EINVAL: a place before the beginning
        return error
    why = str(error.args[0] if error.args and not isinstance(error, UnicodeDecodeError) else error)
    form = os.path.splitext(path)[1]
    message = f"{path} cannot be loaded: {why or type(error).__name__}. It has to be a {form} file"
    return DamagedError(message, name=name, path=path)


def _guarded(name: str, path: str, pieces: Iterator[memoryview]) -> Iterator[memoryview]:
    try:
        yield from pieces
    except Exception as error:  # noqa: BLE001  as above
        raise _wrong(name, path, error) from None


def _members(name: str, path: str) -> dict[str, Stored]:
    """Read the heads of the members of a zip archive."""
    archive = zipfile.ZipFile(path)  # closed with the last function that reads from it
    arrays: dict[str, Stored] = {}
    for info in archive.infolist():
        key = info.filename.removesuffix(".npy")
        if key == info.filename or key in arrays:
            raise ValueError(f"its member {info.filename!r} {'is there twice' if key in arrays else 'is no .npy file'}")
        with archive.open(info) as member:
            start = member.read(kinds.HEAD)
        layout = cast("Any", kinds.named("array")).layout(start, info.file_size)
        if layout.offset + layout.nbytes != info.file_size:
            raise ValueError(f"its member {info.filename!r} is longer than its header says")
        arrays[key] = Stored(layout.dtype, layout.shape, layout.order, layout.nbytes, _reader(name, path, archive, info,
                             layout.offset, layout.nbytes))  # fmt: skip
    return arrays


def _reader(
    name: str, path: str, archive: zipfile.ZipFile, info: zipfile.ZipInfo, offset: int, size: int
) -> Callable[[], Iterator[memoryview]]:
    def pieces() -> Iterator[memoryview]:
        with archive.open(info) as member:
            member.read(offset)
            left = size
            while left:
                piece = member.read(min(left, _PIECE))
                if not piece:
                    raise ValueError(f"its member {info.filename!r} stops short")
                left -= len(piece)
                yield memoryview(piece)
            member.read(1)  # at the end it compares the checksum

    return lambda: _guarded(name, path, pieces())


def _write_members(arrays: Mapping[str, NDArray[Any]], file: IO[bytes], progress: Callable[[int], None]) -> None:
    array = kinds.named("array")
    with zipfile.ZipFile(file, "w", allowZip64=True) as archive:
        for key, value in arrays.items():
            pieces = array.plan(key, value, {}).pieces()
            with archive.open(zipfile.ZipInfo(f"{key}.npy", _TIME), "w", force_zip64=True) as member:
                for piece in pieces:
                    member.write(piece)
                    progress(len(piece))


def _tensors(name: str, path: str) -> dict[str, Stored]:
    """Read the head of a ``.safetensors`` file."""
    file = closing.opened(os.open, path, os.O_RDONLY | os.O_CLOEXEC)  # closed with the last function that reads it
    total = os.fstat(file).st_size
    length = int.from_bytes(os.read(file, 8), "little")
    if not 0 < length <= min(_LONGEST, total - 8):
        raise ValueError(f"it says that its head has {length} bytes")
    head = json.loads(os.pread(file, length, 8), object_pairs_hook=_once)
    if type(head) is not dict:
        raise TypeError("its head is no mapping")
    head.pop("__metadata__", None)
    arrays, base, end = {}, 8 + length, 0
    for key, facts in sorted(head.items(), key=lambda item: _place(item[1])):
        begin, stop = _place(facts)
        text, shape = facts["dtype"], facts["shape"]
        if str(text).startswith(_FOREIGN):
            message = f"{path}: {key!r} is of {text}, a type that numpy has not. Load it by its own library"
            raise UnsupportedError(message, name=name, path=path)
        if text not in _TYPES:
            raise ValueError(f"{key!r} is of an unknown type, {text}")
        dtype = np.dtype(_TYPES[text])
        if any(type(n) is not int or n < 0 for n in shape) or dtypes.unbounded(tuple(shape), dtype):
            raise ValueError(f"{key!r} has the shape {shape}")
        if begin != end or stop - begin != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"the place of {key!r} contradicts its shape, or that of another array")
        end = stop
        arrays[key] = Stored(
            dtype, tuple(shape), "C", stop - begin, _part(name, path, file, base + begin, stop - begin)
        )
    if base + end != total:
        raise ValueError(f"its arrays have {end} bytes, and after its head there are {total - base}")
    return {key: arrays[key] for key in head}


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a name is there twice")
    return made


def _place(facts: Any) -> tuple[int, int]:
    begin, stop = facts["data_offsets"]
    if type(begin) is not int or type(stop) is not int or not 0 <= begin <= stop:
        raise ValueError(f"an array lies from {begin} to {stop}")
    return begin, stop


def _part(name: str, path: str, file: Descriptor, offset: int, size: int) -> Callable[[], Iterator[memoryview]]:
    def pieces() -> Iterator[memoryview]:
        at, end = offset, offset + size
        while at < end:
            piece = os.pread(file, min(_PIECE, end - at), at)
            if not piece:
                raise ValueError("it became shorter while it was read")
            at += len(piece)
            yield memoryview(piece)

    return lambda: _guarded(name, path, pieces())


def _write_tensors(arrays: Mapping[str, NDArray[Any]], file: IO[bytes], progress: Callable[[int], None]) -> None:
    """Write arrays as the library does: those of the largest elements first, so that all are aligned.

    The head names them in their own order, which a reader can restore.
    """
    head, end = {}, 0
    ordered = sorted(arrays.items(), key=lambda item: (-item[1].dtype.itemsize, item[0]))
    for key, array in ordered:
        name = _NAMES[array.dtype.newbyteorder("<")]
        head[key] = {"dtype": name, "shape": [*array.shape], "data_offsets": [end, end + array.nbytes]}
        end += array.nbytes
    head = {key: head[key] for key in arrays}
    text = json.dumps(head, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for _, array in ordered:
        step = max(1, _PIECE * len(array) // max(array.nbytes, 1)) if array.ndim else 1
        for begin in range(0, len(array), step) if array.ndim else (0,):
            part = array[begin : begin + step] if array.ndim else array
            file.write(np.ascontiguousarray(part, array.dtype.newbyteorder("<")).reshape(-1).view(np.uint8).data)
            progress(part.nbytes)
