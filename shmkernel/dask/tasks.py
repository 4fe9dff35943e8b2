"""Report what cannot be written or read in a task as the error of that task.

The scheduler sends tasks in a stream of messages. An error while one is read would end the stream: the scheduler would
count the worker as dead, and send the task to the next one. So a task that holds references is wrapped: unpickling the
wrapper returns the task, or one of the same key that raises the error.
"""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

from dask._task_spec import GraphNode, Task

from shmkernel.stdlib import delivery

if TYPE_CHECKING:
    from collections.abc import Sequence


class Sent:
    """A pickled task."""

    def __init__(self, *about: Any) -> None:
        self._about = about

    def __reduce__(self) -> tuple[Any, ...]:
        return deliver, self._about


def is_one(value: object) -> bool:
    """Return whether this is a task."""
    return isinstance(value, GraphNode)


def failing(task: Any, error: Exception) -> bytes:
    """Pickle a task that raises the error, in place of one that cannot be pickled."""
    return pickle.dumps(Task(task.key, delivery.fail, delivery.portable(error)))


def deliver(stream: bytes, buffers: Sequence[Any], key: object) -> object:
    """Unpickle a task, or return one that raises the error."""
    try:
        return pickle.loads(stream, buffers=buffers)  # noqa: S301  as Dask would
    except Exception as error:  # noqa: BLE001  every error belongs to the task
        return Task(key, delivery.fail, delivery.portable(error))
