from __future__ import annotations

import fcntl
import io
import itertools
import json
import math
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import shmkernel as shm
from shmkernel._core import folders, oflock, paths, records, registry, segment_file, sessions
from shmkernel.verbs import staging
from tests.helpers import holding, leaving_none_open, left
from tests.unit.test_interrupts import interrupted  # noqa: F401  a fixture

RECORD = records.Record(7, "x", "array", "1f", "plot.ipynb", "session", 0.5)
OPTIONS = {"shape": None, "dtype": None, "order": None, "fill": None}


def drafted(*values, replace=False):
    return [staging.draft(name, value, OPTIONS, None, "r+", "session", replace) for name, value in values]


TEXTS = [st.text()] * 4
TIMES = st.floats(0, 1e9)
ORIGINS = st.none() | st.builds(records.Origin, st.text(), st.text(), st.integers(), st.integers(), TIMES)


@given(st.builds(records.Record, st.integers(), st.just("x"), *TEXTS, TIMES, st.text(), ORIGINS))
def test_records_come_back_as_they_are(record):
    assert records.parse(records.encode(record)) == record


def test_a_record_of_a_release_that_knows_no_recipe_is_read():
    fields = RECORD._asdict()
    del fields["recipe"]
    assert records.parse(json.dumps(fields).encode()) == RECORD


def test_the_record_of_a_snapshot_comes_back_as_it_is():
    record = RECORD._replace(origin=records.Origin("hostA", "x", 7, 3, 0.5))
    assert records.parse(records.encode(record)) == record


def test_the_record_of_a_snapshot_that_does_not_say_when_its_segment_was_made_is_read():
    fields = RECORD._asdict() | {"origin": ["hostA", "x", 7, 3]}
    assert records.parse(json.dumps(fields).encode()).origin == ("hostA", "x", 7, 3, 0.0)


def test_fields_of_a_later_version_are_passed_over():
    assert records.parse(records.encode(RECORD)[:-1] + b', "colour": "red"}') == RECORD


@given(st.binary())
def test_anything_else_is_no_record(text):
    assert records.parse(text) is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("inode", True), ("inode", 7.0), ("inode", "7"), ("name", 5), ("name", "two words"), ("name", "a\nb"),
        ("kind", []), ("kind", None), ("owner", {}), ("owner", 1), ("label", ["x"]), ("lifetime", 1),
        ("created", None), ("created", math.nan), ("created", math.inf), ("created", -1), ("created", 10**400),
        ("created", True), ("created", "0"), ("recipe", 1), ("recipe", None),
        ("origin", 1), ("origin", {}), ("origin", "abcd"), ("origin", ["a", "x", 1]), ("origin", ["a", "x", "1", 2]),
        ("origin", ["a", "x", 1, 2, "0"]),
    ],
)  # fmt: skip
def test_a_record_with_a_field_that_cannot_be_is_none(field, value):
    assert records.parse(json.dumps(RECORD._asdict() | {field: value}).encode()) is None


def test_what_a_record_says_reaches_no_terminal_and_no_path_as_it_is():
    x = shm.create("x", 1, lifetime="keep")
    inode = registry.inode_at("x")
    said = {"owner": "../../x", "label": "\x1b[2Jplot\n<b>.ipynb", "lifetime": "session", "kind": "\x1b"}
    records.put(records.read(inode)._replace(**said))
    records._known.clear()
    found = shm.info("x")
    assert (found.owner, found.owner_alive, found.state) == ("?[2Jplot?<b>.ipynb", False, "damaged")
    assert found.type.isprintable()
    assert x == 1


def test_a_record_that_is_no_file_or_far_too_long_is_none():
    folders.prepare()
    os.mkdir(paths.runtime("records", "8"))
    with open(paths.runtime("records", "9"), "wb") as file:
        file.write(b" " * (1 << 20) + records.encode(RECORD._replace(inode=9)))
    assert records.read(8) is None
    assert records.read(9) is None
    os.rmdir(paths.runtime("records", "8"))
    os.unlink(paths.runtime("records", "9"))


def test_a_record_under_another_inode_is_none():
    folders.prepare()
    with open(paths.runtime("records", "8"), "wb") as file:
        file.write(records.encode(RECORD))
    assert records.read(8) is None
    assert list(records.others([])) == []
    assert shm.gc() == []


def test_several_names_are_published_all_or_none(shm_dir):
    shm.create("b", 0)
    before = left(shm_dir)
    three = drafted(("a", 1), ("c", 3)) + drafted(("b", 2), replace=True)
    with pytest.raises(shm.TakenError, match="'b' is taken"):
        staging.name_all(three, replace=False)
    assert left(shm_dir) == before
    assert shm.attach("b") == 0
    values = staging.name_all(drafted(("a", 1), ("b", 2), ("c", 3), replace=True), replace=True)
    assert [int(one) for one in values] == [1, 2, 3]
    assert paths.names() == ["a", "b", "c"]


def test_the_same_name_twice_publishes_none(shm_dir):
    with pytest.raises(shm.TakenError):
        staging.name_all(drafted(("a", 1), ("b", 2), ("a", 3)), replace=False)
    assert [path for path in left(shm_dir) if "sessions" not in path] == []


@pytest.mark.parametrize("failing", [1, 2])
def test_a_failure_on_the_way_leaves_the_names_as_they_were(failing, monkeypatch, shm_dir):
    kept = shm.create("b", 0)
    before = left(shm_dir)
    three = drafted(("a", 1), ("b", 2), ("c", 3), replace=True)
    count = iter(range(10))

    def link(fd, path, real=segment_file.link):
        if next(count) == failing:
            raise KeyboardInterrupt
        real(fd, path)

    monkeypatch.setattr(segment_file, "link", link)
    with pytest.raises(KeyboardInterrupt):
        staging.name_all(three, replace=True)
    monkeypatch.undo()
    assert left(shm_dir) == before
    assert shm.attach("b") is kept


