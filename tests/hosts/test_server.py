"""The process that serves a host, without a network: clients that take nothing while it copies for them."""

from __future__ import annotations

import socket
import threading
from unittest import mock

import pytest

from shmkernel.hosts import channel, server
from shmkernel.hosts.offering import Offer
from tests.helpers import PATIENCE

OFFER = Offer("hostA", "x", "raw", "bytes", 1, 0, 1, 1.0, "")


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """Return a function, which asks for a segment and returns the client's end; and an event, which ends all copies."""
    monkeypatch.setattr(server, "_SILENCE", 0.0)  # each has said all before it is served
    with (tmp_path / "file").open("w+b") as file:
        serving, enough, threads, ends = server.Server(file.fileno()), threading.Event(), [], []

        def copy(_offer, _fd, tell):
            while not enough.is_set():
                tell(1)

        serving.network = mock.Mock()
        serving.network.find.return_value = OFFER[:2]
        serving.network.whole.return_value = OFFER, b""
        serving.network.offer.return_value = OFFER
        serving.network.fetch.side_effect = copy

        def ask():
            ours, its = socket.socketpair()
            client = channel.Channel(ours)
            client.limit(PATIENCE)
            client.send({"do": "fetch", "name": "hostA:x"})
            client.send({}, file.fileno())
            threads.append(threading.Thread(target=serving.serve, args=[its]))
            threads[-1].start()
            ends.append(client)
            return client

        yield ask, enough
        enough.set()
        for client in ends:
            client.close()
        for thread in threads:
            thread.join(PATIENCE)


def test_a_client_that_stops_while_it_is_copied_for_keeps_nobody_else_from_the_segment(asked):
    ask, enough = asked
    stopped = ask()
    assert "offer" in stopped.receive()[0]
    assert "bytes" in stopped.receive()[0]  # it is copied for, and from now on reads nothing
    assert "offer" in ask().receive()[0]
    enough.set()
    while "bytes" in (message := stopped.receive()[0]):
        pass
    assert message == {"done": True}  # it goes on, and has its copy
