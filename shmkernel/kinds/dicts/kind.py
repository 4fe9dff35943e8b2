"""Dicts: a segment is an LMDB file, and `SharedDict` a mapping over it that all kernels share.

The file has a folder of its own: see `shmkernel.kinds.dicts`.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import secrets
from collections.abc import Mapping
from typing import IO, TYPE_CHECKING, Any, cast

from shmkernel import kinds
from shmkernel._core import segment_file
from shmkernel._core.imports import importing
from shmkernel.errors import ArgumentError, DamagedError, FolderError, UnsupportedError
from shmkernel.kinds import Description, Plan
from shmkernel.kinds import dicts as parts
from shmkernel.kinds.dicts import lmdb_pages

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from shmkernel._core.closing import Descriptor
    from shmkernel.kinds.dicts.mapping import SharedDict
    from shmkernel.kinds.preview import Look, Preview, Source


class Dict:
    """The dict kind; see `shmkernel.kinds.Keeper`."""

    name = "dict"
    modes = ("r+", "r")  # LMDB has no private changes
    file = "data.mdb"
    suffixes = (".json", ".msgpack")
    formats = (".npz", ".safetensors")

    def recognises(self, value: object, options: Mapping[str, object]) -> bool:
        """Take mappings, but for those of xarray and scipy, whose items are not all of them."""
        return isinstance(value, Mapping) and not type(value).__module__.startswith(("xarray.", "scipy.sparse."))

    def plan(self, name: str, value: object, options: Mapping[str, object]) -> Plan:
        """Plan a mapping, or an empty one."""
        if given := [key for key, option in options.items() if option is not None]:
            raise ArgumentError(f"{name!r}: a dict takes no {given[0]}", name=name)
        if isinstance(value, parts.mapping.SharedDict):
            value = value.to_dict()
        content = value if type(value) is dict else dict(cast("Any", value if value is not None else {}))
        large: dict[str, Plan] = {}

        def pack(key: object, item: object) -> bytes:
            if not parts.operations.is_large(item):
                return parts.operations.packed(name, key, item)
            large[file := secrets.token_hex(8)] = _array().plan(name, item, {})
            return parts.values.pack(parts.values.File(file))

        raws, data = parts.entries.all_of(content, lambda key: parts.operations.key_bytes(name, key), pack)
        size = sum(map(len, raws)) + sum(map(len, data)) + sum(item.size for item in large.values())

        def build(home: str, fd: int, progress: Callable[[int], None]) -> None:
            parts.reservation.make(home, name)
            for file, item in large.items():
                _write(home, file, item, progress)
            mapping = mmap.mmap(fd, 2 * lmdb_pages.PAGE, access=mmap.ACCESS_READ)
            parts.store.connect(home, mapping, name, new=True).fill(raws, data, progress)

        return Plan(size, lambda: iter(()), build=build)

    def load(self, name: str, path: str) -> Plan:
        """Plan the content of a JSON or MessagePack file."""
        with open(path, "rb") as file:
            text = file.read()
        try:
            content = json.loads(text) if text.lstrip()[:1] == b"{" else parts.values.unpack(text)
            if not isinstance(content, dict):
                raise TypeError(f"it holds {kinds.a_type(content)}")  # noqa: TRY301  handled below
        except parts.values.ZoneError as error:
            raise parts.errors.wrong(name, error) from None
        except (ValueError, TypeError, RecursionError) as error:
            what = "It has to be JSON, or a file that a dict was saved to"
            raise DamagedError(f"{path} cannot be loaded: {error}. {what}", name=name, path=path) from None
        return self.plan(name, content, {})

    def save(self, value: SharedDict, path: str) -> Iterator[bytes]:
        """Yield a snapshot as JSON if the path ends in .json, else as MessagePack."""
        content = value.to_dict()
        if not path.endswith(".json"):
            yield parts.values.pack(content)
            return
        if wrong := [key for key, item in content.items() if type(key) is not str or not _is_json(item)]:
            message = f"{value.name!r}: JSON would change {wrong[0]!r}. Save to a path that ends in .msgpack"
            raise UnsupportedError(message, name=value.name, key=wrong[0])
        yield json.dumps(content, ensure_ascii=False, indent=1).encode("utf-8", "surrogatepass")

    def write(self, name: str, value: SharedDict, path: str, file: IO[bytes], progress: Callable[[int], None]) -> None:
        """Write a snapshot of arrays in the format of the path's suffix."""
        with importing:
            from shmkernel.kinds import archives  # noqa: PLC0415  only for these files

        archives.write(archives.checked(name, value.to_dict(), path), path, file, progress)

    def matches(self, head: bytes) -> bool:
        """Return whether these are the first bytes of an LMDB file."""
        return lmdb_pages.count_in(head) is not None

    def open(self, mapping: mmap.mmap, path: str, mode: str) -> object:
        """Raise ValueError: a store cannot be used without its folder."""
        raise ValueError("it was put there by another program, which alone can say where its lock file is")

    def connect(self, mapping: mmap.mmap, home: str, name: str, mode: str) -> SharedDict:
        """Return the mapping over the store in the folder `home`."""
        if lmdb_pages.count_in(mapping[:]) is None:
            raise ValueError("its first bytes are not those of an LMDB file")
        opened = parts.store.connect(home, mapping, name)
        opened.sweep_array_files()
        opened.on_change = _publish
        return parts.mapping.SharedDict(opened, mapping, mode, parts.operations.Arrays(_put, _attach))

    def listen(self, home: str) -> None:
        """Make writers of the dict publish their changes."""
        lmdb_pages.listen(f"{home}/{self.file}")

    def describe(self, head: bytes, size: int) -> Description:
        """Describe the number of keys."""
        count = lmdb_pages.count_in(head)
        if count is None:
            raise ValueError("its first bytes are not those of an LMDB file")
        return Description(f"{count} key{'s' * (count != 1)}")

    def preview(self, source: Source, look: Look) -> Preview:
        """Preview keys, types and values."""
        count = lmdb_pages.count_in(source.read(0, 2 * lmdb_pages.PAGE))
        if count is None:
            raise ValueError("its first bytes are not those of an LMDB file")
        return parts.preview.preview(source, look, count)


