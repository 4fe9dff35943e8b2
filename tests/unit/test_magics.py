"""The magics beside %shm_create, and what they have in common, as cells of a notebook."""

import inspect
import pickle
import re

import numpy as np
import pytest
from IPython.core.completer import provisionalcompleter
from IPython.core.error import UsageError

import shmkernel as shm
from shmkernel.verbs import attachments
from tests.unit.elsewhere import elsewhere

VERBS = {
    "attach", "close", "create", "doctor", "gc", "help", "info", "keep", "list", "load", "lock", "publish", "save",
    "unlink", "wait",
}  # fmt: skip


def test_attach_makes_the_variable_and_says_whose_it_is(notebook):
    with elsewhere(lambda: shm.create("x", np.arange(3.0))) as other:
        assert notebook("%shm_attach x") == "x: array float64 (3,), 152 B, from plot.ipynb, writable\n"
        assert notebook("%shm_attach x").endswith("writable (already attached)\n")
        assert notebook("%shm_attach x --as y --mode=r").startswith(
            "y = x: array float64 (3,), 152 B, from plot.ipynb, read"
        )
        assert notebook("z = %shm_attach x --as own --mode c  # mine").endswith("changes stay private\n")
        notebook("x[0] = 7\nz[0] = 1")
        assert (notebook["y"][0], notebook["own"][0], notebook["y"].flags.writeable) == (7, 1, False)
        other.end()
    assert str(notebook.fails("%shm_close y")) == "'y' is not attached here. Your y is x: %shm_close x"
    notebook("%shm_close x")
    assert not {"x", "y", "z", "own"} & set(notebook.shell.user_ns)


def test_attach_makes_all_variables_or_none(notebook):
    notebook("a = 'precious'")
    with elsewhere(lambda: [shm.create(name, np.ones(2)) for name in ("a", "b", "ds.v")]):
        error = notebook.fails("%shm_attach b a")
        assert str(error) == (
            "your variable a is something else (a str). Keep both: %shm_attach a --as NAME. "
            "Replace it: %shm_attach a --overwrite"
        )
        assert isinstance(notebook.fails("%shm_attach b c"), shm.NotFoundError)
        assert str(notebook.fails("%shm_attach b ds.v")) == "ds.v cannot be a variable: %shm_attach ds.v --as NAME"
        assert str(notebook.fails("%shm_attach a b --as c")) == "--as names one variable, so give one NAME"
        notebook("c = 'precious'")
        assert str(notebook.fails("%shm_attach c")).startswith("no segment named 'c'")
        assert "b" not in notebook
        notebook("pair = %shm_attach a b --overwrite\nassert pair[0] is a and pair[1] is b")


def test_a_variable_of_an_earlier_segment_gives_way(notebook):
    with elsewhere(lambda: shm.create("x", np.zeros(2))):
        notebook("%shm_attach x")
        notebook("view = x[:1]")
        shm.create("x", np.ones(3), replace=True)
        assert "replaced: %shm_attach x" in notebook("%shm_list")
        assert notebook("%shm_attach x").endswith("The earlier one stays in memory, held by view\n")
        assert notebook["x"].tolist() == [1, 1, 1]
        assert "replaced" not in notebook("del view\n%shm_list")


def test_names_are_filled_in_and_near_ones_suggested(notebook):
    notebook("n, k, d = 2, 'a', {'k': 9}\n%shm_create part_$n part_{n + 1} part_{n}.$k part_{d['k']} --shape 1")
    assert [one.name for one in shm.list()] == ["part_2", "part_2.a", "part_3", "part_9"]
    error = notebook.fails("%shm_attach prat_2")
    assert str(error).startswith("no segment named 'prat_2'. Did you mean part_2")
    assert str(notebook.fails("%shm_info x_{nope}")) == "nope: NameError: name 'nope' is not defined"


