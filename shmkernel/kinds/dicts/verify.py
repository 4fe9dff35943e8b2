"""Check a store before LMDB opens it: LMDB trusts its file, and wrong bytes can end the process by an assertion.

A store is sealed when it was made or checked, and when a process closes it. The seal is a random modification time of
the file, which is also stored in one of its words; any later write changes the time. A sealed store is opened without a
check. So is a large one that another process has open, which may have written to it. Any other store is first checked
page by page by py-lmdb's verifier, which does not call LMDB. That takes 0.2 ms for 10 keys, and 3 us a key for many.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import sys
from typing import Any

from shmkernel._core import folders, limits, oflock, segment_file
from shmkernel._core.imports import importing
from shmkernel.errors import LimitError
from shmkernel.kinds.dicts import lmdb_pages

_SMALL = 32  # pages: checked in some milliseconds
_ANY = oflock.request(fcntl.F_WRLCK, length=0)
_INTEGERKEY = 8  # the keys of LMDB's list of free pages are numbers
_READERS, _TABLE, _READER = 56, 128, 64  # in LMDB's lock file: their number, where they begin, the bytes of one
_TRIES = 5  # checks, if other processes write meanwhile


def check_readers(home: str, name: str) -> None:
    """Raise DamagedError if the lock file promises more readers than it has room for: LMDB reads them all.

    If no process has the dict open, LMDB makes the file anew. This process must not have it open.
    """
    try:
        fd = folders.open_(f"{home}/lock.mdb", os.O_RDWR | os.O_NONBLOCK)
    except OSError:
        return  # opening it raises the error
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise segment_file.damaged(name, "something else lies in place of its lock file")
        count = int.from_bytes(os.pread(fd, 4, _READERS), sys.byteorder)
        room = max(status.st_size - _TABLE, 0) // _READER
        if count > room and not oflock.is_free(fd, _ANY):
            message = f"its lock file promises {count:,} readers, and has room for {room:,}"
            raise segment_file.damaged(name, f"{message}. LMDB repairs it once no process has the dict open")
    finally:
        fd.close()


def vouched(home: str, words: memoryview) -> bool:
    """Return whether a large store is open in another process. This process must not have its lock file open."""
    if words[lmdb_pages.current(words) + lmdb_pages.LAST] < _SMALL:
        return False
    try:
        fd = folders.open_(f"{home}/lock.mdb", os.O_RDWR)
    except OSError:
        return False
    try:
        return not oflock.is_free(fd, _ANY)
    finally:
        fd.close()


def check(home: str, name: str, words: memoryview) -> None:
    """Raise DamagedError unless LMDB could have written the file."""
    try:
        with importing:
            from lmdb import verify  # noqa: PLC0415  only for unsealed stores
    except ImportError as error:  # the OS let nobody look for it: this is no damage
        message = f"{name!r} cannot be checked now: {error}. Try again"
        raise LimitError(message, name=name, errno=errno.ENOMEM, limit="kernel memory") from None

    first, second = lmdb_pages.NUMBERS
    problems: list[str] = []
    for _ in range(_TRIES):
        before = words[first], words[second]
        try:
            problems = _problems(verify, f"{home}/data.mdb") or _more(f"{home}/data.mdb", words)
        except FileNotFoundError:
            return  # opening it raises the error
        except MemoryError as error:
            raise limits.too_much(name) from error
        except Exception as error:  # noqa: BLE001  any error but a limit's means damage
            if isinstance(error, OSError) and limits.is_known(error):
                raise limits.explained(error, name) from None
            problems = [str(error)]
        if not problems or before == (words[first], words[second]):
            break
    else:
        return  # other processes write to it, so they have checked it
    if problems:
        raise segment_file.damaged(name, problems[0])


def _problems(verify: Any, path: str) -> list[str]:
    """Return the problems that py-lmdb's verifier finds, without false ones.

    A value that shrinks in the transaction that made it keeps all its pages. The first page has their number, but the
    verifier expects only as many as the value needs now. So it is run again with the number from the page.
    """
    problems: list[str] = verify.verify(path, subdir=False)
    if not any("mp_pages" in problem for problem in problems):
        return problems
    base = verify._Verifier  # noqa: SLF001  the public function has no such choice

    def with_all_its_pages(self: Any, *node: Any, want_bytes: bool) -> Any:
        *where, page, at, size = node
        first = int.from_bytes(page[at : at + 8], sys.byteorder)
        head = self.read_page(first) if 1 < first < self.next_pgno else None
        count = 0 if head is None else int.from_bytes(head[self.hdrsz - 4 : self.hdrsz], sys.byteorder)
        if not 0 < count <= self.next_pgno - first:
            return base._bigdata(self, *node, want_bytes=want_bytes)  # noqa: SLF001  of its base
        size_of_all = max(size, count * self.psize - self.hdrsz)
        data = base._bigdata(self, *where, page, at, size_of_all, want_bytes=want_bytes)  # noqa: SLF001  of its base
        return None if data is None else data[:size]

    with open(path, "rb") as file:
        kind = type("Verifier", (base,), {"_bigdata": with_all_its_pages})
        left: list[str] = kind(file, os.fstat(file.fileno()).st_size).verify()
    return left


def _more(path: str, words: memoryview) -> list[str]:
    """Return problems that the verifier does not check, after it has checked all bounds.

    The flags of both trees must be those of a dict, and the nodes of a page must fill it: LMDB moves them by size.
    """
    for start in (0, lmdb_pages.OTHER):
        kinds = [words[start + at] >> 32 & 0xFFFF for at in (lmdb_pages.FREE - 5, lmdb_pages.DEPTH)]
        if kinds != [_INTEGERKEY, 0]:
            return ["its trees are not those of a dict"]
    at = lmdb_pages.current(words)
    with open(path, "rb") as file:
        for root in (words[at + lmdb_pages.FREE], words[at + lmdb_pages.ROOT]):
            pages = [] if root == lmdb_pages.NONE else [root]
            while pages:
                number = pages.pop()
                page = os.pread(file.fileno(), lmdb_pages.PAGE, number * lmdb_pages.PAGE)
                if not lmdb_pages.is_filled(page, pages):
                    return [f"page {number} is not filled by what is in it"]
    return []
