"""What the first use of a verb imports: the time that it takes is that of its imports, and varies with the machine."""

from __future__ import annotations

import pytest

from tests.helpers import python

HEAVY = {
    "lmdb", "msgspec", "ipywidgets", "anywidget", "tqdm", "multiprocessing", "importlib.metadata", "numpy.ma",
    "concurrent.futures", "asyncio", "subprocess", "dataclasses", "difflib", "urllib.request", "inspect",
}  # fmt: skip
NEEDED = {  # of our modules, by an attach of an array
    "_core", "errors", "kinds", "kinds.array", "kinds.conversions", "kinds.dtypes", "stdlib",
    "sync", "sync.closing", "sync.sync_file", "sync.whereto",
    "verbs", "verbs.attachments", "verbs.listing", "verbs.segments", "verbs.staging",
}  # fmt: skip
MAGICS = {"notebook.handlers", "render", "workspace.actions", "workspace.variables"}  # for %shm_attach besides
SHELL = """
import sys
import numpy as np
from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magics import extension
shell = InteractiveShell.instance()
"""


def imported(before, line):
    """Return what a line imports in a fresh process, after others: our modules but those of `_core`, and all."""
    script = f"""
import sys
{before}
known = {{*sys.modules}}
{line}
print("imported:", *{{*sys.modules}} - known)
"""
    done = python(script)
    last = done.stdout.splitlines()[-1].split()
    assert last[0] == "imported:"
    ours = {name.removeprefix("shmkernel.") for name in last if name.startswith("shmkernel.")}
    return {name for name in ours if not name.startswith("_core.")}, {*last[1:]}


@pytest.fixture
def x():
    import numpy as np

    import shmkernel as shm

    yield shm.create("x", np.arange(3.0))
    shm.unlink("x")


def test_an_attach_of_an_array_imports_what_it_needs_alone(x):
    ours, all_ = imported("import numpy as np", "import shmkernel as shm; y = shm.attach('x'); assert y[1] == 1")
    assert ours <= NEEDED
    assert not all_ & HEAVY


def test_a_create_of_an_array_imports_what_it_needs_alone():
    line = "import shmkernel as shm; y = shm.create('y', np.arange(3.0)); shm.unlink('y')"
    ours, all_ = imported("import numpy as np", line)
    assert ours <= NEEDED
    assert not all_ & HEAVY


def test_loading_the_extension_imports_only_what_declares_the_magics():
    ours, all_ = imported(SHELL, "shell.run_line_magic('load_ext', 'shmkernel')")
    declares = {"bodies", "completion", "magics", "output", "parsing", "wording"}
    basis = {"_core", "errors", "notebook", "workspace", "workspace.scope"}
    assert ours <= basis | {f"notebook.{name}" for name in declares}
    assert not all_ & HEAVY


def test_loading_the_extension_makes_no_parser():
    before = SHELL + "import argparse\nparsers, make = [], argparse.ArgumentParser.__init__\n"
    line = """
argparse.ArgumentParser.__init__ = lambda self, *args, **kwargs: parsers.append(self) or make(self, *args, **kwargs)
shell.run_line_magic('load_ext', 'shmkernel')
made = len(parsers)
shell.run_line_magic('shm_help', '')
assert (made, len(parsers)) == (0, 1), parsers
"""
    imported(before, line)


def test_the_first_attach_in_a_notebook_imports_what_it_needs_alone(x):
    before = SHELL + "shell.run_line_magic('load_ext', 'shmkernel')"
    ours, all_ = imported(before, "shell.run_line_magic('shm_attach', 'x')")
    assert ours <= NEEDED | MAGICS
    assert not all_ & HEAVY


def test_the_first_create_in_a_notebook_imports_what_it_needs_alone():
    before = SHELL + "shell.run_line_magic('load_ext', 'shmkernel')"
    ours, all_ = imported(before, "shell.run_line_magic('shm_create', 'y --shape 3')")
    assert ours <= (NEEDED | MAGICS | {"notebook.sharing"}) - {"notebook.handlers"}
    assert not all_ & HEAVY


def test_a_first_use_without_free_descriptors_names_the_limit_and_works_later():
    script = (
        SHELL
        + """
import os, resource, shmkernel as shm
resource.setrlimit(resource.RLIMIT_NOFILE, (256, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
shell.run_line_magic("load_ext", "shmkernel")
shell.run_line_magic("shm_create", "x --shape 3")
taken = []
try:
    while True:
        taken.append(os.dup(0))
except OSError:
    pass
for first in (lambda: shm.lock, lambda: shell.run_line_magic("shm_list", "")):
    try:
        first()
    except shm.LimitError as error:
        print(error.limit)
for fd in taken:
    os.close(fd)
with shm.lock("x"):
    print(len(shell.run_line_magic("shm_list", "")))
shm.unlink("x")
"""
    )
    assert python(script).stdout.splitlines()[-3:] == ["ulimit -n", "ulimit -n", "1"]
