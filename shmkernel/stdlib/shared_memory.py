"""SharedMemory: a replacement for the standard library's class of that name, built on segments."""

from __future__ import annotations

import errno
import operator
import os
import secrets
import struct
from typing import TYPE_CHECKING, Any, Self

from shmkernel._core import limits, paths, records, registry, segment_file, sessions
from shmkernel.errors import ArgumentError, Cure, NotFoundError, TakenError, UnsupportedError, _FileError
from shmkernel.kinds import Kind, Plan, a_type, raw
from shmkernel.verbs import attachments, staging

if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable

    from shmkernel.verbs.attachments import View

_USE_POSIX = True
_SHM_NAME_PREFIX = "/psm_"
_IDENTITY = struct.Struct("<Qd")  # inode, time of creation


def _make_filename() -> str:
    """Return a random name, as the stdlib's function of this name does."""
    return _SHM_NAME_PREFIX + secrets.token_hex(4)


class SharedMemory:
    """A named block of memory that replaces `multiprocessing.shared_memory.SharedMemory`.

    Each of the two classes can attach a block that the other made. A block belongs to the session of the process
    that created it: it is unlinked when that process ends, in whatever way. The end of a process that only attached
    it does not unlink it.

    Parameters
    ----------
    name : str, optional
        Name of the POSIX shared memory object, without the leading slash. A new block without one gets a random name.
    create : bool
        Create a block instead of attaching one.
    size : int
        Size of a new block in bytes.
    track : bool
        False: a new block stays until somebody unlinks it.
    sparse : bool
        Do not reserve memory for a new block. Writing to it then kills the process if no memory is left.

    Raises
    ------
    NotFoundError
        A FileNotFoundError: there is no block of this name to attach.
    TakenError
        A FileExistsError: `create` was given, and the name is taken.
    FullError
        An OSError with errno ENOSPC: there is not enough memory.
    ArgumentError
        A ValueError: the size or the name is invalid. For a name it is also an OSError, as in the stdlib.
    UnsupportedError
        A TypeError: the name is not a str.

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

    # named as in the stdlib, because programs and CPython's tests use these attributes
    _name = ""
    _fd = -1  # the mapping holds the only descriptor
    _mmap: mmap.mmap | None = None
    _buf: memoryview | None = None
    _size = 0
    _flags = os.O_RDWR
    _mode = 0o600
    _track = True
    _mapped = "r+"
    _by_value = False  # made by shm.create or shm.attach: copies and pickles carry its bytes, as those of arrays do
    _identity = ""
    _views: tuple[memoryview, ...] = ()

    @limits.explains
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
                make = bool(self._flags & os.O_CREAT and size)  # a subclass may set O_CREAT without O_EXCL
                if not make:
                    raise
            except TakenError:
                make = False
                if self._flags & os.O_EXCL:
                    raise

    @classmethod
    def over(cls, mapping: mmap.mmap, path: str, mode: str) -> Self:
        """Return a handle for a block that is mapped already."""
        self = cls.__new__(cls)
        self._by_value = True
        return self._map(mapping, path, mode)

    def _map(self, mapping: mmap.mmap, path: str, mode: str) -> Self:
        self._name = self._name or f"/{os.path.basename(path)}"
        self._mapped, self._mmap, self._size, self._buf = mode, mapping, len(mapping), memoryview(mapping)
        return self

    def _attach(self, posix: str, kind: str, view: View) -> None:
        """Attach the named block; `view` makes the handle from its mapping, path and mode."""
        path = _path(posix)
        name = paths.called(path)
        if not sessions.covers(path):
            with staging.room_for(name):
                registry.begin()
        fd, found = segment_file.attach(path, "r+", name)
        try:
            if not records.confirm(name, found):
                self._attach(posix, kind, view)
                return
            mapping = segment_file.map_(fd, found.st_size, "r+", name)
            self._name = posix
            value = view(mapping, path, "r+")
        except ValueError as error:
            raise segment_file.damaged(name, error if found.st_size else "the file is empty") from None
        finally:
            fd.close()
        attachments.note(mapping, value, attachments.Segment(found, "r+", path, name, kind, records.of(found)))

    def _create(self, posix: str | None, kind: Kind, plan: Plan, view: View) -> None:
        """Create the block that a kind planned, under a random name if none is given. `view` as for `_attach`."""
        lifetime = "session" if self._track else "keep"
        while True:
            self._name = posix or _make_filename()
            name = paths.called(_path(self._name))
            try:
                staging.check(name, "r+", lifetime, replace=False)
                staging.name_all([staging.make(name, kind, plan, "r+", lifetime, view)], replace=False)
            except TakenError as error:
                self.close()
                if posix:
                    message = f"{posix[1:]!r} is taken by another block. Attach it by its name, or choose another name"
                    raise TakenError(message, name=name, **error.facts) from None
            else:
                return

    def __reduce__(self) -> tuple[Any, ...]:
        if not self._by_value:
            return rebuild, (self.__class__, (self.name, False, self.size), self.identity())
        if self._buf is None:
            raise ArgumentError(f"{self.name!r} is closed here", Cure("Attach it again", "attach", self._called()))
        return bytearray, (bytes(self._buf),)

    def identity(self) -> str:
        """Return a text of fixed length that tells this block from a later one of the same name."""
        attachment = attachments.of(self._mmap)
        if attachment is not None:
            created = attachment.record.created if attachment.record else 0.0
            self._identity = _IDENTITY.pack(attachment.key[1], created).hex()
        return self._identity

    def _called(self) -> str:
        return paths.called(_path(self._name))

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}({self.name!r}, size={self.size})"

    @property
    def buf(self) -> memoryview:
        """The block's bytes, or None after `close`."""
        return self._buf  # type: ignore[return-value]  # declared as in the stdlib, so that code may index it

    @property
    def name(self) -> str:
        """The block's name: any process of this user can attach it by this."""
        return self._name.removeprefix("/")

    @property
    def size(self) -> int:
        """The block's size in bytes."""
        return self._size

    def close(self) -> None:
        """Close this handle. Arrays and views over `buf` stay valid and keep the memory for as long as they exist."""
        self._identity = self.identity()
        attachments.retire(self._mmap)
        for view in self._views:
            view.release()
        self._views, self._buf, self._mmap = (), None, None

    @limits.explains
    def unlink(self) -> None:
        """Remove the block's name. Processes that have it attached keep the memory.

        Unlinking twice raises NotFoundError, a FileNotFoundError.
        """
        if self._name:
            registry.unlink(paths.called(_path(self._name)))


