"""The standard library's shared memory, over segments: its classes, its manager, and values on their way to workers.

    shared_memory    SharedMemory, handed out for the kind raw
    shareable_list   ShareableList, handed out for the kind list
    manager          SharedMemoryManager
    reduction        a shared value goes to a worker process as a reference
    functions        functions and classes of a notebook go with it
    delivery         tasks and results whose values may fail to be rebuilt

The verbs know nothing of this package: when it is imported, it fills their hooks.
"""

from __future__ import annotations

from shmkernel._core.imports import importing
from shmkernel.stdlib.shareable_list import ShareableList
from shmkernel.stdlib.shared_memory import SharedMemory
from shmkernel.verbs import attachments


def _make_sendable(value: object, kind: str) -> None:
    with importing:
        from shmkernel.stdlib import reduction  # noqa: PLC0415  with numpy, without which much of the command line works

    reduction.register()
    reduction.register_value(value, kind)


attachments.views.update(list=ShareableList.over, raw=SharedMemory.over)
attachments.on_put.append(_make_sendable)
