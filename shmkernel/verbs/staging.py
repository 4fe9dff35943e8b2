"""Make and fill segments without names, then name several at once: all of them or none."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import stat
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

from shmkernel import kinds
from shmkernel._core import capacity, limits, paths, records, registry, segment_file, sessions
from shmkernel._core.progress import Progress
from shmkernel.errors import ArgumentError, Cure, DamagedError, FullError, ShmError, UnsupportedError
from shmkernel.verbs import attachments, listing

if TYPE_CHECKING:
    import builtins
    from collections.abc import Iterator, Sequence

    from shmkernel._core.closing import Descriptor

MayReplace = Callable[[records.Record | None], bool]
# Which segment may be replaced: any, none, this session's own, or those whose record a function accepts.
Replace = bool | Literal["own"] | MayReplace


class Draft(NamedTuple):
    """A complete segment without a name. ``value`` is the object over it."""

    fd: Descriptor
    record: records.Record
    value: Any


def draft(
    name: str,
    value: object,
    options: dict[str, object],
    kind: str | None,
    mode: str | None,
    lifetime: str,
    replace: Replace,
) -> Draft:
    """Make a segment without a name. Pass it to `name_all` or `discard`."""
    paths.path_of(name)
    maker, plan = kinds.planned(name, value, options, kind)
    check(name, mode, lifetime, replace)
    try:
        return make(name, maker, plan, mode, lifetime)
    except DamagedError as error:
        if "why" not in error.facts:  # a part of the value is damaged
            raise
        what = (
            f"{name!r}: {kinds.a_type(value)} cannot be shared: as {kinds.with_article(maker.name)} it cannot be read"
        )
        raise UnsupportedError(f"{what}: {error.facts['why']}", name=name, type=type(value).__name__) from None


def make(
    name: str,
    kind: kinds.Kind,
    plan: kinds.Plan,
    mode: str | None,
    lifetime: str,
    view: attachments.View | None = None,
) -> Draft:
    """Make the segment that a kind planned, after `check`. `view` makes its value, by default as `attach` does."""
    path, mode = paths.path_of(name), mode_of(kind, name, mode)
    with room_for(name):
        session = registry.begin()
        fd = segment_file.blank(paths.folder())
        try:
            if plan.sparse:
                capacity.check_file_size(name, plan.size)
                os.ftruncate(fd, plan.size)
            else:
                with Progress(name, plan.size) as progress:
                    if plan.build and kinds.keeps(kind):
                        plan.build(registry.make_store_folder(fd, kind.file), fd, progress)
                    else:
                        segment_file.fill(fd, plan.size, plan.pieces(), name, progress, grows=plan.grows)
                        if plan.compute:
                            plan.compute(fd, progress)
            status = os.fstat(fd)
            mapping, shared = open_(
                kind, fd, status, path, name, mode, view, trusted=True, consent=kinds.Consent(allow=True)
            )
            record = records.Record(status.st_ino, name, kind.name, session.id, session.label, lifetime, time.time())
            segment = attachments.Segment(status, mode, path, name, kind.name, record)
            if getattr(kind, "fresh", False):
                attachments.note(mapping, shared, segment)
            else:
                shared = attachments.put(mapping, shared, segment)
            return Draft(fd, record, shared)
        except BaseException:
            inode = os.fstat(fd).st_ino
            fd.close()  # first, because abandon needs a descriptor, and this may be the last one
            registry.abandon(inode)
            raise


def name_all(drafts: Sequence[Draft], replace: Replace) -> builtins.list[Any]:
    """Name the drafts, all or none, and return their values."""
    try:
        try:
            with room_for(drafts[0].record.name):
                registry.link_all([(made.fd, made.record) for made in drafts], _may_replace(replace))
        finally:
            _close(drafts)
    except BaseException:
        _abandon(drafts)
        raise
    return [made.value for made in drafts]


def discard(drafts: Sequence[Draft]) -> None:
    """Delete drafts that will not be named."""
    _close(drafts)
    _abandon(drafts)


def _close(drafts: Sequence[Draft]) -> None:
    for made in drafts:
        made.fd.close()


def _abandon(drafts: Sequence[Draft]) -> None:
    for made in drafts:
        registry.abandon(made.record.inode)


def open_(
    kind: kinds.Kind,
    fd: int,
    status: os.stat_result,
    path: str,
    name: str,
    mode: str,
    view: attachments.View | None = None,
    form: str | None = None,
    *,
    trusted: bool = False,
    consent: kinds.Consent | None = None,
) -> tuple[mmap.mmap, object]:
    """Map a segment (of a store only its first bytes), and let its kind make the value over it.

    Raises
    ------
    DamagedError
        If the kind cannot read the bytes.
    """
    try:
        if not kinds.keeps(kind):
            mapping = segment_file.map_(fd, status.st_size, mode, name)
            if hasattr(kind, "open_as"):
                more = {"consent": consent} if getattr(kind, "pickles", False) else {}
                return mapping, kind.open_as(mapping, path, mode, form, trusted=trusted, **more)
            return mapping, (view or attachments.views.get(kind.name, kind.open))(mapping, path, mode)
        mapping = segment_file.map_(fd, min(status.st_size, kinds.HEAD), "r", name)
        return mapping, kind.connect(mapping, paths.store_folder(status.st_ino), name, mode)
    except ShmError:
        raise
    except ValueError as error:  # an empty file cannot even be mapped
        raise segment_file.damaged(name, error if status.st_size else "the file is empty") from None


def modes_of(kind: kinds.Kind) -> tuple[str, ...]:
    """Return the modes that segments of this kind are attached in, the default first."""
    modes: tuple[str, ...] = getattr(kind, "modes", segment_file.MODES)
    return modes


def mode_of(kind: kinds.Kind, name: str, mode: str | None) -> str:
    """Return the mode to attach in; ArgumentError if segments of this kind are never attached so."""
    modes = modes_of(kind)
    if mode is None:
        return modes[0]
    if mode not in modes and mode in segment_file.MODES:
        why = {
            "r+": "does not change once it is shared",
            "r": "is not kept from changes",
            "c": "has no private changes",
        }[mode]
        lead = {"r+": "Changes that all see", "r": "To read it", "c": "Changes stay private"}[modes[0]]
        message = f"{name!r}: {kinds.with_article(kind.name)} {why}, so mode {mode} has no use"
        raise ArgumentError(message, Cure(lead, mode=modes[0]), name=name, mode=mode)
    return mode


def check_use(reader: kinds.Kind, name: str, mode: str | None, as_: str | None) -> None:
    """Raise ArgumentError if this kind cannot be attached in this mode or form."""
    if mode is not None:
        mode_of(reader, name, mode)
    forms: tuple[str, ...] = getattr(reader, "forms", ())
    if as_ is not None and as_ not in forms:
        what = kinds.with_article(reader.name)
        takes = f"as_ is one of {', '.join(forms)}" if forms else f"{what} has one form and takes no as_"
        raise ArgumentError(f"{name!r}: as_={as_!r} is unknown: {takes}", name=name, as_=as_)


def consent_for(allow: bool | None, status: os.stat_result, record: records.Record | None) -> kinds.Consent:
    """Return whether the segment may be unpickled, as far as its file tells."""
    suspect = ""
    if record is None:
        suspect = "it has no record, so another program has put it there"
    elif status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        suspect = f"other users can write to its file (mode {stat.S_IMODE(status.st_mode):o})"
    return kinds.Consent(allow, suspect, record.label if record else "")


def check(name: str, mode: str | None, lifetime: str, replace: Replace) -> bool:
    """Raise the errors that can be found before memory is allocated. Return whether a segment will be replaced.

    `name_all` checks again under the registry's lock, so a name that is free now needs no lock here.
    """
    path = paths.path_of(name)
    if mode is not None:
        segment_file.check_mode(mode)
    check_lifetime(lifetime)
    if not os.path.lexists(path):
        return False
    with room_for(name), registry.locked():
        return registry.check_free(name, _may_replace(replace)) is not None


def _may_replace(replace: Replace) -> MayReplace:
    if callable(replace):
        return replace

    def allowed(record: records.Record | None) -> bool:
        if replace == "own":
            mine = sessions.mine()
            return bool(record and mine and record.owner == mine.id)
        return replace

    return allowed


def check_lifetime(lifetime: str) -> None:
    """Raise ArgumentError if the lifetime is unknown."""
    if lifetime not in records.LIFETIMES:
        message = (
            f"lifetime {lifetime!r} is unknown: session (until the owner's process ends), "
            "attached (until the last process lets go) or keep (until unlinked)"
        )
        raise ArgumentError(message, lifetime=lifetime)


@contextlib.contextmanager
def room_for(name: str) -> Iterator[None]:
    """Raise errors of the OS about a full folder or a limit as FullError or LimitError, with figures and a cure."""
    try:
        yield
    except OSError as error:
        # On Python 3.12 the frames of this generator and of contextlib are in a reference cycle with the error: the
        # caller's draft, which has no name, would stay attached until the next garbage collection.
        error.__traceback__ = None
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise limits.explained(error, name) from None
        known = isinstance(error, FullError) and "needed" in error.facts
        full = cast("FullError", error) if known else capacity.full(name, mmap.PAGESIZE, code=error.errno)
        raise FullError(full.what, *full.cures, *_largest(full), name=name, **full.facts) from None


def _largest(full: FullError) -> tuple[Cure, ...]:
    """Name the largest segment if removing it would be enough. Its owner has to decide."""
    facts: dict[str, Any] = full.facts
    with contextlib.suppress(OSError):  # there may be no room even for the runtime folder
        largest = max(listing.list(), key=lambda info: info.size, default=None)
        if largest and largest.size + facts["free"] >= facts["needed"] and facts["limit"] != "quota":
            what = f"{largest.name}, {capacity.human(largest.size)} ({largest.owner})"
            return (Cure(f"The largest segment is {what}. All there are", "list"),)
    return ()
