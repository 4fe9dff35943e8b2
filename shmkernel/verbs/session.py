"""The user's segments as a mapping from names to values."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import Any, cast

from shmkernel._core import paths, registry
from shmkernel.errors import ArgumentError
from shmkernel.verbs import segments, staging


class Session(MutableMapping[str, Any]):
    """The user's segments as a mapping from names to values.

    Setting a name creates a segment, or replaces one that this session owns. Getting attaches; deleting unlinks.

    Examples
    --------
    >>> import shmkernel as shm, numpy as np
    >>> shm.session["x"] = np.arange(3)
    >>> shm.session["x"]
    array([0, 1, 2])
    >>> "x" in shm.session, list(shm.session)
    (True, ['x'])
    >>> del shm.session["x"]
    """

    def __getitem__(self, name: str) -> Any:
        return segments.attach(name)

    def __setitem__(self, name: str, value: object) -> None:
        staging.name_all([staging.draft(name, value, {}, None, None, "session", "own")], "own")

    def __delitem__(self, name: str) -> None:
        segments.unlink(name)

    def __contains__(self, name: object) -> bool:
        try:
            return registry.inode_at(cast("str", name)) is not None
        except ArgumentError:  # not a valid name
            return False

    def __iter__(self) -> Iterator[str]:
        return iter(paths.names())

    def __len__(self) -> int:
        return len(paths.names())

    def __repr__(self) -> str:
        return f"<shmkernel session: {', '.join(self) or 'nothing shared'}>"


session = Session()
