"""User and password: who does not have both sees nothing, and neither is sent."""

from __future__ import annotations

import io
import os
import select
import stat
import subprocess
import sys
import unicodedata

import pytest

from shmkernel import cli, errors
from shmkernel.hosts import certificates, joining, passwords
from tests.helpers import PATIENCE, needs, until
from tests.hosts.conftest import LOOK, authority

PASSWORD = "correct horse"
JOIN = "shm.join('{}10.77.0.1', host='hostB', timeout={})"
SOON = 2  # seconds; the control shows that the right password is enough
WHO = "passwords.login('hostB')"
WIRE = """
import socket, threading
said = bytearray()
def carry(source, target):
    while part := source.recv(1 << 16):
        said.extend(part)
        target.sendall(part)
def accept():
    while True:
        near, _ = door.accept()
        far = socket.create_connection(('10.77.0.1', 7447))
        for ends in ((near, far), (far, near)):
            threading.Thread(target=carry, args=ends, daemon=True).start()
door = socket.create_server(('127.0.0.1', 0))
threading.Thread(target=accept, daemon=True).start()
door.getsockname()[1]
"""


def write(data, password=PASSWORD, user="ada"):
    """Set a password in a data folder; return that."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(data))
        passwords.set_password(password, user)
    return data


@pytest.fixture
def known(hosts, tmp_path):
    """Both hosts, without certificates and with the same password."""
    right = [host.data for host in hosts]
    for host in hosts:
        host.data = write(tmp_path / host.name)
    yield hosts
    for host, data in zip(hosts, right, strict=True):
        host.data = data


@pytest.fixture
def sharing(known):
    a = known[0].kernel()
    assert a("shm.join(host='hostA')") == ["hostA"]
    a("x = shm.create('x', np.frombuffer(b'all can read this', 'u1')); shm.share('x')")
    return a


def control(hosts, data):
    """See that with the right password all is there."""
    hosts[1].data = data
    good = hosts[1].kernel()
    assert good(JOIN.format("", PATIENCE)) == ["hostA", "hostB"]
    assert good("shm.attach('hostA:x').tobytes().decode()") == "all can read this"


@pytest.mark.parametrize(
    ("password", "user"),
    [
        pytest.param("correct house", "ada", id="password"),
        pytest.param(PASSWORD, "eve", id="user", marks=pytest.mark.long),
    ],
)
def test_one_with_the_wrong_password_or_user_sees_nothing(known, sharing, tmp_path, password, user):
    right, known[1].data = known[1].data, write(tmp_path / "wrong", password, user)
    error = known[1].kernel().fails(JOIN.format("", SOON), "ConnectionError")
    assert "user and password are not the same on both (shmkernel hosts password)" in error.text
    control(known, right)


@pytest.mark.long
def test_one_with_a_certificate_alone_sees_nothing(known, sharing, monkeypatch, tmp_path):
    needs("cryptography")
    authority(tmp_path / "wrong", ["hostB"], monkeypatch)
    right, known[1].data = known[1].data, tmp_path / "wrong/hostB"
    error = known[1].kernel().fails(JOIN.format("", SOON), "ConnectionError")
    assert "by a password: tcp/" in error.text
    error = known[1].kernel().fails(JOIN.format("tcp/", SOON), "FileNotFoundError")
    assert "no password was set on this machine" in error.text
    control(known, right)


@pytest.mark.long
@pytest.mark.parametrize(
    "change", ["del settings['transport']['auth']", "settings['transport']['auth']['usrpwd']['password'] = 'a' * 64"]
)
def test_one_that_speaks_to_zenoh_without_the_key_sees_nothing(known, sharing, change):
    stranger = known[1].kernel()
    assert stranger(LOOK.format(who=WHO, way="tcp", change=change, patience=SOON)) == []
    assert stranger(LOOK.format(who=WHO, way="tcp", change="", patience=PATIENCE)) != []  # the same with the key


def test_one_that_listens_without_the_key_sees_nothing(known):
    """Of a host that connects to it. The opposite needs a zenoh that lies: the page about this says so."""
    a, b = (host.kernel() for host in known)
    listen = "settings['listen']['endpoints'] = ['tcp/10.77.0.2:7447']; settings['connect']['endpoints'] = []"
    b(f"import time; until = time.monotonic() + {SOON}")
    b.begin(LOOK.format(who=WHO, way="tcp", change=f"{listen}; del settings['transport']['auth']", patience=SOON))
    error = a.fails(f"shm.join('10.77.0.2', host='hostA', timeout={SOON})", "ConnectionError")
    assert "shmkernel hosts password" in error.text
    assert b.answer() == []


def test_neither_the_password_nor_its_key_is_sent_but_the_data_are_readable(known, sharing):
    b = known[1].kernel()
    port = b(WIRE)
    assert b(f"shm.join('tcp/127.0.0.1:{port}', host='hostB', timeout={PATIENCE})") == ["hostA", "hostB"]
    b("shm.attach('hostA:x')")
    key = (known[1].data / "shmkernel/hosts/password").read_text().strip().partition(":")[2]
    b("said.decode('latin1')")
    sent = b("said.hex()")
    assert b"all can read this".hex() in sent
    assert PASSWORD.encode().hex() not in sent
    assert key.encode().hex() not in sent
    assert key not in sent


def test_two_hosts_find_each_other_through_a_third(known, sharing):
    b, c = (known[1].kernel() for _ in range(2))
    assert b(JOIN.format("", PATIENCE)) == ["hostA", "hostB"]
    c("from shmkernel.hosts import network, passwords")
    c("net = network.Network(passwords.login('hostC'), 'tcp/10.77.0.2:7448', ['tcp/10.77.0.1:7447'])")
    c(f"net.appear({PATIENCE}, lambda: False)")
    try:
        until(lambda: b("shm.join()") == ["hostA", "hostB", "hostC"], "the second sees the third")
        until(lambda: c("net.hosts()") == ["hostA", "hostB", "hostC"], "the third sees the second")
    finally:
        c.begin("import os; os._exit(0)")  # zenoh's threads would wait for each other


def test_with_both_ways_there_the_address_says_which(joined, hosts):
    a, b = joined  # by certificates
    folders = [write(host.data) for host in hosts]
    try:
        assert "listens at tls/" in a.fails("shm.join(listen='tcp/10.77.0.1', host='hostA')", "ConnectionError").text
        b("shm.leave()")
        a("shm.leave()")
        assert a("shm.join(listen='tcp/10.77.0.1', host='hostA')") == ["hostA"]
        assert b(JOIN.format("tcp/", PATIENCE)) == ["hostA", "hostB"]
        assert (
            "connects to: tcp/10.77.0.1:7447" in b.fails("shm.join('10.77.0.1', host='hostB')", "ConnectionError").text
        )
    finally:
        for folder in folders:
            os.unlink(folder / "shmkernel/hosts/password")


@pytest.fixture
def data(monkeypatch, tmp_path):
    """An empty data folder; keys are made quickly."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setattr(passwords, "_COST", {"n": 2, "r": 1, "p": 1})
    return tmp_path


