"""Parsers of what a dict's store holds: pages, entries, keys, values, and the files of large arrays."""

from __future__ import annotations

import contextlib
import datetime as dt
import glob
import os
import random
import uuid
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np

import shmkernel as shm
from shmkernel import kinds, render
from shmkernel.errors import ShmError
from shmkernel.kinds import values
from shmkernel.kinds.dicts import entries as parts
from shmkernel.kinds.dicts import keys
from shmkernel.kinds.preview import Look, Source
from tests.prove.hostile import segments

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

VALUES = {
    "text": "x", "number": 7, "list": [1, (2, {3}), {"a": None}], ("t", 1, None): 1.5, True: b"bytes", 2**70: 2**80,
    "array": np.arange(20), "time": dt.datetime(2020, 1, 1, tzinfo=dt.UTC), "long": "y" * 5000, "d": Decimal("1.5"),
    "x" * 600: np.float64(1), "id": uuid.UUID(int=7), "c": 1j, "day": dt.date(2020, 1, 1), "span": dt.timedelta(1),
    "hour": dt.time(1, 2), "deep": [[[[]]]], "set": frozenset({1}), "map": {(1, 2): 3}, "part": np.ones(3, "M8[s]"),
}  # fmt: skip
_PAGE = 4096


def use(x: Any) -> None:
    """Use a dict in all ways; after a damaged entry the next way is tried."""
    for act in (
        x.to_dict,
        lambda: [list(x), list(reversed(x)), len(x), repr(x), list(x.items()), list(x.values())],
        lambda: [x.get(key) for key in VALUES],
        lambda: [x.__setitem__(key, 1) for key in (*VALUES, "new", "newer")],
        lambda: x.update(dict.fromkeys(range(50), "z" * 300)),
        lambda: [x.pop(key, None) for key in [*VALUES][:4]],
        x.popitem,
        x.clear,
    ):
        with contextlib.suppress(ShmError, KeyError):
            act()


def pages() -> Callable[[bytes], None]:
    """Attach a dict whose file has other bytes here and there: the input is a list of changes."""
    shm.create("x", VALUES, lifetime="keep")
    shm.close("x")
    return _changed()


def tree() -> Callable[[bytes], None]:
    """Do so with a larger one, which has branches and a list of free pages."""
    x = shm.create("x", {f"key {number}": "x" * (number % 90) for number in range(1500)} | VALUES, lifetime="keep")
    for number in range(0, 1500, 2):
        del x[f"key {number}"]
    del x
    shm.close("x")
    return _changed()


