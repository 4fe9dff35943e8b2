"""Limits of the process and of its container: the error names the limit; nothing is damaged or left over."""

from __future__ import annotations

import errno
import gc
import itertools
import os
import resource
import signal
from pathlib import Path

import numpy as np
import pytest

import shmkernel as shm
from shmkernel._core import capacity, cgroups, paths, registry
from tests.helpers import Child, free_descriptors, leaving_none_open, left

MIB = 1 << 20
LIMITS = {
    "-n": (resource.RLIMIT_NOFILE, errno.EMFILE),
    "-v": (resource.RLIMIT_AS, errno.ENOMEM),
    "-f": (resource.RLIMIT_FSIZE, errno.EFBIG),
}


@pytest.fixture
def in_child():
    """Run a function in a process of its own; failed asserts fail the test."""

    def run(work, *arguments):
        with Child(lambda _: work(*arguments)) as child:
            assert child.join() == 0

    return run


def used_up(letter):
    """Lower a limit of this process to its present use, or for files below what it needs; return the old limit."""
    number, _ = LIMITS[letter]
    before = resource.getrlimit(number)
    now = {
        "-n": lambda: next(free_descriptors()),
        "-v": lambda: int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + 2 * MIB,
        "-f": lambda: MIB,
    }[letter]()
    resource.setrlimit(number, (now, before[1]))
    return before


VALUES = {"array": np.ones(MIB), "raw": bytes(8 * MIB), "blank": None}


@pytest.mark.parametrize("letter", LIMITS)
@pytest.mark.parametrize("kind", VALUES)
def test_a_limit_of_the_process_is_named_and_its_cure_works(letter, kind, shm_dir, in_child):
    number, code = LIMITS[letter]

    def create():
        if kind == "blank":
            return shm.create("x", shape=MIB)
        return shm.create("x", VALUES[kind])

    def work():
        y = shm.create("y", np.arange(3))
        before, now = left(shm_dir), used_up(letter)
        with pytest.raises(shm.LimitError, match=f"^'x'.*ulimit {letter}") as caught:
            create()
        resource.setrlimit(number, now)
        assert left(shm_dir) == before
        assert (caught.value.errno, caught.value.limit) == (code, f"ulimit {letter}")
        assert "unlink" not in caught.value.message
        used_up(letter)
        _, _, cure = caught.value.message.partition("import resource; ")
        exec(cure.partition(", or before")[0].removesuffix("."), {"resource": resource})
        assert resource.getrlimit(number)[0] == now[1]
        assert create() is not None
        assert y.sum() == 3

    in_child(work)


@pytest.mark.parametrize("letter", ["-n", "-v"])
def test_attaching_at_a_limit_of_the_process_calls_nothing_damaged(letter, in_child):
    shm.create("x", shape=(8 * MIB,), dtype="u1")

    def work():
        registry.begin()
        before = used_up(letter)
        with pytest.raises(shm.LimitError, match=f"'x'.*ulimit {letter}"):
            shm.attach("x")
        resource.setrlimit(LIMITS[letter][0], before)
        assert not shm.attach("x").any()
        assert [one.state for one in shm.list()] == [""]

    in_child(work)


def test_as_many_segments_as_descriptors_and_then_an_error_that_leaks_none(in_child):
    def work():
        registry.begin()
        resource.setrlimit(resource.RLIMIT_NOFILE, (next(itertools.islice(free_descriptors(), 40, None)), 4096))
        made = []
        with pytest.raises(shm.LimitError, match="ulimit -n"):
            made.extend(shm.create(f"x{number}", number) for number in range(4096))
        assert len(made) > 30
        with leaving_none_open():
            for _ in range(3):
                with pytest.raises(shm.LimitError):
                    shm.create("more", 1)
        assert [int(one) for one in made] == list(range(len(made)))
        del made[:5]
        gc.collect()
        assert shm.create("more", 1) == 1

    in_child(work)


