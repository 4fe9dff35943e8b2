"""How a shared dict reads its store and changes it, in whatever transaction this thread is in."""

from __future__ import annotations

import contextlib
import weakref
from threading import get_ident
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

import lmdb
import numpy as np

from shmkernel.dicts import entries, keys, store, values
from shmkernel.errors import ArgumentError, FullError, NotFoundError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    Txn = lmdb.Transaction[bytes]

T = TypeVar("T")
LARGE = 1 << 20  # bytes from which an array gets a file of its own
MISSING: Any = object()
FROZEN = frozenset({str, int, float, bool, bytes, type(None), complex})  # the cache may give out the same one again
AT_ONCE = 64, 4096  # entries read in one transaction: at first, and later


class Arrays(NamedTuple):
    """How large arrays are put into files beside the store, and attached."""

    put: Callable[[str, NDArray[Any]], str]
    attach: Callable[[str, str], NDArray[Any]]


class Ready:
    """A pair in bytes, and the file that its value may refer to."""

    __slots__ = ("data", "exact", "file", "key", "put", "raw")

    def __init__(self, raw: bytes, exact: bool, key: object, data: bytes, file: str = "") -> None:
        self.raw, self.exact, self.key, self.data, self.file, self.put = raw, exact, key, data, file, False


class GoneError(NotFoundError):
    """A file was removed between the reading of its name and the opening."""


def is_large(value: object) -> bool:
    """Say whether a value is an array that gets a file of its own."""
    return isinstance(value, np.ndarray) and value.nbytes >= LARGE and type(value) in (np.ndarray, np.memmap)


def key_bytes(name: str, key: object) -> tuple[bytes, bool]:
    """Return the bytes of a key that is to be stored, as `keys.encode`."""
    try:
        return keys.encode(key)
    except keys.NoKeyError as error:
        where = "".join(f"[{at}]" for at in error.at)
        what = f"in the key {key!r}, {where} is" if where else f"the key {key!r} is"
        message = f"{name!r}: {what} a {error.type.__name__}. Keys are texts, numbers, bytes, None and tuples of these"
        raise UnsupportedError(message, name=name, type=error.type.__name__) from None


def packed(name: str, key: object, value: object) -> bytes:
    """Write a value; UnsupportedError says where in it is what cannot be stored."""
    try:
        return values.pack(value)
    except values.NoValueError as error:
        where = "".join(f"[{part!r}]" for part in (key, *error.path))
        message = f"{name}{where}: a {error.type.__name__} cannot be stored: {error.why}"
        raise UnsupportedError(message, name=name, path=(key, *error.path), type=error.type.__name__) from None


