"""The monitor without a page: what it finds, what it sends, what its buttons do."""

import contextlib
import fcntl
import html.parser
import json
import os
import sys
import threading

import ipykernel
import numpy as np
import pytest
from ipykernel.comm.comm import BaseComm

import shmkernel as shm
from shmkernel import render, workspace
from shmkernel._core import paths, registry
from shmkernel.kinds.preview import Look
from shmkernel.monitor import actions, sampler, saved
from shmkernel.monitor.rows import Board, Change
from shmkernel.monitor.sampler import Sampler
from shmkernel.monitor.scan import statistics
from shmkernel.monitor.widget import watch
from tests.helpers import PATIENCE, holding, make_snapshot, until


@pytest.fixture
def sent():
    return []


@pytest.fixture
def watching(sent):
    """A sampler without a thread, with one connected page."""
    found = Sampler(lambda content, buffers: sent.append((content, buffers)), 0.25)
    found.hello()
    found.set_visible("view", on=True)
    return found


def threads():
    return [one for one in threading.enumerate() if one.name == "shmkernel-monitor"]


def rows(sent):
    return {row["key"]: row for content, _ in sent if content["do"] == "rows" for row in content["rows"]}


def gone(sent):
    return {key for content, _ in sent if content["do"] == "rows" for key in content.get("gone", ())}


def frames(sent):
    return [(content, buffers) for content, buffers in sent if content["do"] == "frame"]


def test_a_board_tells_what_came_what_changed_and_what_went():
    seen = Board()
    assert seen.scan() == ([], [])
    x = shm.create("x", shape=3)
    assert [row.key for row in seen.scan().rows] == ["x"]
    shm.keep("x")
    (kept,) = seen.scan().rows
    assert (kept.key, kept.info.lifetime) == ("x", "keep")
    y = shm.create("y", shape=3, replace=True)
    assert [row.key for row in seen.scan().rows] == ["y"]
    shm.unlink("y")
    del y
    assert seen.scan() == ([], ["y"])
    del x
    shm.unlink("x")


def test_a_board_tells_of_what_only_this_process_still_has():
    x = shm.create("x", shape=3)
    seen = Board()
    seen.scan()
    newer = shm.create("x", shape=4, replace=True)
    change = seen.scan()
    assert {row.key: row.info.state for row in change.rows} == {"x": "", "x (replaced 0)": "replaced"}
    shm.unlink("x")
    change = seen.scan()
    assert change.gone == ["x", "x (replaced 0)"]
    assert sorted(row.key for row in change.rows) == ["x (unlinked 0)", "x (unlinked 1)"]
    del x, newer
    assert until(lambda: seen.scan().gone, "what this process let go of") == ["x (unlinked 0)", "x (unlinked 1)"]


def test_the_page_is_told_what_a_snapshot_of_another_host_copies(watching, sent):
    x = shm.create("x", shape=3)
    watching.sample()
    assert rows(sent)["x"]["origin"] == ""
    make_snapshot("x")
    watching.sample()
    assert rows(sent)["x"]["origin"] == "hostA:x, version 3"
    shm.unlink("x")
    del x


def test_a_board_tells_who_has_what_attached_and_that_an_owner_ended():
    with holding(lambda: shm.create("x", shape=3, lifetime="keep")) as child:
        seen = Board()
        (row,) = seen.scan().rows
        assert (row.info.owner_alive, [one.pid for one in row.info.attached]) == (True, [child.pid])
        child.end()
        until(lambda: seen.scan() and not seen.rows["x"].info.attached, "no holder")
        assert not seen.rows["x"].info.owner_alive
    shm.unlink("x")


