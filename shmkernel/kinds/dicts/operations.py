"""`Access`: read and change the store of a shared dict, in the open transaction or in one of its own."""

from __future__ import annotations

import contextlib
import secrets
import weakref
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

import lmdb
import numpy as np

from shmkernel import kinds
from shmkernel._core import fork, limits
from shmkernel.errors import ArgumentError, Cure, FullError, NotFoundError, ShmError, UnsupportedError
from shmkernel.kinds import values
from shmkernel.kinds.dicts import entries, errors, fast_path, keys, lmdb_pages, store
from shmkernel.kinds.dicts.cache import FROZEN, KEYS, MISSING, SHORT, Encoded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from shmkernel._core.closing import Descriptor
    from shmkernel.kinds.dicts.blocks import Block

    Txn = lmdb.Transaction[bytes]

T = TypeVar("T")
LARGE = 1 << 20  # bytes; an array of this size or more gets a file of its own
_FIRST, _SECOND = lmdb_pages.NUMBERS
_MANY = 1000  # a change of more pairs may take long
AT_ONCE = 64, 4096  # entries read in a transaction: the first one, and later ones
BYTES = 1 << 20  # of the values that a loop reads in a transaction
BROKEN = entries.WrongError, values.ZoneError, OSError  # the last: a limit, met where values are decoded


class Arrays(NamedTuple):
    """Functions that write a large array to a nameless file beside the store, and attach one."""

    put: Callable[[str, NDArray[Any], str], Descriptor | None]
    attach: Callable[[str, str], NDArray[Any]]


class Ready:
    """An encoded pair, and the nameless file of a large array."""

    __slots__ = ("data", "exact", "fd", "file", "key", "raw")

    def __init__(
        self, raw: bytes, exact: bool, key: object, data: bytes, file: str = "", fd: Descriptor | None = None
    ) -> None:
        self.raw, self.exact, self.key, self.data, self.file, self.fd = raw, exact, key, data, file, fd

    def close(self) -> None:
        """Close the file; if it is still nameless, that removes it."""
        if self.fd is not None:
            self.fd.close()
            self.fd = None


class GoneError(NotFoundError):
    """The file of an array was removed after the reference to it was read."""


def is_large(value: object) -> bool:
    """Return whether a value is an array that gets a file of its own."""
    return isinstance(value, np.ndarray) and value.nbytes >= LARGE and type(value) in (np.ndarray, np.memmap)


def key_bytes(name: str, key: object) -> tuple[bytes, bool]:
    """Return the bytes of a key to store, as `keys.encode`; UnsupportedError if it cannot be stored."""
    try:
        return keys.encode(key)
    except keys.NoKeyError as error:
        where = "".join(f"[{at}]" for at in error.at)
        what = f"in the key {key!r}, {where} is" if where else f"the key {key!r} is"
        cure = f": {error.cure}" if error.cure else ""
        message = (
            f"{name!r}: {what} {kinds.an(error.type)}{cure}. A key is a str, number, bytes, None, or a tuple of these"
        )
        raise UnsupportedError(message, name=name, type=error.type.__name__) from None


def packed(name: str, key: object, value: object) -> bytes:
    """Encode a value; UnsupportedError shows which part cannot be stored."""
    try:
        return values.pack(value)
    except values.NoValueError as error:
        where = "".join(f"[{part!r}]" for part in (key, *error.path))
        message = f"{name}{where}: {kinds.an(error.type)} cannot be stored: {error.why}"
        raise UnsupportedError(message, name=name, path=(key, *error.path), type=error.type.__name__) from None