class Access:
    """A store, as it was attached here."""

    __slots__ = ("__weakref__", "_arrays", "_attached", "_mapping", "_mode", "_store")

    def __init__(self, opened: store.Store, mapping: object, mode: str, arrays: Arrays) -> None:
        self._store, self._mapping, self._mode, self._arrays = opened, mapping, mode, arrays
        self._attached: weakref.WeakValueDictionary[str, NDArray[Any]] = weakref.WeakValueDictionary()

    @property
    def name(self) -> str:
        """What it is called: ``shm.attach(name)``."""
        return self._store.name

    def _get(self, key: object) -> Any:  # noqa: ANN401
        """Read from the store; what does not change is remembered until anybody writes."""
        raw = known(key)
        if raw is None:
            return MISSING
        opened, missed = self._store, None
        while True:
            txn = opened.txn if opened.owner == get_ident() else None
            own = txn or opened.reading()
            try:
                entry, number = own.get(raw), own.id()
            finally:
                if txn is None:
                    own.abort()
            if entry is None:
                return MISSING
            value = entries.value_of(entry)
            if type(value) in FROZEN:
                if txn is None and len(entry) <= store.SHORT:
                    opened.remember(2 * number - 1, key, value)
                return value
            try:
                return self._whole(value)
            except GoneError:  # replaced since it was read, and its file with it
                if value == missed:
                    raise
                missed = value

    def _whole(self, value: Any) -> Any:  # noqa: ANN401
        """Attach a large array; anything else is the value itself."""
        if type(value) is not values.File:
            return value
        found = self._attached.get(value)
        if found is None:
            try:
                found = self._arrays.attach(f"{self._store.home}/{value}.npy", self._mode)
            except FileNotFoundError:
                message = f"{self.name!r} was unlinked or replaced, and this array with it. What there is: %shm_list"
                raise GoneError(message, name=self.name, similar=[]) from None
            self._attached[value] = found
        return found

    @contextlib.contextmanager
    def _reading(self) -> Iterator[Txn]:
        opened = self._store
        if opened.owner == get_ident() and opened.txn:
            yield opened.txn
            return
        txn = opened.reading()
        try:
            yield txn
        except lmdb.Error as error:
            raise opened.failure(error) from None
        finally:
            txn.abort()

    def _batches(self, make: Callable[[Txn, list[bytes]], T], *, backwards: bool = False) -> Iterator[T]:
        at, count = None, AT_ONCE[0]
        while True:
            with self._reading() as txn:
                placed, at = entries.walk(txn, at, count, backwards=backwards)
                made = make(txn, placed)
            yield made
            if at is None:
                return
            count = AT_ONCE[1]

    def _check_writable(self) -> None:
        if self._mode == "r":
            message = f"{self.name!r} is attached to be read only. To write: %shm_attach {self.name} --mode r+"
            raise ArgumentError(message, name=self.name, mode=self._mode)

    def _key(self, key: object) -> tuple[bytes, bool]:
        return key_bytes(self.name, key)

    def _ready(self, key: object, value: object) -> Ready:
        """Do all that may fail, or takes long, before others have to wait."""
        self._check_writable()
        raw, exact = self._key(key)
        if is_large(value) and (file := self._arrays.put(self._store.home, cast("Any", value))):
            return Ready(raw, exact, key, values.pack(values.File(file)), file)
        return Ready(raw, exact, key, packed(self.name, key, value))

    def _change(self, step: Callable[[Txn], T], *ready: Ready) -> T:
        """Make a change in a transaction of its own, or in that of this thread."""
        self._check_writable()
        opened = self._store
        try:
            if opened.owner == get_ident() and opened.txn:
                opened.touched = False
                try:
                    return step(opened.txn)
                except lmdb.Error as error:
                    raise opened.failure(error) from None
                except BaseException:
                    opened.failed |= opened.touched
                    raise
            try:
                return self._once(step)
            except FullError:
                opened.turn()
                for one in ready:
                    one.put = False
                return self._once(step)
        finally:
            store.remove(opened.home, [f"{one.file}.npy" for one in ready if one.file and not one.put])

    def _once(self, step: Callable[[Txn], T]) -> T:
        opened = self._store
        txn = opened.writing()
        with self._undone_on_error(txn):
            result = step(txn)
            opened.commit(txn)
        return result

    @contextlib.contextmanager
    def _undone_on_error(self, txn: Txn) -> Iterator[None]:
        try:
            yield
        except lmdb.Error as error:
            self._store.abort(txn)
            raise self._store.failure(error) from None
        except BaseException:
            self._store.abort(txn)
            raise

    def _put(self, txn: Txn, ready: Ready) -> None:
        opened, size = self._store, len(ready.raw) + len(ready.data)
        opened.room(txn, size)
        entry = txn.get(ready.raw)
        if entry is None:
            opened.room(txn, size)
            number = entries.last(txn) + 1
            opened.touched = True
            txn.put(entries.place(number), entries.place_value(ready.key, ready.raw, exact=ready.exact))
            head = entries.head(number)
        else:
            head = entries.head_of(entry)
            if entries.is_file(entry):
                opened.doomed.append(f"{entries.value_of(entry)}.npy")
        opened.touched = True
        txn.put(ready.raw, head + ready.data)
        if ready.file:
            opened.born.append(f"{ready.file}.npy")
            ready.put = True

    def _delete(self, txn: Txn, raw: bytes) -> bool:
        opened = self._store
        entry = txn.get(raw)
        if entry is None:
            return False
        for key in (raw, entries.place(entries.number_of(entry))):
            opened.room(txn, 0, kept=0)
            opened.touched = True
            txn.delete(key)
        if entries.is_file(entry):
            opened.doomed.append(f"{entries.value_of(entry)}.npy")
        return True


def known(key: object) -> bytes | None:
    """Return the bytes of a key that is looked up; a key that cannot be stored is not there, as in any dict."""
    try:
        return keys.encode(key)[0]
    except keys.NoKeyError:
        return None


def items(txn: Txn, placed: list[bytes]) -> tuple[list[Any], list[Any]]:
    """Return the keys at these places of the order, and their values."""
    raws, keys_ = entries.keys_of(placed)
    return keys_, entries.read(txn, raws)
