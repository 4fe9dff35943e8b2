from __future__ import annotations

import ast
import contextlib
import copy
import datetime as dt
import errno
import gc
import itertools
import json
import mmap
import multiprocessing
import os
import pickle
import resource
import threading
import tracemalloc
import zoneinfo
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

import shmkernel as shm
from shmkernel._core import paths, registry
from shmkernel.kinds.dicts import operations
from shmkernel.kinds.dicts.mapping import SharedDict
from shmkernel.testing import KindContract, attach_hostile, write
from shmkernel.verbs import attachments
from tests.helpers import PATIENCE, Child, free_descriptors, holding, leaving_none_open, left, python, until, until_left

LARGE = np.arange(200_000.0)


def homes(folder):
    """Return the folders of stores."""
    return sorted(folder.glob(".shmk-*/stores/*"))


class TestDict(KindContract):
    kind = "dict"
    VALUES: ClassVar = {
        "mixed": {"a": 1, 2: [1, {"b": (2,)}], ("c", None): 0.5, True: "text"},
        "empty": {},
        "texts": {f"key {n}": "x" * n for n in range(300)},
        "large": {"small": 1, "large": LARGE},
    }
    REFUSED: ClassVar = {"value": {"a": object()}, "key": {frozenset(): 1}, "nested": {"a": [np.array([print])]}}

    def same(self, got, value):
        keys = isinstance(got, SharedDict) and [repr(key) for key in got] == [repr(key) for key in value]
        return keys and all(np.array_equal(got[key], one) for key, one in value.items())

    def change(self, got):
        got["another"] = 1

    def touch(self, got):
        got.to_dict()

    def test_it_comes_back_as_it_is(self, value):
        x = shm.create("x", value)
        assert self.same(x, value)
        assert self.same(shm.attach("x"), value)
        assert shm.info("x").kind == "dict"
        assert shm.info("x").type == f"{len(value)} keys"
        content = sum(getattr(one, "nbytes", 0) for one in value.values())
        assert content < shm.info("x").size < 4 << 20 < os.path.getsize(paths.path_of("x"))

    @pytest.mark.parametrize("suffix", ["msgpack", "json"])
    def test_a_file_of_it_is_the_same_again(self, value, tmp_path, suffix):
        shm.create("x", value)
        path = tmp_path / f"x.{suffix}"
        if suffix == "json" and not all(type(key) is str and key != "large" for key in value):
            with pytest.raises(shm.UnsupportedError, match="msgpack"):
                shm.save("x", path)
            assert list(tmp_path.iterdir()) == []
            return
        shm.save("x", path)
        assert self.same(shm.load("y", path), value)
        assert shm.info("y").type == shm.info("x").type

    def test_without_a_record_its_first_bytes_tell(self):
        shm.create("x", {"a": 1})
        with open(paths.path_of("x"), "rb") as file:
            write("y", file.read(1 << 20))
        assert shm.info("y").kind == "dict"
        with pytest.raises(shm.DamagedError, match="folder"):
            shm.attach("y")
        shm.unlink("y")

    def test_private_changes_stay_private(self):
        shm.create("x", {"a": 1})
        with pytest.raises(shm.ArgumentError, match="a dict has no private changes"):
            shm.attach("x", mode="c")

    def test_what_would_not_come_back_is_refused(self, refused, shm_dir):
        with pytest.raises(shm.UnsupportedError, match="x"):
            shm.create("x", refused)
        assert [path for path in left(shm_dir) if "sessions" not in path] == []

    @pytest.mark.parametrize("end", [0, 1, 100, 4096, 4200, 8192, 16000])
    def test_a_file_cut_short_anywhere_is_damaged_or_whole(self, end):
        shm.create("x", {"a": 1})
        with open(paths.path_of("x"), "rb") as file:
            attach_hostile(self, file.read(end))

    test_a_few_wrong_bytes_are_damaged_or_harmless = None  # a store without its folder is refused, whatever its bytes


