"""%shm_create, %shm_load and %shm_save, as cells of a notebook."""

import numpy as np
import pytest

import shmkernel as shm
from shmkernel.verbs import attachments, staging
from tests.helpers import left
from tests.unit.elsewhere import elsewhere


def test_a_variable_becomes_the_shared_array(notebook):
    notebook("x = np.arange(6, dtype='i2').reshape(2, 3)")
    ran = notebook.run("%shm_create x")
    assert ran.value is None
    assert ran.text == (
        "x: array int16 (2, 3), 140 B.\n"
        "Shared until this kernel ends. Longer: %shm_keep x\n"
        "In another notebook: %shm_attach x\n"
    )
    notebook("x[0, 0] = 9")
    assert notebook["x"] is shm.attach("x")
    assert np.load(shm.info("x").path).tolist() == [[9, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize(
    ("before", "keeper"),
    [
        ("alias = x", "alias"),
        ("rows = x[1:]", "rows"),
        ("x", "Out[2] (%xdel _2)"),
        ("big = np.zeros((9, 9))\nx = big[::2]", "big"),
        ("inside = [x]", "something else"),
        ("import mmap\nown = mmap.mmap(-1, 24)\nx = np.frombuffer(own)", "own"),
    ],
)
def test_what_keeps_the_private_copy_alive_is_named(notebook, before, keeper):
    notebook("x = np.ones(3)")
    notebook(before)
    assert f"\n    Its private copy stays in memory, held by {keeper}.\n" in notebook("%shm_create x")


@pytest.mark.parametrize(
    "made",
    [
        "np.frombuffer(bytes(24))",
        "np.frombuffer(bytearray(24))[:2]",
        "np.frombuffer(memoryview(bytes(24)))",
        "pickle.loads(pickle.dumps(np.ones(3), 5))",  # a result of a worker, too
        "np.ma.copy(pickle.loads(pickle.dumps(np.ma.ones(3), 5)))",
        "np.from_dlpack(np.ones(3))",
    ],
)
def test_an_array_over_memory_that_cannot_be_watched_is_shared(notebook, made):
    notebook(f"import pickle\nx = y = z = {made}\nkept = x[:1]")
    assert " Its private copy stays in memory, held by y, z, kept.\n" in notebook("%shm_create x")
    assert "held" not in notebook("del z, kept\n%shm_create y")
    notebook("z = np.frombuffer(bytes(24))")
    assert notebook("%shm_attach x --as z --overwrite").startswith("z = x: ")
    assert "Made by the cell" in notebook(f"%%shm_cache c\nc = {made}")
    notebook("%shm_unlink c")


def test_what_keeps_a_copy_alive_is_found_among_variables_that_raise_errors(notebook):
    notebook(
        "class Lazy:\n"
        "    @property\n"
        "    def __class__(self):\n"
        "        raise RuntimeError('not configured')\n"
        "settings = Lazy()\n"
        "with memoryview(b'abc') as released:\n"
        "    pass\n"
        "x = y = np.ones(3)"
    )
    assert "held by y." in notebook("%shm_create x")
    assert "still used by y\n" in notebook("y = x[1:]\n%shm_close x")


def test_a_private_copy_that_only_garbage_holds_is_not_reported(notebook):
    notebook("x = np.ones(3)\nloop = [x]\nloop.append(loop)\ndel loop")
    assert "private copy" not in notebook("%shm_create x")


def test_a_copy_of_an_expression_leaves_its_source_alone(notebook):
    notebook("a = np.ones(3)")
    assert " a stays as it is, a copy.\n" in notebook("%shm_create x --from a")
    assert notebook("y = a\n%shm_create y --from a").count("stays") == 1  # not as what keeps a copy alive, too
    notebook("x[:] = 2")
    assert notebook["a"].tolist() == [1, 1, 1]
    assert "stays" not in notebook("%shm_create y --from a + 1")


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("a[0, 1:] - -1", [2, 3]),
        ("a.T --order F", [[0, 3], [1, 4], [2, 5]]),
        ("np.array([1, 2]) --dtype float32 --lifetime session", [1, 2]),
        ("d['# no --order F']  # a comment", [7]),
        ("np.array(list('a --c'))[:1] ;", ["a"]),
        ('np.array("it\'s".split())', ["it's"]),
        ("[n * 2 for n in a[0]] --dtype int", [0, 2, 4]),
        ("np.array([int('$n'.strip('$n') or 5)])", [5]),
    ],
)
def test_an_expression_ends_where_it_compiles_first(notebook, expression, value):
    notebook("a = np.arange(6).reshape(2, 3)\nd = {'# no --order F': np.array([7])}\nn = 1")
    notebook(f"%shm_create x --from {expression}")
    assert notebook["x"].tolist() == value


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("nope[3] --order F", "nope[3]: NameError: name 'nope' is not defined"),
        ("a[ --order F", "a[ --order F: SyntaxError: '[' was never closed"),
        ("1 / 0", "1 / 0: ZeroDivisionError: division by zero"),
        ("[][0]\t", "[][0]: IndexError: list index out of range"),
        ("", "--from needs an expression. Example: %shm_create x --from [1, 2, 3]"),
    ],
)
def test_an_error_in_an_expression_takes_one_line(notebook, expression, message):
    error = notebook.fails(f"%shm_create x --from {expression}")
    assert (type(error), str(error)) == (shm.ArgumentError, message)


