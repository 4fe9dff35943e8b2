"""Check this machine for what shmkernel needs, and suggest a cure for each problem."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import glob
import mmap
import os
import pwd
import re
import resource
import stat
import sys
from typing import TYPE_CHECKING, NamedTuple

from shmkernel._core import capacity, closing, descriptors, folders, oflock, paths, protocol, registry, segment_file
from shmkernel.errors import Cure, ShmError

if TYPE_CHECKING:
    from collections.abc import Iterator

_ROOT = ""  # prefix of /etc, /run and so on; tests set it
_LITTLE = 64 << 20  # bytes: Docker's and Kubernetes' default size of /dev/shm
_FEW = 256  # descriptors
_LOOKS = 3  # at /proc/locks: one may miss a lock while other programs lock and unlock
_UNKNOWN = 65534  # a user namespace shows this uid for root, and for every other user that it does not know
_FIRST_USER = 1000  # RemoveIPC spares system users, whose uids are lower
_TMPFS = "choose a tmpfs with SHMKERNEL_DIR, or leave that unset for /dev/shm"
_STDLIB_TRACKS = sys.version_info < (3, 13)


class Finding(NamedTuple):
    """The result of one check: ``level`` is ok, note, warn or fail; ``cure`` says what to do about the last two."""

    level: str
    text: str
    cure: str = ""


def doctor() -> list[Finding]:
    """Check this machine: the folder of segments, memory limits, and settings that delete or refuse segments.

    Returns
    -------
    list of Finding
        The most important first. It ends early after a failure that makes the other checks impossible.

    Examples
    --------
    >>> import shmkernel as shm
    >>> [finding for finding in shm.doctor() if finding.level == "fail"]
    []
    """
    findings: list[Finding] = []
    try:
        folders.prepare()
        for part in (_room, _process, _trust, _mechanisms, _leftovers, lambda: _logind(*_user()), _inotify, _stdlib):
            findings += part()
    except ShmError as error:
        findings.append(_failure(error))
    except OSError as error:  # for example no inodes left
        known = descriptors.ran_out(error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            known = capacity.full("a segment", mmap.PAGESIZE, code=error.errno)
        what = f"segments cannot be made in {paths.folder()}: {error.strerror}"
        findings.append(_failure(known) if isinstance(known, ShmError) else Finding("fail", what, _TMPFS))
    return findings


def _room() -> Iterator[Finding]:
    folder, now = paths.folder(), capacity.room()
    sizes = f"{capacity.human(now.total)}, {capacity.human(now.free)} free"
    if now.total <= _LITTLE:
        yield Finding(
            "warn",
            f"{folder} has only {sizes}: the default of a container",
            "docker run --shm-size=8g; in compose shm_size: 8g; in Kubernetes an emptyDir with medium: Memory",
        )
    elif now.free <= _LITTLE:
        yield Finding(
            "warn",
            f"{folder} is nearly full: {sizes}",
            f"unlink what is not needed. {Cure('What there is', 'list')}",
        )
    elif capacity.is_tmpfs(folder):
        yield Finding("ok", f"{folder} is a tmpfs, {sizes}")
    if not capacity.is_tmpfs(folder):
        yield Finding(
            "warn",
            f"{folder} is not in memory (not a tmpfs): segments are written to disk",
            _TMPFS,
        )
    if now.container is not None:
        yield Finding("ok", f"this container may use {capacity.human(now.container)} of memory, segments included")


def _process() -> Iterator[Finding]:
    """Check the limits of this process, which ``ulimit`` shows."""
    files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = "any number of" if files == resource.RLIM_INFINITY else f"{files}"
    what = f"this process may have {allowed} files open (ulimit -n). Each attached segment takes one"
    if 0 <= files < _FEW:
        yield Finding("warn", what, f"ulimit -n {most if most > 0 else 'unlimited'}, before it starts")
    else:
        yield Finding("ok", what)
    for letter, limit, why in (
        ("-v", resource.RLIMIT_AS, "a dict takes 64 GiB of addresses, but not of memory"),
        ("-f", resource.RLIMIT_FSIZE, "no segment can be larger, and dicts cannot be created"),
    ):
        soft = resource.getrlimit(limit)[0]
        if soft != resource.RLIM_INFINITY:
            what = f"this process is limited to {capacity.human(soft)} (ulimit {letter}): {why}"
            yield Finding("warn", what, f"ulimit {letter} unlimited, before it starts")


def _trust() -> Iterator[Finding]:
    status = os.stat(paths.folder())
    if status.st_uid not in (0, os.geteuid(), _UNKNOWN):
        what = f"{paths.folder()} belongs to another user (uid {status.st_uid}), who may delete your segments there"
        yield Finding("warn", what, _TMPFS)
    elif status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not status.st_mode & stat.S_ISVTX:
        yield Finding("warn", f"others may delete your segments in {paths.folder()}", f"chmod +t {paths.folder()}")
    else:
        yield Finding("ok", f"{paths.runtime()} belongs to you alone, and nobody else may delete your segments")
    yield Finding("ok", f"{paths.runtime()} is used by {protocol.SINCE} (protocol {protocol.NUMBER})")


def _mechanisms() -> Iterator[Finding]:
    """Try the system calls that every segment needs, on a file of its own."""
    folder, path = paths.folder(), paths.runtime("pending", f"doctor-{os.getpid()}")
    with registry.locked():  # a sweep would delete the pending file
        fd = segment_file.blank(folder)
        try:
            segment_file.fill(fd, mmap.PAGESIZE, (), "doctor's trial", lambda _: None)
            segment_file.link(fd, path)
            status = os.fstat(fd)
            excluded = _is_locked(path)
            at = status.st_dev, status.st_ino
            listed = any(os.getpid() in oflock.holders().get(at, ()) for _ in range(_LOOKS))
        finally:
            fd.close()
            with contextlib.suppress(FileNotFoundError):
                folders.unlink(path)
    if not excluded:
        yield Finding("fail", f"locks (flock) have no effect in {folder}, so live processes look dead", _TMPFS)
        return
    yield Finding("ok", "O_TMPFILE, linkat, fallocate and flock work")
    if not listed:
        lists = os.path.exists("/proc/locks")
        what = "/proc/locks does not say" if lists else "there is no /proc/locks to say"
        cure = _TMPFS if lists else "mount the whole of /proc: mount -t proc proc /proc"
        yield Finding("warn", f"{what} which processes have a segment attached, so listings cannot show them", cure)


def _is_locked(path: str) -> bool:
    fd = folders.open_(path, os.O_RDONLY)
    try:
        return not oflock.take_whole(fd)
    finally:
        fd.close()


def _leftovers() -> Iterator[Finding]:
    left = registry.sweep(dry_run=True)
    if left:  # do not start a watchdog: it would delete them before the user has read this
        count = f"{len(left)} segments of ended kernels" if len(left) > 1 else "a segment of an ended kernel"
        what = f"{count}, {capacity.human(sum(size for _, size in left))}: {left[0][0].name}{', ...' * (len(left) > 1)}"
        yield Finding("warn", what, str(Cure("", "gc")))
        return
    try:
        registry.begin()
    except ShmError as error:
        yield _failure(error)
    else:
        yield Finding("ok", "the watchdog starts, and there is nothing to clean up")


def _user() -> tuple[int, str]:
    uid = os.geteuid()
    try:
        return uid, pwd.getpwuid(uid).pw_name
    except KeyError:  # a container's uid may have no name
        return uid, str(uid)


def _logind(uid: int, user: str) -> Iterator[Finding]:
    """Check whether logind deletes this user's files in /dev/shm when the last login ends."""
    runs = all(os.path.isdir(f"{_ROOT}/run/systemd/{part}") for part in ("system", "seats"))
    hit = uid >= _FIRST_USER and os.path.realpath(paths.folder()).startswith("/dev/shm")  # noqa: S108  a comparison
    if runs and hit and _removes_ipc() and not os.path.exists(f"{_ROOT}/var/lib/systemd/linger/{user}"):
        what = "systemd deletes your shared memory when your last login ends (RemoveIPC=yes)"
        yield Finding("warn", what, f"sudo loginctl enable-linger {user}")


