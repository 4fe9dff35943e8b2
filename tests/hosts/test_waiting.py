"""Waiting for a new version of another host's segment."""

from __future__ import annotations

import os
import signal

import pytest

from shmkernel.sync.sync_file import WATCHED
from tests.helpers import until
from tests.hosts.conftest import children


def is_watched(host, name):
    """Return whether a process of the host sleeps, or has slept, until the name has a new version."""
    page = host.files / f"dev/shm/.shmk-0/sync/shmk-0-{name}"
    return page.exists() and memoryview(page.read_bytes()).cast("Q")[WATCHED] == 1


@pytest.fixture
def waiting(hosts, joined):
    """Kernels of two hosts, of which the second waits for what the first shares, and has a snapshot of it."""
    a, b = joined
    a("x = shm.create('x', np.array([1, 2])); shm.share('x')")
    b("x = shm.attach('hostA:x')")
    b.begin("shm.wait('hostA:x')")
    until(lambda: is_watched(hosts[0], "x"), "the other host has been asked")
    return a, b


def test_a_wait_ends_when_the_other_host_publishes(waiting):
    a, b = waiting
    assert a("x[:] = 3; shm.publish('x')") == 1
    assert b.answer() == 1
    assert b("shm.wait('hostA:x')") == 1  # the snapshot is still the old one
    assert b("shm.attach('hostA:x', refresh=True).tolist()") == [3, 3]
    assert "within 0.1 s" in b.fails("shm.wait('hostA:x', timeout=0.1)", "TimeoutError").text
    assert b("shm.wait('hostA:x', since=0)") == 1
    assert "hostB is this host" in b.fails("shm.wait('hostB:x')", "FileNotFoundError").text


def test_a_wait_ends_when_the_segment_is_replaced(waiting):
    a, b = waiting
    a("x = shm.create('x', np.array([4, 5, 6]), replace=True)")
    assert b.answer() == 1
    assert b("shm.attach('hostA:x', refresh=True).tolist()") == [4, 5, 6]


def test_a_replacement_counts_although_nobody_had_asked_for_a_version_before(joined):
    a, b = joined
    a("x = shm.create('x', 1); shm.share('x')")
    b("x = shm.attach('hostA:x')")
    a("x = shm.create('x', 2, replace=True)")
    b("shm.wait('hostA:x')")
    assert b("int(shm.attach('hostA:x', refresh=True))") == 2


def test_a_wait_ends_when_the_segment_goes(waiting):
    a, b = waiting
    a("shm.unlink('x')")
    assert "FileNotFoundError" in b.hear()["mro"]


@pytest.mark.parametrize(("which", "why"), [(0, "its host was lost"), (1, "join")], ids=["the other", "this"])
def test_a_wait_ends_when_the_process_that_serves_a_host_dies(which, why, hosts, waiting):
    _, b = waiting
    hosts[which].signal_server(signal.SIGKILL)
    answer = b.hear()
    assert "ConnectionError" in answer["mro"], answer
    assert why in answer["text"]


def test_a_wait_can_be_interrupted(waiting):
    a, b = waiting
    (agent,) = children(b.process.pid)
    os.kill(agent, signal.SIGINT)
    assert b.hear()["error"] == "KeyboardInterrupt"
    a("shm.publish('x')")
    assert b("shm.wait('hostA:x')") == 1


@pytest.mark.long
def test_a_host_that_is_frozen_counts_as_lost_until_it_goes_on(hosts, waiting):
    a, b = waiting
    hosts[0].signal_server(signal.SIGSTOP)
    other = hosts[1].kernel()
    assert other("shm.offers()") == []
    answer = b.hear()
    assert "ConnectionError" in answer["mro"], answer
    assert "hostA was lost" in b.fails("shm.wait('hostA:x')", "ConnectionError").text
    assert "hostA was lost" in b.fails("shm.attach('hostA:x', refresh=True)", "ConnectionError").text
    hosts[0].signal_server(signal.SIGCONT)
    until(lambda: b("[str(offer) for offer in shm.offers()]") == ["hostA:x"], "the other host is back")
    b.begin("shm.wait('hostA:x')")
    a("shm.publish('x')")
    assert b.answer() == 1


def test_a_wait_goes_on_when_its_host_does(hosts, waiting):
    a, b = waiting
    hosts[0].signal_server(signal.SIGSTOP)
    a("shm.publish('x')")
    hosts[0].signal_server(signal.SIGCONT)
    answer = b.hear()
    if "ConnectionError" in answer.get("mro", ()):  # this machine was so busy that the other host counted as lost
        until(lambda: b("len(shm.offers())"), "the other host is back")
        answer = {"value": b("shm.wait('hostA:x')")}
    assert answer == {"value": 1}


def test_a_wait_can_be_interrupted_while_the_process_that_serves_this_host_is_frozen(hosts, waiting):
    a, b = waiting
    hosts[1].signal_server(signal.SIGSTOP)
    (agent,) = children(b.process.pid)
    os.kill(agent, signal.SIGINT)
    assert b.hear()["error"] == "KeyboardInterrupt"
    hosts[1].signal_server(signal.SIGCONT)
    a("shm.publish('x')")
    until(lambda: b("len(shm.offers())"), "the other host is back")
    assert b("shm.wait('hostA:x')") == 1
