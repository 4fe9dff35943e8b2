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
from shmkernel.errors import (
    ArgumentError,
    Cure,
    HostError,
    NotFoundError,
    RefusedError,
    TakenError,
    UnsupportedError,
)

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
    ArgumentError
        If it is damaged.
    HostError
        If it is not valid now.
    """
    known = _known()
    if host is None:
        own = socket.gethostname()
        host = own if own in known or len(known) != 1 else known[0]
    if host not in known:
        message = (
            f"there is no certificate of this machine ({host}) in {folder()}. Copy to it the one that was made where "
            "those of the other hosts were; or, if there are none yet, make it in a terminal: shmkernel hosts init; "
            "or set a password: shmkernel hosts password"
        )
        cures = [Cure(f"Those of {', '.join(known)} are here. To join as {known[0]}", host=known[0])] if known else []
        raise NotFoundError(message, *cures, path=folder())
    path = _path(host)
    made = _parts(host, read(path))
    valid = _Maker().valid(made) if made else None
    if made is None or valid is None:
        message = f"{path} is damaged: it has not one private key, its certificate and the authority's. {_anew(host)}"
        raise ArgumentError(message, path=path)
    _check_time(path, host, *valid)
    return made


def _parts(host: str, content: str) -> Identity | None:
    """Return what is in a host's file, None if anything is missing."""
    blocks = [(block[1], block[0]) for block in _BLOCK.finditer(content)]
    try:
        (key,) = (text for title, text in blocks if title == "PRIVATE KEY")
        certificate, authority = (text for title, text in blocks if title == "CERTIFICATE")
    except ValueError:
        return None
    return Identity(host, key, certificate, authority)


def _check_time(path: str, host: str, begin: dt.datetime, end: dt.datetime) -> None:
    """Raise HostError unless a certificate is valid now: other hosts would refuse it, and could not say why."""
    now = dt.datetime.now(dt.UTC)
    if now < begin:
        message = f"{path} is valid from {begin:%Y-%m-%d} on, and the clock of this machine says {now:%Y-%m-%d}"
        raise HostError(message, path=path)
    if now > end:
        raise HostError(f"{path} has expired, on {end:%Y-%m-%d}. {_anew(host)}", path=path)


def _anew(host: str) -> str:
    return (
        "Copy it here once more from where it was made; or there, beside authority.pem, remove it, make it anew, "
        f"with its addresses (shmkernel hosts init {host}=ADDRESS), and copy that"
    )


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
    """Makes and checks keys and certificates with the library cryptography."""

    def __init__(self) -> None:
        try:
            with importing:
                from cryptography import exceptions, x509  # noqa: PLC0415  an extra
                from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415  likewise
                from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415  likewise
        except ModuleNotFoundError:
            message = f"certificates are made and checked with cryptography: {_INSTALL}"
            raise UnsupportedError(message, package="cryptography") from None
        self._x509, self._ec, self._serialization, self._sha256 = x509, ec, serialization, hashes.SHA256()
        self._exceptions = exceptions

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

    def valid(self, made: Identity) -> tuple[dt.datetime, dt.datetime] | None:
        """Return from when until when a host's file is valid, None if key and certificates do not belong together."""
        try:
            key = self._serialization.load_pem_private_key(made.key.encode(), None)
            texts = (made.certificate.encode(), made.authority.encode())
            own, authority = map(self._x509.load_pem_x509_certificate, texts)
            own.verify_directly_issued_by(authority)
            if own.public_key() != key.public_key():
                return None
        except (ValueError, TypeError, self._exceptions.InvalidSignature, self._exceptions.UnsupportedAlgorithm):
            return None
        both = (own, authority)
        return max(one.not_valid_before_utc for one in both), min(one.not_valid_after_utc for one in both)

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