@pytest.mark.parametrize("shape", ["x --shape 3,4", "x --shape 3, 4", "x --shape (3, 4)", "--shape 3, 4 x"])
def test_an_array_can_be_made_in_shared_memory_and_filled_there(notebook, shape):
    notebook(f"%shm_create {shape} --dtype float32 --fill -1e-3 --order F")
    x = notebook["x"]
    assert (x.shape, x.dtype, x.flags.f_contiguous) == ((3, 4), np.float32, True)
    assert (x == np.float32(-1e-3)).all()


@pytest.mark.parametrize(
    "cell", ["x = np.arange(3)\n%shm_create x", "a = 1\n%shm_create x --from a", "%shm_create x --shape 3"]
)
def test_a_cell_can_be_run_twice(notebook, cell):
    notebook(cell)
    assert " It replaces the earlier one." in notebook(cell)
    assert notebook["x"] is shm.attach("x")


def test_what_is_shared_already_stays_as_it_is(notebook):
    notebook("x = np.arange(3)\n%shm_create x --dtype f4")
    before = notebook["x"]
    for again in ("%shm_create x", "%shm_create x --dtype f4 --order C", "%shm_create x --from x", "y = %shm_create x"):
        assert notebook(again).endswith("; nothing to do\n")
    assert "now until %shm_unlink x" in notebook("%shm_create x --lifetime keep")
    assert notebook["x"] is notebook["y"] is before
    assert "replaces the earlier one" in notebook("%shm_create x --dtype f8")
    assert notebook["x"].dtype == np.float64


def test_a_private_value_is_shared_again_since_it_may_have_changed(notebook):
    notebook("x = np.zeros(3)\n%shm_create x\n%shm_attach x --mode c --overwrite\nx[0] = 5")
    assert "replaces the earlier one" in notebook("%shm_create x")
    assert shm.attach("x", "r")[0] == 5


def test_who_replaces_a_segment_learns_who_goes_on_with_the_old_one(notebook):
    notebook("%shm_create x --shape 3")
    with elsewhere(lambda: shm.attach("x", "r")):
        assert "replaces the earlier one.\n    plot still has the old one; there: %shm_attach x.\n" in notebook(
            "%shm_create x --shape 4"
        )


def test_the_name_of_another_living_session_is_taken_only_by_replace(notebook):
    notebook("x = np.ones(2)\ny = x * 2")
    with elsewhere(lambda: shm.create("x", np.ones(3))):
        error = notebook.fails("%shm_create y x")
        assert isinstance(error, shm.TakenError)
        assert str(error).startswith("'x' is taken, by plot.ipynb (alive). Use another name, or replace it")
        assert [one.name for one in shm.list()] == ["x"]
        assert "replaces the one of plot.ipynb.\n    plot still has the old one; there: %shm_attach x" in notebook(
            "%shm_create x --replace"
        )
        assert shm.info("x").mine
    notebook("%shm_attach x --mode r\n%shm_create x --replace")


def test_a_different_variable_is_never_lost_without_asking(notebook, shm_dir):
    notebook(
        "x = 'precious'\na = np.ones(2)\nnone = None\nnp.save('a.npy', a)".replace("'a.npy'", f"'{shm_dir}/a.npy'")
    )
    for line in ("x --from a", "x --shape 3", "fresh x --shape 3", "none --shape 3"):
        error = notebook.fails(f"%shm_create {line}")
        assert str(error).startswith(f"your variable {error.name} is something else (a ")
    assert "is something else (a str). Use another NAME" in str(notebook.fails(f"%shm_load x {shm_dir}/a.npy"))
    assert left(shm_dir) == ["a.npy"], "something was made before all was checked"
    notebook("%shm_create x --from a --overwrite")
    assert notebook["x"].tolist() == [1, 1]
    (shm_dir / "a.npy").unlink()


def test_several_names_are_all_checked_first(notebook, shm_dir):
    notebook("x, y, z = np.ones(2), np.array([{}]), np.zeros(2)")
    assert isinstance(notebook.fails("%shm_create x y"), shm.UnsupportedError)
    assert str(notebook.fails("%shm_create x zz")) == (
        "no variable zz. Did you mean z? Give --from EXPR, or make an array: %shm_create zz --shape 10"
    )
    assert isinstance(notebook.fails("%shm_create x z --order G"), shm.ArgumentError)
    assert left(shm_dir) == []
    assert notebook("pair = %shm_create x z").count("Shared until") == 1
    assert notebook["pair"] == (notebook["x"], notebook["z"])


