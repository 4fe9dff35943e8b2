"""Start the watchdog, even if other tools have changed how this process starts others.

Debuggers, coverage tools, gevent and application servers replace functions of `os`, `subprocess` and `select`, rewrite
the command lines of Python children, reap children, or are the program that `sys.executable` names. So this module

- calls the functions of `posix` and of a fresh copy of `select`, since others replace those of `os` and `select`;
- tries several interpreters, not only `sys.executable`, and accepts one when its watchdog has answered;
- sets a mark in the child's environment, so that a program started by mistake does not start itself again;
- waits with a time limit, and kills the child if no answer comes.

    posix_spawn(interpreter, -I -S watchdog.py)   0: the session's lock  1: where to answer  2: /dev/null
        `- fork -> setsid -> wait for the lock -> answer `WATCHING`
           `- end, reaped here: the watchdog is nobody's child, no zombie, nothing for os.wait() to find
"""

from __future__ import annotations

import contextlib
import errno
import functools
import itertools
import os
import posix
import signal
import sys
from typing import TYPE_CHECKING

from shmkernel._core import closing, descriptors
from shmkernel._core.imports import importing, original
from shmkernel.errors import Cure, WatchdogError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shmkernel._core.closing import Description

WATCHING = b"watching\n"  # the answer of a watchdog that watches; any other answer is an error message
MARK = "SHMKERNEL_WATCHDOG"
_LIMIT = 30.0  # seconds; a start usually takes 20 ms
_ANSWER = 2000  # bytes kept from the end of an answer: the last lines of a traceback
_REASONS = 2  # reported in the error: those of the likeliest interpreters
_NAP = 1  # milliseconds
_DETOURS = ("PYTHON", "COVERAGE_", "COV_CORE_", "PYDEVD", "DEBUGPY", MARK)
_CODE = "import sys; sys.path.append(sys.argv.pop(1)); from shmkernel._core import watchdog; watchdog.run()"

_unreaped: list[int] = []  # pids of children that were started and not yet waited for


def start(arguments: list[str], lock: Description) -> Description:
    """Start ``watchdog.py ARGUMENTS`` with `lock` as its standard input, and wait until it watches.

    Returns
    -------
    Description
        The non-blocking read end of a pipe that only the watchdog has open for writing: it ends when the watchdog does.

    Raises
    ------
    WatchdogError
        If no watchdog could be started.
    LimitError
        If this process has too many open files.
    """
    if MARK in os.environ:
        message = f"this is {sys.executable or sys.argv}, started in place of the watchdog of another process"
        raise WatchdogError(f"{message}: it shares nothing itself")
    try:
        return run([*_script(), *arguments], lock)
    except NotStartedError as error:
        why = str(error)
    cure = " A frozen program has to bring shmkernel's .py files." if getattr(sys, "frozen", False) else ""
    raise WatchdogError(
        f"the watchdog of this session did not start: {why}.{cure} "
        "Without it segments would outlive this process, so none was made",
        Cure("More", "doctor"),
    )


class NotStartedError(Exception):
    """No interpreter has run the program; the message says why."""


def run(program: list[str], lock: Description) -> Description:
    """Start ``python -I -S PROGRAM``, as `start` does, and wait for its answer.

    Raises
    ------
    NotStartedError
        If no interpreter did it.
    LimitError
        If this process has too many open files.
    """
    _reap()
    deadline, reasons = _clock() + _LIMIT, []
    for interpreter in interpreters():
        try:
            return _start(interpreter, program, lock, deadline)
        except _NoAnswerError as error:
            reasons.append(f"{interpreter}: {error}")
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                raise descriptors.ran_out(error) from None
            reasons.append(f"{interpreter}: {_reason(error)}")
            if error.errno in (errno.EAGAIN, errno.ENOMEM):
                break  # no other interpreter would do better
    raise NotStartedError("; ".join(reasons[:_REASONS]) or "no interpreter of Python was found on this machine")


def watches(pipe: Description) -> bool:
    """Return whether the watchdog at the other end of the pipe still lives."""
    try:
        return bool(posix.read(pipe.fileno(), 1))
    except BlockingIOError:
        return True


