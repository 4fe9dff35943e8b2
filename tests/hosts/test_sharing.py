"""Segments of another host: a snapshot for each host, made once and then shared without copies."""

from __future__ import annotations

import os
import signal

import pytest

from tests.helpers import PATIENCE, until

MANY = 9_000_001  # bytes, and no multiple of a piece


def test_an_array_of_another_host_is_attached_as_a_snapshot_that_all_kernels_share(hosts, joined):
    a, b = joined
    a(f"x = shm.create('x', np.random.default_rng(0).integers(0, 256, {MANY}, 'u1')); shm.publish('x')")
    assert a("shm.share('x')") == "hostA:x"
    assert [offer[:3] for offer in b("shm.offers()")] == [["hostA", "x", "array"]]
    total = a("int(x.sum())")
    assert b("x = shm.attach('hostA:x'); [int(x.sum()), x.flags.writeable]") == [total, False]
    facts = "import os; [os.stat(shm.info('x').path).st_ino, 1, shm.info('x').created]"
    assert b("shm.info('hostA.x').origin") == ["hostA", "x", *a(facts)]
    other = hosts[1].kernel()
    same = "import os; os.stat(shm.info('hostA.x').path).st_ino"
    assert other("y = shm.attach('hostA:x'); int(y.sum())") == total
    assert other(same) == b(same)
    assert hosts[1].segments() == ["shmk-0-hostA.x"]
    assert b("shm.attach('x') is x")  # one other host shares it
    assert "snapshot here is hostA.x" in b.fails("shm.info('hostA:x')", "ValueError").text


def test_to_publish_a_snapshot_or_write_to_it_is_refused_with_what_can_be_done(joined):
    a, b = joined
    a("x = shm.create('x', np.zeros(3)); shm.share('x')")
    b("x = shm.attach('hostA:x')")
    for code in ("shm.publish('hostA.x')", "shm.writing(x).__enter__()"):
        refused = b.fails(code, "RefusedError").text
        assert refused.endswith("a snapshot of hostA:x does not change. Write to it on hostA: that is published there")


def test_a_snapshot_is_read_only_and_its_copy_is_private(joined):
    a, b = joined
    a("x = shm.create('x', np.array([1, 2, 3])); shm.share('x')")
    error = b.fails("shm.attach('hostA:x', mode='r+')", "PermissionError")
    assert "snapshot of hostA:x" in error.text
    assert b("y = shm.attach('hostA:x', mode='c'); y[0] = 7; [y.tolist(), shm.attach('hostA:x').tolist()]") == [
        [7, 2, 3], [1, 2, 3],
    ]  # fmt: skip


def test_all_kinds_go_but_those_that_change_all_the_time(joined):
    a, b = joined
    a("l = shm.create('l', ['a', 1, None]); o = shm.create('o', {1, 2}); r = shm.create('r', b'abc')")
    a("[shm.share(name) for name in 'lor']")
    assert b("[*shm.attach('hostA:l')]") == ["a", 1, None]
    assert b("sorted(shm.attach('hostA:o'))") == [1, 2]
    assert b("bytes(shm.attach('hostA:r').buf[:3]).decode()") == "abc"
    a("f = shm.create('f', ring=4, shape=(2,))")
    assert "ring" in a.fails("shm.share('f')", "TypeError").text


def test_an_object_that_was_pickled_elsewhere_needs_consent(joined):
    a, b = joined
    a("import functools; o = shm.create('o', functools.partial(int, base=2), allow_pickle=True); shm.share('o')")
    b.fails("shm.attach('hostA:o')", "PermissionError")
    assert b("shm.attach('hostA:o', allow_pickle=True)('11')") == 3


def test_only_what_is_shared_can_be_seen_and_only_as_long_as_it_is(joined):
    a, b = joined
    a("x = shm.create('x', 1); y = shm.create('y', 2); shm.share('x')")
    assert "hostA says: 'y' is not shared" in b.fails("shm.attach('hostA:y')", "FileNotFoundError").text
    b.fails("shm.attach('y')", "FileNotFoundError")
    a("shm.unshare('x')")
    b.fails("shm.attach('hostA:x')", "FileNotFoundError")
    a.fails("shm.unshare('x')", "FileNotFoundError")
    assert b("shm.offers()") == []