class Access:
    """A store that this process has attached."""

    __slots__ = ("__weakref__", "_arrays", "_attached", "_mapping", "_mode", "_store")

    def __init__(self, opened: store.Store, mapping: object, mode: str, arrays: Arrays) -> None:
        self._store, self._mapping, self._mode, self._arrays = opened, mapping, mode, arrays
        self._attached: weakref.WeakValueDictionary[str, NDArray[Any]] = weakref.WeakValueDictionary()

    @property
    def name(self) -> str:
        """The name of the segment, for ``shm.attach(name)``."""
        return self._store.name

    def _get(self, key: object) -> Any:
        """Return a value from the cache if no process has written since, else from the store; or MISSING."""
        opened, missed = self._store, None
        words, cache = opened.words, opened.cache
        keep, tag = type(key) in KEYS, words[_FIRST] + words[_SECOND]
        if keep and tag == cache.tag:
            value = cache.values.get(key, MISSING)
            if value is not MISSING:
                try:
                    return value if type(value) is not Encoded else values.decode(value.data)
                except (OSError, ValueError):
                    pass  # the store is read, which raises the error to show
        try:
            raw = keys.look_up(key)
        except keys.NoKeyError:
            return MISSING
        while True:
            block = opened.block and opened.current_block()
            try:
                if block is None:
                    txn = opened.reading()
                    try:
                        entry, number = txn.get(raw), txn.id()
                    finally:
                        txn.abort()
                else:
                    keep = False
                    with block.use:
                        entry = inside(block).get(raw)
            except lmdb.Error as error:
                raise self._failed(error, block) from None
            if entry is None:
                return MISSING
            try:
                _, value = values.decode(entry)
                short = keep and len(entry) <= SHORT and type(value) is not values.File
                if short and tag == 2 * number - 1:  # no other commit in between, and no write transaction of ours
                    cached = value if type(value) in FROZEN else Encoded(entry[len(entries.head_of(entry)) :])
                    fast_path.remember(opened, tag, key, cached)
            except Exception:  # noqa: BLE001  numpy, msgspec and datetime raise many types
                value = self._value_of(entry, key)
            if type(value) is not values.File:
                return value
            try:
                return self._whole(value)
            except GoneError:  # the value was replaced meanwhile, and its file deleted
                if value == missed:
                    raise
                missed = value

    def _value_of(self, entry: bytes, key: object) -> Any:
        try:
            return entries.value_of(entry)
        except BROKEN as error:
            raise errors.wrong(self._store.name, error, key) from None

    def _whole(self, value: Any) -> Any:
        """Return the value; for a reference to a file attach the array."""
        if type(value) is not values.File:
            return value
        array = self._attached.get(value)
        if array is None:
            try:
                array = self._arrays.attach(self._store.array_files.path(value), self._mode)
            except FileNotFoundError:
                message = f"{self.name!r} was unlinked or replaced, and this array with it"
                raise GoneError(message, Cure("Live names", "list"), name=self.name, similar=[]) from None
            except ValueError as error:
                why = error.what if isinstance(error, ShmError) else error
                raise errors.wrong(self.name, f"the file of a large array cannot be read: {why}") from None
            self._attached[value] = array
        return array

    @contextlib.contextmanager
    def _reading(self) -> Iterator[Txn]:
        opened, generation = self._store, fork.generation
        block = opened.current_block()
        txn = opened.reading() if block is None else None
        try:
            if txn is not None:
                yield txn
            elif block is not None:
                with block.use:
                    yield inside(block)
        except lmdb.Error as error:
            error.__traceback__ = None  # on Python 3.12 a reference cycle would keep the callers' values
            raise self._failed(error, block) from None
        except BROKEN as error:
            error.__traceback__ = None
            raise errors.wrong(opened.name, error) from None
        finally:
            if txn is not None and not fork.inherited(generation):
                txn.abort()

    def _batches(
        self, make: Callable[[Txn, list[bytes]], tuple[list[T], list[bytes]]], *, backwards: bool = False
    ) -> Iterator[list[T]]:
        """Yield batches, each read in a transaction of its own. `make` may leave entries for the next batch."""
        at, count = None, AT_ONCE[0]
        while True:
            with self._reading() as txn:
                placed, at = entries.walk(txn, at, count, backwards=backwards)
                made, raws = make(txn, placed)
                if len(made) < len(placed):
                    last = entries.number_of(cast("bytes", txn.get(raws[len(made) - 1])))
                    at = last - 1 if backwards else last + 1
            yield made
            if at is None or at < 0:
                return
            count = AT_ONCE[1]

    def _failed(self, error: lmdb.Error, block: Block | None) -> Exception:
        """Convert an error of LMDB, which may come from a transaction that another thread has ended."""
        name = self._store.name
        if block is not None and block.over:
            return errors.ended(name)
        return errors.of(name, error)

    def _check_writable(self) -> None:
        if self._mode == "r":
            cure = Cure("To write", "attach", self.name, mode="r+")
            raise ArgumentError(f"{self.name!r} is attached read only here", cure, name=self.name, mode=self._mode)

    def _key(self, key: object) -> tuple[bytes, bool]:
        return key_bytes(self._store.name, key)

    @limits.explains
    def _ready(self, key: object, value: object, data: bytes | None = None) -> Ready:
        """Encode a pair, and write a large array, before the change blocks other writers; `data`: the encoded value."""
        self._check_writable()
        raw, exact = self._key(key)
        if is_large(value) and (fd := self._put_array(key, value)) is not None:
            file = secrets.token_hex(8)
            return Ready(raw, exact, key, values.pack(values.File(file)), file, fd)
        return Ready(raw, exact, key, packed(self.name, key, value) if data is None else data)

    def _put_array(self, key: object, value: Any) -> Descriptor | None:
        name = self._store.name
        try:
            return self._arrays.put(self._store.home, value, name)
        except (FullError, UnsupportedError) as error:
            raise error.reworded(error.what.replace(repr(name), f"{name}[{key!r}]", 1)) from None

    @limits.explains
    def _change(self, step: Callable[[Txn], T], *ready: Ready) -> T:
        """Make a change in this thread's open transaction, or in one of its own."""
        try:
            return self._make(step, *ready)
        finally:
            for pair in ready:
                pair.close()

    def _make(self, step: Callable[[Txn], T], *ready: Ready) -> T:
        self._check_writable()
        opened = self._store
        try:
            block = opened.block
            if block is not None:
                if block.is_mine():
                    return self._make_inside(block, step)
                block.refuse_others()
            long = len(ready) > _MANY
            with opened.writer_lock(long=long):
                try:
                    return opened.write(step)
                except FullError:
                    if any(pair.file for pair in ready):  # the first attempt has removed the file
                        raise
                    opened.free()
                    return opened.write(step)
        except BROKEN as error:
            raise errors.wrong(opened.name, error) from None

    def _make_inside(self, block: Block, step: Callable[[Txn], T]) -> T:
        block.touched = False
        try:
            with block.use:
                return step(inside(block))
        except lmdb.Error as error:
            block.failed = True
            raise self._failed(error, block) from None
        except BaseException:
            block.failed |= block.touched
            raise
        finally:
            block.wrote |= block.touched

    def _touch(self) -> None:
        """Note that the change writes now: if it fails from here on, its transaction is aborted."""
        if self._store.block is not None:
            self._store.block.touched = True

    def _put(self, txn: Txn, ready: Ready) -> None:
        opened, size = self._store, len(ready.raw) + len(ready.data)
        opened.reservation.need(txn, size)
        entry = txn.get(ready.raw)
        if ready.fd is not None:
            opened.array_files.add(ready.fd, ready.file)
            ready.close()
        if entry is None:
            opened.reservation.need(txn, size)
            number = entries.last(txn) + 1
            self._touch()
            txn.put(entries.place(number), entries.place_value(ready.key, ready.raw, exact=ready.exact))
            opened.resized += 1
            head = entries.head(number)
        else:
            head = entries.head_of(entry)
            if entries.is_file(entry):
                opened.array_files.delete_after_commit(entries.value_of(entry))
        self._touch()
        txn.put(ready.raw, head + ready.data)

    def _delete(self, txn: Txn, raw: bytes) -> bool:
        opened = self._store
        entry = txn.get(raw)
        if entry is None:
            return False
        file = entries.value_of(entry) if entries.is_file(entry) else None
        for key in (raw, entries.place(entries.number_of(entry))):
            opened.reservation.need(txn, 0, kept=0)
            self._touch()
            txn.delete(key)
        opened.resized -= 1
        if file is not None:
            opened.array_files.delete_after_commit(file)
        return True


def inside(block: Block) -> Txn:
    """Return the LMDB transaction of a block; LockError if another thread has ended it."""
    if block.txn is None:  # another thread has ended it meanwhile
        raise errors.ended(block.store.name)
    return block.txn


def known(key: object) -> bytes | None:
    """Return the bytes of a key to look up; None for a key that cannot be stored."""
    try:
        return keys.look_up(key)
    except keys.NoKeyError:
        return None


def items(txn: Txn, placed: list[bytes]) -> tuple[list[Any], list[Any]]:
    """Return the keys of these values of the order, and their values."""
    raws, keys_ = entries.keys_of(placed)
    return keys_, entries.read(txn, raws)


def pairs(txn: Txn, placed: list[bytes]) -> tuple[list[tuple[Any, Any]], list[bytes]]:
    """Return the first of these pairs, of about `BYTES`, and the bytes of all keys."""
    raws, keys_ = entries.keys_of(placed)
    return list(zip(keys_, entries.read(txn, raws, BYTES), strict=False)), raws