def test_the_file_is_for_this_user_alone_and_is_not_overwritten(data):
    assert passwords.set_password(PASSWORD, "ada") == "ada"
    assert stat.S_IMODE(os.stat(passwords.path()).st_mode) == 0o600
    before = passwords.login("hostA")
    with pytest.raises(errors.TakenError, match="remove that file first"):
        passwords.set_password("another one", "ada")
    assert passwords.login("hostA") == before
    assert before[:2] == ("hostA", "ada")
    assert PASSWORD not in (data / "shmkernel/hosts/password").read_text()


def test_one_password_gives_one_key_however_it_is_typed_and_another_for_another_user(data):
    keys = set()
    for typed, user in (("Käse und Brot", "ada"), ("Käse und Brot", "ada"), ("Käse und Brot", "eve")):
        form = "NFC" if keys else "NFD"
        passwords.set_password(unicodedata.normalize(form, typed), user)
        keys.add(passwords.login("hostA").key)
        os.unlink(passwords.path())
    assert len(keys) == 2


@pytest.mark.parametrize("password", ["", "7 chars", "x" * 1025])
def test_a_password_that_is_too_short_or_long_is_refused(data, password):
    with pytest.raises(errors.ArgumentError, match="8 to 1024 characters"):
        passwords.set_password(password, "ada")
    assert not passwords.exists()


