"""The keeper: the one thread of a process that begins and ends the transactions of ``with`` blocks.

LMDB's mutex belongs to the thread that locked it. If another thread ends the transaction, the mutex stays locked, and
every writer of every process waits for ever. A ``with`` block may end in another thread than it began in, since a
generator can be closed or collected anywhere. So both happen in the keeper:

    user's thread    begin ->  put, get, ...  -> end, from whatever thread
    the keeper        txn = env.begin(write)      txn.commit() or txn.abort(), and cleanup

py-lmdb lets any thread use a transaction, one at a time. Python handles signals in the main thread alone, so a job of
the keeper runs to its end; Ctrl-C only ends the waiting for it.

At the end of the interpreter no thread starts: the caller runs the job itself. If a limit forbids the thread, no
transaction begins. Without a keeper it could end in a thread that does not own the mutex, and Ctrl-C in the middle of
a job could leave the mutex locked.

Closing an environment while a transaction is open would unmap the locked mutex: every writer of every process would
wait for ever, and this one crash. So `held` refers to each block until it has ended, even if nothing refers to its
dict. The keeper's frame refers to `held`, since the frame of a sleeping thread outlives the modules at exit.
"""

from __future__ import annotations

import _thread
import sys
from queue import SimpleQueue
from typing import TYPE_CHECKING

from shmkernel._core import fork, limits

if TYPE_CHECKING:
    from collections.abc import Callable

_jobs: SimpleQueue[Job] | None = None
_ident: int | None = None
held: set[object] = set()  # blocks that have begun and not ended


class Job:
    """A function for the keeper to call. ``inline``: the caller has called it."""

    __slots__ = ("_act", "_done", "error", "inline")

    def __init__(self, act: Callable[[], object]) -> None:
        self._act = act
        self._done = _thread.allocate_lock()
        self._done.acquire()
        self.error: BaseException | None = None
        self.inline = False

    def do(self) -> None:
        """Call the function; `wait` raises its error."""
        self.call().release()

    def call(self) -> _thread.LockType:
        """Call the function. Return what to release then, for who waits."""
        try:
            self._act()
        except BaseException as error:  # noqa: BLE001  raised in `wait`
            self.error = error
        del self._act
        return self._done

    def wait(self, timeout: float = -1) -> bool:
        """Wait until it is done, and raise its error; return False after the timeout."""
        if not self._done.acquire(timeout=timeout):
            return False
        self._done.release()
        if self.error is not None:
            raise self.error
        return True

    def finish(self) -> None:
        """Wait for a second at most until it is done, and ignore its error."""
        if self._done.acquire(timeout=1):
            self._done.release()


def prepare(act: Callable[[], object], name: str) -> tuple[Callable[[Job], object], Job]:
    """Return a job for the keeper, and the function to call with it, which puts it after all earlier jobs.

    The function is C code, so that Ctrl-C cannot interrupt the put. The caller notes the job before it calls it.

    Raises
    ------
    LimitError
        If the OS starts no thread for the keeper; it names the dict.
    """
    jobs = _jobs or _start(name)
    return (_do if jobs is None else jobs.put), Job(act)


def _do(job: Job) -> None:
    job.inline = True
    job.do()


def can_wait() -> bool:
    """Return whether waiting for a job can end: not at the interpreter's exit, and not in the keeper."""
    return not sys.is_finalizing() and _thread.get_ident() != _ident


def _start(name: str) -> SimpleQueue[Job] | None:
    global _jobs
    jobs: SimpleQueue[Job] = SimpleQueue()
    try:
        _thread.start_new_thread(_work, (jobs, held))
    except RuntimeError as error:
        limits.raise_told(error, name)
        return None
    if _jobs is None:  # else another thread has started one: the second keeper gets no jobs
        _jobs = jobs
    return _jobs


def _work(jobs: SimpleQueue[Job], _held: set[object]) -> None:
    global _ident
    while True:
        job = jobs.get()
        _ident = _thread.get_ident()
        done = job.call()
        del job  # before anybody goes on: its error has the frames of the function, and they the dict
        done.release()


def _in_child() -> None:
    global _jobs, _ident
    _jobs = _ident = None


fork.on("keeper", in_child=_in_child)
