"""Changing how long a segment lives."""

import pytest

import shmkernel as shm


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