def test_a_file_size_limit_sends_no_signal_that_ends_the_process(in_child):
    def work():
        registry.begin()
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # as in a program that embeds Python
        used_up("-f")
        for make in (lambda: shm.create("x", np.ones(MIB)), lambda: shm.SharedMemory("x", True, 8 * MIB, sparse=True)):
            with pytest.raises(shm.LimitError, match="ulimit -f"):
                make()

    in_child(work)


def test_where_no_file_can_be_made_each_verb_says_so(in_child, tmp_path):
    shm.create("x", 1)
    shm.create("d", {"a": 1})

    def work():
        registry.begin()
        kept = shm.attach("x"), shm.attach("d")
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
        for verb in (
            lambda: shm.create("y", 1),
            lambda: shm.create("y", [1, 2]),
            lambda: shm.create("y", {"a": 1}),
            lambda: shm.create("y", ring=3, shape=3),
            lambda: shm.keep("x"),
            lambda: shm.save("x", tmp_path / "x.npy"),
            lambda: shm.version("x"),
            lambda: shm.lock("x").__enter__(),
        ):
            with pytest.raises(shm.LimitError, match="ulimit -f"):
                verb()
        assert shm.gc() == []
        assert [one.state for one in shm.list()] == ["", ""]
        assert [one.level for one in shm.doctor() if one.level == "fail"] == ["fail"]
        assert not list(tmp_path.iterdir())
        shm.unlink("x")
        del kept

    in_child(work)


# a fake machine's /proc and /sys


def tree(tmp_path, files):
    for path, text in files.items():
        target = tmp_path / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(f"{text}\n")


V1, V2 = "sys/fs/cgroup/memory", "sys/fs/cgroup"
MEMINFO = f"MemTotal: {8 << 20} kB\nMemAvailable: {4 << 20} kB\nSwapFree: 0 kB"


def group(top, name, limit, used, **more):
    folder, first = f"{top}/{name}".rstrip("/"), top == V1
    files = {
        "memory.limit_in_bytes" if first else "memory.max": limit,
        "memory.usage_in_bytes" if first else "memory.current": used,
    }
    return {f"{folder}/{file}": text for file, text in (files | more).items()}


