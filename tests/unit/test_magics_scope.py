"""Magics inside functions, classes and scripts share the variables of their scope."""

import sys

import numpy as np
import pytest

import shmkernel as shm
from tests.unit.elsewhere import elsewhere


def shared(name="data"):
    """Return the value that other processes see."""
    return np.load(shm.info(name).path).tolist()


BODIES = {
    "a local variable": "def work():\n    data = np.zeros(3)\n    %shm_create data\n    data[:] = 7\nwork()",
    "an argument": "def work(data):\n    %shm_create data\n    data[:] = 7\nwork(np.zeros(3))",
    "an assignment": "def work():\n    data = np.zeros(3)\n    data = %shm_create data\n    data[:] = 7\nwork()",
    "a closure": (
        "def work():\n    data = np.zeros(3)\n    def fill(): data[:] = 7\n    %shm_create data\n    fill()\nwork()"
    ),
    "nonlocal": (
        "def work():\n    data = np.zeros(3)\n    def share():\n        nonlocal data\n        %shm_create data\n"
        "    share()\n    data[:] = 7\nwork()"
    ),
    "a generator": (
        "def work():\n    data = np.zeros(3)\n    %shm_create data\n    yield\n    data[:] = 7\nlist(work())"
    ),
    "a coroutine": (
        "import asyncio\nasync def work():\n    data = np.zeros(3)\n    await asyncio.sleep(0)\n    %shm_create data\n"
        "    data[:] = 7\nawait work()"
    ),
    "a class": "class Work:\n    data = np.zeros(3)\n    %shm_create data\n    data[:] = 7\nwork = Work",
    "a method": (
        "class Work:\n    def run(self, data):\n        %shm_create data\n        data[:] = 7\nWork().run(np.zeros(3))"
    ),
    "a new array": "def work():\n    %shm_create data --shape 3\n    data[:] = 7\nwork()",
    "a new local array": (
        "def work():\n    data = None\n    %shm_create data --shape 3 --overwrite\n    data[:] = 7\nwork()"
    ),
    "%time": "def work():\n    data = np.zeros(3)\n    %time %shm_create data\n    data[:] = 7\nwork()",
    "a loop": "def work():\n    for data in [np.zeros(3)]:\n        %shm_create data\n        data[:] = 7\nwork()",
    "exec": (
        "space = {'data': np.zeros(3)}\nline = \"get_ipython().run_line_magic('shm_create', 'data')\"\n"
        "exec(line, globals(), space)\nspace['data'][:] = 7"
    ),
    "a global": "data = np.zeros(3)\ndef work():\n    %shm_create data\n    data[:] = 7\nwork()",
    "a declared global": (
        "data = np.zeros(3)\ndef work():\n    global data\n    data = %shm_create data\n    data[:] = 7\nwork()"
    ),
    "%%time": "%%time\ndata = np.zeros(3)\n%shm_create data\ndata[:] = 7",
    "%%shm_lock": "%%shm_lock data\ndata = np.zeros(3)\n%shm_create data\ndata[:] = 7",
    "an alias": (
        "%alias_magic share shm_create\ndef work():\n    data = np.zeros(3)\n    %share data\n    data[:] = 7\nwork()"
    ),
}


GLOBAL = {"a new array", "a global", "a declared global", "%%time", "%%shm_lock"}


@pytest.mark.parametrize("case", BODIES)
def test_what_a_magic_shares_is_what_the_code_around_it_has(notebook, case):
    text = notebook(BODIES[case])
    assert "data: array float64 (3,)" in text
    assert shared() == [7, 7, 7]
    assert ("data" in notebook) == (case in GLOBAL)


def test_a_line_in_a_function_says_when_it_makes_a_global_variable(notebook):
    text = notebook("def work():\n    %shm_create data --shape 3\n    data[:] = 7\nwork()")
    assert text.startswith("data: array float64 (3,), 152 B (the global variable data).\n")
    assert " (the global variable data)." in text
    assert "global" not in notebook("%shm_attach data")
    text = notebook("def look():\n    %shm_attach data\nlook()")
    assert text.endswith("writable (already attached) (the global variable data)\n")


