"""Name registry: link, replace, unlink and sweep segment names under one per-user lock.

A segment exists if its file exists; its record holds what the file cannot. Every change happens under `names.lock`, a
short flock, so that no other segment can take a name between "compare the inode" and "unlink". A replacement is linked
under a hidden name, then renamed over the old one.

    link_all  names.lock -> is the name free? -> write the record -> link (or link and rename) -> drop the old record
    sweep     names.lock -> for each record: has its lifetime ended? -> unlink the segment -> drop the record
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import stat
from typing import TYPE_CHECKING

from shmkernel._core import folders, names_lock, oflock, paths, records, segment_file, sessions
from shmkernel.errors import Cure, RefusedError, TakenError
from shmkernel.sync import sync_file

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from shmkernel._core.closing import Descriptor
    from shmkernel._core.records import Record

_NOBODYS = 0  # in place of an inode: the replaced file has no record to drop
_CLAIMED = 16  # descriptors open at a time: the limit of a process may be as low as 256


def begin() -> sessions.Session:
    """Return this process's session, begun if there is none. A new session first sweeps what ended sessions left."""
    session, new = sessions.begin()
    if new:
        sweep()
    return session


def inode_at(name: str) -> int | None:
    """Return the inode of the file with this name, None if the name is free."""
    try:
        return folders.lstat(paths.path_of(name)).st_ino
    except FileNotFoundError:
        return None


def ended(record: Record) -> bool:
    """Return whether the segment's lifetime is over. Call it with names locked."""
    try:
        fd = _claim(record)
    except FileNotFoundError:
        return True
    if fd is not None:
        _release(fd)
    return fd is not None


def in_use(name: str) -> bool:
    """Return whether any process, in any container, has the segment attached. Call it with names locked."""
    try:
        fd = _open(name)
    except OSError:
        return False
    try:
        return not oflock.take_whole(fd)
    finally:
        _release(fd)


def _claim(record: Record, alive: Callable[[str], bool] = sessions.alive) -> Descriptor | None:
    """Return a descriptor of the segment if its lifetime is over, else None.

    For lifetime ``attached`` it holds an exclusive flock, so that no process attaches before the unlink.
    """
    if record.lifetime == "keep" or (record.lifetime == "session" and alive(record.owner)):
        return None
    if record.lifetime == "session":
        return folders.open_(paths.path_of(record.name), os.O_PATH)
    fd = _open(record.name)
    try:
        if oflock.take_whole(fd):
            return fd
    except BaseException:
        fd.close()
        raise
    fd.close()
    return None


def _open(name: str) -> Descriptor:
    return folders.open_(paths.path_of(name), os.O_RDONLY | os.O_NONBLOCK)


def _release(fd: Descriptor) -> None:
    """Unlock, then close: a child that another thread has just forked would keep the lock with its descriptor."""
    with contextlib.suppress(OSError):  # a descriptor of O_PATH cannot be locked
        fcntl.flock(fd, fcntl.LOCK_UN)
    fd.close()


def check_free(name: str, may_replace: Callable[[Record | None], bool]) -> int | None:
    """Return the inode that a new segment would replace, None if the name is free. Call it with names locked.

    Raises
    ------
    TakenError
        If the name belongs to a live segment, and `may_replace` returns False for its record.
    """
    inode = inode_at(name)
    if inode is None:
        return None
    status = folders.lstat(paths.path_of(name))
    if stat.S_ISDIR(status.st_mode):
        raise RefusedError(f"{name!r} cannot be replaced: {paths.path_of(name)} is a directory", name=name)
    if not segment_file.may_remove(paths.path_of(name), status):
        whose = f"taken, by a file of another user (uid {status.st_uid})"
        raise TakenError(f"{name!r} is {whose}. {segment_file.THEIRS}", name=name, owner=None, mine=False)
    record = records.at(name, status)
    if may_replace(record) or (record and ended(record)):
        return inode if record else _NOBODYS
    mine = sessions.mine()
    if record and mine and record.owner == mine.id:
        message = f"{name!r} is taken: this process shares it already"
        cures = Cure("Use it", "attach", name), Cure("Or replace it (its readers keep the old values)", replace=True)
        raise TakenError(message, *cures, name=name, owner=record.label, mine=True)
    whose = "by a file of another program"
    if record:
        state = "kept" if record.lifetime == "keep" else "alive" if sessions.alive(record.owner) else "ended"
        whose = f"by {record.label} ({state})"
    cure = Cure("Use another name, or replace it (its readers keep the old values)", replace=True)
    raise TakenError(f"{name!r} is taken, {whose}", cure, name=name, owner=record.label if record else None, mine=False)