def _removes_ipc() -> bool:
    """Read logind's settings as logind does: one main file, then the drop-ins of all folders, sorted by name."""
    folders = [f"{_ROOT}{top}/systemd" for top in ("/etc", "/run", "/usr/local/lib", "/usr/lib")]
    main = next((path for folder in folders if os.path.isfile(path := f"{folder}/logind.conf")), "")
    drop_ins = {
        os.path.basename(path): path
        for folder in reversed(folders)  # a drop-in hides those of the same name in later folders
        for path in glob.glob(f"{folder}/logind.conf.d/*.conf")
    }
    texts = [_read(path) for path in (main, *(drop_ins[name] for name in sorted(drop_ins)))]
    built_in = re.findall(r"^#[ \t]*RemoveIPC=(\w+)", texts[0], re.MULTILINE)  # the compiled-in default
    said = re.findall(r"^[ \t]*RemoveIPC[ \t]*=[ \t]*(\w+)", "\n".join(texts), re.MULTILINE)
    return [*(built_in or ["yes"]), *said][-1].lower() in ("1", "yes", "y", "true", "t", "on")


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def _inotify() -> Iterator[Finding]:
    with contextlib.suppress(ValueError):  # it has returned -1
        closing.described(ctypes.CDLL(None, use_errno=True).inotify_init1, os.O_CLOEXEC).close()
        yield Finding("ok", "inotify works")
        return
    limit = _read(f"{_ROOT}/proc/sys/fs/inotify/max_user_instances").strip()
    why = os.strerror(ctypes.get_errno())
    if ctypes.get_errno() == errno.EMFILE:
        why = f"all {limit} instances of this user are taken" if limit else why
    yield Finding(
        "warn", f"inotify is not available ({why}): waiting will poll", "sudo sysctl fs.inotify.max_user_instances=1024"
    )


def _stdlib() -> Iterator[Finding]:
    version, name = f"Python {sys.version_info[0]}.{sys.version_info[1]}", "multiprocessing.SharedMemory"
    if _STDLIB_TRACKS:
        yield Finding("note", f"{version}. Its {name} deletes what it attached: attach with shmkernel instead")
    else:
        yield Finding("note", f"{version}. Give its {name} track=False for what shmkernel made")


def _failure(error: ShmError) -> Finding:
    text, _, advice = error.what.partition(". ")
    cures = [str(cure) for cure in error.cures if cure.verb != "doctor"]  # which is what runs
    advice = ". ".join(filter(None, [advice, *cures]))
    return Finding("fail", text, advice[:1].lower() + advice[1:])
