"""What this process has attached is given back, whatever Ctrl-C interrupts."""

from __future__ import annotations

import itertools
import sys

import pytest

import shmkernel as shm
from shmkernel._core import names_lock
from shmkernel.verbs import attachments
from tests.helpers import interrupted_at, left, tells_of_every_bytecode, without_collector


@pytest.mark.parametrize("stride", [17, pytest.param(1, marks=pytest.mark.long)])
@tells_of_every_bytecode
def test_an_interrupt_of_the_last_ones_letting_go_leaves_nothing(stride, shm_dir, monkeypatch):
    """Python drops the KeyboardInterrupt, and with it the rest of the callback that it strikes."""
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
    kept = shm.create("kept", b"abc")
    held, before = [], left(shm_dir)
    with without_collector():
        open_before = len(attachments._open), len(attachments._closed)
        for step in itertools.count(1, stride):
            held.append(shm.create("x", b"abc", lifetime="attached"))
            came = interrupted_at(step, held.clear)
            assert left(shm_dir) == before, step
            assert (len(attachments._open), len(attachments._closed)) == open_before
            assert not names_lock.is_mine()
            if not came:
                break
    assert step > stride
    assert bytes(kept.buf) == b"abc"