def test_a_board_follows_the_version_of_the_chosen_row_and_of_others_now_and_then():
    x, y = shm.create("x", shape=3), shm.create("y", shape=3)
    seen = Board()
    assert {row.key: row.version for row in seen.scan().rows} == {"x": None, "y": None}
    assert not os.listdir(paths.runtime("sync"))
    until(lambda: seen.scan() == ([], []) and seen._folders, "settled clocks")
    seen.chosen = "x"
    version = shm.publish("x")
    assert [(row.key, row.version) for row in seen.scan().rows] == [("x", version)]
    version = shm.publish("y")
    seen._due = 0.0
    assert [(row.key, row.version) for row in seen.scan().rows] == [("y", version)]
    shm.unlink("x")
    shm.unlink("y")
    del x, y


def test_a_board_at_rest_looks_at_no_segment(monkeypatch):
    kept = [shm.create(f"x{at}", shape=3) for at in range(5)]
    seen = Board()
    until(lambda: seen.scan() == ([], []) and seen._folders, "settled clocks")
    seen._due = float("inf")
    monkeypatch.setattr("shmkernel.verbs.listing.rows_of", lambda *_, **__: pytest.fail("looked"))
    assert seen.scan() == ([], [])
    monkeypatch.undo()
    for at in range(len(kept)):
        shm.unlink(f"x{at}")


def test_a_board_shows_posix_names_and_files_of_other_programs(posix_name):
    block = shm.create(f"/{posix_name}", shape=3)
    seen = Board()
    assert f"/{posix_name}" in {row.key for row in seen.scan().rows}
    shm.unlink(f"/{posix_name}")
    del block
    assert f"/{posix_name}" in seen.scan().gone


def test_a_greeting_brings_everything_and_later_turns_only_what_changed(watching, sent):
    x = shm.create("x", shape=3)
    watching.sample()
    first = sent[0][0]
    assert (first["first"], first["last"], list(rows(sent))) == (True, True, ["x"])
    sent.clear()
    watching.sample()
    assert not rows(sent)
    shm.unlink("x")
    watching.sample()
    assert gone(sent) == {"x"}
    del x


def test_before_the_greeting_everything_is_told_again_and_again(sent):
    x = shm.create("x", shape=3)
    early = Sampler(lambda content, buffers: sent.append((content, buffers)), 0.25)
    for _ in range(2):
        sent.clear()
        early.sample()
        assert list(rows(sent)) == ["x"]
    shm.unlink("x")
    del x


def test_a_frame_is_sent_when_the_values_changed(watching, sent):
    x = shm.create("x", np.arange(4.0))
    watching.select("x", Look())
    watching.sample()
    ((content, (data,)),) = frames(sent)
    assert (content["key"], content["form"], np.frombuffer(data).tolist()) == ("x", "line", [0, 1, 2, 3])
    sent.clear()
    watching.sample()
    assert not frames(sent)
    x[1] = 9
    watching.sample()
    assert np.frombuffer(frames(sent)[0][1][0]).tolist() == [0, 9, 2, 3]
    shm.unlink("x")
    x[2] = 8
    sent.clear()
    watching.sample()
    assert not frames(sent)
    watching.select("x (unlinked 0)", Look())
    watching.sample()
    assert np.frombuffer(frames(sent)[0][1][0]).tolist() == [0, 9, 8, 3]


def test_no_turn_takes_a_lock_that_others_wait_for(sent):
    made = [
        shm.create("array", shape=3), shm.create("list", [1, "x"]), shm.create("raw", b"abc"),
        shm.create("dict", {1: 2}), shm.create("ring", ring=3, shape=2), shm.create("kept", shape=3, lifetime="keep"),
    ]  # fmt: skip
    names_ = [one.name for one in shm.list()]
    del made[-1]  # no holder is known: is it attached elsewhere?
    for name in names_:
        shm.publish(name)
    here, exclusive = threading.get_ident(), []

    def heed(event, args):
        if (
            event.startswith("fcntl.")
            and here == threading.get_ident()
            and args[1] in (fcntl.LOCK_EX, fcntl.LOCK_EX | 4)
        ):
            exclusive.append((event, args))

    sys.addaudithook(heed)  # until the end: it must be cheap, and idle after this test
    found = Sampler(lambda content, buffers: sent.append((content, buffers)), 0.25)
    found.hello()
    for name in names_:
        with shm.lock(name):
            exclusive.clear()
            found.select(name, Look())
            found.sample()
        assert not exclusive
    here = None
    assert set(rows(sent)) == set(names_)
    assert {content["key"] for content, _ in frames(sent)} == set(names_)
    for name in names_:
        shm.unlink(name)


