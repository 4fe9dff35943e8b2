"""What comes with an offer: the bytes of a small segment, which its owner's side has compared."""

from __future__ import annotations

import numpy as np
import pytest

import shmkernel as shm
from shmkernel.hosts import offering


@pytest.fixture
def small():
    yield shm.create("x", np.array([1.0, 2.0]))
    shm.close("x")


@pytest.fixture
def meanwhile(monkeypatch):
    """Return a function: what it gets runs after the bytes were read."""

    def interpose(act):
        def piece(*arguments):
            read = read_piece(*arguments)
            if arguments[2] == 0:
                act()
            return read

        monkeypatch.setattr(offering, "piece", piece)

    read_piece = offering.piece
    return interpose


def test_the_bytes_of_a_small_segment_come_with_its_offer(small):
    offer, content = offering.whole("hostA", "x")
    assert offer == offering.of("hostA", "x")
    with open(shm.info("x").path, "rb") as file:
        assert content == file.read()


def test_those_of_a_large_one_do_not():
    x = shm.create("y", shape=100_000, dtype="u1")
    assert offering.whole("hostA", "y") == (offering.of("hostA", "y"), b"")
    del x


def test_bytes_that_are_being_written_do_not(small):
    with shm.writing("x"):
        offer, content = offering.whole("hostA", "x")
    assert offer.busy
    assert content == b""


def test_bytes_that_were_written_while_they_were_read_do_not(small, meanwhile):
    def write():
        with shm.writing("x"):
            small[:] = 7

    meanwhile(write)
    assert offering.whole("hostA", "x")[1] == b""


def test_bytes_of_a_segment_that_was_replaced_meanwhile_do_not(small, meanwhile):
    meanwhile(lambda: shm.create("x", np.array([3.0, 4.0]), replace=True))
    assert offering.whole("hostA", "x")[1] == b""


def test_a_damaged_segment_is_named_by_the_error_that_attach_gives(small):
    with open(shm.info("x").path, "r+b") as file:
        file.write(bytes(200))
    with pytest.raises(shm.DamagedError, match=r"'x' is damaged: .*unlink") as failed:
        offering.check("x")
    assert failed.value.name == "x"


def test_a_small_segment_is_attached_without_asking_for_its_bytes(joined):
    a, b = joined
    a("x = shm.create('x', np.arange(3)); shm.share('x')")
    b("from shmkernel.hosts import channel; send = channel.Channel.send")
    b("def only_ask(self, message, fd=None): assert fd is None; send(self, message)")
    b("channel.Channel.send = only_ask")
    assert b("shm.attach('hostA:x').tolist()") == [0, 1, 2]


WRONG = [{"size": 0}, {"size": "8"}, {"inode": -1}, {"created": float("nan")}, {"created": float("inf")}]


@pytest.mark.parametrize("wrong", WRONG)
def test_what_another_host_sends_as_an_offer_has_to_be_one(small, wrong):
    offer = offering.of("hostA", "x")
    assert offering.parsed([*offer]) == offer
    with pytest.raises(ValueError, match="an offer cannot be read"):
        offering.parsed([*offer._replace(**wrong)])
