"""Connect the hosts of a user by zenoh, peer to peer: no server to run, no multicast.

They know each other by certificates, over mutual TLS, or by a user and password, over TCP.

    shmkernel/1/host/<host>              a liveliness token: the host is there
    shmkernel/1/shared/<host>/<name>     a liveliness token: it shares this segment; zenoh removes it if the host dies
    shmkernel/1/ask/<host>/offers/-      a query: all offers of the host
    shmkernel/1/ask/<host>/offer/<name>  a query: the offer of a segment, with its bytes if it is small
    shmkernel/1/ask/<host>/piece/<name>  a query: a piece of it, 4 MB at most
    shmkernel/1/ask/<host>/newer/<name>  a query: its version, once it is another than a given one; or nothing new

A host that has died sends no error, but no reply. So whoever asks counts replies, and bytes.
"""

from __future__ import annotations

import base64
import collections
import json
import re
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

from shmkernel._core import segment_file
from shmkernel._core.imports import importing
from shmkernel.errors import ArgumentError, Cure, DamagedError, HostError, NotFoundError, ShmError, UnsupportedError
from shmkernel.hosts import channel, offering
from shmkernel.hosts.certificates import Identity
from shmkernel.hosts.offering import PIECE, Offer
from shmkernel.hosts.passwords import Login

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from shmkernel._core.records import Origin

ROOT = "shmkernel/1"
_LEASE = 5000  # milliseconds without a sign of life, after which a host counts as dead
_RETRY = {"period_init_ms": 200, "period_max_ms": 2000, "period_increase_factor": 2}  # in the background, for ever
# Of two hosts that learn of each other by a third, one connects. If both do, each may refuse the other, for good.
_ONE_SIDE = {"peer": {"to_router": "always", "to_peer": "greater-zid"}}
_ANSWER = 300.0  # seconds for a reply: the lease tells of dead hosts, and a piece may take long
_ALL = 1 << 30  # replies that wait until they are read
_NAMED = 5  # hosts that an error names
_LEAST = 256 << 10  # bytes of a piece, if not the last; the network's overhead would be large
_SHARE = 0.1  # seconds that a piece takes in a slow network
_WINDOW = 4  # pieces that are asked for before the first has come
_CLOSING = 2.0  # seconds; the end of this process closes all likewise
_NAP = 0.02  # seconds between two looks for the first host


WAYS: dict[str, type[Identity | Login]] = {"tls": Identity, "tcp": Login}  # by the protocol that zenoh uses
_DOUBTS = {
    "tls": (
        "the certificates of both are not from the same authority, or one has expired, or it is not for this address, "
        "or the other has joined by a password: tcp/"
    ),
    "tcp": (
        "user and password are not the same on both (shmkernel hosts password), or the other has joined by its "
        "certificate: tls/"
    ),
}


def settings(who: Identity | Login, listen: str, connect: Sequence[str]) -> dict[str, Any]:
    """Return zenoh's configuration."""
    transport = _password(who) if isinstance(who, Login) else _certificates(who)
    transport["link"]["tx"] = {"lease": _LEASE}
    return {
        "mode": "peer",
        "listen": {"endpoints": [listen]},
        "connect": {"endpoints": [*connect], "timeout_ms": -1, "exit_on_failure": False, "retry": _RETRY},
        "scouting": {"multicast": {"enabled": False}, "gossip": {"enabled": True, "autoconnect_strategy": _ONE_SIDE}},
        "transport": {
            **transport,
            "shared_memory": {"enabled": False},  # it would leave files in /dev/shm if the process is killed
        },
    }


def _certificates(identity: Identity) -> dict[str, Any]:
    def encoded(text: str) -> str:
        return base64.b64encode(text.encode()).decode()

    own = {"private_key_base64": encoded(identity.key), "certificate_base64": encoded(identity.certificate)}
    tls = {
        "root_ca_certificate_base64": encoded(identity.authority),
        "enable_mtls": True,  # a host that shows no certificate of the authority is refused
        "verify_name_on_connect": True,
        "close_link_on_expiration": True,
        **{f"{side}_{what}": text for side in ("listen", "connect") for what, text in own.items()},
    }
    return {"link": {"protocols": ["tls"], "tls": tls}}


