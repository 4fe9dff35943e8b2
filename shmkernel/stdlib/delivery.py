"""Report a value that cannot be unpickled as an error of its task, so that a Pool does not hang.

An error while unpickling kills a worker's loop, or the thread that reads results, and the Pool waits forever. So a
message is wrapped in another one with the number of its job. Unpickling the wrapper returns the message, or one that
reports the error to the job:

    task (job, f, x)     -> deliver(task as bytes, fail_task, job)     -> task, or (job, raise the error)
    result (job, value)  -> deliver(result as bytes, fail_result, job) -> result, or (job, the error)

Values from a Queue or Pipe are not wrapped: there the receiver gets the error directly. Wrapping copies the message,
so a large message is wrapped only if it holds a reference or a notebook's function: these call `note`.
"""

from __future__ import annotations

import functools
import pickle
import secrets
import sys
import threading
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from shmkernel._core.import_hooks import after_import

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType, ModuleType

    Recovery = tuple[Callable[..., object], tuple[Any, ...]]

Made = TypeVar("Made")
_SMALL = 1 << 16  # bytes; a larger message is copied only if it has to be
_DEEPEST = 6  # frames between the sending loop and the pickler; joblib's queues have four
_LOOPS = ("_handle_tasks", "worker")


class _State(threading.local):
    noted = False
    message: str | None = None  # the mark of the message that is being pickled, empty until somebody asks for it


_state = _State()
reducers: dict[type, Callable[[Any], Any]] = {}  # for joblib's own Pool, which ignores copyreg and `register`


def note() -> None:
    """Note that the message which this thread is pickling holds a value that may fail to unpickle."""
    _state.noted = True


def noting(make: Callable[[], Made]) -> tuple[Made, bool]:
    """Return what `make` returns, and whether something was noted meanwhile."""
    before, _state.noted = _state.noted, False
    try:
        return make(), _state.noted
    finally:
        _state.noted = before


def mark() -> str | None:
    """Return a text that only the message has which this thread is pickling; None if it is pickling none."""
    if _state.message == "":
        _state.message = secrets.token_hex(8)
    return _state.message


def as_message(send: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function that pickles one message."""
    before, _state.message = _state.message, ""
    try:
        return send(*arguments)
    finally:
        _state.message = before


def dumped(dump: Callable[[object], Any], message: object, frame: FrameType) -> Any:
    """Pickle a message with `dump`; wrap it if the calling frame sends tasks or results."""
    return as_message(_dumped, dump, message, frame)


def _dumped(dump: Callable[[object], Any], message: object, frame: FrameType) -> Any:
    recovery = _recovery(message, frame)
    if recovery is None:
        return dump(message)
    made, noted = noting(lambda: dump(message))
    return dump(_Sent(bytes(made), *recovery)) if noted or len(made) <= _SMALL else made


class _Sent:
    def __init__(self, *about: Any) -> None:
        self._about = about

    def __reduce__(self) -> tuple[Any, ...]:
        return deliver, self._about


def deliver(message: bytes, recover: Callable[..., object], about: tuple[Any, ...]) -> object:
    """Unpickle a message, or return one that reports the error. Patch this process's picklers for its answers."""
    teach()
    try:
        return pickle.loads(message)  # noqa: S301  as the pool would
    except Exception as error:  # noqa: BLE001  every error belongs to the task
        return recover(portable(error), *about)


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


def portable(error: Exception) -> Exception:
    """Return the error, or an UnpicklingError with the same text if the error itself cannot be pickled."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301  just pickled
    except Exception:  # noqa: BLE001  any error of the value's own code
        return pickle.UnpicklingError(f"{type(error).__name__}: {error}")
    return error.with_traceback(None)


def _recovery(message: Any, frame: FrameType) -> Recovery | None:
    """Return the function and arguments that report an error to the message's job; None for other messages."""
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


@functools.cache
def teach() -> None:
    """Patch the picklers that are imported, and each other one when it is."""
    for name, lesson in LESSONS.items():
        after_import(name, lesson)


def _teach_multiprocessing(module: ModuleType) -> None:
    original = module.ForkingPickler.__dict__["dumps"].__func__

    @functools.wraps(original)
    def dumps(cls: type, message: object, protocol: int | None = None) -> Any:
        return dumped(lambda one: original(cls, one, protocol), message, sys._getframe(1))  # noqa: SLF001  the caller

    module.ForkingPickler.dumps = classmethod(dumps)
    vars(module)["dump"] = functools.partial(as_message, vars(module)["dump"])  # of a process that is to be started


def _teach_loky(module: ModuleType) -> None:
    original = module.dumps

    @functools.wraps(original)
    def dumps(message: object, reducers: Any = None, protocol: int | None = None) -> Any:
        return dumped(lambda one: original(one, reducers, protocol), message, sys._getframe(1))  # noqa: SLF001  the caller

    vars(module)["dumps"] = dumps


def _teach_joblib(module: ModuleType) -> None:
    original = module.CustomizablePickler

    class Pickler(original):  # type: ignore[misc, valid-type]  # joblib's class, which has no types
        def __init__(self, writer: Any, more: Any = None, **options: Any) -> None:
            self._writer, self._reducers = writer, {**reducers, **(more or {})}
            super().__init__(writer, self._reducers, **options)

        def dump(self, message: object) -> None:
            self._writer.write(dumped(self._bytes, message, sys._getframe(1)))  # noqa: SLF001  the caller

        def _bytes(self, message: object) -> Any:
            buffer = module.BytesIO()
            original(buffer, self._reducers).dump(message)
            return buffer.getbuffer()

    vars(module)["CustomizablePickler"] = Pickler


LESSONS: dict[str, Callable[[ModuleType], None]] = {
    "multiprocessing.reduction": _teach_multiprocessing,
    "loky.backend.queues": _teach_loky,
    "joblib.externals.loky.backend.queues": _teach_loky,
    "joblib.pool": _teach_joblib,
}