def test_looking_at_a_segment_does_not_attach_it(watching):
    with holding(lambda: shm.create("x", shape=3)) as child:
        watching.select("x", Look())
        watching.sample()
        assert [one.pid for one in shm.info("x").attached] == [child.pid]


def test_a_thousand_rows_come_in_messages_of_64_kib(watching, sent, monkeypatch):
    x = shm.create("x", shape=3)
    (row,) = Board().scan().rows
    many = {f"x{at}": row._replace(key=f"x{at}", info=row.info._replace(owner="o" * 90)) for at in range(1000)}
    monkeypatch.setattr(watching._board, "scan", lambda: Change([], []))
    watching._board.rows = many
    watching.sample()
    assert set(rows(sent)) == set(many)
    assert max(len(json.dumps(content)) for content, _ in sent) < 64 << 10
    ends = [(content["first"], content["last"]) for content, _ in sent if content["do"] == "rows"]
    assert ends == [(True, False), *[(False, False)] * (len(ends) - 2), (False, True)]
    sent.clear()
    lost = [f"{'x' * 200}{at}" for at in range(1000)]
    monkeypatch.setattr(watching._board, "scan", lambda: Change([], lost))
    watching.sample()
    assert gone(sent) == set(lost)
    assert max(len(json.dumps(content)) for content, _ in sent) < 64 << 10
    shm.unlink("x")
    del x


def test_a_segment_that_cannot_be_read_says_why_in_its_frame(watching, sent):
    x = shm.create("x", shape=3)
    with open(paths.path_of("x"), "r+b") as file:
        file.write(b"nonsense")
    watching.select("x", Look())
    watching.sample()
    assert rows(sent)["x"]["state"] == "damaged"
    content, (data,) = frames(sent)[0]
    assert (content["form"], data[:8]) == ("hex", b"nonsense")
    assert ".npy" in content["note"]
    shm.unlink("x")
    del x


def test_nobody_looks_when_views_hide_or_vanish(watching, monkeypatch):
    assert watching.watched()
    watching.set_visible("view", on=False)
    assert not watching.watched()
    watching.set_visible("view", on=True)
    now = sampler.time.monotonic()
    monkeypatch.setattr(sampler.time, "monotonic", lambda: now + 31)
    watching.busy = True  # its signs of life must wait
    assert watching.watched()
    watching.busy = False
    assert watching.watched()
    monkeypatch.setattr(sampler.time, "monotonic", lambda: now + 62)
    assert not watching.watched()


def test_views_come_and_go_while_the_thread_asks_who_watches():
    """The page's messages come in the kernel's thread."""
    found, failed, done = Sampler(lambda *_: None, 0.25), [], threading.Event()

    def ask():
        try:
            while not done.is_set():
                assert found.watched()
        except BaseException as error:
            failed.append(error)

    thread, interval = threading.Thread(target=ask), sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        found.set_visible("page", on=True)
        for number in range(200):
            found.set_visible(f"other {number}", on=True)
        thread.start()
        for number in range(5000):
            found.set_visible(f"view {number}", on=True)
            found.set_visible(f"view {number}", on=False)
    finally:
        done.set()
        thread.join(PATIENCE)
        sys.setswitchinterval(interval)
    assert not failed