def test_an_offer_goes_with_the_name_of_its_segment(hosts, joined):
    a, b = joined
    owner = hosts[0].kernel()
    owner("x = shm.create('x', 1)")
    a("y = shm.create('y', 1); shm.share('x'); shm.share('y')")
    a("shm.unlink('y')")
    owner.end()
    until(lambda: b("shm.offers()") == [], "both are gone")


def test_refresh_copies_what_has_a_new_version(joined):
    a, b = joined
    a("x = shm.create('x', np.array([1, 2])); shm.share('x')")
    b("x = shm.attach('hostA:x')")
    assert b("shm.attach('hostA:x', refresh=True) is x")  # nothing new
    a("x[:] = 3; shm.publish('x')")
    assert b("shm.attach('hostA:x').tolist()") == [1, 2]
    assert b("y = shm.attach('hostA:x', refresh=True); [x.tolist(), y.tolist()]") == [[1, 2], [3, 3]]
    assert b("shm.info('hostA.x').origin.version") == 1
    assert b("shm.attach('hostA.x', refresh=True) is y")  # by the name that it has here
    b("z = shm.create('z', 1)")
    assert "of this host" in b.fails("shm.attach('z', refresh=True)", "ValueError").text


def test_refresh_is_heeded_by_the_first_magic_of_a_kernel(hosts, joined):
    a, b = joined
    a("x = shm.create('x', np.array([1, 2])); shm.share('x')")
    b("shm.attach('hostA:x')")
    a("x[:] = 3; shm.publish('x')")
    fresh = hosts[1].kernel()
    fresh("from IPython.core.interactiveshell import InteractiveShell; magic = InteractiveShell().run_line_magic")
    fresh("import contextlib, io; magic('load_ext', 'shmkernel')")
    fresh("with contextlib.redirect_stdout(io.StringIO()) as said: x = magic('shm_attach', 'hostA:x --refresh')")
    assert fresh("[x.tolist(), said.getvalue()[:11]]") == [[3, 3], "x = hostA.x"]


@pytest.mark.long
def test_what_its_owner_has_left_half_written_is_refused(hosts, joined):
    a, b = joined
    a("x = shm.create('x', np.array([1, 2]), lifetime='keep'); shm.share('x')")
    dying = hosts[0].kernel()
    dying.begin("import os; x = shm.attach('x'); shm.writing('x').__enter__(); os.kill(os.getpid(), 9)")
    dying.end()
    refused = b.fails("shm.attach('hostA:x')", "TimeoutError").text
    assert "is being written" in refused
    assert refused.endswith("write it again on hostA under shm.writing('x'), which clears this")
    a("with shm.writing('x'): x[:] = 5")
    assert b("shm.attach('hostA:x').tolist()") == [5, 5]
    a("shm.unlink('x')")


def test_a_host_that_has_not_joined_says_so(hosts):
    a = hosts[0].kernel()
    a("x = shm.create('x', 1)")
    assert "has not joined" in a.fails("shm.share('x')", "ConnectionError").text
    assert "has not joined" in a.fails("shm.attach('hostB:x')", "ConnectionError").text
    assert a("[shm.offers(), shm.leave()]") == [[], False]


def test_a_name_that_leads_to_no_address_is_told(hosts):
    text = hosts[0].kernel().fails("shm.join('tls/no.such.host.invalid', timeout=0.1)", "ConnectionError").text
    assert text.endswith("This machine finds no address for the name no.such.host.invalid")


def test_a_port_that_is_taken_has_a_cure(hosts):
    a = hosts[0].kernel()
    a("import socket; taken = socket.create_server(('', 7447))")
    text = a.fails("shm.join(listen='tls/0.0.0.0')", "ConnectionError").text
    option = text.rpartition("Choose another port, for example: ")[2]
    assert a(f"shm.join({option})") == ["hostA"]


