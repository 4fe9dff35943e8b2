"""Certificates: an authority of this user, and for each host a file with its key and certificate, signed by it.

    <data folder>/shmkernel/hosts/authority.pem   the authority's key and certificate; it stays on one machine
                                  hostA.pem       key and certificate of hostA, and the authority's certificate
                                  hostB.pem       the same for hostB: to be copied there

Who has a certificate of the same authority is a host of this user. Nobody else can connect, in either direction.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import errno
import ipaddress
import os
import re
import shlex
import socket
import stat
from typing import TYPE_CHECKING, Any, NamedTuple

from shmkernel._core import paths, private_files
from shmkernel._core.imports import importing
from shmkernel.errors import ArgumentError, NotFoundError, RefusedError, TakenError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Sequence

_BLOCK = re.compile(r"-----BEGIN ([A-Z ]+)-----.*?-----END \1-----\n?", re.DOTALL)
_AUTHORITY = "authority"
_AUTHORITY_DAYS, _HOST_DAYS = 3650, 730
_LONGEST = 1 << 16  # bytes of a file
_INSTALL = 'pip install "shmkernel[hosts]"'


class Identity(NamedTuple):
    """What a host needs to prove who it is, and to check others: three texts in PEM."""

    host: str
    key: str
    certificate: str
    authority: str


def folder() -> str:
    """Return the folder of the certificates, in the user's data folder: its files are not of one folder of segments."""
    return private_files.path("hosts")


def check_host(host: object) -> str:
    """Return the name of a host; ArgumentError if it cannot be one."""
    if not isinstance(host, str) or not paths.HOST.fullmatch(host) or host == _AUTHORITY:
        message = f"{host!r} cannot be the name of a host: use letters, digits, - and dots. For example hostA"
        raise ArgumentError(message, host=host)
    return host


def init(hosts: Sequence[str] = ()) -> list[str]:
    """Make the files of hosts, each given as ``NAME`` or ``NAME=ADDRESS,ADDRESS``, and return their paths.

    Others connect to a host by its name or by one of these addresses. Without arguments the file is that of this
    machine. The authority is made with the first.

    Raises
    ------
    TakenError
        If one of the hosts has a file already; then none is made.
    """
    wanted = [_parsed(text) for text in hosts] or [(check_host(socket.gethostname()), [])]
    names = [host for host, _ in wanted]
    for host in names:
        if names.count(host) > 1:
            message = f"{host} is named twice: give all of its addresses at once, as in {host}=10.0.0.2,{host}.lan"
            raise ArgumentError(message, host=host)
        if os.path.lexists(_path(host)):
            message = f"{host} has a certificate already: {_path(host)}. To make a new one, remove it first"
            raise TakenError(message, path=_path(host))
    make = _Maker()
    key, authority = make.loaded(_AUTHORITY) or make.authority()
    for host, addresses in wanted:
        _write(_path(host), make.host(host, addresses, key, authority))
    return [_path(host) for host, _ in wanted]


def identity(host: str | None = None) -> Identity:
    """Return the identity of this machine, by default the one named after it, or the only one there is.

    Raises
    ------
    NotFoundError
        If there is no such file.
    RefusedError
        If another user can read it.
    """
    known = _known()
    if host is None:
        own = socket.gethostname()
        host = own if own in known or len(known) != 1 else known[0]
    if host not in known:
        several = f" Those of {', '.join(known)} are there: join with host={known[0]!r}." if known else ""
        message = (
            f"there is no certificate of this machine ({host}) in {folder()}.{several} "
            "Make one, in a terminal: shmkernel hosts init; or copy to it the one that was made elsewhere; or set a "
            "password: shmkernel hosts password"
        )
        raise NotFoundError(message, path=folder())
    path = _path(host)
    blocks = [(block[1], block[0]) for block in _BLOCK.finditer(read(path))]
    try:
        (key,) = (text for title, text in blocks if title == "PRIVATE KEY")
        certificate, authority = (text for title, text in blocks if title == "CERTIFICATE")
    except ValueError:
        message = (
            f"{path} is damaged: it has not one private key and two certificates. Make it anew: shmkernel hosts init"
        )
        raise ArgumentError(message, path=path) from None
    return Identity(host, key, certificate, authority)


def exist() -> bool:
    """Return whether there is a certificate of a host."""
    return bool(_known())


def _known() -> list[str]:
    with contextlib.suppress(FileNotFoundError):
        names = (os.path.splitext(entry) for entry in os.listdir(folder()))
        return sorted(name for name, end in names if end == ".pem" and name != _AUTHORITY)
    return []


def _parsed(text: str) -> tuple[str, list[str]]:
    host, _, addresses = text.partition("=")
    return check_host(host), [address for address in addresses.split(",") if address]


