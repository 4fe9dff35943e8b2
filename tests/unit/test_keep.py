"""Changing the lifetime of a segment."""

import os

import numpy as np
import pytest

import shmkernel as shm
from shmkernel.verbs import listing
from tests.prove.kinds import KINDS
from tests.unit.elsewhere import answering


def test_a_lifetime_that_would_end_at_once_is_refused():
    shm.create("x", 1)
    with pytest.raises(shm.ArgumentError, match="nobody has 'x' attached"):
        shm.keep("x", "attached")
    assert shm.info("x").lifetime == "session"


def test_what_only_this_process_still_has_is_named_again_as_a_copy():
    x = shm.create("x", [1, 2], dtype=int)
    shm.unlink("x")
    with pytest.raises(shm.ArgumentError, match="nobody has 'x' attached"):
        shm.keep("x", "attached")
    assert shm.keep("x", "session").lifetime == "session"
    again = shm.attach("x")
    assert again.tolist() == [1, 2]
    again[0] = 7
    assert x.tolist() == [1, 2]


@pytest.mark.parametrize("subject", KINDS, ids=lambda subject: subject.name)
def test_a_value_of_any_kind_is_named_again_after_the_unlink(subject, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))  # of the key that signs objects
    x = subject.create("x", 5)
    shm.unlink("x")
    assert shm.keep("x").kind == subject.kind
    again = shm.attach("x")
    assert subject.stamps(again) == {5}
    if subject.change:
        subject.change(again, 6)
    assert subject.stamps(x) == {5}
    shm.unlink("x")


def test_an_array_that_is_named_again_is_the_same_byte_by_byte():
    made = np.asfortranarray(np.arange(6).reshape(2, 3))
    x = shm.create("x", made)
    shm.unlink("x")
    shm.keep("x")
    assert x.tolist() == made.tolist()
    again = shm.attach("x")
    assert again.flags.f_contiguous
    assert again.tolist() == made.tolist()
    shm.unlink("x")


def test_what_another_thread_lets_go_of_meanwhile_is_not_found(monkeypatch):
    values = [shm.create("x", 1)]
    shm.unlink("x")
    monkeypatch.setattr(listing, "holders", lambda _: values.clear() or ())
    with pytest.raises(shm.NotFoundError):
        shm.keep("x")


def test_who_stays_on_the_old_memory_is_told():
    kept = []

    def attach(_):
        kept.append(shm.attach("x"))
        return [one.tolist() for one in kept]

    with answering(attach) as other:
        x = shm.create("x", [1, 2], dtype=int)
        other.tell()
        assert other.hear() == [[1, 2]]
        assert shm.keep("x").stayed == ()
        shm.unlink("x")
        found = shm.keep("x")
        assert [(one.pid, one.label) for one in found.stayed] == [(other.pid, "plot.ipynb")]
        x[0] = 7
        other.tell()
        assert other.hear() == [[7, 2], [1, 2]]  # the old memory, and the copy
    assert os.getpid() not in [one.pid for one in found.stayed]
    assert shm.keep("x").stayed == ()
    shm.unlink("x")
