"""What the dead leave is cleared away, however much it is."""

from __future__ import annotations

import resource

import shmkernel as shm
from tests.helpers import Child, until_left

MANY = 200


def create_many_with_few_descriptors(connection):
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))  # the watchdog inherits it
    for number in range(MANY):
        shm.create(f"x{number}", number)
    connection.send("created")
    connection.recv()


def test_a_watchdog_that_may_open_few_files_unlinks_any_number_of_segments(shm_dir):
    with Child(create_many_with_few_descriptors) as child:
        assert child.hear() == "created"
        assert len(shm.session) == MANY
        child.end()
        until_left(shm_dir)
