"""The commands for several hosts: ``shmkernel hosts init``, ``join``, ``share``, ``unshare`` and ``leave``."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import shmkernel as shm
from shmkernel.cli.commands import NAMES, Argument, command

if TYPE_CHECKING:
    from argparse import Namespace

_ADDRESSES = Argument(
    "hosts", "where other hosts listen; without, this one waits for them", {"metavar": "tls/HOST:7447", "nargs": "*"}
)
_LISTEN = Argument(
    "--listen", "where this host listens, by default at port 7447 of all its addresses", {"metavar": "ADDRESS"}
)
_HOST = Argument("--host", "name of this host, by default that of its certificate", {"metavar": "NAME"})
_INIT = Argument("action", "init: make certificates", {"choices": ["init"], "metavar": "init"})
_WANTED = Argument(
    "host", "a host, with the addresses at which others find it", {"metavar": "NAME[=ADDRESS,...]", "nargs": "*"}
)


@command("hosts", _INIT, _WANTED)
def _hosts(args: Namespace) -> None:
    """Make the certificates by which hosts know each other.

    Without a name it makes that of this machine. Those of the others are made here too, and copied to them: an
    authority, whose key stays here, signs all. Others find a host by its name, or by the addresses given with it.
    """
    from shmkernel.hosts import certificates  # noqa: PLC0415  the other commands do without

    own = socket.gethostname()
    for path in certificates.init(args.host):
        host = os.path.splitext(os.path.basename(path))[0]
        copy = "" if host == own else f"\n  if that is another machine: scp {path} {host}:.local/share/shmkernel/hosts/"
        print(f"{host}: {path}{copy}")


@command("join", _ADDRESSES, _LISTEN, _HOST)
def _join(args: Namespace) -> None:
    """Connect this host to others.

    That is over mutual TLS, and lasts until "shmkernel leave". "shmkernel hosts init" makes the certificates. Nothing
    is shared by that: see "shmkernel share".
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