@pytest.mark.parametrize("error", [KeyboardInterrupt(), shm.FullError("no room", name="z")])
def test_of_several_names_all_are_shared_or_none(notebook, monkeypatch, error):
    notebook("x, z = np.ones(2), np.zeros(2)")
    made, real = [], staging.make

    def fails_at_the_second(name, *args):
        if made:
            raise error
        made.append(name)
        return real(name, *args)

    monkeypatch.setattr(staging, "make", fails_at_the_second)
    assert notebook.run("%shm_create x z").error is error
    assert made == ["x"]
    assert not shm.list()
    assert not attachments.everything(), "the traceback keeps a segment"
    assert notebook["x"].base is None


def test_what_does_not_fit_is_refused_with_the_figures(notebook):
    error = notebook.fails("%shm_create small huge --shape 200000,200000,1000")
    assert isinstance(error, shm.FullError)
    assert error.needed > error.free
    assert not shm.list()


def test_a_name_that_no_variable_can_have_makes_none(notebook):
    notebook("Δt = np.ones(1)")
    assert str(notebook.fails("%shm_create Δt")).endswith(". So: %shm_create NAME --from Δt")
    assert "In another notebook: %shm_attach ds.dt --as NAME" in notebook("%shm_create ds.dt --from Δt")
    assert notebook("array = %shm_create ds.dt --from Δt\nprint(array)").endswith("[1.]\n")


def test_expressions_and_names_see_the_variables_of_a_function(notebook):
    notebook(
        "def share(values, n):\n    return get_ipython().run_line_magic('shm_create', 'part_{n} --from values * n')"
    )
    notebook(
        "def again(values, n):\n    %shm_create part_$n --from values * n\n"
        "first = share(np.ones(2), 2)\nagain(first, 3)"
    )
    assert notebook["part_3"].tolist() == [6, 6]


def test_the_defaults_can_be_configured(notebook):
    notebook("%config ShmMagics.lifetime = 'keep'\n%config ShmMagics.mode = 'r'")
    notebook("%shm_create x --shape 2")
    assert shm.info("x").lifetime == "keep"
    assert notebook["x"].flags.writeable
    assert "read only" in notebook("%shm_attach x")
    assert not notebook["x"].flags.writeable
    assert "ShmMagics.lifetime=<Enum>" in notebook("%config ShmMagics")
    notebook("%shm_unlink x")


def test_a_file_is_saved_and_loaded(notebook, tmp_path):
    notebook("x = np.arange(3)\n%shm_create x")
    assert notebook(f"%shm_save x '{tmp_path}/a file.npy'") == f"x: 152 B written to {tmp_path}/a file.npy\n"
    load = f"%shm_load y '{tmp_path}/a file.npy'"
    assert notebook(load).startswith(f"y: array int64 (3,), 152 B,\n    from {tmp_path}/a file.npy.\nShared until")
    assert "\n    It replaces the earlier one.\n" in notebook(load)
    assert notebook["y"].tolist() == [0, 1, 2]
    assert "No such file or directory" in str(notebook.fails(f"%shm_load z {tmp_path}/nope.npy"))
    assert str(notebook.fails(f"%shm_load z '{tmp_path}/a fiel.npy'")).endswith(". Did you mean a file.npy?")


@pytest.mark.parametrize("value", ["[[1, 2], [3, 4]]", "'text'", "np.ones(3)", "{'a': 1}"])
def test_a_variable_in_the_way_stays_and_the_proposed_line_works(notebook, value):
    notebook(f"v = {value}")
    before = notebook["v"]
    error = notebook.fails("%shm_create v --from numpy.asarray([len(v), 2])")
    line = str(error).partition("Keep both: ")[2].partition(". Replace it")[0]
    notebook(line)
    assert notebook["v_shared"].tolist() == [len(before), 2]
    assert notebook["v"] is before


@pytest.mark.parametrize(
    ("kind", "made", "loaded", "held"),
    [("list", "--list [1,2]", "list 2 items", [1, 2]), ("dict", "--from {'a':1}", "dict 1 key", ["a"])],
)
def test_a_file_that_does_not_tell_its_kind_is_loaded_as_the_error_says(notebook, tmp_path, kind, made, loaded, held):
    notebook(f"%shm_create x {made}\n%shm_save x {tmp_path}/x.data")
    cure = f"%shm_load y {tmp_path}/x.data --kind {kind}"
    assert f"If a {kind} was saved to it: {cure}. " in notebook.run(f"%shm_load y {tmp_path}/x.data").text
    assert notebook(cure).startswith(f"y: {loaded}")
    assert list(notebook["y"]) == held


def test_who_shares_a_record_array_learns_how_its_fields_become_attributes_again(notebook):
    text = notebook("x = np.rec.array([(1, 2.5)], dtype=[('a', 'i4'), ('b', 'f8')])\n%shm_create x")
    cure = "import numpy; x.view(numpy.recarray)"
    assert f"Its fields are no attributes now. As before: {cure}\n" in text
    notebook(cure.replace("x.view", "r = x.view"))
    assert notebook["r"].b[0] == 2.5
    notebook("r.a[0] = 7")
    assert shm.attach("x")["a"][0] == 7
    assert "fields" not in notebook("y = np.zeros(3)\n%shm_create y")