def test_dicts_are_recognised_and_take_no_shape():
    assert isinstance(shm.create("x", {}), SharedDict)
    assert isinstance(shm.create("y", kind="dict"), SharedDict)
    with pytest.raises(shm.ArgumentError, match="shape"):
        shm.create("z", {}, kind="dict", shape=3)
    with pytest.raises(shm.UnsupportedError, match="dict"):
        shm.create("z", 3, kind="dict")


def test_a_shared_dict_can_be_shared_again():
    shm.create("y", shm.create("x", {"a": 1, "b": LARGE}))
    shm.unlink("x")
    assert list(shm.attach("y")) == ["a", "b"]
    assert np.array_equal(shm.attach("y")["b"], LARGE)


def test_any_binding_of_lmdb_reads_it_as_the_package_says(shm_dir):
    shm.create("x", {"b": [1], "a": 2})
    shm.attach("x")["c"] = 3
    script = "import lmdb, sys; print(list(lmdb.open(sys.argv[1], readonly=True).begin().cursor()))"
    assert ast.literal_eval(python(script, homes(shm_dir)[0]).stdout) == [
        (b"a", b"\x92\xcf\0\0\0\0\0\0\0\x01\x02"),
        (b"b", b"\x92\xcf\0\0\0\0\0\0\0\0\x91\x01"),
        (b"c", b"\x92\xcf\0\0\0\0\0\0\0\x02\x03"),
        *((b"\xff\0\0\0\0\0\0\0" + bytes([at]), key) for at, key in enumerate([b"b", b"a", b"c"])),
    ]


class TestPlainDictsErrors:
    @pytest.mark.parametrize(
        "act",
        [
            lambda one: one["missing"],
            lambda one: one[[]],
            lambda one: one.__setitem__([], 1),
            lambda one: {} in one,
            lambda one: one.pop("missing"),
            lambda one: one.pop([]),
            lambda one: one.__delitem__("missing"),
            lambda one: one.update([1]),
            lambda one: one.update([(1, 2, 3)]),
            lambda one: one.update(3),
            lambda one: one.get({}),
            hash,
            lambda one: one | [1],
            lambda one: one[("a", [])],
        ],
        ids=range(14),
    )
    def test_are_raised_in_the_same_words(self, act):
        said = []
        for one in ({"a": 1}, shm.create("x", {"a": 1})):
            with pytest.raises((KeyError, TypeError, ValueError)) as caught:
                act(one)
            said.append((caught.type, str(caught.value).replace("SharedDict", "dict")))
        assert said[0] == said[1]

    def test_what_makes_new_dicts_makes_plain_ones(self):
        x = shm.create("x", {"a": 1})
        for made in (x | {}, {} | x, x.copy(), copy.copy(x), copy.deepcopy(x), x.to_dict(), dict(x), {**x}):
            assert type(made) is dict
            assert made == x == {"a": 1}
        assert x.fromkeys("ab", 0) == {"a": 0, "b": 0}

    def test_a_key_of_no_kind_is_simply_not_there(self):
        x = shm.create("x", {"a": 1})
        assert frozenset() not in x
        assert x.get(object(), "default") == "default"
        with pytest.raises(KeyError):
            x[1j]

    def test_what_cannot_be_stored_is_said_with_the_path_to_it_and_changes_nothing(self):
        x = shm.create("x", {"a": 1})
        with pytest.raises(shm.UnsupportedError, match=r"x\['b'\]\[0\]\['c'\]: a builtin_function_or_method") as caught:
            x.update(a=2, b=[{"c": print}])
        assert caught.value.path == ("b", 0, "c")
        assert x == {"a": 1}

    def test_a_dict_that_is_only_read_cannot_be_written(self):
        shm.create("x", {"a": 1})
        x = shm.attach("x", "r")
        for act in (lambda: x.update(a=2), lambda: x.pop("a"), x.clear, partial(x.increment, "a"), x.popitem):
            with pytest.raises(shm.ArgumentError, match=r"r\+"):
                act()
        assert x == {"a": 1}