@pytest.mark.parametrize(
    "hide",
    [
        "x",
        "x\n",
        "{'inner': 1}\nx",
        "alias = x",
        "def bad(held):\n    1 / 0\nbad(x)",
    ],
)
def test_close_frees_the_memory_wherever_ipython_hides_it(notebook, hide):
    notebook("x = np.ones(3)\n%shm_create x\nnothing = None")
    notebook.run(hide)
    notebook.run("x")
    assert notebook("%shm_close x") == (
        "x: closed here. It stays shared: %shm_attach x. Remove it for all: %shm_unlink x\n"
    )
    assert "x" not in notebook
    assert "nothing" in notebook
    assert not attachments.everything()
    assert isinstance(notebook.fails("%shm_close x"), shm.NotFoundError)


def test_close_names_the_views_that_live_on(notebook):
    notebook("%shm_create x --shape 3\nview = x[1:]")
    notebook("x[:1]")
    assert "attached, still used by view, Out[2] (%xdel _2)\n" in notebook("%shm_close x")
    assert notebook("print(view)") == "[0. 0.]\n"
    assert "still used by view, Out[2]" in notebook("%shm_unlink x\n%shm_close x")
    notebook("del view\n%xdel _2")
    assert not attachments.everything()


def test_unlink_names_who_still_holds_the_memory(notebook):
    notebook("%shm_create x y --shape 3\n%shm_close y")
    with elsewhere(lambda: shm.attach("x", "r")):
        assert notebook.fails("%shm_unlink y nope").name == "nope"
        x, y = notebook("%shm_unlink x y").splitlines()
    assert x == "x: unlinked, 152 B stay in memory until plot lets go and you run %shm_close x here"
    assert y == "y: unlinked, 152 B freed"
    assert "No segment has this name any more" in notebook("%shm_close x")


def test_keep_names_again_what_is_only_here_and_the_variable_follows(notebook):
    with elsewhere(lambda: shm.create("x", np.ones(3))) as other:
        notebook("%shm_attach x")
        notebook("x")
        before = notebook["x"]
        other.end()
    shm.gc()
    assert "owner ended, only here: %shm_keep x" in notebook("%shm_list")
    assert notebook("%shm_keep x") == (
        "x: shared again as a copy, now your x; array float64 (3,), 152 B, shared until %shm_unlink x\n"
    )
    assert notebook["x"] is shm.attach("x")
    assert notebook["x"] is not before
    del before
    assert "until this kernel ends" in notebook("%shm_keep x --lifetime session")
    assert "until the last process lets go of it" in notebook("%shm_unlink x\n%shm_keep x --lifetime attached")
    assert notebook("%shm_close x") == "x: closed here. No segment has this name any more\n"
    notebook("%shm_create x --shape 3")
    assert str(notebook.fails("%shm_keep x --lifetime forever")).startswith("lifetime 'forever' is unknown: session")
    assert isinstance(notebook.fails("%shm_keep x nope"), shm.NotFoundError)


def test_the_list_shows_what_is_unusual(notebook):
    assert notebook("%shm_list") == "Nothing is shared yet. Share a variable: %shm_create NAME. More: %shm_help\n"
    notebook("%shm_create x --shape 3\nx = x + 1")
    with elsewhere(lambda: [shm.create("b", np.ones(9)), shm.attach("x", "r")]):
        notebook("%shm_attach b --as c\nc = c + 1")
        head, b, x, total = notebook("%shm_list").splitlines()
        assert head.split() == ["name", "kind", "type", "size", "owner", "attached", "lifetime", "age", "note"]
        assert "your c is no longer the shared one; attach again: %shm_attach b --overwrite (next time c[:] = ...)" in b
        assert "your x is no longer the shared one; share the new one: %shm_create x (next time x[:] = ...)" in x
        assert "(here)" in x
        assert "1: plot" in x
        assert total.startswith("2 segments, 352 B. /dev/shm/")
        rows = notebook.run("rows = %shm_list\nrows").value
    assert isinstance(rows, list)
    assert [(type(one), one.name) for one in rows] == [(shm.Info, "b"), (shm.Info, "x")]
    assert "your x is no longer the shared one" in rows._repr_html_()
    assert "\nnote      your x is no longer the shared one" in notebook("%shm_info x")


