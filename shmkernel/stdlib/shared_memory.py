"""SharedMemory: the standard library's class of that name, on segments."""

from __future__ import annotations

import errno
import operator
import os
import secrets
import struct
from typing import TYPE_CHECKING, Any, Self

from shmkernel._core import paths, records, registry, segment_file, sessions
from shmkernel.errors import ArgumentError, NotFoundError, TakenError, UnsupportedError, _FileError
from shmkernel.kinds import Kind, Plan, a_type, raw
from shmkernel.verbs import attachments, staging

if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable

    from shmkernel.verbs.attachments import View

_USE_POSIX = True
_SHM_NAME_PREFIX = "/psm_"
_IDENTITY = struct.Struct("<Qd")  # inode, when it was made


def _make_filename() -> str:
    """Return a random name, as the stdlib's function of this name does."""
    return _SHM_NAME_PREFIX + secrets.token_hex(4)


class SharedMemory:
    """A block of memory with a name: `multiprocessing.shared_memory.SharedMemory`, without its traps.

    Either class attaches what the other made. A block belongs to the session of the process that made it: it is
    unlinked when that ends, however it ends, and never because another process that attached it ends.

    Parameters
    ----------
    name : str, optional
        Of the POSIX shared memory object, without its leading slash; a random one if a block is made without it.
    create : bool
        Make a block, rather than attach one.
    size : int
        Of a new block, in bytes.
    track : bool
        False: a new block stays until it is unlinked by hand.
    sparse : bool
        Do not reserve the memory of a new block. A store that finds none left kills the process.

    Raises
    ------
    NotFoundError
        A FileNotFoundError, if there is no such block to attach.
    TakenError
        A FileExistsError, if there is one where it is to be made.
    FullError
        An OSError with errno ENOSPC, if the memory does not suffice.
    ArgumentError
        A ValueError, for a size or name that makes no sense; for a name an OSError too, as in the stdlib.
    UnsupportedError
        A TypeError, for a name that is no str.

    Examples
    --------
    >>> from shmkernel import SharedMemory
    >>> block = SharedMemory(create=True, size=10)
    >>> block.buf[:3] = b"abc"
    >>> other = SharedMemory(block.name)   # in any process
    >>> bytes(other.buf[:3]), other
    (b'abc', SharedMemory('psm_...', size=10))
    >>> other.close()
    >>> block.unlink()
    """

    # the stdlib's names, since programs and its own tests reach for them
    _name = ""
    _fd = -1  # the mapping holds the one descriptor there is
    _mmap: mmap.mmap | None = None
    _buf: memoryview | None = None
    _size = 0
    _flags = os.O_RDWR
    _mode = 0o600
    _track = True
    _mapped = "r+"
    _given = False  # by create and attach: then it is copied and pickled as arrays are, by its bytes
    _identity = ""
    _views: tuple[memoryview, ...] = ()

    def __init__(
        self, name: str | None = None, create: bool = False, size: int = 0, *, track: bool = True, sparse: bool = False
    ) -> None:
        if not size >= 0:
            raise ArgumentError("'size' must be a positive integer")
        if create:
            self._flags = os.O_CREAT | os.O_EXCL | os.O_RDWR
            if size == 0:
                raise ArgumentError("'size' must be a positive number different from zero")
        if name is None and not self._flags & os.O_EXCL:
            raise ArgumentError("'name' can only be None if create=True")
        self._track = track
        plan = Plan(operator.index(size), lambda: iter(()), sparse)
        make = bool(self._flags & os.O_EXCL)
        while self._mmap is None:
            try:
                if make:
                    self._create(None if name is None else posix_name(name), raw.KIND, plan, self._map)
                else:
                    self._attach(posix_name(name), "raw", self._map)
            except NotFoundError:
                make = bool(self._flags & os.O_CREAT and size)  # a subclass may ask for either
                if not make:
                    raise
            except TakenError:
                make = False
                if self._flags & os.O_EXCL:
                    raise

    @classmethod
    def over(cls, mapping: mmap.mmap, path: str, mode: str) -> Self:
        """Return a handle of a block that is mapped already."""
        self = cls.__new__(cls)
        self._given = True
        return self._map(mapping, path, mode)

    def _map(self, mapping: mmap.mmap, path: str, mode: str) -> Self:
        self._name = self._name or f"/{os.path.basename(path)}"
        self._mapped, self._mmap, self._size, self._buf = mode, mapping, len(mapping), memoryview(mapping)
        return self

    def _attach(self, posix: str, kind: str, view: View) -> None:
        """Attach the named block, and give its mapping to `view`, which returns the object that it is for."""
        path = _path(posix)
        name = paths.called(path)
        if not sessions.covers(path):
            registry.begin()
        fd, found = segment_file.attach(path, "r+", name)
        try:
            records.confirm(name, found)
            mapping = segment_file.map_(fd, found.st_size, "r+", name)
            self._name = posix
            value = view(mapping, path, "r+")
        except ValueError as error:
            raise staging.damaged(name, error if found.st_size else "the file is empty") from None
        finally:
            os.close(fd)
        attachments.note(mapping, value, attachments.Segment(found, "r+", path, name, kind, records.of(found)))

    def _create(self, posix: str | None, kind: Kind, plan: Plan, view: View) -> None:
        """Carry out a kind's plan; without a name under a random one. `view` as for `_attach`."""
        lifetime = "session" if self._track else "keep"
        while True:
            self._name = posix or _make_filename()
            name = paths.called(_path(self._name))
            try:
                staging.name_all(
                    [staging.make(name, kind, plan, "r+", lifetime, replace=False, view=view)], replace=False
                )
            except TakenError as error:
                self.close()
                if posix:
                    message = f"{posix[1:]!r} is taken by another block. Attach it by its name, or choose another name"
                    raise TakenError(message, name=name, **error.facts) from None
            else:
                return

    def __reduce__(self) -> tuple[Any, ...]:
        if not self._given:
            return rebuild, (self.__class__, (self.name, False, self.size), self.identity())
        if self._buf is None:
            raise ArgumentError(f"{self.name!r} is closed here. Attach it again: shm.attach({self._called()!r})")
        return bytearray, (bytes(self._buf),)

    def identity(self) -> str:
        """Return what tells this block from others that have its name later, as long a text for each."""
        one = attachments.of(self._mmap)
        if one is not None:
            created = one.record.created if one.record else 0.0
            self._identity = _IDENTITY.pack(one.key[1], created).hex()
        return self._identity

    def _called(self) -> str:
        return paths.called(_path(self._name))

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}({self.name!r}, size={self.size})"

    @property
    def buf(self) -> memoryview:
        """The block's bytes; None once the handle is closed."""
        return self._buf  # type: ignore[return-value]  # as the stdlib declares it: code indexes it

    @property
    def name(self) -> str:
        """Which block this is: what any process attaches."""
        return self._name.removeprefix("/")

    @property
    def size(self) -> int:
        """The block's size in bytes."""
        return self._size

    def close(self) -> None:
        """Let go of the block here. Arrays and views over `buf` stay valid, and keep the memory, while they live."""
        self._identity = self.identity()
        attachments.retire(self._mmap)
        for view in self._views:
            view.release()
        self._views, self._buf, self._mmap = (), None, None

    def unlink(self) -> None:
        """Remove the block's name; who has it attached keeps the memory. The second time raises FileNotFoundError."""
        if self._name:
            registry.unlink(paths.called(_path(self._name)))


