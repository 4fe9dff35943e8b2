"""Who has no valid certificate of the authority sees nothing."""

from __future__ import annotations

import datetime as dt
import os
import stat
import subprocess
from pathlib import Path
from unittest import mock

import pytest

from shmkernel import cli, errors
from shmkernel.hosts import certificates, passwords
from tests.helpers import PATIENCE, needs
from tests.hosts.conftest import ADDRESSES, LOOK, authority

needs("cryptography")

JOIN = "shm.join('tls/10.77.0.1', timeout={})"
SOON = 2  # seconds; the control shows that a good certificate is enough
WHO = "certificates.identity()"
HIDE = """
for side in {}:
    for what in ('private_key', 'certificate'):
        settings['transport']['link']['tls'].pop(f'{{side}}_{{what}}_base64', None)
"""


@pytest.fixture
def sharing(hosts):
    a = hosts[0].kernel()
    a("x = shm.create('x', np.array([1, 2])); shm.join(listen='tls/10.77.0.1'); shm.share('x')")
    return a


def with_certificate(host, monkeypatch, tmp_path, **changes):
    """Give a host another certificate: of an authority of its own, or changed."""
    for name, value in changes.items():
        monkeypatch.setattr(certificates, name, value)
    authority(tmp_path, [host.name], monkeypatch)
    return tmp_path / host.name


def control(hosts):
    """See that with the right certificate all is there."""
    good = hosts[1].kernel()
    assert good(JOIN.format(PATIENCE)) == ["hostA", "hostB"]
    assert good("shm.attach('hostA:x').tolist()") == [1, 2]


def test_one_of_another_authority_sees_nothing(hosts, sharing, monkeypatch, tmp_path):
    right, hosts[1].data = hosts[1].data, with_certificate(hosts[1], monkeypatch, tmp_path)
    try:
        assert "no host has answered" in hosts[1].kernel().fails(JOIN.format(SOON), "ConnectionError").text
    finally:
        hosts[1].data = right
    control(hosts)


def test_one_that_has_expired_sees_nothing(hosts, sharing, machines, monkeypatch, tmp_path):
    data = machines[0].data.parent
    right = hosts[1].data
    monkeypatch.setenv("XDG_DATA_HOME", str(data / "authority"))
    monkeypatch.setattr(certificates, "_HOST_DAYS", -0.5)
    (path,) = certificates.init([f"hostB={ADDRESSES['hostB']}"])
    hosts[1].data = tmp_path
    os.makedirs(tmp_path / "shmkernel/hosts")
    os.rename(path, tmp_path / "shmkernel/hosts/hostB.pem")
    try:
        kernel = hosts[1].kernel()
        assert "hostB.pem has expired, on " in kernel.fails(JOIN.format(SOON), "ConnectionError").text
        kernel("from shmkernel.hosts import certificates; certificates._check_time = lambda *_: None")
        assert "no host has answered" in kernel.fails(JOIN.format(SOON), "ConnectionError").text
    finally:
        hosts[1].data = right
    control(hosts)


@pytest.mark.parametrize("sides", [("connect",), ("connect", "listen")])
def test_one_that_shows_none_sees_nothing(hosts, sharing, sides):
    stranger = hosts[1].kernel()
    assert stranger(LOOK.format(who=WHO, way="tls", change=HIDE.format(sides), patience=SOON)) == []
    assert stranger(LOOK.format(who=WHO, way="tls", change="", patience=PATIENCE)) != []  # with its own


