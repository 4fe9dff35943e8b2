"""Dicts whose files another program has written to: an error that says so, or the right values, never a crash."""

from __future__ import annotations

import contextlib
import datetime as dt
import gc
import os
import random
import signal
import warnings
import weakref
from decimal import Decimal

import msgspec
import numpy as np
import pytest

import shmkernel as shm
from shmkernel import kinds
from shmkernel.kinds import values
from shmkernel.kinds.dicts import entries, lmdb_pages, verify
from shmkernel.kinds.preview import Look, Source
from tests.helpers import PATIENCE, Child, holding

VALUES = {
    "text": "x", "number": 7, "list": [1, (2, {3}), {"a": None}], ("t", 1, None): 1.5, True: b"bytes", 2**70: 2**80,
    "array": np.arange(20), "time": dt.datetime(2020, 1, 1, tzinfo=dt.UTC), "long": "y" * 5000, "d": Decimal("1.5"),
    "x" * 600: np.float64(1), "large": np.arange(200_000.0),
}  # fmt: skip
TRIES = int(os.environ.get("SHMKERNEL_FUZZ", "15"))  # 3,000 before a release


def use():
    """Use a dict in all ways; return whether it was damaged."""
    for act in (
        lambda x: x.to_dict(),
        lambda x: [list(x), list(reversed(x)), len(x), repr(x), list(x.items()), list(x.values())],
        lambda x: [x.get(key) for key in VALUES],
        lambda x: [x.__setitem__(key, 1) for key in (*VALUES, "new", "newer")],
        lambda x: x.update(dict.fromkeys(range(50), "z" * 300)),
        lambda x: [x.pop(key, None) for key in [*VALUES][:4]],
        lambda x: x.popitem(),
        lambda x: x.clear(),
    ):
        with contextlib.suppress(shm.ShmError, KeyError):
            act(shm.attach("x", "r+"))
    with contextlib.suppress(shm.ShmError):
        shm.info("x")


def tried(seed, path, clean):
    """Change some used bytes, and return how a process ended that used the dict."""
    chance = random.Random(seed)
    used = clean.rstrip(b"\0")
    data = bytearray(clean)
    for _ in range(chance.choice([1, 2, 5, 30])):
        at = chance.randrange(len(used))
        data[at] = chance.choice([chance.randrange(256), data[at] ^ 1 << chance.randrange(8), 0, 255])
    with open(path, "r+b") as file:
        file.write(data)

    def work(_):
        warnings.simplefilter("ignore")
        signal.alarm(int(PATIENCE))
        use()

    with Child(work) as child:
        return child.join()


def test_whatever_bytes_change_nobody_dies_or_hangs_or_meets_another_error(shm_dir):
    with Child(lambda connection: connection.send(len(shm.create("x", VALUES, lifetime="keep")))) as child:
        child.hear()
        assert child.join() == 0
    (home,) = shm_dir.glob(".shmk-*/stores/*")
    with open(home / "data.mdb", "rb") as file:
        clean = file.read(1 << 16)
    first = random.randrange(1 << 30) if "SHMKERNEL_FUZZ" in os.environ else 1
    for seed in range(first, first + TRIES):
        assert tried(seed, home / "data.mdb", clean) == 0, f"seed {seed}"
    shm.unlink("x")


def extension(code, data):
    """Make an entry of a value that is not plain MessagePack."""
    return entries.head(0) + msgspec.msgpack.encode(msgspec.msgpack.Ext(code, data))


def array(*parts):
    """Make an entry of an array."""
    return extension(15, msgspec.msgpack.encode(parts))