TREES = {
    "version 2": ("0::/a/b", group(V2, "a/b", 512 * MIB, 256 * MIB) | group(V2, "a", "max", 1), "a/b/memory.max"),
    "version 2, the group around": (
        "0::/a/b",
        group(V2, "a/b", "max", 1) | group(V2, "a", 512 * MIB, 256 * MIB),
        "a/memory.max",
    ),
    "version 2, in a container": ("0::/", group(V2, "", 512 * MIB, 256 * MIB), "cgroup/memory.max"),
    "version 2, high": (
        "0::/a",
        group(V2, "a", 4096 * MIB, 256 * MIB, **{"memory.high": 512 * MIB}),
        "a/memory.high",
    ),
    "version 1, nested": (
        "3:cpu:/\n4:memory:/a/b\n0::/",
        group(V1, "a/b", 512 * MIB, 256 * MIB) | group(V1, "", 1 << 60, 1),
        "a/b/memory.limit_in_bytes",
    ),
    "version 1, the group around": (
        "4:memory:/a/b",
        group(V1, "a/b", 1 << 60, 1) | group(V1, "a", 512 * MIB, 256 * MIB),
        "a/memory.limit_in_bytes",
    ),
    "version 1, in a container": (
        "4:memory:/docker/1f",
        group(V1, "", 512 * MIB, 256 * MIB),
        "memory/memory.limit_in_bytes",
    ),
    "version 1, with swap": (
        "4:memory:/a",
        group(V1, "a", 4096 * MIB, 256 * MIB)
        | {f"{V1}/a/memory.memsw.limit_in_bytes": 512 * MIB, f"{V1}/a/memory.memsw.usage_in_bytes": 256 * MIB},
        "memory.memsw.limit_in_bytes",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("own", "files", "file"), TREES.values(), ids=TREES)
def test_the_limit_of_a_container_is_found_wherever_it_is_set_and_named(own, files, file, tmp_path, monkeypatch):
    tree(tmp_path, files | {"proc/self/cgroup": own, "proc/meminfo": MEMINFO})
    monkeypatch.setattr(cgroups, "_ROOT", str(tmp_path))
    monkeypatch.setattr(capacity, "machine", lambda: 8 << 30)
    now = capacity.room()
    assert (now.bound, now.container) == ("container", 512 * MIB)
    assert now.free == 256 * MIB - 32 * MIB  # kept back for the process
    assert now.file.endswith(file)
    with pytest.raises(shm.FullError, match=r"memory limit of this container.*docker run --memory=") as caught:
        shm.create("x", shape=300 * MIB, dtype="u1")
    assert (caught.value.limit, caught.value.free) == ("container", now.free)
    assert "unlink" not in caught.value.message


def test_swap_of_the_machine_counts_as_far_as_the_group_may_use_it(tmp_path, monkeypatch):
    monkeypatch.setattr(cgroups, "_ROOT", str(tmp_path))
    tree(tmp_path, group(V2, "", 512 * MIB, 256 * MIB) | {"proc/self/cgroup": "0::/"})
    for most, more in (("max", 1000), (100 * MIB, 100), (0, 0)):
        tree(tmp_path, {f"{V2}/memory.swap.max": most, f"{V2}/memory.swap.current": 0})
        assert cgroups.tightest(1000 * MIB, 8 << 30).left == (256 - 32 + more) * MIB


@pytest.fixture
def container(tmp_path, monkeypatch):
    """Simulate a container of 120 MiB with 100 MiB used; return the list of reservations, which count too."""
    tree(tmp_path, group(V2, "", 120 * MIB, 100 * MIB) | {"proc/self/cgroup": "0::/", "proc/meminfo": MEMINFO})
    made = []

    def grow(fd, start, count, real=os.posix_fallocate):
        real(fd, start, count)
        made.append(count)
        tree(tmp_path, {f"{V2}/memory.current": 100 * MIB + sum(made)})

    monkeypatch.setattr(os, "posix_fallocate", grow)
    monkeypatch.setattr(cgroups, "_ROOT", str(tmp_path))
    monkeypatch.setattr(capacity, "machine", lambda: 8 << 30)
    monkeypatch.setattr(capacity, "_known", capacity._Known())
    return made


@pytest.mark.parametrize("size", [64 << 10, MIB, 10 * MIB])
def test_small_pieces_in_a_loop_end_with_an_error_before_the_container_ends(size, container):
    """Without a count of the reservations, the last one would kill the process."""
    with pytest.raises(shm.FullError, match="container"):
        _ = [shm.create(f"x{number}", shape=size, dtype="u1") for number in range(1000)]
    assert 12 * MIB - size < sum(container) < 20 * MIB
    for name in paths.names():
        shm.unlink(name)


@pytest.mark.parametrize("size", [4 << 10, 64 << 10, 2 * MIB])
def test_a_dict_that_grows_ends_with_an_error_before_the_container_ends(size, container):
    d = shm.create("d", {})
    with pytest.raises(shm.FullError, match="container"):
        d.update({number: bytes(size) for number in range(30 * MIB // size)})
    assert len(d) == 0
    with pytest.raises(shm.FullError, match="container"):
        d.update((number, bytes(size)) for number in range(30 * MIB // size))
    assert sum(container) < 20 * MIB
    d["x"] = 1
    assert d == {"x": 1}


def test_looking_costs_small_creates_little(monkeypatch):
    looks = []
    monkeypatch.setattr(capacity, "room", lambda real=capacity.room: looks.append(1) or real())
    monkeypatch.setattr(capacity, "_FRESH", 1000)
    for number in range(20):
        shm.create("x", number, replace=True)
    assert len(looks) <= 2