def test_a_bare_magic_makes_no_out(notebook):
    for cell in (
        "%shm_create x --shape 3",
        "%shm_attach x;",
        "if True:\n    %shm_attach x",
        "%shm_list",
        "%shm_info x",
    ):
        ran = notebook.run(cell)
        assert ran.text
        assert ran.value is None
    notebook("%config InteractiveShell.ast_node_interactivity = 'all'")
    assert notebook.run("%shm_attach x\n%shm_list").value is None
    notebook("%config InteractiveShell.ast_node_interactivity = 'last_expr'")
    notebook("%unload_ext shmkernel")
    assert notebook.run("%load_ext shmkernel\nif True:\n    %shm_attach x\n%shm_attach x").value is None
    assert notebook["_oh"] == {}
    assert notebook.run("y = %shm_attach x;\ny").value is shm.attach("x")


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("create x --fil 3", "unrecognized arguments: --fil 3. Did you mean --fill"),
        ("create x --life keep", "unrecognized arguments: --life keep."),
        ("attach", "the following arguments are required: NAME. Help: %shm_attach -h"),
        ("attach x --mode", "argument --mode: expected one argument. Help: %shm_attach -h"),
        ("list everything", "unrecognized arguments: everything. Help: %shm_list -h"),
        ("save x 'a b", "x 'a b: No closing quotation. Help: %shm_save -h"),
    ],
)
def test_a_mistyped_line_is_an_error_of_ours(notebook, line, error):
    raised = notebook.fails(f"%shm_{line}")
    assert isinstance(raised, shm.ArgumentError)
    assert type(raised) is not UsageError  # which fails no cell
    assert str(raised).startswith(f"%shm_{line.split()[0]}: {error}")


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("attach x --mode w", "mode 'w' is unknown: r (read only), r+ (read and write) or c (changes stay private)"),
        ("create x --shape 3 --order G", "'x': order 'G' is unknown"),
        ("create x --shape 2,,3", "--shape 2,,3 is not a shape"),
        ("create x --shape 1e3", "--shape 1e3 is not a shape"),
        ("create x --shape ,", "--shape , is not a shape"),
        ("create x --shape n", "--shape n is not a shape. Examples: --shape 10, --shape 3,4"),
        ("create x --shape {{[]}}", "--shape {[]} is not a shape"),
        ("create x --list {{[]}}", "--list {[]}: no list"),
        (f"create x --list {'[' * 9999}", "--list [[[["),
        (f"create x --size {'9' * 400}", "--size 9999"),
        ("create x --fill 3", "--fill fills a new array: give its --shape too"),
        ("create x --shape 3 --from y", "--from copies a value, --shape makes an array: give one of them"),
        ("create x y --from z", "--from gives one value, so give one NAME, not x, y"),
        ("create x --shape 3 --dtype f17", "'x': 'f17' is not a dtype"),
        ("create 2x --shape 3", "'2x' cannot be the name of a segment"),
    ],
)
def test_a_bad_argument_is_told_in_one_line(notebook, line, error):
    raised = notebook.fails(f"%shm_{line}")
    assert isinstance(raised, shm.ArgumentError)
    assert str(raised).startswith(error)


def test_errors_keep_their_type_and_facts_and_pickle(notebook):
    raised = notebook.fails("%shm_attach nope")
    again = pickle.loads(pickle.dumps(raised))
    assert (type(again), again.name, str(again)) == (shm.NotFoundError, "nope", str(raised))
    assert raised.__context__ is None
    notebook("try:\n    %shm_attach nope\nexcept FileNotFoundError as error:\n    caught = error.name")
    assert notebook["caught"] == "nope"


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_each_verb_has_help(notebook, verb):
    for flag in ("-h", "x --help"):
        text = notebook(f"%shm_{verb} {flag}")
        assert text.startswith(f"%shm_{verb} [-h]")
        shown = notebook.shell.object_inspect_mime(f"%shm_{verb}")["text/plain"]
        assert text.strip() in re.sub("\x1b.*?m", "", shown)