class TestViews:
    def test_are_live(self):
        x = shm.create("x", {"a": 1})
        keys, values, items = x.keys(), x.values(), x.items()
        x["b"] = 2
        assert (list(keys), list(values), list(items)) == (["a", "b"], [1, 2], [("a", 1), ("b", 2)])
        assert ("b", 2) in items
        assert keys & {"b", "c"} == {"b"}
        assert len(values) == 2

    def test_a_loop_goes_on_while_other_processes_change_what_it_reads(self):
        def change(_):
            other = shm.attach("x", "r+")
            for gone in range(500):
                del other[gone]
            other["new"] = 1

        x = shm.create("x", {n: n for n in range(1000)})
        seen = []
        for key in x:
            seen.append(key)
            if key == 10:
                with Child(change) as child:
                    assert child.join() == 0
        assert set(range(500, 1000)) <= set(seen)
        assert seen[-1] == "new"
        assert len(seen) == len(set(seen))

    @pytest.mark.parametrize("change", ["insert", "remove", "clear", "elsewhere"])
    def test_a_loop_that_changes_the_size_raises_as_a_dict_s_does(self, change):
        x = shm.create("x", dict.fromkeys(range(100)))
        said = []
        for one in (dict.fromkeys(range(100)), x):
            y = shm.attach("x") if change == "elsewhere" and one is x else one
            for view in (one, one.keys(), one.values(), one.items()):
                with pytest.raises(RuntimeError) as caught:
                    for _ in view:
                        if change in ("insert", "elsewhere"):
                            y[len(y)] = 0
                        elif change == "remove":
                            y.popitem()
                        else:
                            y.clear()
                            y["a"] = 0
                y.update(dict.fromkeys(range(100)))
                said.append(str(caught.value))
        assert said == ["dictionary changed size during iteration"] * 8

    def test_a_loop_may_store_under_the_keys_that_are_there(self):
        x = shm.create("x", dict.fromkeys(range(200), 0))
        for key in x:
            x[key] += 1
        for key, value in x.items():
            x[key] = [value]
        assert list(x.values()) == [[1]] * 200

    def test_values_are_read_by_bytes_not_by_count(self):
        x = shm.create("x", {n: bytes(1 << 19) for n in range(20)})
        tracemalloc.start()
        for ways in (x.values(), reversed(x.values())):
            assert sum(1 for _ in ways) == 20
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert most < 4 << 20

    def test_a_large_one_is_shown_cut(self):
        x = shm.create("x", {n: n for n in range(1000)})
        assert repr(x).startswith("{0: 0, 1: 1")
        assert repr(x).endswith("... 900 more}")