def rebuild(make: Callable[..., Any], about: tuple[Any, ...], identity: str) -> Any:
    """Attach a block by its pickled name; raise NotFoundError if the name belongs to another block now."""
    made = make(*about)
    handle: SharedMemory = getattr(made, "shm", made)
    texts = identity, handle.identity()
    known, here = (_IDENTITY.unpack(bytes.fromhex(text)) if text else (0, 0.0) for text in texts)
    if known[0] != here[0] or (known[1] and here[1] and known[1] != here[1]):  # 0: no record says when it was made
        name = handle._called()  # noqa: SLF001  its own
        handle.close()
        raise NotFoundError(f"{name!r} was replaced after this reference to it was made. Make a new one", name=name)
    return made


class PosixNameError(_FileError, ArgumentError):
    """An invalid name for a POSIX shared memory object: an OSError, as from shm_open, and a ValueError."""

    code = errno.EINVAL


def posix_name(name: object) -> str:
    """Return the name with its leading slash. Like the stdlib, accept only a str."""
    if not isinstance(name, str):
        raise UnsupportedError(
            f"the name of a block is a str, and {name!r} is {a_type(name)}", type=type(name).__name__
        )
    return f"/{name}"


def _path(posix: str) -> str:
    """Return the path of a POSIX shared memory object. Like shm_open, treat several leading slashes as one."""
    try:
        return paths.path_of(f"/{posix.lstrip('/')}")
    except ArgumentError:
        message = f"{posix[1:80]!r} is no name for a block: one or more characters without a slash, 255 bytes at most"
        raise PosixNameError(message, name=posix[1:]) from None
