"""The libraries of tables beside forks and threads."""

import importlib.util
import sys
import threading
from types import SimpleNamespace

import pytest

import shmkernel as shm
from shmkernel._core import fork
from shmkernel.kinds.tables import libraries
from tests.helpers import PATIENCE, Child, needs

needs("pyarrow")


class BusyError(Exception):
    pass


def slow(monkeypatch, done):
    """Return a first use that is at work when another thread forks, and the event that says that it has begun."""
    began, forking = threading.Event(), threading.Event()
    handlers = fork._handlers["imports"]

    def before():
        if began.is_set():
            forking.set()
        return handlers.before()

    def use(*_):
        began.set()
        assert forking.wait(PATIENCE)
        done.append("used")
        return "a relation"

    monkeypatch.setitem(fork._handlers, "imports", handlers._replace(before=before))
    return use, began


def forked_beside(call, began, done):
    """Return what a child finds done that is forked while another thread calls."""
    thread = threading.Thread(target=call)
    thread.start()
    assert began.wait(PATIENCE)
    with Child(lambda connection: connection.send(done)) as child:
        found = child.hear()
    thread.join()
    return found


@pytest.mark.parametrize("library", ["pyarrow", "pandas", "polars"])
def test_a_fork_waits_for_the_first_use_of_a_library(library, monkeypatch):
    needs(library)
    done = []
    use, began = slow(monkeypatch, done)
    monkeypatch.setattr(libraries, "_used", set())
    monkeypatch.setitem(libraries._FIRST, library, use)
    assert forked_beside(lambda: libraries.ready(library), began, done) == ["used"]
    assert library in libraries._used


def test_a_fork_waits_for_the_making_of_a_relation(monkeypatch):
    done = []
    use, began = slow(monkeypatch, done)
    monkeypatch.setitem(sys.modules, "duckdb", SimpleNamespace(from_arrow=use))
    assert forked_beside(lambda: libraries.to_duckdb(None), began, done) == ["used"]


@pytest.mark.parametrize("patience", [PATIENCE, 0])
def test_a_connection_that_another_thread_uses_is_waited_for(patience, monkeypatch):
    answers = [BusyError, BusyError, "a relation"]

    def make(_):
        if (answer := answers.pop(0)) is BusyError:
            raise BusyError
        return answer

    monkeypatch.setitem(sys.modules, "duckdb", SimpleNamespace(from_arrow=make, ResourceInUseException=BusyError))
    monkeypatch.setattr(libraries, "_BUSY", patience)
    if patience:
        assert libraries.to_duckdb(None) == "a relation"
    else:
        with pytest.raises(BusyError):
            libraries.to_duckdb(None)


def test_a_first_use_that_fails_is_tried_again(monkeypatch):
    monkeypatch.setattr(libraries, "_used", set())
    monkeypatch.setitem(libraries._FIRST, "pyarrow", lambda: {}["memory"])
    assert libraries.ready("pyarrow") is sys.modules["pyarrow"]
    assert libraries._used == set()


def test_threads_attach_a_table_in_each_form_at_once():
    shm.create("t", sys.modules["pyarrow"].table({"n": [1, 2]}))
    forms = ["arrow", *(form for form in ("pandas", "polars", "duckdb") if importlib.util.find_spec(form))]
    together, wrong = threading.Barrier(4), []

    def attach():
        try:
            together.wait(PATIENCE)
            for form in forms:
                shm.attach("t", as_=form)
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=attach) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