@pytest.mark.parametrize("user", ["a b", "a:b", "-a", "a=b", "a;b", "a\n", "é", "a" * 65])
def test_a_name_that_no_user_can_have_is_refused(data, user):
    with pytest.raises(errors.ArgumentError, match="cannot be the name of a user"):
        passwords.set_password(PASSWORD, user)


@pytest.mark.parametrize(
    "arguments",
    [((None,), {}), ((7447,), {}), (("tcp/a",), {"listen": 7447}), (("tcp/a",), {"host": 5}), (("a",), {"host": ""})],
    ids=["no address", "a port", "listen", "host", "empty host"],
)
def test_what_is_no_address_or_name_of_a_host_is_refused(data, arguments):
    given, named = arguments
    with pytest.raises(errors.ArgumentError, match=r"is no address of a host|cannot be the name of a host"):
        joining.join(*given, **named)


def test_the_address_that_was_given_is_refused_and_not_the_one_to_listen_at(data):
    with pytest.raises(errors.ArgumentError, match=r"'udp/10\.77\.0\.1' is no address"):
        joining.join("udp/10.77.0.1")


@pytest.mark.parametrize("name", [b"x", 5, "two words"])
def test_what_is_no_name_of_a_segment_is_not_shared_either(data, name):
    with pytest.raises(errors.ArgumentError, match="name of a segment"):
        joining.unshare(name)


def test_a_python_without_scrypt_says_so_before_a_password_is_typed(data, monkeypatch):
    monkeypatch.delattr("hashlib.scrypt")  # some builds of OpenSSL have none
    with pytest.raises(errors.UnsupportedError, match=r"no scrypt.* shmkernel hosts init"):
        passwords.check("ada")
    assert not passwords.exists()


def test_a_machine_without_a_password_says_how_to_set_one(data):
    with pytest.raises(errors.NotFoundError, match="shmkernel hosts password"):
        passwords.login()


@pytest.mark.parametrize("content", [b"", b"ada", b"ada:1234\n", b"\xff" * 80, b"ada:" + b"0" * 64 + b"\n" + b"x"])
def test_a_file_that_is_damaged_is_named(data, content):
    passwords.set_password(PASSWORD, "ada")
    (data / "shmkernel/hosts/password").write_bytes(content)
    with pytest.raises(errors.ArgumentError, match=f"{data}/shmkernel/hosts/password is damaged"):
        passwords.login()


def test_a_file_that_others_can_read_or_a_link_is_not_used(data):
    passwords.set_password(PASSWORD, "ada")
    path = passwords.path()
    os.chmod(path, 0o640)
    with pytest.raises(errors.RefusedError, match=f"chmod 600 {path}"):
        passwords.login()
    os.chmod(path, 0o600)
    os.rename(path, f"{path}.elsewhere")
    os.symlink(f"{path}.elsewhere", path)
    with pytest.raises(errors.RefusedError, match="in place of the link"):
        passwords.login()


