"""ShareableList: a replacement for the standard library's class of that name, built on segments."""

from __future__ import annotations

from functools import partial
from types import GenericAlias
from typing import TYPE_CHECKING, Any, Self

from shmkernel._core import limits, paths
from shmkernel.kinds.lists import kind
from shmkernel.stdlib.shared_memory import SharedMemory, posix_name, rebuild

if TYPE_CHECKING:
    import mmap
    from collections.abc import Iterable


class ShareableList(kind.View):
    """A list of fixed length in shared memory that replaces `multiprocessing.shared_memory.ShareableList`.

    An item is an int (64 bits), float, bool, str, bytes or None, and can be replaced by a value of any of these
    types. A str or bytes must fit into the slot that the first value of its item reserved. Each of the two classes can
    attach a list that the other made.

    Parameters
    ----------
    sequence : iterable, optional
        The items of a new list.
    name : str, optional
        Name of the POSIX shared memory object, without the leading slash. Without a `sequence` the list is attached,
        with one it is created.

    Attributes
    ----------
    shm : SharedMemory
        The block that holds the list. It has the name, close() and unlink().

    Examples
    --------
    >>> from shmkernel import ShareableList
    >>> items = ShareableList(["howdy", b"HoWdY", -273.154, 100, None, True])
    >>> other = ShareableList(name=items.shm.name)   # in any process
    >>> other[4] = "some"
    >>> items[4], items.count(100), items.index(True), len(items)
    ('some', 1, 5, 6)
    >>> other.shm.close()
    >>> items.shm.unlink()
    """

    shm: SharedMemory
    _by_value = False  # made by shm.create or shm.attach: copies and pickles carry its items, as those of arrays do

    @limits.explains
    def __init__(self, sequence: Iterable[Any] | None = None, *, name: str | None = None) -> None:
        shm = SharedMemory.__new__(SharedMemory)
        if sequence is None and name is not None:
            shm._attach(posix_name(name), "list", partial(self._over, shm))  # noqa: SLF001  one class in two modules
        else:
            items = () if sequence is None else list(sequence)
            plan = kind.KIND.plan(name or "ShareableList", items, {})
            posix = None if name is None else posix_name(name)
            shm._create(posix, kind.KIND, plan, partial(self._over, shm))  # noqa: SLF001  its block

    @classmethod
    def over(cls, mapping: mmap.mmap, path: str, mode: str) -> Self:
        """Return a list that is mapped already."""
        self = cls.__new__(cls)
        self._by_value = True
        return self._over(SharedMemory.__new__(SharedMemory), mapping, path, mode)

    def _over(self, shm: SharedMemory, mapping: mmap.mmap, path: str, mode: str) -> Self:
        kind.View.__init__(self, mapping, paths.called(path))
        self.shm = shm._map(mapping, path, mode)  # noqa: SLF001  its block
        shm._views = self.views()  # noqa: SLF001  for close() to release
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        if self._by_value:
            return list, (list(self),)
        return rebuild, (partial(self.__class__, name=self.shm.name), (), self.shm.identity())

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}({list(self)}, name={self.shm.name!r})"

    __class_getitem__: Any = classmethod(GenericAlias)
