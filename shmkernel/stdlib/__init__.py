"""The standard library's shared memory classes on segments, and the transfer of shared values to worker processes.

    shared_memory    SharedMemory, the value of the kind raw
    shareable_list   ShareableList, the value of the kind list
    manager          SharedMemoryManager
    reduction        pickles a shared value as a reference
    references       what a reference says, and how it is read
    pages            tells whether private memory was changed
    functions        pickles functions and classes that a notebook defines
    delivery         reports a value that cannot be rebuilt as an error of its task

The verbs do not import this package: importing it registers its hooks with them, and that of `shmkernel.hosts`. What
sends values to other processes is imported when the first library that starts some is, and the classes with the first
value of theirs: most notebooks need neither.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from shmkernel import kinds
from shmkernel._core import paths
from shmkernel._core.import_hooks import after_import
from shmkernel._core.imports import importing
from shmkernel.verbs import attachments

if TYPE_CHECKING:
    import mmap
    from types import ModuleType

PICKLERS = (  # modules that pickle what goes to other processes: those that `reduction` and `delivery` patch
    "multiprocessing.reduction",
    "loky.backend.reduction", "loky.backend.queues",
    "joblib.externals.loky.backend.reduction", "joblib.externals.loky.backend.queues",
    "joblib._memmapping_reducer", "joblib.pool",
)  # fmt: skip
_shared: dict[type, bool] = {}  # types of values that this process has had attached: do they go by name?


def _make_sendable(value: object, kind: str) -> None:
    """Have values of this type sent as references, by picklers that are imported or will be."""
    if type(value) not in _shared:
        _shared[type(value)] = kinds.goes_by_name(kinds.named(kind))
        for name in PICKLERS:
            after_import(name, _teach)


def _teach(_: ModuleType) -> None:
    with importing:
        from shmkernel.stdlib import reduction  # noqa: PLC0415  see the docstring of this package

    reduction.register(_shared)


def _shareable_list(mapping: mmap.mmap, path: str, mode: str) -> Any:
    with importing:
        from shmkernel.stdlib.shareable_list import ShareableList  # noqa: PLC0415  see the docstring of this package

    return ShareableList.over(mapping, path, mode)


def _shared_memory(mapping: mmap.mmap, path: str, mode: str) -> Any:
    with importing:
        from shmkernel.stdlib.shared_memory import SharedMemory  # noqa: PLC0415  see the docstring of this package

    return SharedMemory.over(mapping, path, mode)


def _copied(name: str, refresh: bool) -> str | None:
    if not refresh and ":" not in name and not os.path.exists(paths.runtime("hosts", "socket")):
        return None  # this host has not joined others
    with importing:
        from shmkernel.hosts import snapshots  # noqa: PLC0415  most processes join no other hosts

    return snapshots.found(name, refresh=refresh)


def _awaited(name: str, since: int | None, timeout: float | None) -> int:
    with importing:
        from shmkernel.hosts import snapshots  # noqa: PLC0415  likewise

    return snapshots.wait(name, since, timeout)


attachments.views.update(list=_shareable_list, raw=_shared_memory)
attachments.on_put.append(_make_sendable)
attachments.elsewhere.append(_copied)
attachments.on_host.append(_awaited)