def test_the_thread_samples_while_it_is_seen_and_ends_when_closed():
    told = threading.Event()
    found = Sampler(lambda *_: told.set(), 0.25)
    found.start()
    (thread,) = threads()
    assert told.wait(PATIENCE)
    found.close()
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_between_looks_that_are_far_apart_the_thread_says_that_it_lives():
    told, twice = [], threading.Event()

    def send(content, _):
        told.append(content["do"])
        if told.count("beat") > 1:
            twice.set()

    found = Sampler(send, 3600)
    found.hello()
    found.start()
    assert twice.wait(PATIENCE)
    found.close()
    assert told.count("rows") == 1


def act(verb, name, notebook):
    return actions.act(verb, name, registry.inode_at(name) or 0, workspace.of(notebook.shell))


def test_buttons_attach_keep_and_unlink(notebook):
    with holding(lambda: shm.create("x", np.arange(3))):
        assert act("attach", "x", notebook).endswith(", writable")
        assert notebook["x"].tolist() == [0, 1, 2]
        assert act("attach", "x", notebook).endswith(" (already attached)")
        assert act("keep", "x", notebook).endswith("shared until %shm_unlink x")
        assert act("unlink", "x", notebook).endswith("go and you run %shm_close x here")
        assert registry.inode_at("x") is None


def test_buttons_let_go_and_keep_no_longer(notebook):
    with holding(lambda: shm.create("x", np.arange(3))) as child:
        act("attach", "x", notebook)
        assert act("close", "x", notebook).startswith("x: closed here. It stays shared")
        assert "x" not in notebook.shell.user_ns
        act("keep", "x", notebook)
        assert "ends (longer: %shm_keep x)" in act("end", "x", notebook)
        act("keep", "x", notebook)
        held = shm.attach("x", "r")
        child.end()
        until(lambda: not shm.info("x").owner_alive, "the owner's end")
        assert act("end", "x", notebook).endswith("until the last process lets go of it")
        shm.unlink("x")
        del held
    with holding(lambda: shm.create("y", shape=3, lifetime="keep")) as child:
        child.end()
        until(lambda: not shm.info("y").owner_alive and not shm.info("y").attached, "nobody has it")
        with pytest.raises(shm.ArgumentError, match="would go at once"):
            act("end", "y", notebook)
        shm.unlink("y")


def test_all_values_are_scanned_in_a_thread_of_their_own(monitor):
    x = shm.create("x", np.arange(3_000_000, dtype="u8"))
    x[7] = 2**64 - 1
    inode = str(registry.inode_at("x"))
    monitor.hear({"do": "scan", "id": 5, "name": "x", "inode": inode})
    monitor.hear({"do": "scan", "id": 6, "name": "x", "inode": "1"})
    monitor.hear({"do": "scan", "id": 7, "name": "x", "inode": "y"})

    def answers():
        found = {content["id"]: content for content, _ in monitor.told if content["do"] == "done"}
        return found if len(found) == 2 else None

    done = until(answers, "two answers")
    assert "all 3,000,000 values: min 0, max 18,446,744,073,709,551,615, mean " in done[5]["text"]
    assert (done[6]["good"], "replaced by another" in done[6]["text"]) == (False, True)
    shm.unlink("x")
    del x


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ([0.0, np.nan, -np.inf, 6.0], "all 4 values: min 0, max 6, mean 3, NaN 1, infinite 1"),
        ([3 + 4j], "all 1 magnitudes: min 5, max 5, mean 5, NaN 0"),
        ([True, False], "all 2 values: min 0, max 1, mean 0.5"),
        ([np.nan], "all 1 values: NaN 1"),
        (np.zeros((0, 3)), "all 0 values: NaN 0"),
        (np.float16([60000, 60000]), "all 2 values: min 60000, max 60000, mean 60000, NaN 0"),
    ],
)
def test_a_scan_tells_of_all_values(values, told):
    x = shm.create("x", np.asarray(values))
    assert statistics("x", registry.inode_at("x"), lambda: False).partition(": ")[2] == told
    shm.unlink("x")
    del x


