"""Locks, versions, waiting and streams, as cells of a notebook and on the command line."""

import threading

import numpy as np
import pytest
from IPython.core.completer import provisionalcompleter

import shmkernel as shm
from shmkernel import cli
from shmkernel.sync import inotify, sync_file
from tests.helpers import PATIENCE, Child, until
from tests.unit.elsewhere import elsewhere


def test_a_cell_runs_under_the_lock_and_leaves_the_next_version(notebook):
    notebook("%shm_create x --shape 3")
    notebook("from shmkernel.sync import sync_file")
    text = notebook("%%shm_lock x\nx += 1\nheld = len(sync_file.opened('x').holds)\nlocal = 'here'\nfloat(x.sum())")
    assert text.endswith("3.0\n")
    assert (notebook["held"], notebook["local"], notebook["x"].tolist()) == (1, "here", [1, 1, 1])
    assert sync_file.opened("x").holds == []
    assert shm.version("x") == 1


def test_a_cell_that_fails_under_the_lock_shows_its_error_once_and_frees_it(notebook):
    ran = notebook.run("%%shm_lock x\ny = 1\n1 / 0")
    assert isinstance(ran.error, ZeroDivisionError)
    assert ran.text.count("division by zero") == 1
    assert "run_cell" not in ran.text
    assert isinstance(notebook.run("%%shm_lock x\ny =").error, SyntaxError)
    assert sync_file.opened("x").holds == []
    assert str(notebook.fails("%%shm_lock x\n%shm_attach nothing")).startswith("no segment named 'nothing'")


def test_a_cell_waits_for_the_lock_no_longer_than_it_says(notebook):
    with elsewhere(lambda: shm.lock("x").acquire()):
        error = notebook.fails("%%shm_lock x --timeout 0.05\nnever = 1")
        assert str(error).startswith("'x' is still locked after 0.05 s, by plot.ipynb (")
    assert "never" not in notebook


def test_a_holder_that_died_is_told_at_the_line_of_the_cell(notebook):
    with elsewhere(lambda: shm.lock("x").acquire()):
        pass
    with pytest.warns(RuntimeWarning, match="died while it held 'x'") as warned:
        notebook("%%shm_lock x\npass")
    assert "ipython-input" in warned[0].filename


def test_readers_share_the_lock_of_a_cell(notebook):
    with elsewhere(lambda: shm.lock("x", shared=True).acquire()):
        notebook("%%shm_lock x --shared --timeout 120\nread = 1")
        assert isinstance(notebook.fails("%%shm_lock x --timeout 0\nwritten = 1"), TimeoutError)
    assert ("read" in notebook, "written" in notebook) == (True, False)


def test_the_lock_without_a_cell_says_where_it_goes(notebook):
    assert str(notebook.fails("%shm_lock x")).endswith("so it comes first in it: %%shm_lock x")


def test_publish_and_wait_tell_the_version_and_return_it(notebook):
    notebook("%shm_create x y --shape 3")
    assert notebook("%shm_publish x y") == "x: version 1, y: version 1\n"
    assert notebook("v = %shm_publish x") == "x: version 2\n"
    assert notebook("w = %shm_wait x --since 1") == "x: version 2\n"
    assert (notebook["v"], notebook["w"]) == (2, 2)
    assert str(notebook.fails("%shm_wait x --timeout 0.01")) == "nothing was published under 'x' within 0.01 s"
    assert "version" in notebook("%shm_info x")


def test_a_name_that_may_be_misspelt_is_used_and_told(notebook):
    notebook("%shm_create elevation --shape 3")
    hint = "no segment named 'elevatoin'. Did you mean elevation?"
    assert notebook("%%shm_lock elevatoin\npass") == f"{hint} This locks the bare name\n"
    assert notebook("%shm_publish elevatoin") == f"{hint} This publishes the bare name\nelevatoin: version 2\n"
    assert notebook("monitor = %shm_watch elevatoin") == f"{hint}\n"
    notebook["monitor"].close()
    assert notebook("%%shm_lock elevation\npass") == notebook("%%shm_lock turns\npass") == ""


