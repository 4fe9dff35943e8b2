"""Parsers of the small files in the runtime folder: records, sessions, sync files."""

from __future__ import annotations

import contextlib
import json
import os
from typing import TYPE_CHECKING, Any

import shmkernel as shm
from shmkernel import render
from shmkernel._core import folders, paths, protocol, records, sessions
from shmkernel.errors import ShmError
from shmkernel.sync import sync_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def _write(path: str, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)


def record() -> Callable[[bytes], None]:
    """List and inspect a segment whose record has any content, and change its lifetime; another one stays as it is."""
    shm.create("bystander", shape=3)
    inode = 0

    def act(data: bytes) -> None:
        nonlocal inode
        if not os.path.exists(paths.path_of("x")):  # a record may say that its lifetime is over
            shm.create("x", shape=3)
            inode = os.stat(paths.path_of("x")).st_ino
        records._known.clear()
        _write(paths.runtime("records", str(inode)), data.replace(b"INODE", str(inode).encode()))
        for step in (
            lambda: render.table(shm.list()),
            lambda: render.card(shm.info("x")),
            lambda: shm.attach("x").tobytes(),
            shm.gc,
            lambda: shm.keep("x"),
        ):
            with contextlib.suppress(ShmError):
                step()
        assert os.path.exists(paths.path_of("bystander")), "the record of one segment removed another"

    return act


def record_seeds() -> Iterator[bytes]:
    """Give records of all lifetimes, in place of whose inode the right one is put."""
    for lifetime in records.LIFETIMES:
        for name, owner in (("x", "1f"), ("bystander", "../names.lock"), ("/x", "0" * 32)):
            fields = records.Record(7, name, "array", owner, "plot.ipynb", lifetime, 1e9)._asdict()
            yield json.dumps(fields).replace(": 7", ": INODE").encode()


def link() -> Callable[[bytes], None]:
    """Use a runtime folder whose protocol number is any text; it is a symbolic link, which holds no NUL."""
    shm.create("x", shape=3)
    path = f"{paths.runtime()}/{protocol.LINK}"

    def write(text: bytes) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        os.symlink(text, os.fsencode(path))
        folders._held.clear()

    def act(data: bytes) -> None:
        for step in (lambda: shm.info("x"), lambda: shm.create("y", shape=3, replace=True), lambda: shm.unlink("y")):
            write(data.replace(b"\0", b"")[:4000] or b"1")
            with contextlib.suppress(ShmError):
                step()
        write(os.fsencode(protocol.TEXT))

    return act


def link_seeds() -> Iterator[bytes]:
    """Give our number and others."""
    yield from (protocol.TEXT.encode(), b"2 shmkernel>=9", b"999999999 x", b"1", b"1 ", b"../names.lock")


def session() -> Callable[[bytes], None]:
    """List segments beside a session's file of any content, which claims to be their owner's."""
    shm.create("x", shape=3, lifetime="keep")
    known = sessions.mine()
    path = paths.runtime("sessions", "1f")

    def act(data: bytes) -> None:
        _write(path, data)
        sessions.parse(data)
        sessions.read("1f")
        sessions.alive("1f")
        render.table(shm.list())
        shm.gc()
        assert sessions.mine() == known

    return act


def session_seeds() -> Iterator[bytes]:
    """Give sessions with and without parents and kernels."""
    for kernel, parent in ((None, None), ("k", None), ("k", "1f"), (None, "2f")):
        yield sessions.encode(sessions.Session("1f", "plot.ipynb", 4711, 1, 1e9, kernel, parent))


def words() -> Callable[[bytes], None]:
    """Lock, publish and wait with the words of the sync file changed: position and content, 9 bytes each."""
    x = shm.create("x", shape=3)
    file = sync_file.opened("x")
    clean = bytes(file.page)

    def act(data: bytes) -> None:
        file.page[:] = clean
        for at in range(0, len(data) - 8, 9):
            where = data[at] * 8
            if where >= 8:  # the first word is read once
                file.page[where : where + 8] = data[at + 1 : at + 9]
        for step in (
            lambda: shm.version("x"),
            lambda: shm.publish("x"),
            lambda: shm.info("x"),
            lambda: shm.wait("x", shm.version("x") - 1, 0),
            lambda: shm.wait("x", timeout=0),
            lambda: _enter(shm.lock("x", timeout=0)),
            lambda: _enter(shm.lock("x", shared=True, timeout=0)),
            lambda: _enter(shm.writing("x")),
            lambda: shm.snapshot("x"),
        ):
            with contextlib.suppress(ShmError):
                step()
        x[0] = 1

    return act


def _enter(lock: Any) -> None:
    with lock:
        pass


def word_seeds() -> Iterator[bytes]:
    """Give extreme numbers in each word."""
    for at in (1, 2, 3, 4, 5, 8, 9, 10):
        for number in (0, 1, 2**63, 2**64 - 1):
            yield bytes([at]) + number.to_bytes(8, "little")


def sync() -> Callable[[bytes], None]:
    """Open a sync file of any content."""
    shm.create("x", shape=3)
    shm.version("x")
    path = sync_file.opened("x").path

    def act(data: bytes) -> None:
        fresh = f"{path}.new"
        _write(fresh, data)
        os.rename(fresh, path)
        sync_file._recent.cache_clear()
        sync_file._files.clear()
        for step in (
            lambda: sync_file.peek("x"),
            lambda: shm.info("x"),
            lambda: shm.version("x"),
            lambda: shm.publish("x"),
            lambda: _enter(shm.lock("x", timeout=0)),
        ):
            with contextlib.suppress(ShmError):
                step()

    return act


def sync_seeds() -> Iterator[bytes]:
    """Give whole and cut pages."""
    yield sync_file.blank(7)
    yield sync_file.blank(7)[:100]
    page = bytearray(sync_file.blank(7))
    page[64 : 64 + sync_file.WHO] = sync_file.encode(sync_file.Who(7, 1, "k", "plot.ipynb"))
    yield bytes(page)
