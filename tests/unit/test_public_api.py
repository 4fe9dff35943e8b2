from __future__ import annotations

import builtins
import os
import subprocess
import sys

import pytest

import shmkernel as shm
from tests.helpers import python

HEAVY = {"numpy", "IPython", "ipykernel", "multiprocessing", "subprocess", "tqdm", "traitlets", "asyncio", "json"}


def loaded(script):
    """Return which heavy modules a script loads."""
    done = python(f"import sys; before = {{*sys.modules}}\n{script}\nprint(*({HEAVY} & {{*sys.modules}} - before))")
    return {*done.stdout.split()}


def test_importing_the_package_loads_nothing_heavy():
    assert loaded("import shmkernel") == set()
    assert loaded("from shmkernel import ShmError, FullError") == set()
    assert loaded("import shmkernel; dir(shmkernel), shmkernel.__all__") == set()


def test_the_watchdog_needs_only_the_stdlib():
    assert loaded("from shmkernel._core import watchdog") <= {"json"}


def test_the_api_comes_at_first_use():
    assert "numpy" in loaded("import shmkernel; shmkernel.create('x', 1)")


def test_every_public_name_is_there():
    for name in dir(shm):
        assert getattr(shm, name) is not None
    assert "list" in dir(shm)
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        shm.nonsense


def test_importing_every_submodule_hides_no_public_name():
    script = """
import importlib, importlib.util, pkgutil, types
import shmkernel as shm
found = [module.name for module in pkgutil.walk_packages(shm.__path__, "shmkernel.")]
if importlib.util.find_spec("distributed") is None:
    found = [name for name in found if not name.startswith("shmkernel.dask")]
for name in found:
    if "__main__" not in name:
        importlib.import_module(name)
modules = [name for name in dir(shm) if isinstance(getattr(shm, name), types.ModuleType)]
x = shm.create("x", [1, 2], dtype=int)
print(len(found) > 15, modules, shm.attach("x") is x, [one.name for one in shm.list()], shm.info("x").name)
print(shm.keep("x").lifetime)
shm.unlink("x")
print(shm.gc(), len(shm.session), shm.close("x"))
"""
    assert python(script).stdout == "True [] True ['x'] x\nkeep\n[] 0 False\n"


def test_a_star_import_hides_no_builtin():
    assert not {*shm.__all__} & {*dir(builtins)}
    assert python("from shmkernel import *; print(list('ab'), create.__module__)").stdout == (
        "['a', 'b'] shmkernel.verbs.segments\n"
    )


def test_the_version_is_the_distributions():
    assert shm.__version__.split(".")[0].isdigit()


def test_other_systems_are_told_what_is_missing():
    code = "import sys; sys.platform = 'darwin'; import shmkernel"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=os.environ)
    assert "ImportError: shmkernel needs Linux" in done.stderr


def test_without_lmdb_all_but_dicts_works_and_a_dict_says_what_to_install():
    script = """
import sys
sys.modules["lmdb"] = None  # as if it were not installed
import numpy as np, shmkernel as shm
x, names = shm.create("x", np.arange(3)), shm.create("names", [1, "two"])
with shm.lock("x"):
    shm.publish("x")
for make in (lambda: shm.create("d", {"a": 1}), lambda: shm.create("d", {})):
    try:
        make()
    except shm.UnsupportedError as error:
        print(error, error.package)
print([one.name for one in shm.list()])
shm.unlink("x"), shm.unlink("names")
"""
    said = "shared dicts need the package lmdb, which is not installed here. Install it: pip install lmdb lmdb\n"
    assert python(script).stdout == said * 2 + "['names', 'x']\n"
