"""System calls whose failure once did harm: found by `tests.prove.points`, which tries all of them."""

from __future__ import annotations

import itertools
import time

import pytest

from tests.helpers import lacking
from tests.prove import points
from tests.prove.kinds import KINDS

if not points.possible():
    lacking("this machine forbids seccomp's user notifications, or is no x86-64")

BARE = [  # a bare OSError left the function
    "create array:again:flock.1:ENOMEM",
    "create array:again:pwrite64.1:ENOMEM",
    "create array:again:mmap.1:EACCES",
    "create array:again:linkat.1:EACCES",
    "create array:again:renameat.1:ENOMEM",
    "replace array:again:flock.1:ENOMEM",
    "attach array:again:openat.1:ENOMEM",
    "lock array:again:fcntl.1:ENOLCK",
    "save array:again:openat.2:EMFILE",
    "save array:again:sendfile.1:ENOSPC",
    "change dict:again:fcntl.1:ENOLCK",
    "SharedMemory attached:first:openat.2:EACCES",
    "SharedMemory.unlink:first:openat.1:EACCES",
]
LEFT = [  # a descriptor or a file was left
    "create array:again:newfstatat.4:EACCES",
    "create array:again:fchmod.1:EACCES",
    "create array:again:fchmod.2:ENOMEM+",
    "close the last array:again:flock.2:ENOMEM",
    "close the last array:again:unlinkat.1:EACCES",
    "create dict:again:utimensat.1:ENOMEM+",
]
SLANDERED = [  # a healthy dict was called damaged, with the advice to remove it
    "create dict:again:openat.9:EINTR",
    "create dict:again:pread64.1:EINTR",
    "create dict:again:ftruncate.1:EINTR",
    "attach pickle:again:openat.2:EMFILE",  # a signed object was called unsigned
]
if any(kind.kind == "table" for kind in KINDS):
    BARE += ["attach to read table:first:clone3.1:ENOMEM+"]  # pyarrow starts threads where it is let
    if any("duckdb" in kind.forms for kind in KINDS):
        BARE += ["attach as duckdb a table:first:openat.6:EMFILE+"]  # it tells of limits in words
    SLANDERED += ["info table:again:pread64.2:ENOMEM", "info table:again:openat.9:EMFILE"]


@pytest.mark.parametrize("texts", [BARE, LEFT, SLANDERED], ids=["bare", "left", "slandered"])
def test_a_system_call_that_fails_gives_an_error_of_ours_and_harms_nothing(texts, shm_dir):
    wrong = {}
    with points.Stage(rehearse=False) as stage:
        for _, some in itertools.groupby(map(points.parsed, texts), lambda point: point.operation.name):
            for point, why in points.attempts(stage, [*some], time.monotonic() + points.PATIENCE):
                if why:
                    wrong[point.text] = why
    assert wrong == {}