def test_a_button_does_to_variables_what_its_magic_does_and_says_the_same(notebook):
    def by_magic(verb):
        return notebook(f"%shm_{verb} x").rstrip()

    def by_button(verb):
        return act(verb, "x", notebook)

    told = []
    for do in (by_magic, by_button):
        with holding(lambda: shm.create("x", np.arange(3))):
            said = [do("attach")]
            notebook("x = x + 1\nrows = %shm_list")
            said.append(notebook["rows"]._notes)
            notebook("%shm_attach x --overwrite")
            said += [do("unlink"), do("keep"), do("unlink")]
            notebook("%shm_close x")
            told.append(said)
    assert told[0] == told[1]
    assert "your x is no longer the shared one" in told[0][1]["x"]


def test_a_snapshot_sets_the_variable_of_its_origin(notebook):
    """Its own name has a dot; and a list proposes to attach it by that, if it was replaced for example."""
    with holding(lambda: [shm.create("hostA.x", shape=3), make_snapshot("hostA.x")]):
        assert notebook("%shm_attach hostA.x").startswith("x = hostA.x: array float64 (3,)")
        assert act("attach", "hostA.x", notebook).endswith(" (already attached)")


def test_the_attach_button_takes_the_mode_that_is_configured(notebook):
    with holding(lambda: shm.create("x", np.arange(3))):
        assert notebook("%config ShmMagics.mode = 'r'") == ""
        assert act("attach", "x", notebook).endswith(", read only")
        assert not notebook["x"].flags.writeable
        notebook("%shm_close x")


def test_buttons_refuse_with_a_cure(notebook):
    x = shm.create("x", shape=3)
    other = shm.create("a.b", shape=3)
    notebook("x = 'mine'")
    with pytest.raises(
        shm.ArgumentError, match=r"your variable x is something else \(a str\)\. Keep both: %shm_attach x"
    ):
        act("attach", "x", notebook)
    with pytest.raises(shm.ArgumentError, match=r"a\.b cannot be a variable: %shm_attach a\.b --as NAME"):
        act("attach", "a.b", notebook)
    before = registry.inode_at("x")
    newer = shm.create("x", shape=4, replace=True)
    with pytest.raises(shm.NotFoundError, match="replaced by another"):
        actions.act("unlink", "x", before, workspace.of(None))
    assert registry.inode_at("x") is not None
    shm.unlink("x")
    with pytest.raises(shm.NotFoundError, match="has been unlinked meanwhile"):
        actions.act("unlink", "x", before, workspace.of(None))
    with pytest.raises(shm.ArgumentError):
        act("explode", "x", notebook)
    shm.unlink("a.b")
    del x, newer, other


@pytest.fixture
def monitor(monkeypatch):
    """A widget with a list of what it sends, and a function that delivers a page's message."""
    told = []
    made = shm.watch("x")
    monkeypatch.setattr(made, "send", lambda content, buffers=None: told.append((content, buffers)))
    made.told, made.hear = told, lambda content: made._handle_custom_msg(content, [])
    yield made
    made.close()


def test_the_widget_answers_its_page(monitor):
    x = shm.create("x", np.arange(3))
    monitor.hear({"do": "hello"})
    monitor.hear({"do": "see", "view": "v", "on": True})
    monitor.hear({"do": "look", "key": "x", "axes": [], "start": 0})
    assert monitor.look == {"key": "x", "axes": [], "start": 0, "form": ""}
    until(lambda: any(content["do"] == "frame" for content, _ in monitor.told), "a frame")
    inode = str(registry.inode_at("x"))
    monitor.hear({"do": "act", "id": 1, "verb": "keep", "name": "x", "inode": inode})
    monitor.hear({"do": "act", "id": 2, "verb": "keep", "name": "no_such", "inode": "1"})
    done = [content for content, _ in monitor.told if content["do"] == "done"]
    assert [(one["id"], one["good"]) for one in done] == [(1, True), (2, False)]
    act = {"do": "act", "id": 3, "verb": "unlink", "name": "x"}
    for nonsense in (
        {}, {"do": "look", "key": 3}, {"do": "act", "verb": "unlink"}, {"do": "see"}, act | {"inode": ""},
        act | {"inode": "x"}, act | {"inode": "9" * 5000}, {"do": "look", "key": "x", "axes": ["a"], "start": 0},
    ):  # fmt: skip
        monitor.hear(nonsense)
    assert monitor.look == {"key": "x", "axes": [], "start": 0, "form": ""}
    assert registry.inode_at("x")
    shm.unlink("x")
    del x