class TestLargeArrays:
    def test_have_a_file_of_their_own_and_come_back_without_a_copy(self, shm_dir):
        x = shm.create("x", {"a": LARGE})
        x["b"] = LARGE
        assert len(list(homes(shm_dir)[0].glob("*.npy"))) == 2
        x["b"][0] = 7
        with Child(lambda connection: connection.send(float(shm.attach("x")["b"][0]))) as other:
            assert other.hear() == 7
        assert x["b"] is x["b"]
        assert shm.info("x").size > 2 * LARGE.nbytes

    def test_go_with_their_entry_and_live_on_where_they_are_attached(self, shm_dir):
        x = shm.create("x", dict.fromkeys("abcd", LARGE))
        b = x["b"]
        x["a"] = 1
        del x["b"]
        assert np.array_equal(x.pop("c"), LARGE)
        assert len(list(homes(shm_dir)[0].glob("*.npy"))) == 1
        x.clear()
        assert list(homes(shm_dir)[0].glob("*.npy")) == []
        assert np.array_equal(b, LARGE)

    def test_are_neither_left_nor_lost_by_a_transaction_that_is_undone(self, shm_dir):
        x = shm.create("x", {"a": LARGE, "b": LARGE})
        before = sorted(homes(shm_dir)[0].iterdir())
        with contextlib.suppress(ZeroDivisionError), x.transaction():
            x["a"] = LARGE + 1
            del x["b"]
            x["c"] = LARGE
            assert x["a"][0] == x["c"][1] == 1 / 0
        assert sorted(homes(shm_dir)[0].iterdir()) == before
        assert np.array_equal(x["a"], LARGE)
        assert np.array_equal(x["b"], LARGE)

    def test_are_stored_all_or_none(self, shm_dir):
        x = shm.create("x", {"a": 1})
        with pytest.raises(shm.UnsupportedError):
            x |= {"a": LARGE, "b": LARGE, "c": print}
        assert x == {"a": 1}
        assert list(homes(shm_dir)[0].glob("*.npy")) == []
        x |= {"a": LARGE, "b": LARGE, "c": 1}
        assert np.array_equal(x["a"], x["b"])

    def test_are_not_left_by_what_did_not_store_them(self, shm_dir):
        x = shm.create("x", {"a": 1})
        x.setdefault("a", LARGE)
        assert not x.compare_and_set("a", 2, LARGE)
        assert list(homes(shm_dir)[0].glob("*.npy")) == []
        assert x.setdefault("b", LARGE) is LARGE
        assert x.compare_and_set("b", LARGE, 0)
        assert list(homes(shm_dir)[0].glob("*.npy")) == []

    def test_that_cannot_be_shared_are_refused_before_anything_is_made(self, shm_dir):
        for act in (shm.create("x", {}).update, lambda content: shm.create("y", content)):
            with pytest.raises(shm.UnsupportedError):
                act({"a": np.zeros(300_000, object)})
        assert len(homes(shm_dir)) == 1

    def test_read_only_is_guarded_by_the_processor(self):
        shm.create("x", {"a": LARGE})
        with pytest.raises(ValueError, match="read-only"):
            shm.attach("x", "r")["a"][0] = 1

    def test_a_small_array_is_a_copy(self):
        x = shm.create("x", {"a": np.arange(3)})
        x["a"][0] = 9
        assert x["a"][0] == 0


class TestTransactions:
    def test_others_see_all_of_it_or_nothing(self):
        x = shm.create("x", {"a": 0, "b": 0})

        def watch(connection):
            other = shm.attach("x")
            connection.send("ready")
            pairs, over = set(), False
            while not over:
                over = connection.poll()
                snapshot = other.to_dict()
                pairs.add((snapshot["a"], snapshot["b"]))
            connection.send(pairs)

        with Child(watch) as child:
            child.hear()
            for n in range(1, 300):
                with x.transaction():
                    x["a"] = n
                    assert x["a"] == n
                    x["b"] = n
            child.tell()
            pairs = child.hear()
        assert pairs
        assert [pair for pair in pairs if pair[0] != pair[1]] == []

    def test_one_inside_another_joins_it(self):
        x = shm.create("x", {})
        with x.transaction(), x.transaction():
            x["a"] = 1
        assert x == {"a": 1}

    def test_a_part_that_failed_and_was_ignored_undoes_all(self):
        x = shm.create("x", {})
        with pytest.raises(shm.ArgumentError, match="part of it failed"), x.transaction():
            x["a"] = 1
            with pytest.raises(KeyError), x.transaction():
                x["missing"]
        assert x == {}

    def test_a_refused_value_leaves_the_rest_of_it_alone(self):
        x = shm.create("x", {})
        with x.transaction():
            x["a"] = 1
            with pytest.raises(TypeError):
                x["b"] = print
        assert x == {"a": 1}

    def test_other_threads_wait_and_read_what_was_before(self):
        x = shm.create("x", {"a": 0})
        seen, begun = [], threading.Event()

        def other():
            begun.set()
            seen.append(x["a"])
            x["a"] += 10
            seen.append(x["a"])

        thread = threading.Thread(target=other)
        with x.transaction():
            x["a"] = 1
            assert x["a"] == 1
            thread.start()
            begun.wait()
            until(lambda: seen, "the thread has read")
        thread.join()
        assert seen in ([0, 11], [0, 10])  # += reads before it waits

    def test_a_child_forked_inside_it_is_outside_of_it(self):
        x = shm.create("x", {"a": 0})
        with x.transaction():
            x["a"] = 1
            with Child(lambda connection: connection.send(x["a"]), kin=True) as child:
                assert child.hear() == 0
        assert x["a"] == 1

    @pytest.mark.parametrize("way", ["increment", "transaction", "compare_and_set"])
    def test_two_processes_counting_lose_nothing(self, way):
        def count(_):
            x = shm.attach("x")
            for _ in range(2000):
                if way == "increment":
                    x.increment("n")
                elif way == "transaction":
                    with x.transaction():
                        x["n"] += 1
                else:
                    while not x.compare_and_set("n", (n := x["n"]), n + 1):
                        pass

        x = shm.create("x", {"n": 0})
        children = [Child(count) for _ in range(2)]
        assert [child.join() for child in children] == [0, 0]
        assert x["n"] == 4000
        assert shm.attach("x")["n"] == 4000


