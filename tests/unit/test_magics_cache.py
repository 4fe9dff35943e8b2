"""A cell under ``%%shm_cache`` runs when it has to, and else attaches what it made before."""

import contextlib
import os
import re

import numpy as np
import pytest

import shmkernel as shm
from shmkernel._core import paths, records, sessions
from tests.helpers import needs
from tests.unit.elsewhere import answering, elsewhere

CELL = "%%shm_cache x --uses n\nruns += 1\nx = np.arange(n)"


@pytest.fixture
def cached(notebook):
    """A notebook with a counter of runs, and the value of the cell above."""
    notebook("n, runs = 3, 0")
    yield notebook
    for name in paths.names():
        with contextlib.suppress(shm.NotFoundError):  # a watchdog may sweep it just now
            shm.unlink(name)


@pytest.fixture
def tables(cached):
    """A notebook that has pandas."""
    for package in ("pyarrow", "pandas"):
        needs(package)
    cached("import pandas as pd")
    return cached


def plainly(text):
    return re.sub(r"\d\.\d s", "T", text)


def test_the_second_time_a_cell_is_not_run_and_both_say_so(cached):
    made = plainly(cached(CELL))
    assert made == (
        "x: array int64 (3,), 152 B.\n"
        "    Made by the cell in T (there was no x).\n"
        "Shared until %shm_unlink x\n"
        "In another notebook: %shm_attach x\n"
    )
    first = cached["x"]
    cached("x = None")
    again = cached(CELL)
    assert re.sub(r"\d+ s ago", "T ago", again) == (
        "x: attached, array int64 (3,), 152 B, made T ago by this notebook. The cell was not run (to run it: "
        "--refresh)\n"
    )
    assert (cached["runs"], cached["x"] is first, shm.info("x").lifetime) == (1, True, "keep")


def test_a_value_survives_the_session_that_made_it(cached):
    cached(CELL)
    record = records.read(os.stat(paths.path_of("x")).st_ino)
    records.change(record._replace(owner="1f", label="other.ipynb", created=record.created - 7300))
    cached("x = None\n%unload_ext shmkernel\n%load_ext shmkernel")
    assert "made 2 h ago by other.ipynb (ended). The cell was not run" in cached(CELL)
    assert (cached["runs"], cached["x"].tolist()) == (1, [0, 1, 2])
    assert not sessions.alive("1f")


@pytest.mark.parametrize(
    ("cell", "why"),
    [
        (f"{CELL} + 1", "the cell has changed"),
        (CELL.replace("--uses n", ""), "--uses has changed"),
        (CELL.replace("--uses n", "--uses n np.e"), "np.e has changed"),
        (f"n = 4\n{CELL}", "n has changed"),
        (f"%shm_unlink x\n{CELL}", "there was no x"),
        (CELL.replace("--uses", "--refresh --uses"), "--refresh"),
        (CELL.replace("x --uses", "x y --uses") + "\ny = x", "there was no y"),
    ],
)
def test_a_cell_runs_again_if_it_has_to_and_says_why(cached, cell, why):
    cached(CELL)
    before, _, cell = cell.rpartition("%%")
    cached(before)
    assert f"({why})" in cached(f"%%{cell}")
    assert cached["runs"] == 2


@pytest.mark.parametrize("cell", [f"{CELL}  # a remark", CELL.replace("runs", "\n# more\n\nruns"), f"{CELL}\n"])
def test_remarks_and_blank_lines_are_no_change(cached, cell):
    cached(CELL)
    assert "The cell was not run" in cached(cell)


@pytest.mark.parametrize(
    ("make", "change"),
    [
        ("v = np.arange(3)", "v[0] = 7"),
        ("v = np.arange(3)\n%shm_create v", "v[0] = 7"),
        ("v = {'a': [1, 'b', None]}", "v['a'][0] = 2"),
        ("v = {'a': 1}\n%shm_create v", "v['a'] = 2"),
        ("v = [1, 2]\n%shm_create v", "v[1] = 3"),
        ("v = (1, {2.5}, b'a')", "v = (1, {2.5}, b'b')"),
        ("v = 1", "v = 1.0"),
        ("v = [1, '2']", "v = ['1', 2]"),
        ("from pathlib import Path\nv = Path('a')", "v = Path('b')"),
        ("import datetime\nv = datetime.date(2020, 1, 1)", "v = datetime.date(2020, 1, 2)"),
    ],
)
def test_a_used_value_is_compared_by_its_content(cached, make, change):
    cell = "%%shm_cache x --uses v\nruns += 1\nx = [1]"
    cached(make)
    cached(cell)
    cached(make)
    assert "The cell was not run" in cached(cell)
    cached(change)
    assert "(v has changed)" in cached(cell)