@pytest.mark.parametrize(
    "entry",
    [
        b"\x92\xcf\0\0\0\0\0\0\0\0",
        b"\x92\xcf\0\0\0\0\0\0\0\0\xc1",
        b"\x92\xcf\0\0\0\0\0\0\0\0\xdd\xff\xff\xff\xff",
        b"\x93",
        b"\x01\x02\x03",
        entries.head(0)
        + msgspec.msgpack.encode(msgspec.msgpack.Ext(15, msgspec.msgpack.encode(["V0", [1 << 40], "C", b""]))),
        entries.head(0)
        + msgspec.msgpack.encode(msgspec.msgpack.Ext(15, msgspec.msgpack.encode(["(" * 9999, [1], "C", b""]))),
        extension(16, b"../../../../tmp/a"),
        extension(12, b"no number"),
        extension(99, b""),
        entries.head(0) + b"\x91" * 200_000 + b"\xc0",
    ],
    ids=range(11),
)
def test_a_value_that_cannot_be_read_is_damage_that_names_dict_and_key(entry):
    x = shm.create("x", {"a": 1, "b": 2})
    x._store.write(lambda txn: txn.put(b"a", entry))
    for act in (lambda: x["a"], x.to_dict, lambda: list(x.values()), lambda: x.pop("a"), lambda: x.increment("a")):
        with pytest.raises(shm.DamagedError, match=r"'x' is damaged") as caught:
            act()
        assert "LMDB" not in str(caught.value)
    with pytest.raises(shm.DamagedError, match="'a'"):
        x["a"]
    assert x["b"] == 2


@pytest.mark.parametrize(
    "act", [lambda x: x["a"], lambda x: x.to_dict(), lambda x: [*x.values()]], ids=["one", "all", "values"]
)
def test_an_error_of_a_read_keeps_nothing_of_its_callers_alive(act):
    x = shm.create("x", {"a": 1})
    x._store.write(lambda txn: txn.put(b"a", b"\x93"))

    def read():
        large = np.zeros(1)
        with contextlib.suppress(shm.DamagedError):
            act(x)
        return weakref.ref(large)

    read()
    gc.collect()
    gc.disable()
    try:
        assert read()() is None
    finally:
        gc.enable()


def test_a_time_in_a_zone_that_is_unknown_here_is_no_damage():
    x = shm.create("x", {"a": 1})
    moment = msgspec.msgpack.encode(["2020-01-01T00:00:00", 0, "Mars/Olympus"])
    entry = entries.head(0) + msgspec.msgpack.encode(msgspec.msgpack.Ext(8, moment))
    x._store.write(lambda txn: txn.put(b"a", entry))
    with pytest.raises(shm.UnsupportedError, match="tzdata"):
        x["a"]


def test_a_place_that_is_the_last_of_all_numbers_is_damage():
    x = shm.create("x", {"a": 1})
    x._store.write(lambda txn: txn.put(entries.place(2**64 - 1), b"a"))
    for act in (lambda: x.__setitem__("b", 1), lambda: x.update(b=1, c=2), lambda: x.setdefault("b", 1)):
        with pytest.raises(shm.DamagedError, match="'x' is damaged"):
            act()
    assert x["a"] == 1


@pytest.mark.parametrize("at", [0, 4, 56, 80], ids=["magic", "version", "readers", "mutex"])
def test_wrong_bytes_in_the_lock_file_of_an_open_dict_end_no_process(shm_dir, at):
    def attach(connection):
        try:
            with contextlib.suppress(shm.ShmError):
                shm.attach("x")["b"] = 2
            connection.send("unharmed")
        except BaseException as error:
            connection.send(repr(error))

    with holding(lambda: shm.create("x", {"a": 1}, lifetime="keep")):
        (path,) = shm_dir.glob(".shmk-*/stores/*/lock.mdb")
        with open(path, "r+b") as file:
            file.seek(at)
            file.write(b"\xff\xff\xff\x7f")
        with Child(attach) as child:
            assert child.hear() == "unharmed"
    x = shm.attach("x")
    assert x["a"] == 1
    shm.unlink("x")


def test_damage_is_told_once(shm_dir):
    x = shm.create("x", {"a": 1}, lifetime="keep")
    del x
    (path,) = shm_dir.glob(".shmk-*/stores/*/data.mdb")
    with open(path, "r+b") as file:
        file.write(b"\xff")
    with pytest.raises(shm.DamagedError) as caught:
        shm.attach("x")
    assert str(caught.value).count("is damaged") == str(caught.value).count("Remove it") == 1
    shm.unlink("x")