def test_help_shows_each_verb_on_one_screen(notebook):
    lines = notebook("%shm_help").splitlines()
    assert len(lines) <= 29
    assert max(map(len, lines)) <= 100
    assert all(f"%shm_{verb}" in "\n".join(lines) for verb in VERBS - {"help"})


def test_gc_and_doctor_say_what_they_found(notebook):
    assert notebook("%shm_gc") == "Nothing to clean up\n"
    assert " O_TMPFILE" in notebook("%shm_doctor")


def test_loading_twice_is_loading_once_and_unloading_leaves_the_segments(notebook):
    shell = notebook.shell
    shm.load_ipython_extension(shell)
    assert sum(type(one).__name__ == "OutputTransformer" for one in shell.ast_transformers) == 1
    before = len(shell.Completer.custom_matchers)
    notebook("%shm_create x --shape 3")
    notebook("%reload_ext shmkernel")
    assert notebook("%shm_attach x").endswith("(already attached)\n")
    assert len(shell.Completer.custom_matchers) == before
    notebook("%unload_ext shmkernel")
    assert not [name for name in shell.magics_manager.magics["line"] if name.startswith("shm_")]
    assert not shell.ast_transformers
    assert len(shell.Completer.custom_matchers) == before - 1
    assert not [one for one in shell.configurables if type(one).__name__ == "ShmMagics"]
    shm.unload_ipython_extension(shell)
    assert notebook["x"] is shm.attach("x")


@pytest.mark.parametrize(
    "cell",
    [
        "%time %shm_attach x",
        "%time shm.attach('x'); None",
        "%%time\n%shm_attach x",
        "%%time\ny = 1\n%shm_attach x",
        "%share x",
        "%alias_magic other shm_attach\n%other x",
        "%alias_magic other share\n%time %other x",
        "%own x",
        "%shm_attach x x",
        "%%shm_lock x\n%share x",
    ],
)
def test_a_magic_makes_no_out_by_whichever_way_it_is_called(notebook, cell):
    notebook("import shmkernel as shm\n%shm_create x --shape 3\n%alias_magic share shm_attach")
    notebook.shell.register_magic_function(
        lambda line: notebook.shell.run_line_magic("shm_attach", line), "line", "own"
    )
    ran = notebook.run(cell)
    assert ran.error is None, ran.text
    assert ran.value is None
    assert not notebook["_oh"]


def test_what_other_magics_return_and_what_is_taken_stays(notebook):
    notebook("%shm_create x --shape 3")
    assert notebook.run("%time 3 + 4").value == 7
    notebook("y = %time %shm_attach x\n%time z = %shm_attach x")
    assert notebook["y"] is notebook["x"]
    assert notebook["z"] is notebook["x"]
    notebook("rows = %time %shm_list")
    assert [one.name for one in notebook["rows"]] == ["x"]
    text = notebook("%time %shm_list\n")
    assert text.count("1 segment") == 1


LINES = [
    f"%shm_{verb} {rest}"
    for verb in ("save", "load", "create", "wait", "attach", "watch", "keep", "list")
    for rest in ("", "x ", "x --", "x --as ", "x --shape ", "x --timeout ", "x --from d[", "x 'a", "-h ", "x.")
]


@pytest.mark.parametrize("start", ["", "y = ", "    ", "x = 1\n"])
def test_tab_after_an_unfinished_line_prints_nothing_and_fails_nothing(notebook, start):
    notebook("%shm_create x --shape 3")
    with provisionalcompleter():
        for line in LINES:
            text = start + line
            list(notebook.shell.Completer.completions(text, len(text)))
    printed = notebook.capture.readouterr()
    assert printed.out + printed.err == ""


def completed(notebook, text):
    """Return what TAB proposes at the end of a text, as lines."""
    with provisionalcompleter():
        found = list(notebook.shell.Completer.completions(text, len(text)))
    return [text[: one.start] + one.text for one in found]