def test_a_used_table_is_compared_by_its_content_shared_or_not(tables):
    cell = "%%shm_cache x --uses v\nx = [1]"
    for share, change in (("", "v.loc[0, 'a'] = 3"), ("%shm_create v", "v['b'] = 3")):
        tables(f"v = pd.DataFrame({{'a': [1, 2]}})\n{share}")
        tables(cell)
        assert "The cell was not run" in tables(cell)
        tables(change)
        assert "(v has changed)" in tables(cell)


def test_a_used_function_is_compared_by_its_source_and_its_closure(cached):
    cell = "%%shm_cache x --uses f\nx = [f(1)]"
    make = "def maker(k):\n    def f(a):\n        return a + k  # {}\n    return f\nf = maker({})"
    cached(make.format("", 1))
    cached(cell)
    cached(make.format("a remark", 1))
    assert "The cell was not run" in cached(cell)
    cached(make.format("", 2))
    assert "(f has changed)" in cached(cell)


@pytest.mark.parametrize(
    "make", ["v = object()", "v = [1, object()]", "v = print", "v = []\nv.append(v)", "v = iter([])"]
)
def test_a_used_value_that_cannot_be_compared_is_refused_before_the_cell_runs(cached, make):
    cached(make)
    assert "cannot be compared with that of an earlier run" in str(cached.fails(CELL.replace("--uses n", "--uses v")))
    assert cached["runs"] == 0


def test_all_that_can_be_shared_can_be_cached(cached):
    cell = "%%shm_cache a d l b\nruns += 1\na, d, l, b = np.ones(3), {'k': 1}, [1, 'a', None], b'abc'"
    cached(cell)
    assert {row.name: row.kind for row in shm.list()} == {"a": "array", "d": "dict", "l": "list", "b": "raw"}
    cached("a = d = l = b = None")
    cached(cell)
    assert cached["runs"] == 1
    assert (cached["d"]["k"], list(cached["l"]), cached["a"].tolist()) == (1, [1, "a", None], [1, 1, 1])


def test_objects_are_cached_and_what_is_not_plain_by_consent(cached):
    plain = "%%shm_cache x\nruns += 1\nx = {'a': [1, [np.ones(2)]]}, 'text'"
    cached(plain)
    assert "The cell was not run" in cached(plain)
    assert cached["x"][0]["a"][1][0].tolist() == [1, 1]
    cell = "%%shm_cache y{}\nruns += 1\ny = lambda: 7\ny = np.random.RandomState(3)"
    assert "--pickle" in str(cached.fails(cell.format("")))
    cached(cell.format(" --pickle"))
    cached("y = None")
    assert "The cell was not run" in cached(cell.format(" --pickle"))
    assert isinstance(cached["y"], np.random.RandomState)
    assert cached["runs"] == 3


@pytest.mark.parametrize("make", ["%shm_create x --shape 3", "x = shm.create('x', shape=3)"])
def test_a_cell_that_makes_its_value_in_shared_memory_makes_no_copy(cached, make):
    cached("import shmkernel as shm")
    cell = f"%%shm_cache x\n{make}\nx[:] = 7\nruns += 1\nmade = x"
    assert "there was no x" in cached(cell)
    assert (cached["made"] is cached["x"], shm.info("x").lifetime) == (True, "keep")
    assert "The cell was not run" in cached(cell)
    assert (cached["runs"], cached["x"].tolist()) == (1, [7, 7, 7])


def test_a_table_that_a_cell_shares_and_then_changes_is_kept_as_it_became(tables):
    cell = "%%shm_cache t\nt = pd.DataFrame({'a': [1]})\n%shm_create t\nt['b'] = 2"
    tables(cell)
    tables("t = None")
    assert "The cell was not run" in tables(cell)
    assert list(tables["t"].columns) == ["a", "b"]


