"""The protocol number of a runtime folder: who gives it, who is refused, and when it goes."""

from __future__ import annotations

import os
import subprocess

import pytest

import shmkernel as shm
from shmkernel._core import folders, launch, paths, protocol, registry, sessions
from tests.helpers import Child, left, until

CALLS = {
    "create": lambda: shm.create("y", 1),
    "attach": lambda: shm.attach("x"),
    "keep": lambda: shm.keep("x"),
    "unlink": lambda: shm.unlink("x"),
    "gc": shm.gc,
    "list": shm.list,
    "lock": lambda: shm.lock("x").__enter__(),
}


def link():
    return paths.runtime(protocol.LINK)


def speak(number):
    """Make this process one of a release with another protocol."""
    protocol.NUMBER, protocol.SINCE, protocol.TEXT = number, "shmkernel>=9.0", f"{number} shmkernel>=9.0"


def tried():
    """Begin to change names, and return the number that the folder has then."""
    try:
        with registry.locked():
            open(paths.runtime("pending", str(os.getpid())), "w").close()
    except shm.FolderError as error:
        return error.protocol
    return protocol.NUMBER


def renumber(text):
    os.unlink(link())
    os.symlink(text, link())


def test_the_first_process_gives_a_folder_its_number_and_all_others_find_it():
    shm.create("x", 1)
    assert os.readlink(link()) == f"{protocol.NUMBER} {protocol.SINCE}"
    assert f"(protocol {protocol.NUMBER})" in " ".join(one.text for one in shm.doctor())

    def work(_):
        folders._held = {}
        assert shm.attach("x") == 1

    with Child(work) as child:
        assert child.join() == 0


def test_a_folder_from_before_the_first_number_gets_one_and_is_used():
    shm.create("x", 1)
    os.unlink(link())
    assert shm.create("y", 2) == 2
    os.unlink(link())
    folders._held = {}
    assert shm.attach("x") == 1, "reading alone needs none"
    assert not os.path.lexists(link())
    assert shm.gc() == []
    assert os.path.lexists(link())


def test_a_number_that_comes_while_a_session_begins_binds_nothing(monkeypatch):
    """A watchdog of another release that ends sweeps once more, and gives the empty folder its number."""
    start = launch.start

    def slow(*arguments):
        pipe = start(*arguments)
        renumber("77 shmkernel>=9.0")
        return pipe

    monkeypatch.setattr(launch, "start", slow)
    assert shm.create("x", 1) == 1
    assert os.readlink(link()) == protocol.TEXT


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_process_of_another_protocol_is_refused_and_told_what_to_do(call):
    shm.create("x", 1)

    def work(_):
        folders._held = {}
        speak(protocol.NUMBER + 1)
        with pytest.raises(
            shm.FolderError, match=r"by shmkernel>=0.1.0 \(protocol 1\), .*SHMKERNEL_DIR.*doctor"
        ) as one:
            call()
        assert (one.value.protocol, one.value.release) == (1, "shmkernel>=0.1.0")
        (found,) = shm.doctor()
        assert found.level == "fail"
        assert "protocol 1" in found.text
        assert sessions.mine() is None

    with Child(work) as child:
        assert child.join() == 0
    assert shm.list()[0].name == "x"


@pytest.mark.parametrize("verb", ["create", "keep", "unlink", "gc"])
def test_a_process_that_has_checked_the_number_changes_nothing_under_a_new_one(verb):
    x = shm.create("x", 1)
    before = sorted(map(str, os.scandir(paths.folder())))
    renumber("2 shmkernel>=9.0")
    with pytest.raises(shm.FolderError, match=r"in use by shmkernel>=9.0 \(protocol 2\)"):
        CALLS[verb]()
    assert sorted(map(str, os.scandir(paths.folder()))) == before
    renumber(protocol.TEXT)
    assert shm.attach("x") is x


def test_of_two_protocols_that_start_at_once_one_gets_the_folder():
    def work(connection):
        speak(connection.recv())
        connection.send("ready")
        connection.recv()
        connection.send(tried())

    children = [Child(work) for _ in range(6)]
    for number, child in enumerate(children):
        child.tell(2 + number % 2)
        assert child.hear() == "ready"
    for child in children:
        child.tell()
    numbers = {child.hear() for child in children}
    assert [child.join() for child in children] == [0] * 6
    assert len(numbers) == 1, "all name the same number"
    os.unlink(link())


def test_the_number_goes_with_the_last_that_was_made_under_it(shm_dir):
    def work(connection):
        shm.create(f"x{os.getpid()}", 1)
        connection.send(shm.publish("free"))
        connection.recv()

    def other(connection):
        speak(2)
        connection.recv()
        connection.send(tried())
        connection.recv()
        until(lambda: tried() == 2, "the last watchdog sweeps")

    with Child(other) as newer:
        with Child(work) as first, Child(work) as second:
            assert {first.hear(), second.hear()} == {1, 2}
            first.end()
            until(lambda: f"x{first.pid}" not in " ".join(left(shm_dir)), "the first watchdog sweeps")
            assert os.readlink(link()) == protocol.TEXT
            newer.tell()
            assert newer.hear() == protocol.NUMBER
        newer.tell()
        assert newer.join() == 0
    assert os.readlink(link()) == "2 shmkernel>=9.0"
    os.unlink(link())


def in_a_file(path):
    with open(path, "w") as file:
        file.write("1")


DAMAGED = {
    "a file": in_a_file,
    "a folder": os.mkdir,
    "a pipe": os.mkfifo,
    "a link to no number": lambda path: os.symlink("/etc/passwd", path),
    "a number without a release": lambda path: os.symlink("1", path),
    "too large a number": lambda path: os.symlink(f"{10**30} shmkernel>=9.0", path),
    "escape codes": lambda path: os.symlink("2 \x1b[2J", path),
    "not UTF-8": lambda path: os.symlink(b"2 \xff", os.fsencode(path)),
}


@pytest.mark.parametrize("make", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_number_is_told_and_its_cure_works(make):
    shm.create("x", 1)
    os.unlink(link())
    make(link())
    for call in (CALLS["create"], CALLS["gc"], shm.gc):
        with pytest.raises(shm.DamagedError, match="not a link that names a protocol") as caught:
            call()
    cure = caught.value.what.partition("in a terminal: ")[2]
    subprocess.run(["sh", "-c", cure], check=True)
    assert shm.create("y", 2) == 2
    assert shm.attach("x") == 1