@pytest.mark.parametrize(
    "call",
    [
        "def share():\n        %shm_create data\n    share()",
        "[get_ipython().run_line_magic('shm_create', 'data') for _ in 'a']",
        "class Share:\n        %shm_create data",
        "def share():\n        %shm_attach data\n    share()",
        "def share():\n        %shm_load data x.npy --replace\n    share()",
    ],
)
def test_a_variable_of_the_function_around_is_refused_where_it_cannot_be_reached(notebook, call):
    if "for _" in call and sys.version_info >= (3, 12):
        pytest.skip("comprehensions are inlined")
    notebook("data = 'the global one'")
    with elsewhere(lambda: shm.create("data", np.ones(3))):
        error = notebook.fails(f"def work():\n    data = np.zeros(3)\n    {call}\n    data[:] = 7\nwork()")
    assert str(error) == (
        "data is a variable of work, around this code. Share it there, or write a line before: nonlocal data"
    )
    assert notebook["data"] == "the global one"


def test_a_variable_without_a_value_is_not_taken_for_the_global_one(notebook):
    notebook("data = np.zeros(3)")
    error = notebook.fails("def work():\n    data = %shm_create data\nwork()")
    assert str(error).startswith("data is a variable of this function, and has no value yet. ")
    assert str(error).endswith("write a line before: global data")
    notebook("def work():\n    global data\n    data = %shm_create data\nwork()\ndata[:] = 7")
    assert shared() == [7, 7, 7]


def test_a_script_and_a_library_get_the_variables_that_they_see(notebook, tmp_path, monkeypatch):
    line = "get_ipython().run_line_magic('shm_create', 'data')"
    head = "from IPython import get_ipython\nimport numpy as np\n"
    (tmp_path / "script.py").write_text(f"{head}data = np.zeros(3)\n{line}\ndata[:] = 7\n")
    (tmp_path / "library_of_a_user.py").write_text(f"{head}def share():\n    {line}\n")
    monkeypatch.syspath_prepend(tmp_path)
    notebook(f"%run {tmp_path}/script.py")
    assert shared() == [7, 7, 7]
    notebook("%shm_unlink data\ndata = np.ones(2)\nimport library_of_a_user\nlibrary_of_a_user.share()\ndata[:] = 8")
    assert shared() == [8, 8]


def test_what_holds_the_private_copy_in_a_function_is_named(notebook):
    text = notebook("def work(given):\n    data = given\n    %shm_create data\nwork(np.zeros(3))")
    assert "Its private copy stays in memory, held by given." in text
    text = notebook(
        "def work(other):\n    %shm_create other\ndef begin():\n    mine = np.zeros(3)\n    work(mine)\nbegin()"
    )
    assert "Its private copy stays in memory, held by mine of begin()." in text


def test_close_and_keep_in_a_function_are_about_its_variables(notebook):
    cell = (
        "def work():\n    data = np.zeros(3)\n    %shm_create data\n    %shm_close data\n    return data\ndata = work()"
    )
    assert "Its memory stays attached, still used by data" in notebook(cell)
    notebook("%shm_unlink data\ndel data")
    cell = (
        "def work():\n    data = np.ones(3)\n    %shm_create data\n    %shm_unlink data\n    %shm_keep data\n"
        "    data[:] = 7\nwork()"
    )
    assert "data: shared again as a copy, now your data; " in notebook(cell)
    assert shared() == [7, 7, 7]
    shm.unlink("data")


