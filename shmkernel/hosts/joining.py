"""The verbs for several hosts: join, share, unshare, offers, leave. `snapshots` has what `attach` needs."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import socket
import time
from typing import TYPE_CHECKING, Any

from shmkernel._core import closing, counts, folders, launch, limits, oflock, paths
from shmkernel.errors import ArgumentError, Cure, HostError
from shmkernel.hosts import certificates, channel, offering, passwords, server
from shmkernel.hosts.offering import Offer

if TYPE_CHECKING:
    import builtins
    from collections.abc import Sequence

    from shmkernel._core.closing import Description
    from shmkernel.hosts.channel import Channel

__all__ = ["Offer", "join", "leave", "offers", "share", "unshare"]

PORT = 7447
_LAST_PORT = (1 << 16) - 1
_PLACE = re.compile(r"(?P<host>\w[\w.-]*|\[[\w:.%]+\])(:(?P<port>\d{1,5}))?", re.ASCII)
_ANY = "0.0.0.0"  # noqa: S104  others are to connect; zenoh keeps out who is not of this user
_WORDS = {"tls": "by certificates, encrypted", "tcp": "by user and password, not encrypted"}
_STARTING = 30.0  # seconds until another process has started the server
_NAP = 0.01
_TRIES = 3


@limits.explains
def join(*hosts: str, listen: str | None = None, host: str | None = None, timeout: float = 10.0) -> builtins.list[str]:
    """Connect this host to others, by a process that serves it until `leave`.

    Nothing is shared by that: see `share`. Hosts know each other by the certificates that ``shmkernel hosts init`` has
    made, over TLS (``tls/``); or by the user and password that ``shmkernel hosts password`` has set, over TCP
    (``tcp/``), where everybody in the network can read what is copied. Without ``tls/`` or ``tcp/`` the password is
    used if there is no certificate.

    Parameters
    ----------
    *hosts : str
        Where others listen: ``tls/hostA:7447``. Without, this host only listens.
    listen : str, optional
        Where this host listens, by default at port 7447 of all its addresses.
    host : str, optional
        The name of this host, by default that of its certificate, or of the machine.
    timeout : float
        Seconds in which one of `hosts` has to answer.

    Returns
    -------
    list of str
        The names of the hosts that are connected, this one among them.

    Raises
    ------
    HostError
        A ConnectionError: no host has answered, or this host has joined others already.
    """
    patience = counts.seconds(timeout)
    if host is not None:
        certificates.check_host(host)
    way = _way([*hosts, *([listen] if listen else [])])
    connect = [_address(text, way) for text in hosts]
    where = _address(listen or ("[::]" if socket.has_dualstack_ipv6() else _ANY), way)
    who = certificates.identity(host) if way == "tls" else passwords.login(host)
    answer = None
    for _ in range(_TRIES):
        with channel.connected() or _started() as running:
            answer = _asked(
                running,
                do="join",
                who=who,
                host=host,
                listen=where,
                given=bool(listen),
                connect=connect,
                patience=patience,
            )
        if answer is not None:  # else it was just ending
            break
    names: builtins.list[str] = _sure(answer)["hosts"]
    return names


@limits.explains
def share(name: str) -> str:
    """Let the other hosts copy a segment, and return the name it has there: ``hostA:x``.

    This ends with `unshare`, with `leave`, and when the segment's name goes.

    Raises
    ------
    NotFoundError
        There is no segment of this name.
    DamagedError
        A ValueError: the segment cannot be read.
    UnsupportedError
        A TypeError: a dict or ring changes all the time, so no copy of it is whole.
    HostError
        A ConnectionError: this host has not joined others.
    """
    offering.check(name)
    return f"{_ask(do='share', name=name)['host']}:{name}"


@limits.explains
def unshare(name: str) -> None:
    """End what `share` has begun. Snapshots that other hosts have stay theirs.

    Raises
    ------
    NotFoundError
        This host does not share the name.
    """
    paths.path_of(name)  # checks it
    _ask(do="unshare", name=name)


def offers() -> builtins.list[Offer]:
    """Return what all joined hosts share, this one included; an empty list if it has not joined others."""
    running = channel.connected()
    if running is None:
        return []
    with running:
        return [*map(offering.parsed, _sure(_asked(running, do="offers"))["offers"])]


def leave() -> bool:
    """Disconnect this host from the others, which can no longer copy its segments; snapshots stay.

    Returns
    -------
    bool
        Whether it had joined.
    """
    running = channel.connected()
    if running is None:
        return False
    with running, contextlib.suppress(EOFError, ConnectionResetError):
        running.send({"do": "leave"})
        while True:  # until its process has ended
            running.receive()
    return True


def _way(addresses: Sequence[str]) -> str:
    """Return the protocol that all addresses have; without one, that of what is there: TLS before TCP."""
    for text in addresses:
        if not isinstance(text, str):
            raise _no_address(text)
    given = sorted({text.partition("/")[0] for text in addresses if "/" in text})
    if len(given) > 1:
        raise ArgumentError(f"a host joins in one way, not in several: {', '.join(f'{way}/' for way in given)}")
    if given:
        return given[0]
    return "tcp" if passwords.exists() and not certificates.exist() else "tls"


def _address(text: str, way: str) -> str:
    """Return an address in zenoh's form; the protocol and the port may be left out."""
    parts = _PLACE.fullmatch(text.rpartition("/")[2])
    if way not in _WORDS or not parts or text.count("/") > 1 or int(parts["port"] or PORT) > _LAST_PORT:
        raise _no_address(text)
    return f"{way}/{parts['host']}:{parts['port'] or PORT}"


def _no_address(text: object) -> ArgumentError:
    known = " or ".join(f"{way}/NAME:{PORT} ({words})" for way, words in _WORDS.items())
    return ArgumentError(f"{text!r} is no address of a host: give {known}", address=text)


def _ask(**request: object) -> dict[str, Any]:
    running = channel.connected()
    if running is None:
        raise HostError("this host has not joined others", Cure("Join", "join"))
    with running:
        return _sure(_asked(running, **request))


def _asked(running: Channel, **request: object) -> dict[str, Any] | None:
    """Return the answer of the process that serves this host, None if that has ended."""
    try:
        running.send(request)
        return running.receive()[0]
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return None


def _sure(answer: dict[str, Any] | None) -> dict[str, Any]:
    if answer is None:
        raise HostError("the process that serves this host has ended", Cure("Join again", "join"))
    return answer


def _started() -> Channel:
    """Start the process that serves this host, or wait until another process has."""
    folders.prepare()
    with contextlib.suppress(FileExistsError):
        folders.mkdir(paths.runtime("hosts"))
    until = time.monotonic() + _STARTING
    while (running := channel.connected()) is None:
        if lock := _locked():
            with contextlib.closing(lock):
                try:
                    launch.run(server.arguments(), lock).close()
                except launch.NotStartedError as error:
                    raise HostError(f"the process that serves this host did not start: {error}") from None
        elif time.monotonic() > until:
            raise HostError("another process starts the one that serves this host, and does not get done")
        else:
            time.sleep(_NAP)
    return running


def _locked() -> Description | None:
    """Return the lock of the server, None if another process has it."""
    with closing.no_fork:
        lock: Description = closing.note(
            folders.open_(paths.runtime("hosts", "lock"), os.O_RDWR | os.O_CREAT, own=closing.Description).owner
        )
    if oflock.take_whole(lock.fileno(), fcntl.LOCK_EX) and os.fstat(lock.fileno()).st_nlink:
        return lock
    lock.close()
    return None
