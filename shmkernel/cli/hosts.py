"""The commands for several hosts: ``shmkernel hosts init``, ``join``, ``share``, ``unshare`` and ``leave``."""

from __future__ import annotations

import os
import shlex
import socket
import sys
from typing import TYPE_CHECKING

import shmkernel as shm
from shmkernel._core.imports import importing
from shmkernel.cli.commands import NAMES, Argument, command
from shmkernel.errors import ArgumentError

if TYPE_CHECKING:
    from argparse import Namespace

_ADDRESSES = Argument(
    "hosts", "where other hosts listen; without, this one waits for them", {"metavar": "tls/HOST:7447", "nargs": "*"}
)
_LISTEN = Argument(
    "--listen", "where this host listens, by default at port 7447 of all its addresses", {"metavar": "ADDRESS"}
)
_HOST = Argument(
    "--host", "name of this host, by default that of its certificate, or of the machine", {"metavar": "NAME"}
)
_ACTION = Argument("action", "init: make certificates; password: set a password", {"choices": ["init", "password"]})
_WANTED = Argument(
    "host", "a host, with the addresses at which others find it", {"metavar": "NAME[=ADDRESS,...]", "nargs": "*"}
)
_USER = Argument("--user", "whose password it is, by default yours", {"metavar": "NAME"})


@command("hosts", _ACTION, _WANTED, _USER)
def _hosts(args: Namespace) -> None:
    """Make the certificates of hosts, or set a password for them.

    "init" makes certificates. Without a name it makes that of this machine. Those of the others are made here too, and
    copied to them: an authority, whose key stays here, signs all. Others find a host by its name, or by the addresses
    given with it.

    "password" asks for a password, or reads it from standard input. It needs no certificates, but what hosts copy then
    crosses the network readably. Set the same user and password on each host.
    """
    if args.action == "password":
        _set_password(args)
    elif args.user is not None:
        raise ArgumentError("--user is for: shmkernel hosts password")
    else:
        _make_certificates(args)


def _make_certificates(args: Namespace) -> None:
    from shmkernel.hosts import certificates  # noqa: PLC0415  the other commands do without

    own = socket.gethostname()
    for path in certificates.init(args.host):
        host = os.path.splitext(os.path.basename(path))[0]
        print(f"{host}: {path}")
        if host != own:
            there = ".local/share/shmkernel/hosts"
            copy = f"ssh {host} mkdir -p {there} && scp {shlex.quote(path)} {host}:{there}/"
            print(f"  if that is another machine: {copy}")


def _set_password(args: Namespace) -> None:
    from shmkernel.hosts import passwords  # noqa: PLC0415  likewise

    if args.host:
        raise ArgumentError("a password is for all hosts: leave out the names")
    passwords.check(args.user)
    user = passwords.set_password(_password(), args.user)
    print(f"{user}: {passwords.path()}")
    print(f"Set the same password on the other hosts: shmkernel hosts password --user {shlex.quote(user)}")
    print("It is not sent itself, but what hosts copy is not encrypted. Use it in a network that you trust.")


def _password() -> str:
    """Ask for a password in a terminal, without echo; or read a line."""
    with importing:
        from getpass import getpass  # noqa: PLC0415  likewise
    if sys.stdin is None:
        raise ArgumentError("a password is read from standard input, which is closed")
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    try:
        first = getpass("Password for all hosts: ")
        if getpass("Again: ") != first:
            raise ArgumentError("these were two different passwords: nothing was set")
    except EOFError:
        raise ArgumentError("no password was given: nothing was set") from None
    return first


@command("join", _ADDRESSES, _LISTEN, _HOST)
def _join(args: Namespace) -> None:
    """Connect this host to others.

    That lasts until "shmkernel leave". Nothing is shared by that: see "shmkernel share".

    Hosts know each other by certificates ("shmkernel hosts init"), over TLS: tls/HOST. Or by a password ("shmkernel
    hosts password"), over TCP, not encrypted: tcp/HOST.
    """
    print(f"joined: {', '.join(shm.join(*args.hosts, listen=args.listen, host=args.host))}")


@command("share", NAMES)
def _share(args: Namespace) -> None:
    """Let other hosts copy segments.

    This ends with "shmkernel unshare NAME", and when the names go.
    """
    for name in args.name:
        print(f"{name}: shared as {shm.share(name)}")


@command("unshare", NAMES)
def _unshare(args: Namespace) -> None:
    """Let other hosts copy segments no longer.

    The snapshots that they have stay theirs.
    """
    for name in args.name:
        shm.unshare(name)
        print(f"{name}: no longer shared with other hosts")


@command("leave")
def _leave(_: Namespace) -> None:
    """Disconnect this host from others."""
    print("left" if shm.leave() else "this host had not joined others")