@pytest.mark.parametrize("end", ["1 / 0", "raise KeyboardInterrupt", "x = object()", "del x"])
def test_a_cell_that_fails_leaves_the_old_value(cached, end):
    cached(CELL)
    assert cached.run(f"%%shm_cache x\nx = np.ones(5)\n{end}").error is not None
    assert shm.attach("x").tolist() == [0, 1, 2]
    assert "The cell was not run" in cached(CELL)


def test_an_error_shows_the_lines_of_the_cell_alone(cached):
    ran = cached.run("%%shm_cache x\ny = 1\n1 / 0")
    assert isinstance(ran.error, ZeroDivisionError)
    assert "----> 3 1 / 0" in re.sub(r"\x1b\[[0-9;]*m", "", ran.text)
    assert "/notebook/" not in ran.text


def test_a_cell_that_sets_no_such_variable_is_told_so(cached):
    cached("x = np.ones(3)")
    for cell in ("y = 1", "y = x.sum()"):
        assert str(cached.fails(f"%%shm_cache x\n{cell}")).endswith("It has to say: x = ...")
    assert "Made by the cell" in cached("%%shm_cache x\nx += 1")


def test_a_name_that_is_taken_is_refused_with_a_cure_that_works(cached):
    with elsewhere(lambda: shm.create("x", np.zeros(2))):
        error = cached.fails(CELL)
        assert str(error).startswith("'x' is taken, by plot.ipynb (alive). Use another name, or replace it")
        assert cached["runs"] == 0
        assert "It replaces the one of plot.ipynb" in cached(CELL.replace("--uses", "--replace --uses"))
    assert "The cell was not run" in cached(CELL)
    cached("%shm_create z --shape 3")
    assert "this process shares it already" in str(cached.fails("%%shm_cache z\nz = 1"))


def test_a_name_that_is_taken_while_the_cell_runs_is_refused_and_the_result_stays(cached):
    made = []
    with answering(lambda _: bool(made.append(shm.create("x", np.zeros(2))))) as other:
        cached.shell.user_ns["other"] = other
        error = cached.fails("%%shm_cache x\nx = np.arange(3)\nother.tell()\nasked = other.hear()")
        assert str(error).startswith("'x' is taken, by plot.ipynb (alive)")
        assert cached["x"].tolist() == [0, 1, 2]
        assert shm.attach("x").tolist() == [0, 0]


def test_help_and_misuse_run_nothing(cached):
    assert "--uses VALUE" in cached("%%shm_cache -h\nruns += 1")
    for line in ("x.y", "", "x --uses x", "x --mode w", "x --uses nothing"):
        cached.fails(f"%%shm_cache {line}\nruns += 1")
    assert "it comes first: %%shm_cache x" in str(cached.fails("%shm_cache x"))
    error = cached.fails("%%shm_cache x y\nimport asyncio\nruns += 1\nx = y = await asyncio.sleep(0, 1)")
    assert str(error).endswith("share what it sets: %shm_create x y --lifetime keep")
    assert isinstance(cached.run("%%shm_cache x\nruns += 1\nx =").error, SyntaxError)
    assert cached["runs"] == 0


def test_under_other_magics_and_called_by_a_program(cached):
    cached("%%time\n%%shm_cache a\nruns += 1\na = [1]")
    cached("%%shm_cache a\nruns += 1\na = [1]")
    cached("%%shm_cache b\n%%time\nb = [1]\nruns += 1")
    cached("%%shm_cache c\n%%shm_cache d\nc = [1]\nd = [2]\nruns += 1")
    cached("%%shm_lock z\n%%shm_cache e\ne = [1]\nruns += 1")
    cached("get_ipython().run_cell_magic('shm_cache', 'f', 'f = [1]\\nruns += 1')")
    assert cached["runs"] == 5
    assert "The cell was not run" in cached("%%shm_cache f\nf = [1]\nruns += 1")
    assert sorted(paths.names()) == list("abcdef")


def test_what_a_cell_shows_it_shows_under_a_cache(cached):
    assert cached.run("%%shm_cache x\nx = [1]\n3 + 4").text.startswith("Out[")


def test_info_shows_the_recipe_of_a_cached_value(cached):
    cached(CELL)
    cell, n = shm.info("x").recipe.split()
    assert f"recipe    cached cell {cell[:8]}, --uses {n[:8]}\n" in cached("%shm_info x")
    cached("y = 1\n%shm_create y")
    assert "recipe" not in cached("%shm_info y")
