"""Cells under ``%%shm_lock`` run, fail and display like cells without it, and nothing of IPython is replaced."""

import inspect
import re
import signal
import sys
import threading

import pytest

import shmkernel as shm
from shmkernel.sync import inotify, sync_file
from tests.helpers import PATIENCE, until
from tests.unit.elsewhere import elsewhere

NOT_OURS = ("/notebook/", "run_cell_magic", "compilerop")


def plainly(ran):
    """Remove colours from the output of a cell."""
    return ran._replace(text=re.sub(r"\x1b\[[0-9;]*m", "", ran.text))


def test_an_error_shows_the_lines_of_the_cell_alone(notebook):
    ran = plainly(notebook.run("%%shm_lock x\ny = 1\ndef work():\n    return 1 / 0\nwork()"))
    assert isinstance(ran.error, ZeroDivisionError)
    assert ran.text.count("1 / 0") == 2, "as text of two frames at most"
    assert "line 5" in ran.text
    assert "----> 5 work()" in ran.text
    assert not [one for one in NOT_OURS if one in ran.text]
    assert len(ran.text.splitlines()) < 25


@pytest.mark.parametrize("cell", ["y =", "if True:\ny = 1", "for"])
def test_a_syntax_error_is_told_as_in_any_cell_and_nothing_runs(notebook, cell):
    plain, ran = notebook.run(cell), notebook.run(f"%%shm_lock x\n{cell}")
    assert isinstance(ran.error, type(plain.error))
    assert type(ran.error).__name__ == type(plain.error).__name__
    assert ran.error.lineno == plain.error.lineno + 1
    assert not [one for one in NOT_OURS if one in ran.text]
    assert len(ran.text.splitlines()) == len(plain.text.splitlines())
    assert not sync_file.opened("x").holds


def test_cells_under_two_locks_and_under_other_magics(notebook):
    notebook("from shmkernel.sync import sync_file\ndef held(): return [len(sync_file.opened(n).holds) for n in 'ab']")
    notebook("%%shm_lock a\n%%shm_lock b\nboth = held()")
    notebook("%%time\n%%shm_lock a\ntimed = held()")
    notebook("%%capture seen\n%%shm_lock a\ncaptured = held()\nprint('here')")
    notebook("%%shm_lock a\n%time inner = held()")
    notebook("%alias_magic --cell hold shm_lock\n%alias_magic locked shm_lock -p 'b --timeout 120'")
    notebook("%%hold a\naliased = held()")
    notebook("%%locked --shared\nfilled = held()")
    notebook("def work():\n    get_ipython().run_cell_magic('shm_lock', 'a', 'called = held()')\nwork()")
    names = ("both", "timed", "captured", "inner", "aliased", "filled", "called")
    assert [notebook[one] for one in names] == [[1, 1], *[[1, 0]] * 4, [0, 1], [1, 0]]
    for name in "ab":
        assert not sync_file.opened(name).holds
    ran = plainly(notebook.run("%%shm_lock a\n%%shm_lock b\n1 / 0"))
    assert isinstance(ran.error, ZeroDivisionError)
    assert "----> 3 1 / 0" in ran.text


def test_nothing_of_the_shell_is_replaced_and_its_handlers_run_once(notebook):
    seen, shell = [], notebook.shell
    before = dict(vars(shell))
    shell._showtraceback = lambda *about: seen.append(about[0])
    notebook("def look(): return vars(get_ipython()).get('_showtraceback')")
    notebook.run("%%shm_lock x\nduring = look()\n1 / 0")
    assert notebook["during"] is shell._showtraceback
    assert seen == [ZeroDivisionError]
    del shell._showtraceback
    shell.set_custom_exc((ValueError,), lambda *about, **_: seen.append(about[1]))
    notebook.run("%%shm_lock x\nint('a')")
    assert seen[1:] == [ValueError]
    assert "_showtraceback" not in before
    assert "_showtraceback" not in vars(shell)


def test_a_cell_under_a_lock_is_one_cell(notebook):
    events = []
    for event in ("pre_run_cell", "post_run_cell", "pre_execute", "post_execute"):
        notebook.shell.events.register(event, lambda *_, event=event: events.append(event))
    notebook("%%shm_lock x\nunder = 1")
    assert sorted(events) == ["post_execute", "post_run_cell", "pre_execute", "pre_run_cell"]


@pytest.mark.parametrize(
    ("body", "interactivity"),
    [
        ("3\n4", "last_expr"),
        ("3\n4;", "last_expr"),
        ("y = 4", "last_expr"),
        ("y = 4", "last_expr_or_assign"),
        ("3\n4", "all"),
        ("3\n4", "none"),
        ("# nothing\n", "last_expr"),
    ],
)
def test_what_a_cell_shows_it_shows_under_a_lock(notebook, body, interactivity):
    notebook.shell.ast_node_interactivity = interactivity
    plain, ran = notebook.run(body), notebook.run(f"%%shm_lock x\n{body}")
    assert re.sub(r"Out\[\d+\]", "Out", ran.text) == re.sub(r"Out\[\d+\]", "Out", plain.text)
    assert ran.value == plain.value


def test_functions_of_a_locked_cell_know_their_source(notebook):
    notebook("%%shm_lock x\n\ndef work(a):\n    return a  # the line\n")
    assert inspect.getsource(notebook["work"]) == "def work(a):\n    return a  # the line\n"


def test_help_and_misuse_run_no_body(notebook):
    assert "--timeout SECONDS" in notebook("%%shm_lock -h\nnever = 1")
    notebook.fails("%%shm_lock x y\nnever = 1")
    notebook.fails("%%shm_lock\nnever = 1")
    notebook.fails("%%shm_lock x --timeout soon\nnever = 1")
    error = notebook.fails("%%shm_lock x\nimport asyncio\nawait asyncio.sleep(0)\nnever = 1")
    assert str(error).endswith("Take the lock in it: async with shm.lock('x'):")
    assert "never" not in notebook


@pytest.mark.parametrize("cell", ["%%shm_lock x\nnever = 1", "%shm_wait y"])
def test_stop_while_a_magic_waits_shows_one_line(notebook, cell):
    with elsewhere(lambda: shm.lock("x").acquire()):
        done = threading.Event()

        def stop():
            until(lambda: done.is_set() or inotify._waiters or _sleeps(), "the cell waits")
            while not done.is_set():  # as a user does: one that comes just before the system call ends no wait
                signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
                done.wait(PATIENCE / 3)

        stopper = threading.Thread(target=stop)
        stopper.start()
        ran = notebook.run(cell)
        done.set()
        stopper.join()
    assert isinstance(ran.error, KeyboardInterrupt)
    assert ran.text.splitlines()[-1] == "shmkernel: interrupted"
    assert len(ran.text.splitlines()) <= 2
    assert "never" not in notebook


def _sleeps():
    """Return whether the main thread waits in the lock."""
    frame = sys._current_frames()[threading.main_thread().ident]
    return frame.f_code.co_filename.endswith("sync/locks.py")
