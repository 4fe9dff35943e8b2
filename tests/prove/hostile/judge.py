"""Give bytes to a parser, and judge what comes of it: a value, one of the allowed errors, or a fault.

A fault is an error of another kind, more memory than the bytes justify, or more time. What a judge inside the process
cannot see, its death or that it hangs, the process that forked it sees (`__main__`).
"""

from __future__ import annotations

import resource
import time
import traceback
from typing import TYPE_CHECKING, Any, NamedTuple

from shmkernel.errors import ShmError

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterable

MEMORY = 64 << 20  # bytes that an input may take beyond 64 times its length
ADDRESSES = 1 << 29  # bytes that a process may map beyond what it has at its start
SECONDS = 2  # of the processor, for one input; it takes a millisecond
_TRIES = 400  # to make an input shorter


class Target(NamedTuple):
    """A parser of bytes that come from elsewhere. `make` is called once in a process, and returns the parser."""

    name: str
    make: Callable[[], Callable[[bytes], object]]
    seeds: Callable[[], Iterable[bytes]]
    allowed: tuple[type[BaseException], ...] = (ShmError,)
    longest: int = 2048  # bytes of an input
    addresses: int = ADDRESSES
    mutate: Callable[[bytes, random.Random], bytes] | None = None  # changes that bytes at random seldom hit


class Wrong(NamedTuple):
    """A fault: its kind and place, by which it is known again, and its text."""

    what: str
    text: str = ""


def judge(act: Callable[[bytes], object], data: bytes, allowed: tuple[type[BaseException], ...]) -> Wrong | None:
    """Return what is wrong with this input, or None."""
    before, began = _peak(), time.process_time()
    try:
        act(data)
    except allowed:
        pass
    except BaseException as error:  # an exit too
        return Wrong(f"{type(error).__name__} {_place(error)}", str(error)[:300])
    if (taken := _peak() - before) > MEMORY + 64 * len(data):
        return Wrong("too much memory", f"{taken >> 20} MiB for {len(data)} bytes")
    if (spent := time.process_time() - began) > SECONDS:
        return Wrong("too slow", f"{spent:.1f} s of the processor for {len(data)} bytes")
    return None


def limit_memory(more: int = ADDRESSES) -> None:
    """Let this process map so many bytes beyond what it has now: a length that lies raises MemoryError."""
    with open("/proc/self/statm", encoding="ascii") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + more, resource.getrlimit(resource.RLIMIT_AS)[1]))


def shortened(
    act: Callable[[bytes], object], data: bytes, allowed: tuple[type[BaseException], ...], what: str
) -> bytes:
    """Leave out parts of an input for as long as it raises the same error."""
    size, tries = len(data) // 2 if " in " in what else 0, 0
    while size and tries < _TRIES:
        at = 0
        while at < len(data) and tries < _TRIES:
            tries += 1
            less = data[:at] + data[at + size :]
            wrong = judge(act, less, allowed)
            if wrong is not None and wrong.what == what:
                data = less
            else:
                at += size
        size //= 2
    return data


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def _place(error: BaseException) -> str:
    """Return the last line of the package that the error came through."""
    frames: Any = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/shmkernel/" in frame.filename] or frames
    last = ours[-1]
    return f"in {last.filename.rpartition('/shmkernel/')[2]}:{last.lineno} ({last.name})"