def test_certificates_come_before_a_password_unless_the_address_says_so(data):
    assert joining._way([]) == "tls"  # and the error names both ways
    passwords.set_password(PASSWORD, "ada")
    assert joining._way(["hostA"]) == "tcp"
    assert joining._way(["tls/hostA"]) == "tls"
    (data / "shmkernel/hosts/hostA.pem").touch()
    assert certificates.exist()
    assert joining._way(["hostA"]) == "tls"
    assert joining._way(["hostA", "tcp/hostB"]) == "tcp"
    with pytest.raises(errors.ArgumentError, match="in one way"):
        joining._way(["tls/hostA", "tcp/hostB"])
    assert joining._address("hostA", "tcp") == "tcp/hostA:7447"
    assert joining._address("tcp/[::1]:7", "tcp") == "tcp/[::1]:7"
    for wrong in ("udp/hostA", "tcp/", "tcp//a", "tcp/a b", "hostA:x", "hostA:99999", "::1", "-x", "hostA:\u0663"):
        with pytest.raises(errors.ArgumentError, match="no address of a host"):
            joining._address(wrong, joining._way([wrong]))


def test_the_command_reads_a_password_from_standard_input(data, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{PASSWORD}\n"))
    assert cli.main(["hosts", "password", "--user", "ada"]) == 0
    said = capsys.readouterr().out
    assert "shmkernel hosts password --user ada" in said
    assert "not encrypted" in said
    assert PASSWORD not in said
    assert passwords.login("hostA").key == passwords._key(PASSWORD, "ada")


@pytest.mark.parametrize(
    ("arguments", "why"), [(["init", "--user", "ada"], "--user is for"), (["password", "hostA"], "leave out the names")]
)
def test_the_command_refuses_arguments_of_the_other_action(data, capsys, arguments, why):
    assert cli.main(["hosts", *arguments]) == 1
    assert why in capsys.readouterr().err
    assert not passwords.exists()


@pytest.mark.parametrize(("again", "status"), [(PASSWORD, 0), ("correct house", 1)], ids=["the same", "another"])
def test_a_terminal_does_not_show_what_is_typed(data, again, status):
    near, far = os.openpty()
    command = [sys.executable, "-m", "shmkernel", "hosts", "password", "--user", "ada"]
    child = subprocess.Popen(command, stdin=far, stdout=far, stderr=subprocess.PIPE, start_new_session=True)
    try:
        os.close(far)
        for prompt, answer in ((b": ", PASSWORD), (b"Again: ", again)):
            heard = b""
            while not heard.endswith(prompt):
                assert select.select([child.stderr], [], [], PATIENCE)[0], heard
                heard += os.read(child.stderr.fileno(), 1)
            os.write(near, answer.encode() + b"\n")
        _, complaint = child.communicate(timeout=PATIENCE)
        assert child.returncode == status, complaint
        shown = b""
        while select.select([near], [], [], 0)[0]:
            try:
                shown += os.read(near, 1 << 16)
            except OSError:  # the other end is closed
                break
        assert b"correct" not in shown + complaint
        assert passwords.exists() is not bool(status)
    finally:
        child.kill()
        child.wait(PATIENCE)
        os.close(near)


def test_a_host_to_which_none_can_connect_sees_those_that_it_names(known):
    a, x, b = known[0].kernel(), known[0].kernel(), known[1].kernel()
    x("import os; os.environ['SHMKERNEL_DIR'] = '/dev/shm/hostX'; os.mkdir('/dev/shm/hostX')")
    a("shm.join(host='hostA')")
    x(f"shm.join('10.77.0.1', listen='tcp/10.77.0.1:7448', host='hostX', timeout={PATIENCE})")
    b(f"shm.join('10.77.0.1', '10.77.0.1:7448', listen='tcp/127.0.0.1', host='hostB', timeout={PATIENCE})")
    until(lambda: b("shm.join()") == ["hostA", "hostB", "hostX"], "it is connected to both")
    until(lambda: x("shm.join()") == ["hostA", "hostB", "hostX"], "and each of them to it")
    x("import shutil; shm.leave(); shutil.rmtree('/dev/shm/hostX')")