@pytest.mark.parametrize(
    "start",
    ['shm.attach("', "y = shm.info('", 'shm.session["', 'with shm.lock("', 'attach("', 'shm.save( "', 'f(shm.attach("',
     'shm.attach(name="', 'shm.wait(x = "'],
)  # fmt: skip
def test_names_are_completed_inside_a_call(notebook, start):
    notebook("import shmkernel as shm\nfrom shmkernel import attach\n%shm_create elevation --shape 3")
    assert completed(notebook, f"{start}ele") == [f"{start}elevation"]
    assert completed(notebook, start) == [f"{start}elevation"]


def test_names_are_completed_in_each_function_that_takes_one(notebook):
    notebook("import shmkernel as shm\n%shm_create elevation --shape 3")
    functions = {name: function for name in shm.__all__ if inspect.isfunction(function := getattr(shm, name))}
    first = {name: next(iter(inspect.signature(function).parameters), "") for name, function in functions.items()}
    takers = {name for name, parameter in first.items() if parameter in ("name", "x")} - {"create"}
    assert takers >= {"attach", "snapshot"}
    assert {name for name in takers if not completed(notebook, f'shm.{name}("ele')} == set()


@pytest.mark.parametrize("start", ['print("', 'other.attach("', 'shm.create("', 'info("', 'shm.attach("q'])
def test_other_texts_are_left_alone(notebook, start):
    notebook("import shmkernel as shm\nother = 1\n%shm_create elevation --shape 3")
    assert not [text for text in completed(notebook, start) if "elevation" in text]


def test_a_file_to_save_to_is_proposed_with_its_suffix(notebook, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").mkdir()
    notebook("%shm_create x --shape 3\n%shm_create d --dict")
    assert completed(notebook, "%shm_save x ")[0] == "%shm_save x x.npy"
    assert completed(notebook, "%shm_save x results/") == ["%shm_save x results/x.npy"]
    assert "%shm_save x results/" in completed(notebook, "%shm_save x res")
    assert completed(notebook, "%shm_save d ")[:2] == ["%shm_save d d.json", "%shm_save d d.msgpack"]
    notebook("%shm_create o --from [[1], [2]]")
    assert completed(notebook, "%shm_save o ")[:2] == ["%shm_save o o.shm", "%shm_save o o.pkl"]
    assert "%shm_load y results/" in completed(notebook, "%shm_load y re")
    assert "results" not in "".join(completed(notebook, "%shm_save no.thing/else y"))


def test_variables_of_any_class_and_the_flag_for_pickles_are_proposed(notebook):
    notebook("class Model: pass\nmodel = Model()\nmodest = 'a text'\nmode = 3\ndef modify(): pass\nimport modulefinder")
    assert completed(notebook, "%shm_create mod") == ["%shm_create model", "%shm_create modest"]
    for verb in ("create model", "attach model", "load model model.pkl", "save model model.pkl"):
        assert completed(notebook, f"%shm_{verb} --pi") == [f"%shm_{verb} --pickle"]


def test_who_else_holds_what_has_lost_its_name_is_said_and_who_stays_behind(notebook):
    with elsewhere(lambda: shm.create("x", shape=3)):
        notebook("%shm_attach x\n%shm_unlink x")
        text = notebook("%shm_list")
        assert "2: here, plot" in text
        assert "unlinked, plot has it too. To share a copy: %shm_keep x" in text
        line = notebook("%shm_keep x")
        assert line.endswith("until %shm_unlink x. plot still has the old memory; there: %shm_attach x\n")
        notebook("%shm_unlink x")
        assert "unlinked, only here: %shm_keep x" in notebook("%shm_list")


def test_as_without_dashes_says_how_it_is_written(notebook):
    notebook("%shm_create x --shape 3")
    assert str(notebook.fails("%shm_attach x as y")) == "write --as: %shm_attach x --as y"
    notebook("%shm_attach x --as y")


def test_a_default_that_cannot_be_is_replaced_with_one_line_and_the_magics_load(notebook):
    notebook.run("%config ShmMagics.mode = 'q'")
    text = notebook("%reload_ext shmkernel")
    assert text == "shmkernel: ShmMagics.mode = 'q' is none of auto, r+, r, c; it is auto\n"
    assert "writable" in notebook("%shm_create x --shape 3\n%shm_attach x")
    assert notebook("%reload_ext shmkernel") == ""