def _path(host: str) -> str:
    return f"{folder()}/{host}.pem"


def read(path: str) -> str:
    """Return the content of a file that only this user can read; RefusedError if it is another file."""
    try:
        content = private_files.read(path, _LONGEST)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EACCES):
            raise
        content = None
    if content is None:
        status, quoted = os.lstat(path), shlex.quote(path)
        cure = f"chmod 600 {quoted}"
        if stat.S_ISLNK(status.st_mode):
            cure = "put the file in place of the link"
        elif status.st_uid != os.geteuid():
            cure = f"sudo chown {os.geteuid()} {quoted}"
        message = f"{path} is not a file that only you can read, so its key is not trusted: {cure}"
        raise RefusedError(message, path=path, owner=status.st_uid)
    return content.decode("ascii", "replace")


def _write(path: str, content: str) -> None:
    """Write a file that only this user can read; TakenError if there is one."""
    try:
        private_files.make(path, content.encode())
    except FileExistsError:
        raise TakenError(f"{path} exists already", path=path) from None


class _Maker:
    """Makes keys and certificates with the library cryptography."""

    def __init__(self) -> None:
        try:
            with importing:
                from cryptography import x509  # noqa: PLC0415  an extra
                from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415  likewise
                from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415  likewise
        except ModuleNotFoundError:
            message = f"certificates are made with cryptography: {_INSTALL}"
            raise UnsupportedError(message, package="cryptography") from None
        self._x509, self._ec, self._serialization, self._sha256 = x509, ec, serialization, hashes.SHA256()

    def authority(self) -> tuple[Any, Any]:
        """Make the authority, and write its file."""
        key = self._ec.generate_private_key(self._ec.SECP256R1())
        name = self._name(f"shmkernel hosts of {os.geteuid()} on {socket.gethostname()}"[:64])
        builder = self._builder(key, name, name, _AUTHORITY_DAYS).add_extension(
            self._x509.BasicConstraints(ca=True, path_length=0), critical=True
        )
        certificate = builder.sign(key, self._sha256)
        _write(_path(_AUTHORITY), self._key_text(key) + self._text(certificate))
        return key, certificate

    def loaded(self, name: str) -> tuple[Any, Any] | None:
        """Return key and certificate from a file, None if there is none."""
        if not os.path.lexists(_path(name)):
            return None
        content = read(_path(name)).encode()
        try:
            key = self._serialization.load_pem_private_key(content, None)
            return key, self._x509.load_pem_x509_certificate(content[content.index(b"-----BEGIN CERT") :])
        except (ValueError, TypeError):
            message = (
                f"{_path(name)} is damaged. Put back the right one; or move away {folder()}, and make all certificates "
                "anew: shmkernel hosts init"
            )
            raise ArgumentError(message, path=_path(name)) from None

    def host(self, host: str, addresses: Sequence[str], authority_key: Any, authority: Any) -> str:
        """Return the content of a host's file."""
        x509, usage = self._x509, self._x509.oid.ExtendedKeyUsageOID
        key = self._ec.generate_private_key(self._ec.SECP256R1())
        names = [x509.DNSName(host), *map(self._address, addresses)]
        builder = (
            self._builder(key, self._name(host), authority.subject, _HOST_DAYS)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.ExtendedKeyUsage([usage.SERVER_AUTH, usage.CLIENT_AUTH]), critical=False)
        )
        return self._key_text(key) + self._text(builder.sign(authority_key, self._sha256)) + self._text(authority)

    def _builder(self, key: Any, name: Any, issuer: Any, days: int) -> Any:
        now, day = dt.datetime.now(dt.UTC), dt.timedelta(days=1)
        return (
            self._x509.CertificateBuilder().subject_name(name).issuer_name(issuer).public_key(key.public_key())
            .serial_number(self._x509.random_serial_number())
            .not_valid_before(now - day)  # clocks of hosts differ
            .not_valid_after(now + days * day)
        )  # fmt: skip

    def _name(self, text: str) -> Any:
        return self._x509.Name([self._x509.NameAttribute(self._x509.oid.NameOID.COMMON_NAME, text)])

    def _address(self, text: str) -> Any:
        try:
            return self._x509.IPAddress(ipaddress.ip_address(text))
        except ValueError:
            return self._x509.DNSName(check_host(text))

    def _text(self, certificate: Any) -> str:
        content: bytes = certificate.public_bytes(self._serialization.Encoding.PEM)
        return content.decode()

    def _key_text(self, key: Any) -> str:
        content: bytes = key.private_bytes(
            self._serialization.Encoding.PEM,
            self._serialization.PrivateFormat.PKCS8,
            self._serialization.NoEncryption(),
        )
        return content.decode()
