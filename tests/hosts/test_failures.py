"""A copy that cannot be completed: an error with the number of bytes, and nothing is named."""

from __future__ import annotations

import os
import signal

import pytest

from shmkernel.hosts import network, server
from shmkernel.hosts.certificates import Identity
from tests.helpers import PATIENCE, until
from tests.hosts.conftest import bytes_of, children

BIG = 64 << 20  # bytes
TEN_SECONDS = pytest.mark.parametrize("slow", ["40mbit"], indirect=True)  # for BIG: who strikes meanwhile has time
ON_FIRST_BYTES = """
from shmkernel.hosts import snapshots
class Progress(snapshots.Progress):
    def __call__(self, count):
        tell('bytes')
        type(self).__call__ = lambda self, count: None
snapshots.Progress = Progress
y = shm.attach('hostA:x')
"""


@pytest.fixture
def copying(joined, slow):
    """A copy that has begun, and takes seconds."""
    begin_copy(*joined)
    return joined


def begin_copy(a, b, size=BIG):
    a(f"x = shm.create('x', np.ones({size}, 'u1')); shm.share('x')")
    b.begin(ON_FIRST_BYTES)
    assert b.hear() == {"event": "bytes"}


def refused(b, hosts, size=BIG + 128):
    """See that the copy failed, after so many bytes, and that nothing is there."""
    answer = b.hear()
    assert "ConnectionError" in answer["mro"], answer
    received, whole = bytes_of(answer["text"])
    assert 0 < received < whole == size
    assert hosts[1].segments() == []
    return answer


@TEN_SECONDS
def test_the_owner_is_killed(hosts, copying):
    hosts[0].signal_server(signal.SIGKILL)
    answer = refused(copying[1], hosts)
    assert answer["facts"]["received"] < answer["facts"]["size"]


@pytest.mark.long
@TEN_SECONDS
def test_the_owner_is_frozen(hosts, copying):
    hosts[0].signal_server(signal.SIGSTOP)
    refused(copying[1], hosts)


@pytest.mark.long
@TEN_SECONDS
def test_the_cable_is_cut(hosts, copying):
    hosts[0].shell("ip link set eth0 down")
    try:
        refused(copying[1], hosts)
    finally:
        hosts[0].shell("ip link set eth0 up")


def test_the_owner_is_killed_before_it_was_asked(hosts, joined):
    _, b = joined
    hosts[0].signal_server(signal.SIGKILL)
    error = b.fails("shm.attach('hostA:x')", "ConnectionError")
    assert error.facts["host"] == "hostA"
    assert "has not joined" in b.fails("shm.attach('hostC:x')", "FileNotFoundError").text


@pytest.mark.long
def test_the_owner_is_frozen_when_it_is_asked_first(hosts, joined):
    _, b = joined
    hosts[0].signal_server(signal.SIGSTOP)
    b.fails("shm.attach('hostA:x')", "ConnectionError")


@TEN_SECONDS
def test_the_server_of_this_host_is_killed(hosts, copying):
    hosts[1].signal_server(signal.SIGKILL)
    answer = refused(copying[1], hosts)
    assert "join" in answer["text"]


@TEN_SECONDS
def test_this_host_leaves(hosts, copying):
    hosts[1].kernel()("shm.leave()")
    assert "has ended after" in refused(copying[1], hosts)["text"]


@TEN_SECONDS
def test_the_kernel_that_asked_is_killed(hosts, copying):
    _, b = copying
    (agent,) = children(b.process.pid)
    os.kill(agent, signal.SIGKILL)
    b.end()
    other = hosts[1].kernel()
    assert hosts[1].segments() == []
    assert other("[offer[1] for offer in shm.offers()]") == ["x"]


@TEN_SECONDS
def test_the_kernel_that_asked_is_interrupted(hosts, copying):
    _, b = copying
    (agent,) = children(b.process.pid)
    os.kill(agent, signal.SIGINT)
    assert b.hear()["error"] == "KeyboardInterrupt"
    assert hosts[1].segments() == []
    assert b("[offer[1] for offer in shm.offers()]") == ["x"]


def test_a_second_kernel_waits_for_the_copy_that_the_first_has_begun(hosts, joined, slow):
    a, b = joined
    other = hosts[1].kernel()
    begin_copy(a, b, 12 << 20)
    inode = "import os; os.fstat(os.open(shm.info('hostA.x').path, os.O_RDONLY)).st_ino"
    copied = other(f"y = shm.attach('hostA:x'); {inode}")
    b.answer()
    assert b(inode) == copied


def test_a_copy_is_whole_although_its_owner_writes_meanwhile(joined, slow):
    a, b = joined
    begin_copy(a, b, 24 << 20)
    a("with shm.writing('x'): x[:] = 2")
    b.answer()
    low, high = b("x = shm.attach('hostA:x'); [int(x.min()), int(x.max())]")
    assert low == high  # 2, unless the copy was done before the write