def _changed() -> Callable[[bytes], None]:
    (path,) = glob.glob(f"{os.environ['SHMKERNEL_DIR']}/.shmk-*/stores/*/data.mdb")
    with open(path, "rb") as file:
        clean, size = file.read(1 << 20), os.fstat(file.fileno()).st_size
    used = (len(clean.rstrip(b"\0")) // _PAGE + 1) * _PAGE

    def act(data: bytes) -> None:
        content = bytearray(clean[:used])
        for at in range(0, len(data) - 3, 4):
            content[int.from_bytes(data[at : at + 3], "little") % used] = data[at + 3]
        with open(path, "r+b") as file:
            file.write(content)
            file.truncate(used)
            file.truncate(size)
        use(shm.attach("x", "r+"))

    return act


def folder() -> Callable[[bytes], None]:
    """Attach a dict with another file in its folder: a name, a NUL, and the content."""
    x = shm.create("x", VALUES | {"large": np.arange(200_000.0)}, lifetime="keep")
    del x
    shm.close("x")
    (home,) = glob.glob(f"{os.environ['SHMKERNEL_DIR']}/.shmk-*/stores/*")

    def attach_and(do: Callable[[Any], object]) -> None:
        do(shm.attach("x"))

    def act(data: bytes) -> None:
        name, _, content = data.partition(b"\0")
        path = os.path.join(os.fsencode(home), name.replace(b"/", b"")[:250] or b"a")
        if path.endswith((b"data.mdb", b"/.", b"/..")):
            return
        with open(path, "wb") as file:
            file.write(content)
        for step in (
            lambda: attach_and(lambda x: x["large"].tobytes()),
            lambda: attach_and(lambda x: x.update(new=1)),
            lambda: render.table(shm.list()),
        ):
            with contextlib.suppress(ShmError):
                step()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        shm.close("x")

    return act


def folder_seeds() -> Iterator[bytes]:
    """Give the names that a store has, with other contents."""
    for name in (b"lock.mdb", b"0123456789abcdef.open", b"0123456789abcdef.npy", b".open", b".npy", b"a"):
        for content in (b"", b"\xde\xc0\xef\xbe\1" + bytes(100), b"\xff" * 8192):
            yield name + b"\0" + content


def page_seeds() -> Iterator[bytes]:
    """Give a change of each word of the first pages' heads."""
    chance = random.Random(1)
    yield b""
    for at in [*range(0, 160, 8), *range(_PAGE, _PAGE + 160, 8), *range(2 * _PAGE, 6 * _PAGE, 640)]:
        yield at.to_bytes(3, "little") + chance.choice([b"\0", b"\xff", b"\1", b"\x7f"])


def entry() -> Callable[[bytes], None]:
    """Read and change a dict with other entries: the lengths of key and value, then both, again and again."""
    x = shm.create("x", {"a": 1, "b": 2})
    store, own = x._store, kinds.named("dict")
    path, two = shm.info("x").path, parts.head(1) + values.pack(2)

    def act(data: bytes) -> None:
        at, put = 0, {}
        while at + 3 < len(data):
            key, value = data[at], int.from_bytes(data[at + 1 : at + 3], "little")
            put[data[at + 3 : at + 3 + key] or b"a"] = data[at + 3 + key : at + 3 + key + value]
            at += 3 + key + value
        store.write(lambda txn: [txn.put(*pair) for pair in (put | {b"b": two}).items()])
        for step in (
            lambda: x["a"],
            x.to_dict,
            lambda: [list(x), repr(x), list(x.items()), list(x.values())],
            lambda: segments.previewed(own, Source(lambda *_: _read(path), 1 << 16, path), Look()),
            lambda: x.increment("a"),
            lambda: x.__setitem__("new", 1),
            lambda: x.__setitem__("a", "x" * 2000),
            lambda: x.setdefault("newer", np.ones(3)),
            lambda: x.pop("a"),
            x.popitem,
        ):
            with contextlib.suppress(ShmError, KeyError, TypeError):  # no such key; a value that cannot be increased
                step()
        assert x.get("b", 2) == 2
        store.write(lambda txn: [txn.delete(key) for key, _ in [*txn.cursor()]])
        x.update(a=1, b=2)

    return act


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read(2 * _PAGE)


def entry_seeds() -> Iterator[bytes]:
    """Give the entry of each value, and of each key."""
    for key, value in VALUES.items():
        raw, exact = keys.encode(key)
        placed = parts.place_value(key, raw, exact=exact)
        entry = parts.head(0) + values.pack(value)
        pairs = ((raw, entry), (parts.place(0), placed), (b"a", entry), (parts.place(7), raw))
        yield b"".join(bytes([len(k) & 255]) + len(v).to_bytes(2, "little") + k + v for k, v in pairs)


def packed() -> Callable[[bytes], object]:
    """Decode a value; ValueError says that it is damaged."""
    return values.unpack


def packed_seeds() -> Iterator[bytes]:
    """Give the bytes of each value."""
    yield from map(values.pack, VALUES.values())


def array_files() -> Callable[[bytes], None]:
    """Read a large array of a dict, whose file has these bytes."""
    x = shm.create("x", {"large": np.arange(200_000.0), "b": 1})
    (path,) = glob.glob(f"{os.environ['SHMKERNEL_DIR']}/.shmk-*/stores/*/*.npy")

    def act(data: bytes) -> None:
        with open(path, "wb") as file:
            file.write(data)
        found = x["large"]
        found.tobytes()

    return act


def head() -> bytes:
    """Return the first bytes of a store."""
    x = shm.create("x", {"a": 1})
    with open(shm.info("x").path, "rb") as file:
        found = file.read(2 * _PAGE + 64)
    shm.unlink("x")
    del x
    return found


def places() -> Callable[[bytes], object]:
    """Decode a key from its place in the order."""
    return lambda data: hash(parts.key_of(data)[1])


def key_seeds() -> Iterator[bytes]:
    """Give the bytes of each key."""
    for key in (*VALUES, None, 1.5, b"a", -7, (1, ("a", 2.5))):
        raw, exact = keys.encode(key)
        yield parts.place_value(key, raw, exact=exact)


def known_errors() -> tuple[type[Exception], ...]:
    """Return the errors of entries and values that a dict turns into its own."""
    return parts.WrongError, values.ZoneError, ValueError