def link_all(drafts: Sequence[tuple[int, Record]], may_replace: Callable[[Record | None], bool]) -> None:
    """Link nameless files under their names, all of them or none.

    Raises
    ------
    TakenError
        As `check_free` says.
    """
    if not sessions.has_file():  # any more: another program has removed it while the segments were filled
        begin()
    with locked():
        taken = set()
        for _, new in drafts:
            inode = inode_at(new.name)
            if inode is not None:
                taken.add(new.name)
                _clear(inode)
        old = [check_free(new.name, may_replace) if new.name in taken else None for _, new in drafts]
        fresh = [(fd, new) for (fd, new), replaced in zip(drafts, old, strict=True) if replaced is None]
        renamed = [(fd, new, replaced) for (fd, new), replaced in zip(drafts, old, strict=True) if replaced is not None]
        try:  # every step that can fail comes before the first rename
            for _, new in drafts:
                records.put(new)
            for fd, new, _ in renamed:
                segment_file.link(fd, paths.runtime("pending", str(new.inode)))
            for fd, new in fresh:
                _link(fd, new)
            for _, new, replaced in renamed:
                folders.rename(paths.runtime("pending", str(new.inode)), paths.path_of(new.name))
                _drop(replaced)
        except BaseException:
            with contextlib.suppress(OSError):  # the first error matters; a sweep removes what cannot be removed now
                for _, new in fresh:
                    if inode_at(new.name) == new.inode:
                        _remove(paths.path_of(new.name))
                for _, new in drafts:
                    if inode_at(new.name) != new.inode:
                        _drop(new.inode)
            raise


def unlink(name: str) -> Record | None:
    """Remove the name and its record; processes that have the segment attached keep the memory."""
    with locked():
        inode = inode_at(name)
        if inode is None:
            raise segment_file.missing(name)
        status = folders.lstat(paths.path_of(name))
        record = records.at(name, status)
        try:
            folders.unlink(paths.path_of(name))
        except FileNotFoundError:  # another program has just removed it
            raise segment_file.missing(name) from None
        except OSError as error:
            message = f"{name!r} cannot be unlinked: {error.strerror}: {paths.path_of(name)}"
            if not segment_file.may_remove(paths.path_of(name), status):
                message = f"{message}, of another user (uid {status.st_uid}). {segment_file.THEIRS}"
            raise RefusedError(message, name=name) from None
        if record or not records.read(inode):
            _drop(inode)
            _unlink_aliases(status)
    return record


def unlink_unused(inode: int) -> None:
    """Unlink a segment of lifetime ``attached`` that no process has attached. Call it after closing one."""
    record = records.read(inode)
    if record and record.lifetime == "attached":
        if names_lock.is_mine():  # a finalizer runs while this thread changes names
            names_lock.later(inode)
            return
        with locked():
            _clear(inode)


# Exclude every other process and thread of this user from changing names: ``with locked():``. It is not re-entrant.
locked = functools.partial(names_lock.NamesLock, unlink_unused)


def _clear(inode: int) -> None:
    """Unlink a segment whose lifetime is over. Call it with names locked."""
    record = records.read(inode)
    if record and inode_at(record.name) != inode:  # Ctrl-C came between the name and the record
        _drop(inode)
    elif record:
        with contextlib.suppress(FileNotFoundError):
            fd = _claim(record)
            if fd is not None:  # for lifetime attached locked, so that no process attaches before the unlink
                try:
                    _remove_segment(record)
                finally:
                    _release(fd)


def sweep(*, dry_run: bool = False) -> list[tuple[Record, int]]:
    """Unlink every segment whose lifetime is over, and remove the files of ended sessions.

    Returns
    -------
    list of (Record, size in bytes)
        The segments that were unlinked, or with `dry_run` would be.
    """
    over: list[tuple[Record, int]] = []
    claimed: list[Descriptor] = []
    try:
        with locked():
            # A session that ends while this runs has a watchdog, which sweeps next.
            alive, at, home = functools.cache(sessions.alive), paths.inodes(), paths.runtime("records")
            for entry in folders.listdir(home):
                record, fd = records.read(entry, home), None
                there = record is not None and (at.get(record.name) or inode_at(record.name)) == record.inode
                try:
                    fd = _claim(record, alive) if record and there else None
                except FileNotFoundError:  # another program has just removed the file
                    there = False
                except OSError:  # a segment that cannot be opened must not stop the sweep
                    continue
                if fd is None and there:
                    continue
                if record and fd is not None:
                    claimed.append(fd)
                    if (status := os.fstat(fd)).st_ino == record.inode:  # else another program has just replaced it
                        over.append((record, size(status)))
                        if not dry_run:  # the close, later, frees the memory: 65 ms a GB
                            _remove_segment(record)
                elif not dry_run:  # its maker died between record and link, or another program removed the file
                    _remove(f"{home}/{entry}")
                if len(claimed) > _CLAIMED:
                    _release(claimed.pop(0))
            if not dry_run:
                _sweep_leftovers()
    finally:
        for fd in claimed:
            _release(fd)
    return over