def test_joining_twice_is_joining_once_and_leaving_ends_it(hosts, joined):
    a, b = joined
    assert b("shm.join('tls/10.77.0.1')") == ["hostA", "hostB"]
    assert "joined already" in b.fails("shm.join('tls/10.77.0.9')", "ConnectionError").text
    assert b("shm.join(host='hostB')") == ["hostA", "hostB"]
    certificate = f"{hosts[1].data}/shmkernel/hosts/host{{}}.pem"
    os.link(certificate.format("B"), certificate.format("C"))
    try:
        assert "as hostB" in b.fails("shm.join(host='hostC')", "ConnectionError").text
    finally:
        os.unlink(certificate.format("C"))
    assert b("shm.leave()")
    assert hosts[1].server() is None
    until(lambda: a("shm.join()") == ["hostA"], "the other host knows")


def test_a_server_that_is_killed_leaves_nothing_that_matters(hosts, joined):
    a, b = joined
    a("x = shm.create('x', 1); shm.share('x')")
    hosts[0].signal_server(signal.SIGKILL)
    until(lambda: b("shm.offers()") == [], "its offers are gone")
    a.fails("shm.attach('nothing')", "FileNotFoundError")
    assert hosts[0].segments() == ["shmk-0-x"]  # no file of zenoh's shared memory
    assert a("shm.join(listen='tls/10.77.0.1')")[0] == "hostA"
    assert a("shm.share('x')") == "hostA:x"


def test_a_join_waits_for_a_host_that_joins_later(hosts):
    a, b = (host.kernel() for host in hosts)
    before = hosts[1].refusals()
    b.begin(f"shm.join('tls/10.77.0.1', timeout={PATIENCE})")
    until(lambda: hosts[1].refusals() > before, "it has tried to connect")
    a("shm.join(listen='tls/10.77.0.1')")
    assert b.answer() == ["hostA", "hostB"]


def test_a_name_that_a_snapshot_needs_is_taken(joined):
    """The error proposed to attach the other segment, and an option that `attach` does not take."""
    a, b = joined
    a("x = shm.create('x', 1); shm.share('x')")
    b("mine = shm.create('hostA.x', 2)")
    error = b.fails("shm.attach('hostA:x')", "TakenError")
    assert error.text == (
        "hostA:x: its snapshot needs the name 'hostA.x', which another segment has. "
        "If nobody needs that any more, unlink it: shm.unlink('hostA.x')"
    )
    b("del mine; shm.unlink('hostA.x')")
    assert b("int(shm.attach('hostA:x'))") == 1


RESTARTED = """
from shmkernel._core import records, registry
with registry.locked():
    record = records.read(registry.inode_at('x'))
    records.change(record._replace(created=record.created + 1))
"""


def test_a_segment_of_a_host_that_was_restarted_is_another_although_inode_and_version_are_the_same(joined):
    """A new /dev/shm numbers both from the start, so a snapshot of the old one looked up to date."""
    a, b = joined
    a("x = shm.create('x', np.array([1, 2])); shm.share('x')")
    b("x = shm.attach('hostA:x')")
    a(f"x[:] = 3{RESTARTED}")
    assert b("shm.wait('hostA:x', timeout=10)") == 0
    assert b("shm.attach('hostA:x', refresh=True).tolist()") == [3, 3]


@pytest.mark.parametrize("other", ["{'a': 1}", "ring=4, shape=(2,)"], ids=["dict", "ring"])
def test_a_dict_or_ring_that_replaces_what_is_shared_is_refused(joined, other):
    """The kind was checked by `share` alone: who attached got an endless iterator, or an error about 64 GiB."""
    a, b = joined
    a("x = shm.create('x', np.array([1, 2])); shm.share('x')")
    b("x = shm.attach('hostA:x')")
    a(f"x = shm.create('x', {other}, replace=True)")
    for attempt in ("attach('hostA:x', refresh=True)", "wait('hostA:x')"):
        assert "changes all the time" in b.fails(f"shm.{attempt}", "UnsupportedError").text
    assert b("shm.offers()") == []
    a("del x; shm.unlink('x')")