def rebuild(make: Callable[..., Any], about: tuple[Any, ...], identity: str) -> Any:  # noqa: ANN401
    """Attach what was pickled by its name; NotFoundError if the name leads to another block by now."""
    made = make(*about)
    handle: SharedMemory = getattr(made, "shm", made)
    known, here = (_IDENTITY.unpack(bytes.fromhex(one)) if one else (0, 0.0) for one in (identity, handle.identity()))
    if known[0] != here[0] or (known[1] and here[1] and known[1] != here[1]):  # without a record nobody knows when
        name = handle._called()  # noqa: SLF001  its own
        handle.close()
        raise NotFoundError(f"{name!r} was replaced since this reference to it was made. Make another", name=name)
    return made


class PosixNameError(_FileError, ArgumentError):
    """A name that no POSIX shared memory object can have: an OSError, as from shm_open, and a ValueError."""

    code = errno.EINVAL


def posix_name(name: object) -> str:
    """Return the name of a POSIX shared memory object with its leading slash; as the stdlib, take texts alone."""
    if not isinstance(name, str):
        raise UnsupportedError(
            f"the name of a block is a str, and {name!r} is {a_type(name)}", type=type(name).__name__
        )
    return f"/{name}"


def _path(posix: str) -> str:
    """Return where a POSIX shared memory object lies; as for shm_open, leading slashes count as one."""
    try:
        return paths.path_of(f"/{posix.lstrip('/')}")
    except ArgumentError:
        message = f"{posix[1:80]!r} is no name for a block: one or more characters without a slash, 255 bytes at most"
        raise PosixNameError(message, name=posix[1:]) from None
