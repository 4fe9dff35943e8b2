"""Stop a process at its n-th system call, to kill it there or to make the call fail: by seccomp, without ptrace.

The process installs a filter, which suspends it before each call of `CALLS` and tells the supervisor: the process that
forked it. The supervisor lets the call continue, lets it fail with an errno, or kills the process. Calls from C, such
as those of LMDB and mmap, are stopped too, and so are those of processes that it starts, for example its watchdog.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import platform
import select
import signal
import socket
import struct
import time
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE = 120.0  # seconds for one operation, which takes milliseconds on a machine at rest
_FULL = (errno.ENOSPC, errno.EDQUOT)
_OPEN = (errno.EMFILE, errno.EACCES, errno.EINTR, errno.ENOMEM, *_FULL)
_NAME = (errno.EACCES, errno.ENOMEM, *_FULL)
_WRITE = (errno.EINTR, errno.ENOMEM, *_FULL)
_GONE = (errno.EACCES, errno.ENOMEM)
_WAIT = (errno.EINTR, errno.ENOMEM)
# The calls that are stopped: by name the number on x86-64, and the errors that the OS may give.
CALLS: dict[str, tuple[int, tuple[int, ...]]] = {
    "read": (0, _WAIT), "write": (1, _WRITE), "open": (2, _OPEN), "stat": (4, _GONE),
    "fstat": (5, ()), "lstat": (6, _GONE), "poll": (7, _WAIT),
    "mmap": (9, (errno.ENOMEM, errno.EACCES)), "pread64": (17, _WAIT), "pwrite64": (18, _WRITE), "readv": (19, _WAIT),
    "writev": (20, _WRITE), "mremap": (25, (errno.ENOMEM,)), "msync": (26, (errno.ENOMEM,)),
    "dup": (32, (errno.EMFILE,)), "sendfile": (40, _WRITE), "clone": (56, (errno.ENOMEM,)),
    "fork": (57, (errno.ENOMEM,)), "vfork": (58, (errno.ENOMEM,)), "fcntl": (72, ()),
    "flock": (73, _WAIT), "fsync": (74, _WRITE), "fdatasync": (75, _WRITE), "truncate": (76, _WAIT),
    "ftruncate": (77, _WAIT), "getdents": (78, (errno.ENOMEM,)), "rename": (82, _NAME), "mkdir": (83, _NAME),
    "rmdir": (84, _GONE), "creat": (85, _OPEN), "link": (86, _NAME), "unlink": (87, _GONE), "chmod": (90, _GONE),
    "fchmod": (91, _GONE), "statfs": (137, _GONE),
    "fstatfs": (138, (errno.ENOMEM,)), "getdents64": (217, (errno.ENOMEM,)), "epoll_wait": (232, (errno.EINTR,)),
    "openat": (257, _OPEN), "mkdirat": (258, _NAME), "newfstatat": (262, _GONE),
    "unlinkat": (263, _GONE), "renameat": (264, _NAME), "linkat": (265, _NAME), "fchmodat": (268, _GONE),
    "ppoll": (271, _WAIT), "utimensat": (280, _GONE), "fallocate": (285, _WRITE),
    "inotify_add_watch": (254, (errno.ENOSPC, errno.ENOMEM, errno.EACCES)), "epoll_create1": (291, (errno.EMFILE,)),
    "pipe2": (293, (errno.EMFILE,)), "inotify_init1": (294, (errno.EMFILE, errno.ENOMEM)), "pwritev": (296, _WRITE),
    "renameat2": (316, _NAME), "statx": (332, ()), "pidfd_open": (434, (errno.EMFILE,)),
    "clone3": (435, (errno.ENOMEM,)), "openat2": (437, _OPEN),
}  # fmt: skip
NAMES = {number: name for name, (number, _) in CALLS.items()}
_CREATES = os.O_CREAT | os.O_TMPFILE & ~os.O_DIRECTORY
_LOCKS = (fcntl.F_OFD_SETLK, fcntl.F_OFD_SETLKW)
_AT_EMPTY_PATH = 0x1000

_SECCOMP, _SET_FILTER, _NEW_LISTENER = 317, 1, 8
_PR_SET_NO_NEW_PRIVS = 38
_ALLOW, _NOTIFY, _X86_64 = 0x7FFF0000, 0x7FC00000, 0xC000003E
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06
_NOTICE = struct.Struct("=QIIiIQ6Q")  # id, thread, flags; call, architecture, instruction, arguments
_RECEIVE, _SEND, _CONTINUE = 0xC0502100, 0xC0182101, 1


class Call(NamedTuple):
    """A system call that waits for the supervisor's word."""

    id: int
    name: str
    arguments: tuple[int, ...]
    pid: int

    def errors(self) -> tuple[int, ...]:
        """Return the errors that the OS may give to this call."""
        found = CALLS[self.name][1]
        if self.name in ("open", "openat"):
            creates = self.arguments[1 if self.name == "open" else 2] & _CREATES
            return found if creates else tuple(code for code in found if code not in _FULL)
        if self.name == "newfstatat" and self.arguments[3] & _AT_EMPTY_PATH:
            return ()  # of an open file
        if self.name == "flock" and self.arguments[1] == fcntl.LOCK_UN:
            return ()
        if self.name == "fcntl":
            return self._errors_of_fcntl()
        return found

    def _errors_of_fcntl(self) -> tuple[int, ...]:
        _, command, pointer, *_ = self.arguments
        if command in (fcntl.F_DUPFD, fcntl.F_DUPFD_CLOEXEC):
            return (errno.EMFILE,)
        if command not in _LOCKS:
            return ()
        with open(f"/proc/{self.pid}/mem", "rb", buffering=0) as memory:
            memory.seek(pointer)
            (kind,) = struct.unpack("h", memory.read(2))
        return () if kind == fcntl.F_UNLCK else (errno.EINTR, errno.ENOLCK)