def test_a_file_with_a_time_in_a_zone_that_is_unknown_here_is_no_damage(tmp_path):
    moment = msgspec.msgpack.Ext(8, msgspec.msgpack.encode(["2020-01-01T00:00:00", 0, "Mars/Olympus"]))
    (tmp_path / "x.msgpack").write_bytes(msgspec.msgpack.encode({"a": moment}))
    with pytest.raises(shm.UnsupportedError, match="tzdata"):
        shm.load("x", tmp_path / "x.msgpack")


@pytest.mark.parametrize("placed", [b"a", b"\xff", b"\xc4", b"\xff\x92\x02\x00"])
def test_a_preview_shows_the_entries_beside_a_damaged_one(placed):
    x = shm.create("x", {"a": 1, "b": 2})
    x._store.write(lambda txn: (txn.put(b"a", b"\x93"), txn.put(entries.place(0), placed)))
    path = shm.info("x").path
    with open(path, "rb") as file:
        seen = kinds.named("dict").preview(
            Source(lambda at, size: os.pread(file.fileno(), size, at), 1 << 16, path), Look()
        )
    first, second = seen.facts["rows"]
    assert first[1:] == ["?", "cannot be read"]
    assert second == ["'b'", "int", "2"]


@pytest.mark.parametrize("data", [b"", b"\x93NUMPY", bytes(4096)])
def test_a_damaged_file_of_a_large_array_is_damage_of_the_dict(shm_dir, data):
    x = shm.create("x", {"large": np.zeros(1 << 17), "b": 1})
    (file,) = shm_dir.glob(".shmk-*/stores/*/*.npy")
    file.write_bytes(data)
    for act in (lambda: x["large"], lambda: x.pop("large"), lambda: x.compare_and_set("large", 1, 2)):
        with pytest.raises(shm.DamagedError, match="'x' is damaged: the file of a large array"):
            act()
    assert x["b"] == 1


def test_a_store_is_not_checked_again_unless_somebody_has_written_to_it(monkeypatch, shm_dir):
    def attach(connection):
        monkeypatch.setattr("shmkernel.kinds.dicts.verify.check", lambda *_: connection.send("checked"))
        connection.send(shm.attach("x", "r").to_dict())

    x = shm.create("x", {"a": 1}, lifetime="keep")
    with x.transaction():
        x["a"] = 2
    del x
    with Child(attach) as child:
        assert child.hear() == {"a": 2}
    (store,) = shm_dir.glob(".shmk-*/stores/*/data.mdb")
    os.utime(store)
    with Child(attach) as child:
        assert child.hear() == "checked"
    shm.unlink("x")


def test_a_value_that_shrank_in_its_transaction_is_no_damage():
    x = shm.create("x", {})
    for n in range(10):
        with x.transaction():
            x["a"] = bytes(9000)
            x["a"] = bytes(2500)
            x["b", n] = bytes(30_000)
    verify.check(x._store.home, "x", x._store.words)


@pytest.mark.parametrize("change", ["flags", "size"])
def test_what_lmdb_relies_on_and_its_verifier_leaves_out_is_damage(change):
    x = shm.create("x", {f"key {n}": "x" * 20 for n in range(9)})
    words = x._store.words
    verify.check(x._store.home, "x", words)
    at = lmdb_pages.current(words)
    with open(f"{x._store.home}/data.mdb", "r+b") as file:
        data = bytearray(file.read(4 * lmdb_pages.PAGE))
        if change == "flags":
            at = (at + lmdb_pages.DEPTH) * 8 + 4  # of the main tree: several values under a key
        else:
            at = words[at + lmdb_pages.ROOT] * lmdb_pages.PAGE
            at += int.from_bytes(data[at + 16 : at + 18], "little")  # of the first node
        data[at] ^= 4
        file.seek(0)
        file.write(data)
        file.flush()
        with pytest.raises(shm.DamagedError):
            verify.check(x._store.home, "x", words)
        data[at] ^= 4
        file.seek(0)
        file.write(data)


def test_text_of_numpy_s_that_would_be_cut_is_refused_with_a_cure():
    for value in (np.bytes_(b"a\0"), np.str_("a\0")):
        with pytest.raises(values.NoValueError) as caught:
            values.pack(value)
        assert "(...) of it" in caught.value.why