@pytest.mark.long
def test_a_join_that_is_interrupted_ends_the_server_that_tried(hosts):
    a = hosts[0].kernel()
    a.begin(f"""
from shmkernel.hosts import channel
class Channel(channel.Channel):
    def receive(self):
        tell('asked')
        return super().receive()
channel.Channel = Channel
shm.join('tls/10.77.0.9', timeout={PATIENCE * 100})
""")
    assert a.hear() == {"event": "asked"}
    (agent,) = children(a.process.pid)
    os.kill(agent, signal.SIGINT)
    assert a.hear()["error"] == "KeyboardInterrupt"
    until(lambda: hosts[0].server() is None, "the server has ended")


@TEN_SECONDS
def test_the_segment_is_removed(hosts, copying):
    a, b = copying
    a("shm.unlink('x')")
    answer = b.hear()
    assert "FileNotFoundError" in answer["mro"], answer
    assert hosts[1].segments() == []


SMALL, LARGE = 1000, 100_000  # bytes that come with the offer, and bytes that do not
AT_THE_OFFER = """
import os, signal
from shmkernel.hosts import snapshots
filled = snapshots._filled
def offered(*arguments):
    {act}
    return filled(*arguments)
snapshots._filled = offered
y = shm.attach('hostA:x')
"""


@pytest.mark.long
@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_a_kernel_that_is_stopped_while_it_attaches_keeps_nobody_else_from_it(hosts, joined, size):
    a, b = joined
    other = hosts[1].kernel()
    a(f"x = shm.create('x', np.ones({size}, 'u1')); shm.share('x')")
    b.begin(AT_THE_OFFER.format(act="tell('offered'); os.kill(os.getpid(), signal.SIGSTOP)"))
    assert b.hear() == {"event": "offered"}
    try:
        assert other("int(shm.attach('hostA:x').sum())") == size
    finally:
        os.kill(b.process.pid, signal.SIGCONT)  # nsenter: it has stopped too, and lets its child go on
    assert b.hear() == {"value": None}
    assert b("int(y.sum())") == size


def test_a_forked_child_of_a_kernel_that_is_killed_while_it_attaches_keeps_nobody_else_from_it(hosts, joined):
    a, b = joined
    other = hosts[1].kernel()
    a(f"x = shm.create('x', np.ones({LARGE}, 'u1')); shm.share('x')")
    b.begin(AT_THE_OFFER.format(act="child = os.fork() or signal.pause(); tell(child); signal.pause()"))
    child = b.hear()["event"]
    (agent,) = children(b.process.pid)
    try:
        os.kill(agent, signal.SIGKILL)
        other("import time; start = time.monotonic(); x = shm.attach('hostA:x')")
        assert other("time.monotonic() - start") < server._SILENCE
    finally:
        other(f"import os; os.kill({child}, 9)")


def test_a_folder_that_is_full(hosts, joined):
    a, b = joined
    a(f"x = shm.create('x', shape={300 << 20}, dtype='u1'); y = shm.create('y', 1); shm.share('x'); shm.share('y')")
    error = b.fails("shm.attach('hostA:x')", "OSError")
    assert "FullError" in error.kinds
    assert error.facts["needed"] > error.facts["free"]
    assert hosts[1].segments() == []
    assert b("int(shm.attach('hostA:y'))") == 1


def test_an_error_of_another_host_says_so(joined):
    """Its cure belongs there: pasted here, it would remove a segment of this host."""
    a, b = joined
    a("x = shm.create('x', 1); shm.share('x'); open(shm.info('x').path, 'r+b').write(bytes(99)) and None")
    text = b.fails("shm.attach('hostA:x')", "DamagedError").text
    assert text.startswith("hostA says: 'x' is damaged")
    assert "unlink" not in text


def test_nothing_is_taken_through_the_shared_memory_or_multicast_of_zenoh():
    settings = network.settings(Identity("hostA", "", "", ""), "tls/[::]:7447", [])
    assert settings["transport"]["shared_memory"]["enabled"] is False
    assert settings["scouting"]["multicast"]["enabled"] is False
    assert settings["transport"]["link"]["protocols"] == ["tls"]
    assert settings["transport"]["link"]["tls"]["enable_mtls"] is True


def test_of_two_hosts_that_learn_of_each_other_one_connects():
    """If both did at the same time, each could refuse the other, for good: one pair in ten."""
    settings = network.settings(Identity("hostA", "", "", ""), "tls/[::]:7447", [])
    assert settings["scouting"]["gossip"]["autoconnect_strategy"]["peer"]["to_peer"] == "greater-zid"