def test_viewers_without_widgets_get_a_table(monitor):
    x = shm.create("x", shape=3)
    data, _ = monitor._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in data
    assert data["text/plain"].splitlines()[1].startswith("x ")
    assert data["text/html"].startswith("<table>")
    shm.unlink("x")
    del x


@pytest.mark.skipif(ipykernel.version_info[0] < 7, reason="it has no subshells: there a click waits for the cell")
def test_a_comm_has_the_hook_that_lets_clicks_pass_a_running_cell():
    assert callable(BaseComm._reply_subshell_for)


def test_watch_refuses_nonsense():
    with pytest.raises(shm.ArgumentError, match="interval"):
        shm.watch(interval=0)
    with pytest.raises(shm.ArgumentError, match="cannot be the name"):
        shm.watch("two words")


def test_the_magic_shows_a_monitor_and_returns_it(notebook, monkeypatch):
    made = []
    monkeypatch.setattr(shm, "watch", lambda *args, **kwargs: made.append(watch(*args, **kwargs)) or made[-1])
    assert "nothing was shared. Share a variable: %shm_create NAME" in notebook("%shm_watch --every 1")
    assert notebook.fails("%shm_watch a b").message.startswith("the content of one segment is shown first")
    notebook("w = %shm_watch")
    assert notebook["w"] is made[-1]
    assert made[0]._sampler.interval == 1
    for one in made:
        one.close()


def test_no_file_of_the_page_calls_for_html_or_for_the_network():
    folder = os.path.join(os.path.dirname(shm.__file__), "monitor", "static")
    for entry in os.listdir(folder):
        with open(os.path.join(folder, entry)) as file:
            text = file.read()
        for word in ("innerHTML", "outerHTML", "insertAdjacent", "://", "fetch(", "eval(", "url("):
            assert word not in text


def test_the_thread_ends_when_nobody_looks_and_begins_anew_with_the_next_view():
    told = threading.Event()
    found = Sampler(lambda *_: told.set(), 0.05)
    found.hello()
    for view in "abc":
        found.set_visible(view, on=True)
        found.start()
        found.start()
        assert told.wait(PATIENCE)
        (thread,) = threads()
        found.set_visible(view, on=False)
        thread.join(PATIENCE)
        assert not thread.is_alive()
        told.clear()
    found.close()
    found.start()
    assert not threads()


def test_a_monitor_that_is_made_again_and_again_leaves_no_threads(monitor):
    for view in range(5):
        monitor.hear({"do": "hello"})
        monitor.hear({"do": "see", "view": str(view), "on": True})
        (thread,) = threads()
        monitor.hear({"do": "see", "view": str(view), "on": False})
        thread.join(PATIENCE)
    assert not threads()


def test_without_descriptors_watch_is_an_error_that_names_the_limit():
    taken = []
    with contextlib.suppress(OSError):
        while True:
            taken.append(os.dup(2))
    try:
        with pytest.raises(shm.LimitError, match="oo many open files") as caught:
            shm.watch()
    finally:
        for fd in taken:
            os.close(fd)
    assert caught.value.limit == "ulimit -n"
    assert not threads()