def test_what_is_attached_to_be_read_is_not_published(notebook):
    with elsewhere(lambda: shm.create("x", np.ones(3))):
        notebook("%shm_attach x --mode r")
        assert isinstance(notebook.fails("%shm_publish x"), PermissionError)


def test_wait_for_a_name_that_may_be_misspelt_says_so(notebook):
    notebook("%shm_create elevation --shape 3")

    def work():
        until(lambda: len(inotify._waiters), "the cell waits")
        shm.publish("elevatoin")

    thread = threading.Thread(target=work)
    thread.start()
    text = notebook("%shm_wait elevatoin")
    thread.join()
    assert text.startswith("no segment named 'elevatoin'. Did you mean elevation? Waiting until there is one\n")


def test_a_stream_is_made_and_used(notebook):
    line = notebook("%shm_create frames --ring 4 --shape 2,2 --dtype uint8")
    assert line.startswith("frames: ring 4 slots of uint8 (2, 2), ")
    notebook("frames.put([[1, 2], [3, 4]])")
    assert notebook["frames"].latest().tolist() == [[1, 2], [3, 4]]
    assert str(notebook.fails("%shm_create other --ring 4")) == "--ring makes slots for frames: give their --shape too"
    assert "--ring: invalid int value: 'n'" in str(notebook.fails("%shm_create other --ring n --shape 3"))
    with elsewhere(lambda: shm.attach("frames").put(np.full((2, 2), 9))):
        assert notebook["frames"].latest().max() == 9


def test_they_go_with_the_extension(notebook):
    notebook("%unload_ext shmkernel")
    assert notebook.shell.find_cell_magic("shm_lock") is None
    notebook("%load_ext shmkernel")
    assert notebook.shell.find_cell_magic("shm_lock") is not None


def test_the_command_line_waits_for_the_next_version(capsys):
    shm.create("x", shape=3)

    def work(_):
        shm.publish("x")

    def act():
        until(lambda: len(inotify._waiters), "the command waits")
        with Child(work) as child:
            child.join()

    thread = threading.Thread(target=act)
    thread.start()
    assert cli.main(["wait", "x", "--timeout", str(PATIENCE)]) == 0
    thread.join()
    assert capsys.readouterr().out == "1\n"
    assert cli.main(["wait", "x", "--since", "0"]) == 0
    assert cli.main(["wait", "x", "--timeout", "0.01"]) == 1
    assert capsys.readouterr().err == "shmkernel: nothing was published under 'x' within 0.01 s\n"


@pytest.mark.parametrize("line", ["%shm_wait e", "%shm_publish e", "%shm_lock e", "%%shm_lock e"])
def test_names_are_completed(notebook, line):
    shm.create("elevation", shape=3)
    with provisionalcompleter():
        found = [one.text for one in notebook.shell.Completer.completions(line, len(line))]
    assert found == ["elevation"]


@pytest.mark.parametrize("seconds", ["nan", "-1", "inf", "1e300", "soon"])
def test_a_time_that_is_none_is_refused(notebook, seconds):
    for line in ("%%shm_lock x --timeout {}\nnever = 1", "%shm_wait x --timeout {}", "%shm_watch --every {}"):
        assert f"{seconds} is not a number of seconds, 0 or more" in str(notebook.fails(line.format(seconds)))
    assert "never" not in notebook
    notebook.fails("%shm_watch --every 0")
    assert "is not a version" in str(notebook.fails("%shm_wait x --since -1"))


@pytest.mark.parametrize("seconds", [float("nan"), -1, float("inf"), "soon", 1e300])
def test_python_refuses_a_time_that_is_none_too(seconds):
    x = shm.create("x", shape=3)
    for call in (shm.lock, shm.wait, shm.writing):
        with pytest.raises(shm.ArgumentError, match="is not a number of seconds"):
            call(x, timeout=seconds)
    shm.unlink("x")
