"""Views of a shared dict's keys, values and items."""

from __future__ import annotations

from collections.abc import ItemsView, KeysView, ValuesView
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shmkernel.kinds.dicts.mapping import SharedDict


class SharedKeys(KeysView[Any]):
    """A live view of the keys."""

    _mapping: SharedDict

    def __reversed__(self) -> Iterator[Any]:
        return reversed(self._mapping)


class SharedValues(ValuesView[Any]):
    """A live view of the values."""

    _mapping: SharedDict

    def __iter__(self) -> Iterator[Any]:
        return (value for _, value in self._mapping.items())

    def __reversed__(self) -> Iterator[Any]:
        return (value for _, value in self._mapping._pairs(backwards=True))  # noqa: SLF001  one class in two


class SharedItems(ItemsView[Any, Any]):
    """A live view of the pairs of key and value."""

    _mapping: SharedDict

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        return self._mapping._pairs()  # noqa: SLF001  the view is a part of it

    def __reversed__(self) -> Iterator[tuple[Any, Any]]:
        return self._mapping._pairs(backwards=True)  # noqa: SLF001  one class in two