KIND = Dict()


def _is_json(value: object) -> bool:
    """Return whether JSON keeps a value unchanged."""
    kind = type(value)
    if kind is list:
        return all(map(_is_json, cast("list[object]", value)))
    if kind is dict:
        parts = cast("dict[object, object]", value)
        return all(type(key) is str and _is_json(item) for key, item in parts.items())
    return value is None or kind in (bool, int, str) or (kind is float and math.isfinite(cast("float", value)))


def _publish(name: str) -> None:
    with importing:
        from shmkernel.sync import versions  # noqa: PLC0415  only if a process waits for versions

    versions.publish(name)


def _array() -> kinds.Kind:
    return kinds.named("array")


def _put(home: str, array: NDArray[Any], name: str) -> Descriptor | None:
    """Write an array to a nameless file and return its descriptor, or None if the dict was unlinked.

    The transaction that stores the array links the file.
    """
    plan = _array().plan(name, array, {})
    try:
        fd = segment_file.blank(home)
    except (FileNotFoundError, FolderError):
        if os.path.exists(home):
            raise
        return None
    try:
        segment_file.fill(fd, plan.size, plan.pieces(), name, lambda _: None)
    except BaseException:
        fd.close()
        raise
    return fd


def _write(home: str, file: str, plan: Plan, progress: Callable[[int], None]) -> None:
    fd = segment_file.blank(home)
    try:
        segment_file.fill(fd, plan.size, plan.pieces(), file, progress)
        segment_file.link(fd, f"{home}/{file}.npy")
    finally:
        fd.close()


def _attach(path: str, mode: str) -> NDArray[Any]:
    fd, status = segment_file.attach(path, mode, os.path.basename(path))
    try:
        return cast(
            "NDArray[Any]",
            _array().open(segment_file.map_(fd, status.st_size, mode, os.path.basename(path)), path, mode),
        )
    finally:
        fd.close()