def make_store_folder(fd: int, file: str) -> str:
    """Make the folder of a store, link its nameless file there, and return the folder's path."""
    home = paths.store_folder(os.fstat(fd).st_ino)
    with locked():  # without the lock, a sweep would remove the folder while the file is missing
        folders.mkdir(home)
        segment_file.link(fd, f"{home}/{file}")
    return home


def abandon(inode: int) -> None:
    """Remove the folder of a store that was made and never got a record; do nothing to others.

    It is called because of an error, which matters more than one that comes here: a sweep removes the folder too.
    """
    with contextlib.suppress(OSError):
        if folders.exists(paths.store_folder(inode)):
            with locked():
                if records.read(inode) is None:
                    _remove_store_folder(inode)


def size(status: os.stat_result) -> int:
    """Return the size of a segment in bytes, including the files in its folder if it has one."""
    if status.st_nlink > 1 or status.st_blocks * 512 < status.st_size:
        home = paths.store_folder(status.st_ino)
        with contextlib.suppress(FileNotFoundError):
            return sum(_taken(f"{home}/{entry}") for entry in folders.listdir(home))
    return status.st_size


def _taken(path: str) -> int:
    """Return the bytes that a file takes; none if it was removed since the folder was listed."""
    try:
        return folders.lstat(path).st_blocks * 512
    except FileNotFoundError:
        return 0


def _link(fd: int, new: Record) -> None:
    try:
        segment_file.link(fd, paths.path_of(new.name))
    except FileExistsError:  # other programs make files without names.lock
        message = f"{new.name!r} is taken, by a file of another program. Use another name"
        raise TakenError(message, name=new.name, owner=None, mine=False) from None


def _remove_segment(record: Record) -> None:
    path = paths.path_of(record.name)
    status = folders.lstat(path)
    _remove(path)
    _drop(record.inode)
    _unlink_aliases(status)


def _unlink_aliases(status: os.stat_result) -> None:
    """Remove the other segment names (hard links) of a removed segment."""
    if status.st_nlink > 1:
        for name, inode in paths.inodes().items():
            if inode == status.st_ino:
                _remove(paths.path_of(name))


def _drop(inode: int) -> None:
    records.forget(inode)
    _remove(paths.runtime("records", str(inode)))
    _remove(paths.runtime("pending", str(inode)))
    _remove_store_folder(inode)


def _remove_store_folder(inode: int) -> None:
    """Remove the folder of a store: renamed first, so that an opener finds all of it or nothing."""
    gone = paths.runtime("pending", f"{inode}.store")
    with contextlib.suppress(FileNotFoundError):
        folders.rename(paths.store_folder(inode), gone)
        _remove(gone)


def _sweep_leftovers() -> None:
    """Remove the files of ended sessions, and what `link_all` left in processes that died."""
    for id_ in folders.listdir(paths.runtime("sessions")):
        if not sessions.alive(id_):
            _remove(paths.runtime("sessions", id_))
    sync_file.remove_unused()
    for entry in folders.listdir(paths.runtime("pending")):
        _remove(paths.runtime("pending", entry))
    for entry in filter(str.isdigit, folders.listdir(paths.runtime("stores"))):
        if not folders.exists(paths.runtime("records", entry)) and not _busy(paths.store_folder(entry)):
            _remove_store_folder(int(entry))


def _busy(folder: str) -> bool:
    """Return whether the maker of this store still holds it (by a shared flock), and is about to link it.

    Only the store's data file may be opened: closing another file could release POSIX locks of this process.
    """
    inode = int(os.path.basename(folder))
    try:
        paths = [f"{folder}/{entry}" for entry in folders.listdir(folder)]
    except FileNotFoundError:  # something else than a folder
        return False
    store = next((path for path in paths if folders.lstat(path).st_ino == inode), None)
    if store is None:
        return False
    fd = folders.plain(store)
    try:
        return not oflock.take_whole(fd)
    finally:
        _release(fd)


def _remove(path: str) -> None:
    try:
        folders.unlink(path)
    except FileNotFoundError:
        pass
    except IsADirectoryError:
        for entry in folders.listdir(path):
            with contextlib.suppress(OSError):  # a folder inside, which is not ours
                folders.unlink(f"{path}/{entry}")
        with contextlib.suppress(OSError):
            folders.rmdir(path)