def _password(login: Login) -> dict[str, Any]:
    own = {"user": login.user, "password": login.key}
    return {"link": {"protocols": ["tcp"]}, "auth": {"usrpwd": {**own, "dictionary_file": login.dictionary}}}


def _host_in(address: str) -> str:
    return address.partition("/")[2].rpartition(":")[0].strip("[]")


def _is_known(host: str) -> bool:
    """Return whether a host's name leads to an address; zenoh does not say."""
    try:
        return bool(socket.getaddrinfo(host, None))
    except (OSError, UnicodeError):  # too long, for example
        return False


def _fitting(done: int, seconds: float) -> int:
    """Return how many bytes to ask for at once: what comes meanwhile, a small attach for example, waits behind them."""
    return max(_LEAST, min(PIECE, int(_SHARE * done / max(seconds, 1e-6))))


class Network:
    """The connection of this host to others: what it offers them, and what they offer."""

    def __init__(self, who: Identity | Login, listen: str, connect: Sequence[str]) -> None:
        try:
            with importing:
                import zenoh  # noqa: PLC0415  an extra
        except ModuleNotFoundError:
            message = 'hosts are connected by zenoh: pip install "shmkernel[hosts]"'
            raise UnsupportedError(message, package="eclipse-zenoh") from None
        self._zenoh: Any = zenoh
        self.host, self.listen, self.connect = who.host, listen, [*connect]
        self.way = listen.partition("/")[0]
        self._kept: list[Any] = []
        self._seen: set[str] = set()  # hosts that have been there since this one joined
        self._tokens: dict[str, Any] = {}
        try:
            config = zenoh.Config.from_json5(json.dumps(settings(who, listen, connect)))
            self._session = self._zenoh.open(config)
        except zenoh.ZError as error:
            why = re.sub(r" at \S+\.rs:\d+\.?", "", str(error))  # without zenoh's source lines
            another = Cure("Choose another port, for example", listen=f"{self.way}/0.0.0.0:7448")
            cures = [another] if "in use" in why else []
            raise HostError(f"this host cannot listen at {listen}, or connect: {why}", *cures, listen=listen) from None

    def appear(self, patience: float, given_up: Callable[[], bool]) -> None:
        """Wait until one of the given hosts is there, then let others see this one; close if that fails."""
        try:
            self._wait(patience, given_up)
            for what in ("offers", "offer", "piece"):  # a thread each: an offer does not wait for pieces
                key = f"{ROOT}/ask/{self.host}/{what}/*"
                self._kept.append(self._session.declare_queryable(key, self._answer))
            key = f"{ROOT}/ask/{self.host}/newer/*"
            self._kept.append(self._session.declare_queryable(key, self._answer_later))
            watcher = self._session.liveliness().declare_subscriber(f"{ROOT}/host/*", self._see, history=True)
            self._kept.append(watcher)
            self._kept.append(self._session.liveliness().declare_token(f"{ROOT}/host/{self.host}"))
        except BaseException:
            self.close()
            raise

    def _wait(self, patience: float, given_up: Callable[[], bool]) -> None:
        until = time.monotonic() + patience
        while self.connect and not self.hosts():
            if given_up():
                raise EOFError
            if time.monotonic() > until:
                what = f"no host has answered at {', '.join(self.connect)} within {patience:g} s"
                why = f"Either none has joined there, or the way is blocked, or {_DOUBTS[self.way]}"
                if unknown := [host for host in map(_host_in, self.connect) if not _is_known(host)]:
                    why = f"This machine finds no address for the name {' and '.join(unknown)}"
                raise HostError(f"{what}. {why}", connect=", ".join(self.connect))
            time.sleep(_NAP)
        if self.host in self.hosts():
            what = f"another host has joined as {self.host}: each needs a name of its own"
            if self.way == "tls":
                raise HostError(f"{what}, so a certificate of its own", host=self.host)
            raise HostError(what, Cure("For example", host="hostB"), host=self.host)

    def close(self) -> None:
        """Leave: the tokens go, the connections end. The process should end soon after."""
        closing = threading.Thread(target=self._session.close, daemon=True)  # zenoh may wait for a host that is gone
        closing.start()
        closing.join(_CLOSING)

    def hosts(self) -> list[str]:
        """Return the names of the hosts that are there, this one included once it has appeared."""
        return sorted(key[-1] for key in self._alive(f"{ROOT}/host/*"))

    def _see(self, sample: Any) -> None:
        self._seen.add(str(sample.key_expr).split("/")[-1])

    def shared(self) -> list[str]:
        """Return the names of the segments that this host shares."""
        return sorted(self._tokens.copy())

    def share(self, name: str) -> None:
        """Offer a segment to the other hosts."""
        if name not in self._tokens:
            token = self._session.liveliness().declare_token(f"{ROOT}/shared/{self.host}/{name}")
            self._tokens[name] = token

    def unshare(self, name: str) -> bool:
        """Offer it no longer; return whether it was offered."""
        token = self._tokens.pop(name, None)
        if token is not None:
            token.undeclare()
        return token is not None

    def offers(self) -> Iterator[Offer]:
        """Yield all offers of all hosts."""
        for reply in self._replies(f"{ROOT}/ask/*/offers/-"):
            if reply.ok is not None:
                host = str(reply.ok.key_expr).split("/")[-3]
                fields = json.loads(reply.ok.payload.to_bytes())
                yield from (offer for offer in map(offering.parsed, fields) if offer.host == host)

    def find(self, name: str) -> tuple[str, str]:
        """Return host and name of ``host:name``, or of a name that one other host shares."""
        host, colon, rest = name.rpartition(":")
        if colon:  # the host itself knows best: its token may still be on the way
            if host == self.host:
                what = f"{name}: {host} is this host"
                raise NotFoundError(what, offering.SHARED, name=name, similar=[])
            return host, rest
        sharing = sorted(key[-2] for key in self._alive(f"{ROOT}/shared/*/{rest}"))
        sharing = [one for one in sharing if one != self.host]
        if len(sharing) > 1:
            names = " or ".join(f"{one}:{rest}" for one in sharing[:_NAMED])
            more = f" or one of {len(sharing) - _NAMED} more" if len(sharing) > _NAMED else ""
            raise ArgumentError(f"several hosts share {rest!r}: {names}{more}", name=name)
        if not sharing:
            raise NotFoundError(f"no host shares {name!r}", offering.SHARED, name=name, similar=[])
        return sharing[0], rest

    def offer(self, host: str, name: str) -> Offer:
        """Ask a host for the present offer of a segment."""
        return self.whole(host, name)[0]

    def whole(self, host: str, name: str) -> tuple[Offer, bytes]:
        """Ask a host for the present offer of a segment, with its bytes if these are few, else with none."""
        fields, _, content = self._ask(host, "offer", name).partition(b"\n")
        try:
            offer = offering.parsed(json.loads(fields))
        except (ValueError, ShmError):
            raise DamagedError(f"{host}:{name}: its host has sent what is no offer", name=name) from None
        if (offer.host, offer.name) != (host, name) or len(content) not in (0, offer.size):
            raise DamagedError(f"{host}:{name}: its host has sent another offer", name=name)
        return offer, content

    def newer(self, known: Origin, patience: float) -> int | None:
        """Ask a host for the version of a segment once it is another than the known one; None after so many seconds."""
        host, name, inode, version, created = known
        told = f"inode={inode};version={version};created={created};patience={patience}"
        key = f"{ROOT}/ask/{host}/newer/{name}?{told}"
        content = self._content(host, self._replies(key))
        if content is None:
            message = f"{host}:{name}: its host was lost while it was asked for a new version"
            raise HostError(message, offering.REACHED, name=f"{host}:{name}", host=host)
        found = json.loads(content)
        return None if found is None else int(found)

    def fetch(self, offer: Offer, fd: int, told: Callable[[int], None]) -> None:
        """Write the bytes of an offer to a file, in pieces; `told` is called with the size of each.

        Raises
        ------
        HostError
            With the number of bytes that have come, if its host dies or the way is cut.
        NotFoundError
            If the segment was replaced or removed.
        """
        waiting: collections.deque[tuple[int, Any]] = collections.deque()
        asked = done = 0
        start = time.monotonic()
        while done < offer.size:
            while asked < offer.size and len(waiting) < _WINDOW:
                size = min(_fitting(done, time.monotonic() - start), offer.size - asked)
                waiting.append((size, self._get(offer, asked, size)))
                asked += size
            size, replies = waiting.popleft()
            content = self._content(offer.host, replies)
            if content is None:
                raise offering.broken(offer, done, "its host was lost")
            if len(content) != size:
                raise offering.broken(offer, done, f"{len(content)} bytes came in place of {size}")
            segment_file.write(fd, content, done)
            done += size
            told(size)

    def _get(self, offer: Offer, at: int, size: int) -> Any:
        key = f"{ROOT}/ask/{offer.host}/piece/{offer.name}?inode={offer.inode};at={at};size={size}"
        return self._replies(key, priority=self._zenoh.Priority.DATA_LOW)

    def _ask(self, host: str, what: str, name: str) -> bytes:
        content = self._content(host, self._replies(f"{ROOT}/ask/{host}/{what}/{name}"))
        if content is not None:
            return content
        where = f"{host}:{name}"
        if host in self._seen:
            message = f"{where}: {host} was lost, or has left"
            raise HostError(message, offering.REACHED, name=where, host=host)
        raise NotFoundError(f"{where}: {host} has not joined", offering.SHARED, name=where, similar=[])

    def _content(self, host: str, replies: Any) -> bytes | None:
        """Return the content of the only reply of a host, None if there is none; raise the error that it is."""
        for reply in replies:
            if reply.ok is not None:
                content: bytes = reply.ok.payload.to_bytes()
                return content
            try:
                message = json.loads(reply.err.payload.to_bytes())
            except ValueError:  # of zenoh itself: the time is over
                return None
            error = channel.decoded(message)
            error.cures = ()  # they, and what the text proposes, are for that host
            raise error.reworded(f"{host} says: {error.what}")
        return None

    def _replies(self, key: str, **how: Any) -> Any:
        """Ask, and return the replies as they come."""
        return self._asked(self._session.get, key, **how)

    def _asked(self, get: Callable[..., Any], key: str, **how: Any) -> Any:
        """Return the replies that `get` brings: it would wait for a reader if there were more than have room."""
        return get(key, self._zenoh.handlers.FifoChannel(_ALL), timeout=_ANSWER, **how)

    def _alive(self, pattern: str) -> Iterator[list[str]]:
        for reply in self._asked(self._session.liveliness().get, pattern):
            if reply.ok is not None:
                yield str(reply.ok.key_expr).split("/")

    def _answer(self, query: Any) -> None:
        """Answer the query of another host; zenoh calls this in a thread of its own."""
        with query:
            try:
                *_, what, name = str(query.key_expr).split("/")
                content = self._answered(what, name, query.parameters)
            except Exception as error:  # noqa: BLE001  the other side has to know of any
                query.reply_err(json.dumps(channel.encoded(error)))
            else:
                query.reply(f"{ROOT}/ask/{self.host}/{what}/{name}", content)

    def _answer_later(self, query: Any) -> None:
        """Answer in a thread of its own what is asked long before the answer is known."""
        threading.Thread(target=self._answer, args=[query], daemon=True).start()

    def _answered(self, what: str, name: str, parameters: Any) -> bytes:
        if what == "offers":
            return json.dumps([*self._own()]).encode()
        if name not in self._tokens:
            raise NotFoundError(f"{name!r} is not shared with other hosts", name=name)
        if what == "offer":
            offer, content = offering.whole(self.host, name)
            return json.dumps(offer).encode() + b"\n" + content
        if what == "newer":
            inode, version = (int(parameters.get(word)) for word in ("inode", "version"))
            created, patience = (float(parameters.get(word)) for word in ("created", "patience"))
            found = offering.newer(name, inode, version, created, patience)
            return json.dumps(found).encode()
        inode, at, size = (int(parameters.get(word)) for word in ("inode", "at", "size"))
        return offering.piece(name, inode, at, size)

    def _own(self) -> Iterator[Offer]:
        for name in self.shared():
            try:
                yield offering.of(self.host, name)
            except (OSError, ValueError, UnsupportedError):  # it goes just now, is damaged, or is a dict by now
                continue