class TestAttached:
    def test_a_change_is_seen_at_once_though_values_are_remembered(self):
        x = shm.create("x", {"n": 0, "other": "text"})

        def change(connection):
            other = shm.attach("x")
            while (n := connection.recv()) is not None:
                other["n"] = n
                connection.send(other["other"])

        with Child(change) as child:
            for n in range(1, 50):
                assert x["n"] == n - 1
                assert x["n"] == n - 1
                child.tell(n)
                assert child.hear() == "text"
                assert x["n"] == n
            child.tell()

    def test_threads_never_read_an_old_value_after_a_new_one(self):
        x = shm.create("x", {"n": 0})
        wrong, stop = [], threading.Event()

        def read():
            last = 0
            while not stop.is_set():
                now = x["n"]
                if now < last:
                    wrong.append((last, now))
                last = now

        threads = [threading.Thread(target=read) for _ in range(3)]
        for thread in threads:
            thread.start()
        for n in range(3000):
            x["n"] = n
            assert x["n"] == n
        stop.set()
        for thread in threads:
            thread.join()
        assert wrong == []

    def test_whoever_waits_for_it_is_woken_by_any_change_of_it(self):
        def change(connection):
            x = shm.attach("x")
            while (act := connection.recv()) is not None:
                if act == "transaction":
                    with x.transaction():
                        x["b"] = x["c"] = 2
                else:
                    {"set": lambda: x.update(a=1), "quick": partial(x.__setitem__, "a", 2), "clear": x.clear}[act]()
            connection.send(None)

        x = shm.create("x", {})
        with Child(change) as child:
            known = shm.version(x)
            for act in ("set", "quick", "transaction", "clear", "set"):
                child.tell(act)
                assert shm.wait("x", known, timeout=PATIENCE) == known + 1
                known += 1
            y = shm.create("x", {"a": 0}, replace=True)
            assert shm.wait("x", known, timeout=PATIENCE) == known + 1
            child.tell("set")
            child.tell()
            child.hear()
            assert shm.version("x") == known + 1
            y["a"] = 1
            assert shm.wait("x", known + 1, timeout=PATIENCE) == known + 2
        assert shm.info("x").version == known + 2
        with pytest.raises(KeyError):
            y.pop("missing")
        with contextlib.suppress(ZeroDivisionError), y.transaction():
            y["a"] = 1 / 0
        assert shm.version("x") == known + 2, "what changes nothing is no version"

    def test_twice_in_one_process_it_is_one_store(self):
        x, y = shm.create("x", {"a": 1}), shm.attach("x", "r")
        x["a"] = 2
        assert y["a"] == 2
        del x
        gc.collect()
        assert y["a"] == 2
        shm.attach("x")["a"] = 3
        assert y["a"] == 3

    def test_unlinked_it_goes_on_for_those_who_have_it(self, shm_dir):
        x = shm.create("x", {"a": 1, "b": LARGE})
        shm.unlink("x")
        assert homes(shm_dir) == []
        x["a"] += 1
        x["c"] = LARGE
        assert x["a"] == 2
        assert np.array_equal(x["c"], LARGE)
        with pytest.raises(shm.NotFoundError, match="unlinked"):
            x["b"]
        with pytest.raises(shm.NotFoundError):
            shm.attach("x")
        assert [(one.name, one.state, one.type) for one in shm.list()] == [("x", "unlinked", "3 keys")]

    def test_unlinked_a_forked_child_says_that_it_cannot_open_it(self):
        x = shm.create("x", {"a": [1]})
        shm.unlink("x")

        def read(connection):
            try:
                x["a"]
            except shm.NotFoundError as error:
                connection.send(str(error))

        with Child(read, kin=True) as child:
            assert "unlinked" in child.hear()
        assert x["a"] == [1]

    def test_replaced_each_goes_on_with_his_own(self):
        x = shm.create("x", {"a": 1})
        y = shm.create("x", {"a": 2}, replace=True)
        x["a"] += 10
        y["a"] += 10
        assert (x["a"], y["a"], shm.attach("x")["a"]) == (11, 12, 12)
        assert [(one.name, one.state) for one in shm.list()] == [("x", ""), ("x", "replaced")]

    def test_kept_after_the_unlink_it_is_a_copy(self):
        x = shm.create("x", {"a": 1})
        shm.unlink("x")
        shm.keep("x")
        y = shm.attach("x")
        y["a"] = 2
        assert (x["a"], y["a"]) == (1, 2)
        shm.unlink("x")

    def test_closed_and_attached_again_it_is_the_same(self):
        x = shm.create("x", {"a": 1})
        shm.close("x")
        y = shm.attach("x")
        x["a"] = 2
        assert y["a"] == 2
        del x, y
        assert attachments.everything() == []

    def test_nothing_of_it_grows_with_use(self, shm_dir):
        x = shm.create("x", {"a": 0})
        for n in range(20):
            shm.attach("x")["a"] = n
            shm.create("y", {"a": LARGE}, replace=True)
        del x
        before = len(left(shm_dir))
        with leaving_none_open():
            for n in range(100):
                shm.attach("x")["a"] = n
                shm.create("y", {"a": LARGE}, replace=True)["a"][0] = n
        assert len(left(shm_dir)) == before

    def test_a_folder_that_was_removed_is_damage_and_said(self, shm_dir):
        shm.create("x", {"a": 1})
        for path in homes(shm_dir)[0].iterdir():
            path.unlink()
        homes(shm_dir)[0].rmdir()
        gc.collect()
        with pytest.raises(shm.DamagedError, match="folder"):
            shm.attach("x")


