"""The process that serves this host: one for each user and folder of segments, started by the first `join`.

It connects to the other hosts, answers what they ask, and copies what the processes of this host ask for; so a busy
kernel slows nothing down, and no kernel has zenoh's threads. It is told what to do through a Unix socket. A liveliness
token goes when the name of its segment goes; if this process is killed, all go, and a copy in progress fails.

    lock    it holds an exclusive flock on this file, so there is one of it
    socket  requests: a connection each

It ends when it is told to leave, when the runtime folder is removed, and if it could not join.
"""

from __future__ import annotations

import base64
import contextlib
import json
import math
import os
import select
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from shmkernel._core import daemon, folders, launch, paths, registry, segment_file
from shmkernel._core.records import Origin
from shmkernel.errors import Cure, HostError, NotFoundError, TimedOutError
from shmkernel.hosts import channel, offering
from shmkernel.hosts.network import WAYS, Network
from shmkernel.sync import inotify

if TYPE_CHECKING:
    import socket

    from shmkernel.hosts.channel import Channel
    from shmkernel.hosts.offering import Offer

CODE = "import sys, json; sys.path[:] = json.loads(sys.argv.pop(1)); from shmkernel.hosts import server; server.run()"
_IDLE = 30.0  # seconds until the first request
_TRIES = 8  # copies of a segment that changes meanwhile
_PATIENCE = 10.0  # seconds that a writer may take
_CLIENT = 300.0  # seconds until a client has answered: it reserves memory meanwhile, or is frozen
_SILENCE = 5.0  # seconds of these in which others wait for its copy, and more for memory that it reserves:
_RESERVED = 256 << 20  # bytes in a second
_NAP = 0.05  # seconds
_HOLD = 10.0  # seconds after which a host that waits for another asks again: each learns that the other is there


