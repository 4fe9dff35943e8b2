"""A function is called once a module is imported, and the import is as it would be without it."""

from __future__ import annotations

import importlib
import importlib.machinery
import itertools
import sys
import threading

import pytest

from shmkernel._core import import_hooks
from tests.helpers import PATIENCE

_numbers = itertools.count()


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Write modules, by name without a number that makes it new in this process."""
    monkeypatch.syspath_prepend(tmp_path)
    number = next(_numbers)
    written = []

    def write(name, text=""):
        (tmp_path / f"{name}_{number}.py").write_text(text.replace("NUMBER", str(number)))
        written.append(f"{name}_{number}")
        return written[-1]

    yield write
    for name in written:
        sys.modules.pop(name, None)
        import_hooks._waiting.pop(name, None)


def test_it_is_called_at_once_if_the_module_is_imported():
    called = []
    import_hooks.after_import("sys", called.append)
    assert called == [sys]


def test_it_is_called_once_right_after_the_import(module):
    called, name = [], module("late", "value = 1")
    for _ in range(2):
        import_hooks.after_import(name, lambda found: called.append(found.value))
    import_hooks.after_import(name, hook := called.append)
    import_hooks.after_import(name, hook)
    late = importlib.import_module(name)
    assert called == [1, 1, late]
    importlib.reload(late)
    assert len(called) == 3


def test_what_was_imported_is_as_it_would_be_without_it(module):
    name = module("late")
    import_hooks.after_import(name, list)
    late = importlib.import_module(name)
    loader = importlib.machinery.SourceFileLoader
    assert type(late.__loader__) is type(late.__spec__.loader) is loader
    assert type(importlib.util.find_spec(name).loader) is loader
    assert importlib.util.find_spec(module("never")) is not None


def test_a_module_that_fails_is_waited_for_again(module, tmp_path):
    called, name = [], module("late", "1 / 0")
    import_hooks.after_import(name, called.append)
    with pytest.raises(ZeroDivisionError):
        importlib.import_module(name)
    assert called == []
    (tmp_path / f"{name}.py").write_text("good = 'now it is longer'")
    importlib.invalidate_caches()
    assert called == [importlib.import_module(name)]


def test_a_function_that_fails_does_not_fail_the_import(module, capsys):
    called, name = [], module("late")
    import_hooks.after_import(name, lambda _: 1 / 0)
    import_hooks.after_import(name, called.append)
    late = importlib.import_module(name)
    assert called == [late]
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_a_module_that_is_half_imported_when_it_is_named_is_called_for_when_it_is_whole(module):
    called = []
    inner = module("inner")
    outer = module("outer", "import inner_NUMBER\nwhole = True")

    def when_inner(_):
        assert not hasattr(sys.modules[outer], "whole")
        import_hooks.after_import(outer, lambda found: called.append(found.whole))
        assert called == []

    import_hooks.after_import(outer, list)
    import_hooks.after_import(inner, when_inner)
    importlib.import_module(outer)
    assert called == [True]


def test_a_module_that_another_thread_is_importing_is_waited_for(module):
    called, begun, go = [], threading.Event(), threading.Event()
    name = module("slow", "import builtins\nbuiltins.shmkernel_slow()\nwhole = True")
    import builtins

    builtins.shmkernel_slow = lambda: (begun.set(), go.wait(PATIENCE))
    try:
        first = threading.Thread(target=importlib.import_module, args=[name])
        first.start()
        assert begun.wait(PATIENCE)
        second = threading.Thread(
            target=import_hooks.after_import, args=[name, lambda found: called.append(found.whole)]
        )
        second.start()
        go.set()
        for thread in (first, second):
            thread.join(PATIENCE)
    finally:
        del builtins.shmkernel_slow
    assert called == [True]


def test_another_finder_may_ask_all_finders(module, monkeypatch):
    class Asking:
        busy = False

        def find_spec(self, name, path, target=None):
            if self.busy:
                return None
            self.busy = True
            try:
                return next(filter(None, (finder.find_spec(name, path, target) for finder in sys.meta_path)), None)
            finally:
                self.busy = False

    called, name = [], module("late")
    monkeypatch.setattr(sys, "meta_path", [Asking(), *sys.meta_path])
    import_hooks.after_import(name, called.append)
    late = importlib.import_module(name)
    assert called == [late]