def test_a_draft_that_is_not_published_leaves_nothing(shm_dir):
    shm.create("x", {"a": 1})
    with pytest.raises(shm.TakenError):
        shm.create("x", {"a": 2})
    with pytest.raises(shm.UnsupportedError):
        shm.create("y", {"a": object()})
    assert len(homes(shm_dir)) == 1
    assert shm.attach("x") == {"a": 1}


def test_a_store_whose_maker_died_before_it_had_a_name_is_swept(shm_dir, monkeypatch):
    def work(connection):
        monkeypatch.setattr(registry, "link_all", lambda *_: (connection.send("made"), connection.recv()))
        shm.create("x", {"a": LARGE})

    with Child(work) as child:
        assert child.hear() == "made"
        registry.sweep()
        assert len(homes(shm_dir)) == 1
        child.end()
    until_left(shm_dir)


@pytest.mark.parametrize("lifetime", ["session", "attached", "keep"])
def test_its_lifetime_is_that_of_any_segment(shm_dir, lifetime):
    def work(connection):
        x = shm.create("x", {"a": LARGE}, lifetime=lifetime)
        connection.send(len(x))
        connection.recv()

    with Child(work) as child:
        assert child.hear() == 1
        assert "x" in shm.session
        child.end()
    if lifetime == "keep":
        assert np.array_equal(shm.attach("x")["a"], LARGE)
        shm.unlink("x")
    until(lambda: homes(shm_dir) == [] and "x" not in shm.session, "it is swept")


