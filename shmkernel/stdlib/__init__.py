"""The standard library's shared memory classes on segments, and the transfer of shared values to worker processes.

    shared_memory    SharedMemory, the value of the kind raw
    shareable_list   ShareableList, the value of the kind list
    manager          SharedMemoryManager
    reduction        pickles a shared value as a reference
    functions        pickles functions and classes that a notebook defines
    delivery         reports a value that cannot be rebuilt as an error of its task

The verbs do not import this package: importing it registers its hooks with them.
"""

from __future__ import annotations

from shmkernel._core.imports import importing
from shmkernel.stdlib.shareable_list import ShareableList
from shmkernel.stdlib.shared_memory import SharedMemory
from shmkernel.verbs import attachments


def _make_sendable(value: object, kind: str) -> None:
    with importing:
        from shmkernel.stdlib import reduction  # noqa: PLC0415  with numpy, without which much of the command line works

    hooks = attachments.on_put
    hooks[:] = [reduction.make_sendable if hook is _make_sendable else hook for hook in hooks]
    reduction.make_sendable(value, kind)


attachments.views.update(list=ShareableList.over, raw=SharedMemory.over)
attachments.on_put.append(_make_sendable)