class Server:
    """Carries out requests; `network` is None until the first `join`."""

    def __init__(self, lock: int) -> None:
        self.network: Network | None = None
        self._lock = lock
        self._ending = False
        self._turn = threading.Lock()  # held to join, share, unshare and leave
        self._turns: dict[tuple[str, str], threading.Lock] = {}  # held to copy: one copy of a segment at a time

    def serve(self, connection: socket.socket) -> None:
        """Carry out the request of one connection."""
        with channel.Channel(connection) as client, contextlib.suppress(EOFError, OSError):
            client.check_user()
            client.limit(_CLIENT)
            request, fd = client.receive()
            if fd is not None:
                os.close(fd)
            try:
                getattr(self, f"_do_{request.pop('do')}")(client, **request)
            except EOFError:  # the client has gone
                pass
            except Exception as error:  # noqa: BLE001  the client has to know of any
                if not self._ending:  # else it is of zenoh, which is closed: the client sees that this process ends
                    client.send({"error": channel.encoded(error)})
        self.end_if_idle()

    def end_if_idle(self) -> None:
        """End this process if it has not joined other hosts."""
        with self._turn:
            if self.network is None:
                self.end()

    def end(self) -> None:
        """Leave the other hosts, and end this process."""
        self._ending = True
        if os.fstat(self._lock).st_nlink:
            for part in ("socket", "lock"):
                with contextlib.suppress(OSError):
                    folders.unlink(paths.runtime("hosts", part))
        if self.network is not None:
            self.network.close()
        os._exit(0)

    def end_if_told(self) -> None:
        """End this process after SIGTERM: a handler would not run if the signal went to a thread of zenoh's."""
        signal.sigwait({signal.SIGTERM})
        self.end()

    def watch(self) -> None:
        """Withdraw the offers of segments that go, and end if the runtime folder does."""
        try:
            waiter = inotify.Waiter(paths.runtime("hosts", "lock"), paths.folder())
            while os.fstat(self._lock).st_nlink:
                for name in self.network.shared() if self.network else []:
                    if registry.inode_at(name) is None:
                        self._withdraw(name)
                waiter.wait()
        finally:  # without this thread, offers would stay
            self.end()

    def _withdraw(self, name: str) -> bool:
        """End the offer of a segment if its name is free; return whether it is."""
        with self._turn:  # the name may be new, and shared again
            gone = registry.inode_at(name) is None
            if gone and self.network is not None:
                self.network.unshare(name)
            return gone

    def _joined(self) -> Network:
        if self.network is None:
            raise HostError("this host has not joined others", Cure("Join", "join"))
        return self.network

    def _do_join(
        self,
        client: Channel,
        who: list[str],
        host: str | None,
        listen: str,
        given: bool,
        connect: list[str],
        patience: float,
    ) -> None:
        with self._turn:
            if self.network is None:
                network = Network(WAYS[listen.partition("/")[0]](*who), listen, connect)
                network.appear(patience, client.gone)
                self.network = network
            elif (
                not {*connect} <= {*self.network.connect}
                or (given and listen != self.network.listen)
                or host not in (None, self.network.host)
            ):
                known = ", ".join(self.network.connect) or "none"
                message = (
                    f"this host has joined already, as {self.network.host}; it listens at {self.network.listen}; "
                    f"the hosts it connects to: {known}"
                )
                raise HostError(message, Cure("To join others, first leave", "leave"), host=self.network.host)
        client.send({"host": self.network.host, "hosts": self.network.hosts()})

    def _do_share(self, client: Channel, name: str) -> None:
        offering.check(name)
        with self._turn:
            network = self._joined()
            network.share(name)
        if self._withdraw(name):  # it has gone before `watch` knew of it
            raise segment_file.missing(name)
        client.send({"host": network.host})

    def _do_unshare(self, client: Channel, name: str) -> None:
        with self._turn:
            network = self._joined()
            if not network.unshare(name):
                raise NotFoundError(f"{name!r} is not shared with other hosts", offering.SHARED, name=name)
        client.send({})

    def _do_offers(self, client: Channel) -> None:
        client.send({"offers": sorted(self._joined().offers())})

    def _do_leave(self, client: Channel) -> None:
        client.send({})
        self.end()

    def _do_fetch(self, client: Channel, name: str) -> None:
        """Copy a segment of another host to the file whose descriptor the client sends in answer to the offer.

        Other clients that want the same segment wait, and find the copy. If this client is silent, because it is
        stopped for example, they do not: the next one makes its own copy.
        """
        network = self._joined()
        place = network.find(name)
        with contextlib.ExitStack() as turn:
            turn.enter_context(self._turns.setdefault(place, threading.Lock()))

            def answer() -> int | None:
                if not client.answers(_SILENCE + offer.size / _RESERVED):
                    turn.close()
                return client.receive()[1]

            def tell(size: int) -> None:
                if not client.takes(_SILENCE):
                    turn.close()
                client.send({"bytes": size})

            for _ in range(_TRIES):
                offer, content = self._calm(network, *place)
                client.send({"offer": offer, "content": base64.b64encode(content).decode()})
                fd = answer()  # with the content, nothing: until it has named the copy
                if fd is None:
                    return
                # not found: it was replaced, so the next offer is of another, or there is none
                with contextlib.suppress(NotFoundError):
                    try:
                        network.fetch(offer, fd, tell)
                    finally:
                        os.close(fd)
                    if offer.same(network.offer(*place)):
                        client.send({"done": True})
                        answer()  # until it has named the copy: who waits here finds that
                        return
        message = f"{offer} changed {_TRIES} times while it was copied. Write to it under shm.writing(...), more rarely"
        raise TimedOutError(message, name=str(offer))

    def _do_wait(self, client: Channel, name: str, known: list[Any] | None, timeout: float | None) -> None:
        """Answer once a segment of another host has another version than the known one, or is another segment."""
        network, end = self._joined(), math.inf if timeout is None else time.monotonic() + timeout
        place = network.find(name)
        offer = network.offer(*place)  # its errors say more of a host that was never there
        origin = Origin(*place, *known) if known else offer.origin()
        newer = None
        while newer is None and not client.gone():
            left = end - time.monotonic()
            newer = network.newer(origin, max(0.0, min(left, _HOLD)))
            if left <= _HOLD:
                break
        client.send({"version": newer})

    def _calm(self, network: Network, host: str, name: str) -> tuple[Offer, bytes]:
        """Return an offer of a segment to which nobody writes, with its bytes if these are few."""
        until = time.monotonic() + _PATIENCE
        while True:
            offer, content = network.whole(host, name)
            if not offer.busy:
                return offer, content
            if time.monotonic() > until:
                message = f"{offer} is being written by {offer.busy}, or it has died while it wrote. "
                message += f"If so, write it again on {host} under shm.writing({name!r}), which clears this"
                raise TimedOutError(message, name=str(offer), holder=offer.busy)
            time.sleep(_NAP)


def arguments() -> list[str]:
    """Return the arguments with which `launch` starts this process: it gets this process's way to import."""
    ours = os.path.abspath(f"{__file__}/../../..")
    search = [path for entry in sys.path if os.path.isabs(path := os.fspath(entry))]
    return ["-c", CODE, json.dumps([*search, *([] if ours in search else [ours])]), paths.folder()]


def run() -> None:
    """Daemonize, answer, and serve. The standard input is the lock."""
    for ending in (signal.SIGINT, signal.SIGHUP):
        signal.signal(ending, signal.SIG_IGN)
    os.environ["SHMKERNEL_DIR"] = sys.argv[1]
    os.environ.pop(launch.MARK, None)
    daemon.close_inherited()
    daemon.detach()
    lock, tell = daemon.moved(0), daemon.moved(1)
    daemon.silence()  # first: what is opened next must not get the numbers of the streams
    try:
        listener = channel.listening()
    except OSError as error:
        os.write(tell, f"{error}\n".encode(errors="replace"))
        return
    server = Server(lock)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # in all threads but that of `end_if_told`
    threading.Thread(target=server.end_if_told, daemon=True).start()
    os.write(tell, launch.WATCHING)
    os.close(tell)
    if not select.select([listener], [], [], _IDLE)[0]:
        server.end_if_idle()
    threading.Thread(target=server.watch, daemon=True).start()
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=server.serve, args=[connection], daemon=True).start()