def test_the_last_to_let_go_of_an_attached_one_unlinks_it(shm_dir):
    x = shm.create("x", {"a": 1}, lifetime="attached")
    assert shm.attach("x") is x
    del x
    assert [path for path in left(shm_dir) if "sessions" not in path] == []


def test_who_has_it_attached_is_listed():
    x = shm.create("x", {"a": 1})

    def work(connection):
        other = shm.attach("x", "r")  # in the parent's mode it would share the attachment
        connection.send(len(other))
        connection.recv()

    with Child(work) as child:
        child.hear()
        until(  # the OS's list of locks may miss one while other programs lock and unlock
            lambda: {one.pid for one in shm.info("x").attached} == {os.getpid(), child.pid}, "both are listed"
        )
    assert len(x) == 1


def test_to_a_process_goes_a_reference_to_a_pickle_the_values():
    x = shm.create("x", {"a": 1, "b": LARGE})
    copy = pickle.loads(pickle.dumps(x))
    assert type(copy) is dict
    assert np.array_equal(copy["b"], LARGE)
    for method in ("fork", "spawn", "forkserver"):
        with ProcessPoolExecutor(1, multiprocessing.get_context(method)) as pool:
            pool.submit(x.__class__.update, x, {method: os.getpid()}).result()
    assert [x[method] for method in ("fork", "spawn", "forkserver")] == [os.getpid()] * 3


def test_saved_as_json_it_is_json(tmp_path):
    shm.create("x", {"a": [1, None, {"é": 0.5}]})
    shm.save("x", tmp_path / "x.json")
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": [1, None, {"é": 0.5}]}


@pytest.mark.parametrize("key", ["tuple", "nan", "number"])
def test_what_json_would_change_is_not_saved_as_json(tmp_path, key):
    shm.create("x", {"tuple": (1,)} if key == "tuple" else {"a": float("nan")} if key == "nan" else {1: 1})
    with pytest.raises(shm.UnsupportedError, match="msgpack"):
        shm.save("x", tmp_path / "x.json")


@pytest.mark.parametrize("data", [b"", b"[1]", b"{", b"\x91", b"\xc1", b"\x81\xa1a\xd4\x63\x00"])
def test_a_file_of_no_dict_is_refused_and_nothing_is_made(tmp_path, shm_dir, data):
    (tmp_path / "x.msgpack").write_bytes(data)
    with pytest.raises(shm.DamagedError, match="cannot be loaded"):
        shm.load("x", tmp_path / "x.msgpack")
    assert homes(shm_dir) == []


def test_the_session_as_a_mapping_makes_dicts_too():
    shm.session["x"] = {"a": 1}
    shm.session["x"]["a"] = 2
    assert shm.session["x"].to_dict() == {"a": 2}
    del shm.session["x"]


def test_a_million_bytes_is_where_an_array_becomes_a_file():
    assert operations.is_large(np.zeros(1 << 20, np.uint8))
    assert not operations.is_large(np.zeros((1 << 20) - 1, np.uint8))


