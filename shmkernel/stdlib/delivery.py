"""Tasks and results whose values may fail to be rebuilt in the process that receives them.

The loop of a worker, and the thread that reads results, die of an error while they unpickle a message, and the Pool
waits for ever. So a message travels inside another one that says whose it is. What comes out of that is the message,
or an ordinary one that tells the error to who waits for it:

    task (job, f, x)     -> deliver(task as bytes, fail_task, job)     -> task, or (job, raise the error)
    result (job, value)  -> deliver(result as bytes, fail_result, job) -> result, or (job, the error)

Anybody else who receives values, from a Queue or a Pipe, gets the error at once. References and functions of a notebook
say by `note` that they may fail; without one of them a large message goes as it is, since this takes a copy of it.
"""

from __future__ import annotations

import functools
import pickle
import sys
import threading
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType, ModuleType

    Recovery = tuple[Callable[..., object], tuple[Any, ...]]

_SMALL = 1 << 16  # bytes; a larger message is copied only if it has to be
_DEEPEST = 6  # frames between the loop that sends and what pickles: queues of joblib have four
_LOOPS = ("_handle_tasks", "worker")


class _State(threading.local):
    noted = False


_state = _State()
reducers: dict[type, Callable[[Any], Any]] = {}  # of all types, for joblib's own Pool, which asks no registry of them


def note() -> None:
    """Say that the message which this thread is pickling holds a value that may fail to be rebuilt."""
    _state.noted = True


def dumped(dump: Callable[[object], Any], message: object, frame: FrameType) -> Any:  # noqa: ANN401  bytes-like
    """Pickle a message that is sent from this frame, by a function that pickles."""
    recovery = _recovery(message, frame)
    if recovery is None:
        return dump(message)
    before, _state.noted = _state.noted, False
    try:
        made = dump(message)
        noted = _state.noted
    finally:
        _state.noted = before
    return dump(_Sent(bytes(made), *recovery)) if noted or len(made) <= _SMALL else made


class _Sent:
    def __init__(self, *about: Any) -> None:  # noqa: ANN401
        self._about = about

    def __reduce__(self) -> tuple[Any, ...]:
        return deliver, self._about


def deliver(message: bytes, recover: Callable[..., object], about: tuple[Any, ...]) -> object:
    """Rebuild a message, or one that tells the error; what this process answers travels like that too."""
    teach()
    try:
        return pickle.loads(message)  # noqa: S301  as the pool would
    except Exception as error:  # noqa: BLE001  whatever it is: it is the task's
        return recover(_portable(error), *about)


def fail_task(error: Exception, *job: object) -> object:
    """Return a task of a Pool that raises."""
    return (*job, fail, (error,), {})


def fail_result(error: Exception, *job: object) -> object:
    """Return the result of a Pool's task that raised."""
    return (*job, (False, error))


def fail_call(error: Exception, kind: type, number: int) -> object:
    """Return a task of an executor that raises."""
    return kind(number, fail, (error,), {})


def fail_item(error: Exception, kind: type, number: int, more: dict[str, Any]) -> object:
    """Return the result of an executor's task that raised."""
    return kind(number, exception=error, **more)


def fail(error: Exception) -> NoReturn:
    """Raise the error that reaches whoever sent the task."""
    raise error


def _portable(error: Exception) -> Exception:
    """Return the error, or where that would be the next message that cannot be rebuilt, one that says the same."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301
    except Exception:  # noqa: BLE001
        return pickle.UnpicklingError(f"{type(error).__name__}: {error}")
    return error.with_traceback(None)


def _recovery(message: Any, frame: FrameType) -> Recovery | None:  # noqa: ANN401
    """Say how to tell an error to who waits for a message; None if it is no task and no result."""
    kind = type(message)
    if kind is tuple:
        if len(message) not in (3, 5) or not _is_loop(frame):
            return None
        return (fail_task if len(message) == 5 else fail_result), message[:2]  # noqa: PLR2004  job, i, f, args, kwargs
    if kind.__name__ == "_CallItem":
        return fail_call, (kind, message.work_id)
    if kind.__name__ == "_ResultItem":
        ends = getattr(message, "exit_pid", None)
        return fail_item, (kind, message.work_id, {} if ends is None else {"exit_pid": ends})
    return None


def _is_loop(frame: FrameType | None) -> bool:
    for _ in range(_DEEPEST):
        if frame is None:
            return False
        if frame.f_code.co_name in _LOOPS and frame.f_globals.get("__name__") == "multiprocessing.pool":
            return True
        frame = frame.f_back
    return False


def teach() -> None:
    """Step in where the modules that are loaded pickle messages. To be repeated: others may be loaded by then."""
    for name in [*_lessons]:
        if (module := sys.modules.get(name)) and (lesson := _lessons.pop(name, None)):
            lesson(module)


def _teach_multiprocessing(module: ModuleType) -> None:
    original = module.ForkingPickler.__dict__["dumps"].__func__

    @functools.wraps(original)
    def dumps(cls: type, message: object, protocol: int | None = None) -> Any:  # noqa: ANN401
        return dumped(lambda one: original(cls, one, protocol), message, sys._getframe(1))  # noqa: SLF001

    module.ForkingPickler.dumps = classmethod(dumps)


def _teach_loky(module: ModuleType) -> None:
    original = module.dumps

    @functools.wraps(original)
    def dumps(message: object, reducers: Any = None, protocol: int | None = None) -> Any:  # noqa: ANN401
        return dumped(lambda one: original(one, reducers, protocol), message, sys._getframe(1))  # noqa: SLF001

    vars(module)["dumps"] = dumps


def _teach_joblib(module: ModuleType) -> None:
    original = module.CustomizablePickler

    class Pickler(original):  # type: ignore[misc, valid-type]  # it is whatever joblib has
        def __init__(self, writer: Any, more: Any = None, **options: Any) -> None:  # noqa: ANN401
            self._writer, self._reducers = writer, {**reducers, **(more or {})}
            super().__init__(writer, self._reducers, **options)

        def dump(self, message: object) -> None:
            self._writer.write(dumped(self._bytes, message, sys._getframe(1)))  # noqa: SLF001

        def _bytes(self, message: object) -> Any:  # noqa: ANN401
            buffer = module.BytesIO()
            original(buffer, self._reducers).dump(message)
            return buffer.getbuffer()

    vars(module)["CustomizablePickler"] = Pickler


_lessons: dict[str, Callable[[ModuleType], None]] = {
    "multiprocessing.reduction": _teach_multiprocessing,
    "loky.backend.queues": _teach_loky,
    "joblib.externals.loky.backend.queues": _teach_loky,
    "joblib.pool": _teach_joblib,
}
