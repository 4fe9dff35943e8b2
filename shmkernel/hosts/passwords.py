"""User and password: the other way by which hosts know each other, over plain TCP and without certificates.

    <data folder>/shmkernel/hosts/password   USER:KEY, the same on all hosts

It is zenoh's dictionary of those who may connect. The key is computed from the password, slowly: who records a
connection can then try passwords, but few in a second. Zenoh sends neither, but an HMAC that answers a challenge.

The host that connects proves by this that it knows the password. The one that listens does not, and nothing is
encrypted. Who cannot trust the network needs certificates.
"""

from __future__ import annotations

import getpass
import hashlib
import os
import re
import socket
import unicodedata
from typing import NamedTuple

from shmkernel._core import private_files
from shmkernel.errors import ArgumentError, NotFoundError, TakenError, UnsupportedError
from shmkernel.hosts import certificates

_USER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}")
_CONTENT = re.compile(rf"({_USER.pattern}):([0-9a-f]{{64}})\n")
_SHORTEST, _LONGEST = 8, 1024  # characters of a password
_COST = {"n": 1 << 15, "r": 8, "p": 3, "maxmem": 1 << 26}  # some tenths of a second, 32 MiB
_CURE = "Set one, in a terminal: shmkernel hosts password"


class Login(NamedTuple):
    """What a host needs to be let in by others, and to let them in."""

    host: str
    user: str
    key: str
    dictionary: str  # path


def path() -> str:
    """Return the path of the file, in the user's data folder."""
    return os.path.abspath(private_files.path("hosts/password"))


def exists() -> bool:
    """Return whether a password was set."""
    return os.path.lexists(path())


def check(user: str | None = None) -> str:
    """Return the name of a user, by default of the one who is logged in, if a password can be set for it."""
    if not hasattr(hashlib, "scrypt"):
        message = "this Python computes no scrypt, as its OpenSSL has none. Use certificates: shmkernel hosts init"
        raise UnsupportedError(message)
    user = user or _logged_in()
    if not _USER.fullmatch(user):
        message = f"{user!r} cannot be the name of a user: use letters, digits and . _ - @ +. For example --user ada"
        raise ArgumentError(message, user=user)
    if exists():
        message = f"there is a password already: {path()}. To set another, remove that file first"
        raise TakenError(message, path=path())
    return user


def set_password(password: str, user: str | None = None) -> str:
    """Make the file for a user, by default the one who is logged in, and return the user's name.

    Raises
    ------
    TakenError
        If a password was set before.
    """
    user = check(user)
    if not _SHORTEST <= len(password) <= _LONGEST:
        raise ArgumentError(f"give a password of {_SHORTEST} to {_LONGEST} characters: it has {len(password)}")
    try:
        private_files.make(path(), f"{user}:{_key(password, user)}\n".encode())
    except FileExistsError:  # by another process, meanwhile
        raise TakenError(f"there is a password already: {path()}", path=path()) from None
    return user


def login(host: str | None = None) -> Login:
    """Return the user and key of this machine, whose name among the hosts is that of the machine by default.

    Raises
    ------
    NotFoundError
        If no password was set.
    RefusedError
        If another user can read the file.
    """
    if not exists():
        message = f"no password was set on this machine: there is no {path()}. {_CURE}"
        raise NotFoundError(message, path=path())
    parts = _CONTENT.fullmatch(certificates.read(path()))
    if not parts:
        message = f"{path()} is damaged: it has not one line of a user and a key. Remove it. {_CURE}"
        raise ArgumentError(message, path=path())
    return Login(certificates.check_host(host or socket.gethostname()), parts[1], parts[2], path())


def _key(password: str, user: str) -> str:
    """Return 64 digits: the same on each host, and different for two users of one password."""
    typed = unicodedata.normalize("NFC", password).encode("utf-8", "surrogateescape")
    return hashlib.scrypt(typed, salt=f"shmkernel hosts {user}".encode(), dklen=32, **_COST).hex()


def _logged_in() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a uid without a name
        raise ArgumentError("this user has no name here: give --user NAME") from None