def test_too_many_open_files_are_not_the_dict_s_fault():
    with holding(lambda: shm.create("x", {"a": 1})):
        registry.begin()
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        errors, opened = [], []
        try:
            most = next(itertools.islice(free_descriptors(), 100, None))
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, limits[1]))
            with contextlib.suppress(OSError):
                while True:
                    opened.append(os.open("/dev/null", os.O_RDONLY))
            for fd in reversed(opened):  # the first reading is for the first step alone
                try:
                    x = shm.attach("x")
                    break
                except OSError as error:
                    errors.append(error.errno)
                os.close(fd)
                opened.remove(fd)
        finally:
            for fd in opened:
                os.close(fd)
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert x == {"a": 1}
    assert len(errors) > 2
    assert {*errors} == {errno.EMFILE}


def _entered(x):
    with x.transaction():
        return x["a"]


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x["a"],
        lambda x: x.get("a"),
        lambda x: [*x.values()],
        lambda x: x.to_dict(),
        lambda x: x.pop("a"),
        lambda x: x.setdefault("a", 1),
        lambda x: x == {"a": 1},
        _entered,
        lambda x: x.copy(),
    ],
    ids=["item", "get", "values", "to_dict", "pop", "setdefault", "equal", "in a transaction", "copy"],
)
@pytest.mark.parametrize("cached", [False, True], ids=["from the store", "from the cache"])
def test_a_time_whose_zone_cannot_be_read_for_a_limit_is_not_damaged(cached, read):
    when = dt.datetime(2026, 1, 1, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin"))
    x = shm.create("x", {"a": when, "b": 1})
    assert not cached or x["a"] == x["a"]
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    zoneinfo.ZoneInfo.clear_cache()
    resource.setrlimit(resource.RLIMIT_NOFILE, (next(free_descriptors()), limits[1]))
    try:
        with pytest.raises(shm.LimitError, match="'x': too many open files"):
            read(x)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert x == {"a": when, "b": 1}
    shm.unlink("x")


def test_a_limit_of_the_size_of_files_is_named(shm_dir):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30, limits[1]))
    try:
        with pytest.raises(shm.LimitError, match=r"ulimit -f") as caught:
            shm.create("x", {"a": 1})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (caught.value.errno, caught.value.limit) == (errno.EFBIG, "ulimit -f")
    assert homes(shm_dir) == []


@pytest.mark.parametrize("act", [lambda: shm.create("y", {}), lambda: shm.attach("x")], ids=["create", "attach"])
def test_a_limit_of_addresses_is_named_and_the_dict_is_not_called_damaged(act):
    def limited(connection):
        used = int(Path("/proc/self/statm").read_text().split()[0]) * mmap.PAGESIZE
        resource.setrlimit(resource.RLIMIT_AS, (used + (32 << 30), used + (32 << 30)))  # a dict takes 64
        try:
            act()
        except shm.LimitError as error:
            connection.send((error.errno, error.limit, "unlink" in str(error)))

    with holding(lambda: shm.create("x", {"a": 1})), Child(limited) as child:
        assert child.hear() == (errno.ENOMEM, "ulimit -v", False)


@pytest.mark.parametrize("wrap", [lambda text: text, lambda text: [text]], ids=["alone", "nested"])
def test_a_value_that_cannot_be_encoded_for_a_limit_of_memory_says_so(wrap):
    def limited(connection):
        x, value = shm.attach("x"), wrap("a" * (64 << 20))
        used = int(Path("/proc/self/statm").read_text().split()[0]) * mmap.PAGESIZE
        resource.setrlimit(resource.RLIMIT_AS, (used + (32 << 20), resource.RLIM_INFINITY))
        try:
            x["b"] = value
        except shm.LimitError as error:
            connection.send((error.name, error.limit))

    with holding(lambda: shm.create("x", {"a": 1})), Child(limited) as child:
        assert child.hear() == ("x", "memory")