def test_variables_are_filled_in_wherever_they_stand(notebook, tmp_path):
    notebook(f"n, x, path, wait, other = 3, np.arange(3.0), '{tmp_path}/a b.npy', 0.01, 'y'")
    notebook("%shm_create x")
    notebook("%shm_save x $path")
    assert np.load(tmp_path / "a b.npy").tolist() == [0, 1, 2]
    notebook(f"import pathlib\nfolder = pathlib.Path('{tmp_path}')")
    notebook("%shm_save x {folder / 'x.npy'}\n%shm_save x $folder/y.npy\n%shm_save x '{folder}/z.npy'")
    notebook("%shm_save x $folder.parent/${folder.name}/w.npy")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["a b.npy", "w.npy", "x.npy", "y.npy", "z.npy"]
    notebook("%shm_load loaded {path}")
    notebook("%shm_create part_{n} --shape {(n, 2)} --dtype {'f4'} --fill $n")
    assert notebook["part_3"].tolist() == [[3, 3]] * 3
    notebook("%shm_attach x --as $other")
    assert notebook["y"] is notebook["x"]
    assert "within 0.01 s" in str(notebook.fails("%shm_wait x --timeout $wait"))
    notebook("%shm_create frames --ring $n --shape {n}\n%shm_create items --list '[$n, {n + 1}]'")
    assert notebook["items"][1] == 4
    notebook("which = 'x[1:]'\n%shm_create tail --from $which\n%shm_create more --from {which}")
    notebook("x_1 = x + 1")
    notebook("%shm_create data --from x_{1} --kind {'array'}")
    assert (notebook["tail"].tolist(), notebook["more"].tolist(), shared()) == ([1, 2], [1, 2], [1, 2, 3])
    notebook("%%shm_lock $other --timeout {n}\ninside = 1")
    assert "inside" in notebook


def test_braces_and_dollars_are_characters_when_doubled_and_python_after_from(notebook, tmp_path):
    notebook(f"%shm_create x --shape 3\n%shm_save x '{tmp_path}/$$a{{{{b}}}}.npy'")
    assert [one.name for one in tmp_path.iterdir()] == ["$a{b}.npy"]
    notebook("%shm_create d --from {'a': 1}")
    assert notebook["d"]["a"] == 1


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("%shm_save x $path", "path: NameError: name 'path' is not defined"),
        ("%shm_save x {path}", "path: NameError: name 'path' is not defined"),
        ("%shm_save x a_{1 / 0}.npy", "1 / 0: ZeroDivisionError: division by zero"),
        ("%shm_save x {}", "{} names no variable"),
        ("%shm_save x $nothing", "$nothing is None, so there is nothing to fill in"),
        ("%shm_create x_$i --from x", "i: NameError"),
        ("%shm_create y --from x[$i]", "i: NameError"),
        ("%shm_create y --shape {rows},2", "rows: NameError"),
        ("%shm_load y $folder/x.npy", "folder: NameError"),
        ("%shm_wait x --timeout $t", "t: NameError"),
        ("%shm_watch x --every {t}", "t: NameError"),
        ("%shm_attach x --as $y", "y: NameError"),
        ("%%shm_lock x --timeout $t\npass", "t: NameError"),
    ],
)
def test_a_variable_that_does_not_exist_is_an_error_in_every_argument(notebook, line, error, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    notebook("%shm_create x --shape 3\nnothing = None")
    assert str(notebook.fails(line)).startswith(error)
    assert not list(tmp_path.iterdir())


def test_a_variable_that_hides_a_builtin_is_told(notebook):
    text = notebook("%shm_create print --shape 3")
    assert " (it hides Python's print: del print brings that back)." in text
    notebook("del print")
    assert notebook("%shm_attach print").endswith(" (it hides Python's print: del print brings that back)\n")
    assert "hides" not in notebook("%shm_create other --shape 3")


@pytest.mark.parametrize("name", ["None", "__debug__", "class", "x.y"])
def test_of_a_name_that_no_variable_can_have_no_variable_is_told(notebook, name):
    text = notebook(f"def share():\n    %shm_create {name} --shape 3\nshare()")
    assert text.startswith(f"{name}: array float64 (3,), 152 B.\nShared until")
    assert f"%shm_attach {name} --as NAME" in text
    assert "stays as it is" not in notebook("%shm_create y --from True")
