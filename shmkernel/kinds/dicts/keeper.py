"""The thread that begins and ends transactions which outlive one call: one a process, started with the first of them.

LMDB's mutex belongs to the thread that took it: freed by another it stays locked, and every writer of every process
waits for ever. A ``with`` block may end in another thread than it began in, since a generator can be closed, thrown
into or collected anywhere. So neither happens in a user's thread:

    user's thread    begin ->  put, get, ...  -> end, from whatever thread
    the keeper        txn = env.begin(write)      txn.commit() or txn.abort(), and what has to follow

py-lmdb lets any thread use a transaction, one at a time. No signal reaches the keeper, so an end that was asked for
happens, all of it, though Ctrl-C ends the waiting for it.

Where no thread can be started any more, at the end of the interpreter, the caller does it itself.

An environment that is closed in the middle of a transaction, by another thread, takes the mutex out of memory locked:
every writer of every process would wait for ever, and this one crash. So what is begun is `held` until it is ended,
though nobody refers to its dict. The keeper's frame has it too: no frame of a thread that sleeps is taken down at the
end of the interpreter, as modules are.
"""

from __future__ import annotations

import _thread
import sys
from queue import SimpleQueue
from typing import TYPE_CHECKING

from shmkernel._core import fork

if TYPE_CHECKING:
    from collections.abc import Callable

_jobs: SimpleQueue[Job] | None = None
_ident: int | None = None
held: set[object] = set()  # what is begun and not ended


class Job:
    """Something to be done by the keeper. ``inline``: it was done by the caller."""

    __slots__ = ("_act", "_done", "error", "inline")

    def __init__(self, act: Callable[[], object]) -> None:
        self._act = act
        self._done = _thread.allocate_lock()
        self._done.acquire()
        self.error: BaseException | None = None
        self.inline = False

    def do(self) -> None:
        """Do it; whoever waits gets the error."""
        try:
            self._act()
        except BaseException as error:  # noqa: BLE001  raised where it is waited for
            self.error = error
        del self._act
        self._done.release()

    def wait(self, timeout: float = -1) -> bool:
        """Wait until it is done, and raise its error; False when the time is over."""
        if not self._done.acquire(timeout=timeout):
            return False
        self._done.release()
        if self.error is not None:
            raise self.error
        return True

    def finish(self) -> None:
        """Wait until it is done, whatever its error, for a second at most."""
        if self._done.acquire(timeout=1):
            self._done.release()


def prepare(act: Callable[[], object]) -> tuple[Callable[[Job], object], Job]:
    """Return what to call, with the job, to have something done by the keeper after all that was asked for before.

    It is C's: the caller notes that the job is on its way, then calls it, and no Ctrl-C comes between.
    """
    jobs = _jobs or _start()
    return (_do if jobs is None else jobs.put), Job(act)


def _do(job: Job) -> None:
    job.inline = True
    job.do()


def can_wait() -> bool:
    """Say whether a job would be done: not by a thread that Python's end has stopped, nor while another is."""
    return not sys.is_finalizing() and _thread.get_ident() != _ident


def _start() -> SimpleQueue[Job] | None:
    global _jobs  # noqa: PLW0603  the queue is the thread's
    jobs: SimpleQueue[Job] = SimpleQueue()
    try:
        _thread.start_new_thread(_work, (jobs, held))
    except RuntimeError:
        return None
    if _jobs is None:  # else another thread was faster: the one too many has nothing to do
        _jobs = jobs
    return _jobs


def _work(jobs: SimpleQueue[Job], _held: set[object]) -> None:
    global _ident  # noqa: PLW0603
    while True:
        job = jobs.get()
        _ident = _thread.get_ident()
        job.do()
        del job


def _in_child() -> None:
    global _jobs, _ident  # noqa: PLW0603
    _jobs = _ident = None


fork.on("keeper", in_child=_in_child)