def interpreters() -> Iterator[str]:
    """Yield paths of programs that may be an interpreter like this one, the likeliest first.

    The interpreter of a virtual environment is a link to the base interpreter, which is tried first. In a frozen
    program, or one that embeds Python, `sys.executable` names that program, which would start again. So only programs
    with python or pypy in their name are tried.

    Examples
    --------
    >>> "python" in next(interpreters())
    True
    """
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    flags = getattr(sys, "abiflags", "")
    places = [f"{prefix}/bin" for prefix in (sys.base_exec_prefix, sys.exec_prefix, sys.base_prefix)]
    candidates: list[object] = []
    if not getattr(sys, "frozen", False):
        candidates += [getattr(sys, "_base_executable", None), sys.executable]
        with contextlib.suppress(OSError):
            candidates.append(os.readlink("/proc/self/exe"))
    candidates += [f"{place}/{version}{flags}" for place in places]
    candidates += [f"{place}/{name}" for place in os.get_exec_path() for name in (version, "python3")]
    seen = set()
    for path in candidates:
        if isinstance(path, str) and os.path.isabs(path) and path not in seen and _called_python(path):
            seen.add(path)
            if os.access(path, os.X_OK) and not os.path.isdir(path):
                yield path


def _called_python(path: str) -> bool:
    name = os.path.basename(path).lower()
    return "python" in name or "pypy" in name


class _NoAnswerError(Exception):
    """The child does not watch; the message says why."""


def _start(interpreter: str, program: list[str], lock: Description, deadline: float) -> Description:
    command = [interpreter, "-I", "-S", *program]
    first = len(_unreaped)
    ready = tell = None
    try:
        with closing.no_fork:  # a child forked in between would keep the pipe open
            ready, tell = closing.pipe()
            streams = [(lock.fileno(), 0), (tell.fileno(), 1), (tell.fileno(), 2)]
            spawn = functools.partial(
                posix.posix_spawn,
                file_actions=[(posix.POSIX_SPAWN_DUP2, *pair) for pair in streams],
                setpgroup=0,  # so that the terminal's Ctrl-C and the server's signals to the kernel's group pass it by
                setsigmask=[],
            )
            # one call in C, so that Ctrl-C cannot come between the start of the child and the note of its pid
            _unreaped.extend(itertools.starmap(spawn, [(interpreter, command, _environment())]))
            tell.close()
        os.set_blocking(ready.fileno(), False)
        answer = _answer(ready.fileno(), deadline)
        _check(answer)
        _reap(deadline)
    except BaseException:
        for end in (ready, tell):
            if end is not None:
                end.close()
        for pid in _unreaped[first:]:
            with contextlib.suppress(OSError):
                posix.killpg(pid, signal.SIGKILL)
        _reap(_clock() + 1)
        raise
    return ready


def _script() -> list[str]:
    """Return the arguments that make Python run the watchdog, also from a zip file."""
    script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "watchdog.py")
    return [script] if os.path.isfile(script) else ["-c", _CODE, os.path.abspath(f"{script}/../../..")]


def _environment() -> dict[str, str]:
    """Return this process's environment with the mark, and without variables that change how Python starts."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_DETOURS)}
    return {**kept, MARK: str(os.getpid())}


def _answer(ready: int, deadline: float) -> bytes:
    """Read from the pipe until the watchdog has answered or ended, or until the deadline."""
    answer = b""
    poll = original("select").poll()
    poll.register(ready)
    while (left := deadline - _clock()) > 0:
        poll.poll(left * 1000)
        try:
            more = posix.read(ready, _ANSWER)
        except BlockingIOError:
            continue
        answer = (answer + more)[-_ANSWER:]
        if not more or answer.endswith(WATCHING):
            return answer
    return answer + f"\nno answer within {_LIMIT:.0f} s".encode()


def _reap(deadline: float = 0.0) -> None:
    """Wait for the started children until the deadline; another thread may have reaped them."""
    for pid in [*_unreaped]:
        ended = False
        while not ended:
            try:
                ended = posix.waitpid(pid, posix.WNOHANG)[0] == pid
            except ChildProcessError:
                ended = True
            if ended:
                _unreaped.remove(pid)
            elif _clock() > deadline:
                break
            else:
                original("select").poll().poll(_NAP)


@functools.cache
def prepare() -> None:
    """Import what a start needs. Call it without a guard: a fork waits for imports first, and for guards then."""
    with importing:
        original("select")
        original("time")


def _clock() -> float:
    now: float = original("time").monotonic()  # tests that freeze the time replace functions of `time`
    return now


def _check(answer: bytes) -> None:
    if not answer.endswith(WATCHING):
        lines = [line.strip() for line in answer.decode(errors="replace").split("\n")]
        raise _NoAnswerError(next(filter(None, reversed(lines)), "it ended without an answer"))


def _reason(error: OSError) -> str:
    """Return why a start failed: the name of the limit that was reached, or the OS's words."""
    if error.errno == errno.EAGAIN:
        import resource  # noqa: PLC0415  only for a message

        return f"you may start no more processes (ulimit -u, now {resource.getrlimit(resource.RLIMIT_NPROC)[0]})"
    return error.strerror or str(error)