def test_keys_are_for_this_user_alone_and_no_certificate_is_overwritten(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    made = certificates.init(["hostA=10.0.0.1,host.lan", "hostB"])
    authority_file = f"{certificates.folder()}/authority.pem"
    assert {stat.S_IMODE(os.stat(path).st_mode) for path in (*made, authority_file)} == {0o600}
    with pytest.raises(errors.TakenError, match="hostB has a certificate already"):
        certificates.init(["hostC", "hostB"])
    with pytest.raises(errors.ArgumentError, match="hostC is named twice"):
        certificates.init(["hostC", "hostC=10.0.0.3"])
    assert sorted(os.listdir(certificates.folder())) == ["authority.pem", "hostA.pem", "hostB.pem"]
    assert certificates.identity("hostA").authority == certificates.identity("hostB").authority


def test_a_file_in_place_of_the_folder_is_named(monkeypatch, tmp_path):
    """It was taken for the file that was to be made: "authority.pem exists already"."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    (tmp_path / "shmkernel").mkdir()
    (tmp_path / "shmkernel/hosts").touch()
    with pytest.raises(NotADirectoryError, match="shmkernel/hosts"):
        certificates.init(["hostA"])
    with pytest.raises(NotADirectoryError, match="shmkernel/hosts"):
        passwords.set_password("long enough", "ada")


def test_a_key_that_others_can_read_is_not_used(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    (path,) = certificates.init(["hostA"])
    assert certificates.identity().host == "hostA"  # the only one there is
    os.chmod(path, 0o640)
    with pytest.raises(errors.RefusedError, match="chmod 600"):
        certificates.identity()


def test_a_machine_without_a_certificate_says_how_to_make_one(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    with pytest.raises(errors.NotFoundError, match=r"Copy to it .* shmkernel hosts init"):
        certificates.identity()
    certificates.init(["hostB"])
    with pytest.raises(errors.NotFoundError, match="To join as hostB: host='hostB'"):
        certificates.identity("hostC")


def blocks(path):
    """Return the three blocks of a host's file: its key, its certificate, the authority's."""
    return [f"-----BEGIN{block}" for block in certificates.read(path).split("-----BEGIN")[1:]]


DAMAGED = {  # made of the file's blocks, 0 to 2, and those of a host of another authority, 3 to 5
    "empty": lambda block: block[0][:0],
    "two blocks": lambda block: block[0] + block[1],
    "cut": lambda block: block[0] + block[1] + block[2][:200],
    "a letter lost": lambda block: block[0] + block[1][:100] + block[1][101:] + block[2],
    "a key cut": lambda block: block[0][:60] + block[0][90:] + block[1] + block[2],
    "swapped": lambda block: block[0] + block[2] + block[1],
    "another key": lambda block: block[3] + block[1] + block[2],
    "another authority": lambda block: block[0] + block[1] + block[5],
}


@pytest.mark.parametrize("how", DAMAGED)
def test_a_damaged_file_is_named_and_the_cure_keeps_the_authority(how, monkeypatch, tmp_path):
    """A new authority, by `hosts init` here, would cut this host off from the others."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "other"))
    other = blocks(*certificates.init(["hostA"]))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    (path,) = certificates.init(["hostA"])
    Path(path).write_text(DAMAGED[how](blocks(path) + other))
    with pytest.raises(errors.ArgumentError, match=r"hostA\.pem is damaged: .* Copy it here once more"):
        certificates.identity()


def test_a_certificate_that_is_not_valid_yet_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    certificates.init(["hostA"])
    slow = mock.Mock(wraps=certificates.dt.datetime, **{"now.return_value": dt.datetime(2020, 1, 1, tzinfo=dt.UTC)})
    monkeypatch.setattr(certificates, "dt", mock.Mock(datetime=slow, UTC=dt.UTC))
    with pytest.raises(errors.HostError, match="the clock of this machine says 2020-01-01"):
        certificates.identity()


@pytest.mark.parametrize("name", ["", "authority", "a/b", "a b", "-a", "a" * 64, "*"])
def test_a_name_that_no_host_can_have_is_refused(name, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    with pytest.raises(errors.ArgumentError, match="cannot be the name of a host"):
        certificates.init([name])


def test_the_line_that_copies_a_certificate_works_on_a_host_that_has_no_folder_for_it(monkeypatch, tmp_path, capsys):
    home = tmp_path / "home of hostB"
    home.mkdir()
    for program, act in {"ssh": 'shift; cd "$HOME_OF_B"; "$@"', "scp": 'cp "$1" "$HOME_OF_B/${2#hostB:}"'}.items():
        (tmp_path / program).write_text(f"#!/bin/sh\n{act}\n")
        (tmp_path / program).chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("HOME_OF_B", str(home))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "a folder"))
    assert cli.main(["hosts", "init", "hostB"]) == 0
    line = capsys.readouterr().out.partition("machine: ")[2]
    subprocess.run(["sh", "-c", line], check=True)
    assert (home / ".local/share/shmkernel/hosts/hostB.pem").is_file()