def test_a_draft_that_is_not_published_leaves_nothing(shm_dir):
    registry.begin()
    before = left(shm_dir)
    with leaving_none_open():
        staging.discard(drafted(("a", np.arange(1000))))
    assert left(shm_dir) == before


def test_taking_a_name_says_whose_it_is():
    with holding(lambda: shm.create("x", 1)) as child:
        for replace in (False, "own"):
            with pytest.raises(shm.TakenError, match=r"'x' is taken, by .* \(alive\).*replace=True") as caught:
                staging.name_all(drafted(("x", 2), replace=replace), replace)
            assert caught.value.owner
        child.end()


def test_replacing_takes_the_name_over(shm_dir):
    with holding(lambda: shm.create("x", 1)) as child:
        x = shm.create("x", 2, replace=True)
        assert shm.info("x").mine
        child.end()
    assert shm.gc() == []
    assert shm.attach("x") is x
    assert len([path for path in left(shm_dir) if "records" in path]) == 1


def test_own_replaces_only_what_this_session_made():
    shm.create("x", 1)
    (x,) = staging.name_all(drafted(("x", 2), replace="own"), "own")
    assert shm.attach("x") is x
    assert x == 2


def test_holders_are_found_by_the_operating_system():
    with holding(lambda: shm.create("x", 1)) as child:
        found = os.stat(paths.path_of("x"))
        assert oflock.holders()[found.st_dev, found.st_ino] == [child.pid]
        x = shm.attach("x")
        assert sorted(oflock.holders()[found.st_dev, found.st_ino]) == sorted([child.pid, os.getpid()])
        assert x == 1
        child.end()
    with registry.locked():
        assert not registry.in_use("nothing")


def listing(*locks):
    """Return what /proc/locks says of shared flocks, given by pid and inode."""
    return "".join(f"{n}: FLOCK  ADVISORY  READ {pid} 00:1f:{inode} 0 EOF\n" for n, (pid, inode) in enumerate(locks, 1))


OTHERS = [(4711, inode) for inode in range(1_000_000, 1_000_080)]  # with their numbers they take more than a page


@pytest.mark.parametrize(
    "missing",
    [
        [OTHERS],  # its line is left out, and the rest looks like one page without the numbers of the lines
        [OTHERS[:70]],  # and like one page with them
        [[*OTHERS, (4712, inode)] for inode in range(8)],  # others come and go all the time
    ],
    ids=["two pages", "as if one page", "many changes"],
)
def test_a_holder_is_found_although_the_os_leaves_its_line_out_of_some_lists(missing, monkeypatch):
    """While others unlock, the OS leaves out a line between two pages: a stand-in for its list does so each time."""
    lists = itertools.chain((listing(*locks) for locks in missing), itertools.repeat(listing(*OTHERS, (9, 63))))
    monkeypatch.setattr(oflock, "open", lambda *_, **__: io.StringIO(next(lists)), raising=False)
    assert oflock.holders()[os.makedev(0, 0x1F), 63] == [9]


def test_a_change_of_lifetime_is_seen_by_who_has_read_the_record():
    x = shm.create("x", 1)
    found = os.stat(paths.path_of("x"))
    assert records.of(found).lifetime == "session"
    shm.keep("x")
    assert records.of(os.stat(paths.path_of("x"))).lifetime == "keep"
    shm.keep("x", "attached")
    assert records.of(os.stat(paths.path_of("x"))).lifetime == "attached"
    del x
    assert paths.names() == []


def test_a_change_of_lifetime_is_seen_where_the_clock_of_files_is_coarse_too(monkeypatch):
    shm.create("x", 1)
    assert records.of(os.stat(paths.path_of("x"))).lifetime == "session"
    chmod, missed = os.fchmod, [1, 2, 3]  # changes that do not change the ctime
    monkeypatch.setattr(os, "fchmod", lambda *about: missed.pop() if missed else chmod(*about))
    shm.keep("x")
    assert records.of(os.stat(paths.path_of("x"))).lifetime == "keep"
    assert not missed
    shm.unlink("x")


def test_a_dry_run_changes_nothing(shm_dir):
    x = shm.create("x", 1)
    session = sessions.mine()
    before = left(shm_dir)
    assert registry.sweep(dry_run=True) == []
    with open(paths.runtime("pending", "odd"), "w"):
        assert registry.sweep(dry_run=True) == []
    assert left(shm_dir) == sorted([*before, os.path.relpath(paths.runtime("pending", "odd"), shm_dir)])
    assert registry.sweep() == []
    assert left(shm_dir) == before
    assert sessions.alive(session.id)
    assert x == 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # about files that end without close()
def test_the_lock_of_names_is_free_after_an_interrupt_at_any_bytecode(interrupted):
    def act():
        with registry.locked():
            pass

    with open(f"{folders.prepare()}/names.lock") as other:

        def check():
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(other, fcntl.LOCK_UN)

        interrupted(act, check)


def test_what_is_collected_while_names_are_locked_is_unlinked_when_they_are_free():
    x = shm.create("x", 1, lifetime="attached")
    with registry.locked():
        del x
        assert "x" in shm.session
    assert "x" not in shm.session


def test_the_size_of_a_dict_does_without_a_file_that_is_removed_meanwhile(monkeypatch):
    shm.create("x", {"a": np.zeros(1 << 16)})
    status = os.stat(paths.path_of("x"))
    size = registry.size(status)
    listdir = folders.listdir
    monkeypatch.setattr(folders, "listdir", lambda path: [*listdir(path), "removed"])
    assert registry.size(status) == size > 1 << 19