def test_in_a_terminal_the_table_fits_and_says_where_it_is_live(monkeypatch):
    kept = shm.create("temperature_of_monday_evening", shape=3)
    monkeypatch.setattr(render, "terminal_width", lambda: 50)
    with contextlib.closing(watch()) as monitor:
        text = monitor._repr_mimebundle_()[0]["text/plain"]
    assert max(map(len, text.splitlines())) <= 60
    assert text.endswith("\nLive: in JupyterLab, or in a terminal: shmkernel watch")
    del kept


def test_a_saved_monitor_has_few_rows_and_says_where_the_others_are(monitor):
    listed = [shm.create(f"a_rather_long_name_of_a_segment_{number}", shape=3) for number in range(30)]
    data, _ = monitor._repr_mimebundle_()
    assert sum(len(json.dumps(one)) for one in (*data.values(), monitor.table, monitor._esm)) < 20_000
    assert data["text/html"].count("<tr>") == len(monitor.table["lines"]) == 21
    assert "30 segments" in data["text/html"]
    assert "As of 2" in data["text/html"]
    assert "rows[20:40]" in data["text/plain"]
    for number in range(30):
        shm.unlink(f"a_rather_long_name_of_a_segment_{number}")
    del listed


def test_keep_of_what_lost_its_name_gives_the_notebook_the_copy_and_names_who_stays(notebook):
    with holding(lambda: shm.create("x", np.arange(3))):
        notebook("%shm_attach x --as mine\nother = 3\n%shm_unlink x")
        text = act("keep", "x", notebook)
        assert text.startswith("x: shared again as a copy, now your mine; ")
        assert text.endswith(" still has the old memory; there: %shm_attach x")
        assert notebook["mine"] is shm.attach("x")
        assert notebook["other"] == 3
    shm.unlink("x")


class Strict(html.parser.HTMLParser):
    """Keeps of a text what viewers such as GitHub keep: plain elements and their texts, no attributes."""

    KEPT = ("table", "thead", "tbody", "tr", "th", "td", "div")

    def __init__(self, text):
        super().__init__()
        self.open, self.lines, self.below = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        assert tag in self.KEPT, tag
        assert {name for name, _ in attributes} <= {"style"}, attributes
        self.open.append(tag)
        if tag == "tr":
            self.lines.append([])
        if tag in ("th", "td"):
            self.lines[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open == ["div"]:
            self.below.append(data)
        else:  # a text of a table outside of a cell would be put in front of it
            assert self.open[-1] in ("th", "td")
            self.lines[-1][-1] += data


def test_a_saved_table_is_plain_where_a_viewer_takes_styles_and_scripts_away(shm_dir):
    x = shm.create("x", np.zeros((4, 5)))
    (info,) = shm.list()
    seen = Strict(saved.table([info, info._replace(name="a_long_name_" * 5, owner="<script>a</script>.ipynb")]).html)
    assert seen.lines[0] == ["name", "kind", "type", "size", "owner", "attached", "lifetime", "age"]
    assert [len(line) for line in seen.lines] == [8] * 3
    assert seen.lines[1][:3] == ["x", "array", "float64 (4,\N{NO-BREAK SPACE}5)"]
    assert seen.lines[2][4].startswith("<script>a</script>")
    assert seen.below[0].startswith("2 segments, ")
    assert seen.below[-1].startswith("As of ")
    assert seen.open == []
    shm.unlink("x")
    del x


def test_a_saved_table_stays_small_whatever_names_and_labels_there_are(shm_dir):
    x = shm.create("x", shape=3)
    (info,) = shm.list()
    odd = [info._replace(name="n" * 200, owner='"<&é' * 60, type="µ" * 300, state="damaged")] * 50
    found = saved.table(odd)
    assert len(json.dumps(found, ensure_ascii=False).encode()) < 16_000
    assert found.html.count("<tr>") == len(found.cells["lines"]) >= 3
    assert "<&" not in found.html
    assert "50 segments" in found.html
    shm.unlink("x")
    del x
