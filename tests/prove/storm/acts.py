"""The acts of a storm: each with the errors that it may raise, and with helpers to find out whether a value is whole.

An act gets the strand that runs it and its step. It raises `BrokenError` for a promise that was broken. What it changes
it changes under the proper lock, and what it reads under the proper verb must be whole. The acts themselves are in
`verbs` and `contents`.
"""

from __future__ import annotations

import contextlib
import dataclasses
from typing import TYPE_CHECKING, Any

from shmkernel.verbs import attachments
from tests.prove.kinds import KINDS
from tests.prove.storm.program import NAMES, Leaf

if TYPE_CHECKING:
    from tests.prove.storm.actor import Runner

SUBJECTS = {subject.name: subject for subject in KINDS}
FORMS = tuple({form: None for subject in KINDS for form in subject.forms} or ("none",))
TOP = 0x2A << 24  # of each stamp, so that a reader knows one


class BrokenError(AssertionError):
    """A promise did not hold."""


class Skip(Exception):  # noqa: N818  no error
    """There is nothing to do this to."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """An act and the errors that it may raise."""

    run: Any
    errors: tuple[type[BaseException], ...]


ACTS: dict[str, Entry] = {}
LEAVES: dict[str, Leaf] = {}


def act(weight: float, *errors: type[BaseException], names=None, levels=(), **options: Any):
    """Register an act."""

    def register(function):
        name = function.__name__.strip("_")
        LEAVES[name] = Leaf(weight, names or NAMES[:4], levels, tuple(options.items()))
        ACTS[name] = Entry(function, errors)
        return function

    return register


def subject_of(value: Any):
    """Return the attachment of a value and its line in KINDS."""
    attachment = attachments.given(value)
    if attachment is None or attachment.kind not in SUBJECTS:
        raise Skip
    return attachment, SUBJECTS[attachment.kind]


def stamps(value: Any) -> set[int]:
    """Return the stamps that a reader finds."""
    _, subject = subject_of(value)
    if subject.kind == "ring" and not value.newest:
        raise Skip
    return set(value.to_dict().values()) if subject.kind == "dict" else subject.stamps(value)


def check_whole(runner: Runner, value: Any, found: set[int], how: str) -> None:
    """Tell the stage of a value with several stamps, or with one that nobody has written."""
    attachment, subject = subject_of(value)
    if subject.kind == "dict" and attachment.name in runner.transactions:
        return  # half of a change of its own
    if len(found) != 1 or not all(stamp >> 24 == TOP >> 24 for stamp in found):
        texts = ",".join(map(hex, sorted(map(int, found))[:4]))
        runner.log(
            "torn",
            attachment.key[1],
            subject.kind,
            attachment.key[2],
            f"{how} {attachment.name}: {len(found)} stamps {texts}",
        )


@contextlib.contextmanager
def changing(runner: Runner, value: Any):
    """Note a change of plain memory, which is cut if its process dies or is interrupted."""
    inode = attachments.given(value).key[1]
    runner.log("change", inode)
    yield
    runner.log("changed", inode)