def listener() -> int:
    """Suspend this process at each call from now on; return the descriptor on which a supervisor hears of them.

    Raises
    ------
    OSError
        The machine does not let it: another kernel or processor, or a sandbox forbids it.
    """
    if platform.machine() != "x86_64":
        raise OSError(errno.ENOSYS, "the numbers of system calls are known for x86-64 only")
    rules = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, _X86_64), (_RETURN, 0, 0, _ALLOW), (_LOAD, 0, 0, 0)]
    # memory without a file is Python's own: no limit of ours
    rules += [(_EQUAL, 0, 4, CALLS["mmap"][0]), (_LOAD, 0, 0, 16 + 4 * 8), (_EQUAL, 0, 1, 0xFFFFFFFF)]
    rules += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _NOTIFY)]
    for number, _ in CALLS.values():
        rules += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _NOTIFY)]
    rules.append((_RETURN, 0, 0, _ALLOW))
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *rule) for rule in rules))
    program = struct.pack("@HP", len(rules), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    found: int = libc.syscall(_SECCOMP, _SET_FILTER, _NEW_LISTENER, program)
    if found < 0:
        raise OSError(ctypes.get_errno(), "seccomp: no supervisor may be asked")
    return found


class Supervised:
    """In the child: its side of the conversation."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        fd = listener()
        socket.send_fds(line, [b"listener"], [fd])
        os.close(fd)

    def say(self, what: str) -> str:
        """Say something and return the answer; the calls that this takes are not stopped."""
        self._line.send(what.encode())
        return self._line.recv(1 << 16).decode()


class HangError(Exception):
    """The process said nothing for too long."""


class Supervisor:
    """In the parent: it decides what becomes of each call."""

    def __init__(self, pid: int, line: socket.socket) -> None:
        self.pid, self.line = pid, line
        line.settimeout(PATIENCE)
        _, fds, _, _ = socket.recv_fds(line, 8, 1)
        if not fds:
            raise EOFError("the child has ended")
        self.notices = fds[0]
        self._threads: dict[int, bool] = {}
        self._poll = select.poll()
        self._poll.register(self.notices, select.POLLIN)
        self._poll.register(line, select.POLLIN)

    def hear(self, decide: Callable[[Call], int | None]) -> str:
        """Return what the child says next, "" if it has ended. Meanwhile `decide` gives the fate of each of its calls.

        None: it continues. 0: the process is killed before it. Another number: the call fails with this errno.
        """
        deadline = time.monotonic() + PATIENCE
        while True:
            ready = dict(self._poll.poll(max(deadline - time.monotonic(), 0) * 1000))
            if not ready:
                raise HangError
            if ready.get(self.notices, 0) & select.POLLIN:
                self._serve(decide)
            elif self.line.fileno() in ready:
                try:
                    return self.line.recv(1 << 16).decode()
                except ConnectionError:
                    return ""

    def answer(self, what: str = "") -> None:
        """Answer the child."""
        self.line.send(what.encode() or b"\n")

    def until_alone(self) -> None:
        """Serve until no process has the filter: the child is dead, and its watchdog has swept."""
        with contextlib.suppress(KeyError):  # it was called before
            self._poll.unregister(self.line)
        deadline = time.monotonic() + PATIENCE
        while True:
            ready = dict(self._poll.poll(max(deadline - time.monotonic(), 0) * 1000))
            if not ready:
                raise HangError
            if ready[self.notices] & select.POLLIN:
                self._serve(lambda _: None)
            else:
                return

    def close(self) -> None:
        """Stop supervising; a process that still has the filter gets ENOSYS for each call."""
        os.close(self.notices)
        self.line.close()

    def _serve(self, decide: Callable[[Call], int | None]) -> None:
        notice = bytearray(_NOTICE.size)
        with contextlib.suppress(FileNotFoundError):  # it was killed meanwhile
            fcntl.ioctl(self.notices, _RECEIVE, notice)
            id_, thread, _, number, _, _, *arguments = _NOTICE.unpack(notice)
            fate = decide(Call(id_, NAMES[number], tuple(arguments), self.pid)) if self._is_childs(thread) else None
            if fate == 0:
                os.kill(self.pid, signal.SIGKILL)
                return
            answer = (0, 0, _CONTINUE) if fate is None else (0, -fate, 0)
            fcntl.ioctl(self.notices, _SEND, struct.pack("=QqiI", id_, *answer))

    def _is_childs(self, thread: int) -> bool:
        known = self._threads.get(thread)
        if known is None:
            known = self._threads[thread] = os.path.exists(f"/proc/{self.pid}/task/{thread}")
        return known
