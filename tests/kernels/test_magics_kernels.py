"""The magics in real kernels, as a notebook's page talks to them."""

import os

import pytest

import shmkernel as shm
from shmkernel._core import sessions
from tests.helpers import until, until_left
from tests.kernels.kernel import Kernel


@pytest.fixture
def kernel(tmp_path_factory, shm_dir):
    started = []

    def start(notebook, *arguments):
        started.append(Kernel(notebook, tmp_path_factory.mktemp("k"), *arguments))
        return started[-1]

    yield start
    for one in started:
        one.end()


def test_two_notebooks_share_an_array_through_all_that_can_happen_to_it(kernel, shm_dir):
    prepare, plot = kernel("prepare.ipynb"), kernel("plot.ipynb")
    prepare("%load_ext shmkernel\nimport numpy as np\nelevation = np.arange(6, dtype='i2').reshape(2, 3)")
    assert plot("%load_ext shmkernel\nimport numpy\n%shm_list").startswith("Nothing is shared yet")
    assert prepare("%shm_create elevation").endswith("In another notebook: %shm_attach elevation\n")

    reply, published = plot.run("%shm_attach elevatoin\nnever = 1")
    line = "shmkernel: no segment named 'elevatoin'. Did you mean elevation? Live names: %shm_list"
    assert (reply["status"], reply["ename"]) == ("error", "NotFoundError")
    assert published["error"][0]["traceback"] == [line]
    assert published["error"][0]["evalue"] == line.removeprefix("shmkernel: ")
    assert plot("print('never' in globals())") == "False\n"

    assert plot("%shm_attach elevation") == "elevation: array int16 (2, 3), 140 B,\n    from prepare.ipynb, writable\n"
    plot("elevation[0, 0] = 77")
    assert prepare("print(elevation[0, 0])") == "77\n"
    _, published = plot.run("%shm_list")
    bundle = published["display_data"][0]["data"]
    assert "2: prepare, here" in bundle["text/plain"] or "2: here, prepare" in bundle["text/plain"]
    assert "<td" in bundle["text/html"]

    assert "replaces the earlier one.\n    plot still has the old one; there: %shm_attach elevation" in prepare(
        "elevation = np.ones(3)\n%shm_create elevation"
    )
    assert "replaced: %shm_attach elevation" in plot("%shm_list")
    assert plot("print(elevation[0, 0])") == "77\n"
    plot("%shm_attach elevation")

    prepare.manager.shutdown_kernel(now=True)
    until_left(shm_dir, *_sessions(alive="plot.ipynb"))
    assert "owner ended, only here: %shm_keep elevation" in plot("%shm_list")
    assert "shared again as a copy, now your elevation" in plot("%shm_keep elevation")
    assert shm.attach("elevation").tolist() == [1, 1, 1]
    assert plot("elevation[1] = 5\n%shm_unlink elevation").startswith(
        "elevation: unlinked, 152 B stay in memory until "
    )


def _sessions(alive):
    """List the session files that stay: those of the living."""
    found = until(lambda: [one for one in sessions.everyone() if one.label == alive], "its session")
    return [f".shmk-{os.geteuid()}/sessions/{one.id}" for one in found]


def test_tab_offers_live_names_flags_and_values_and_nothing_else(kernel, shm_dir):
    one = kernel("plot.ipynb", "--InteractiveShellApp.extensions=shmkernel")
    one("%shm_create xa xb --shape 3\nxc = 1")
    shm.create("other", shape=3)
    live = ["other", "xa", "xb"]
    for line in ("%shm_attach ", "y = %shm_attach ", "if 1:\n    %shm_info ", "%%time\n%shm_close ", "%shm_keep "):
        assert one.complete(line) == (live, "")
    assert one.complete("%shm_attach xa\nprint(1)", at=len("%shm_attach xa") - 1) == (["xa", "xb"], "x")
    assert one.complete("%time %shm_info xa x") == (["xb"], "x")
    assert one.complete("%shm_attach xa --") == (
        ["--help", "--as", "--mode", "--pickle", "--overwrite", "--refresh"],
        "--",
    )
    assert one.complete("%shm_attach --mode r xa --o") == (["--overwrite"], "--o")
    assert one.complete("%shm_attach xa --mode ") == (["r+", "r", "c"], "")
    assert one.complete("%shm_create --lifetime=s") == (["session"], "s")
    assert one.complete("%shm_create --order ") == (["C", "F"], "")
    assert one.complete("%shm_create z --from x") == (["xa", "xb"], "x")
    assert one.complete("%shm_create xa ") == (["xb"], "")
    assert one.complete("%shm_create --kind d") == (["dict"], "d")
    assert one.complete("%shm_watch x") == (["xa", "xb"], "x")
    one("xd, xe, xf = {}, [1], b'1'")
    assert one.complete("%shm_create x") == (["xa", "xb", "xd", "xe", "xf"], "x")
    many = [shm_dir / f"shmk-{os.geteuid()}-n{n:03}" for n in range(1000)]
    for path in many:
        path.touch()
    assert one.complete("%shm_attach n99") == ([f"n99{n}" for n in range(10)], "n99")
    for path in many:
        path.unlink()
    one("%unload_ext shmkernel")
    assert "xa" not in one.complete("%shm_attach o")[0]
    assert "%shm_attach" not in one.complete("%shm_")[0]


def test_loading_is_light_and_the_help_is_the_parsers(kernel):
    one = kernel("plot.ipynb")
    assert one("%load_ext shmkernel\nimport sys\nprint('numpy' in sys.modules)") == "False\n"
    assert "%shm_create [-h] [--from EXPR] [--shape 3,4]" in one.inspect("%shm_create")
    assert "--fill VALUE" in one.inspect("%shm_create")
    assert one("%shm_create -h").startswith("%shm_create [-h] [--from EXPR]")
    reply, published = one.run("%shm_create x --shape 3 --lifetme keep")
    assert (reply["status"], reply["ename"]) == ("error", "ArgumentError")
    assert len(published["error"][0]["traceback"]) == 1


def test_after_a_reset_of_all_names_there_is_sharing_as_before(kernel):
    plot = kernel("plot.ipynb")
    plot("%load_ext shmkernel")
    plot("%reset -f")
    assert plot("%shm_create x --shape 3").startswith("x: array float64 (3,)")
    plot("%reset -f")
    assert plot("%shm_create y --shape 3").startswith("y: array float64 (3,)")


def test_a_monitor_where_no_page_is_saves_the_table_alone(kernel):
    plot = kernel("plot.ipynb")
    plot("%load_ext shmkernel\n%shm_create x --shape 3")
    plot.client.allow_stdin = False  # as nbconvert, papermill and nbval have it
    reply, published = plot.run("%shm_watch x")
    (shown,) = published["display_data"]
    assert reply["status"] == "ok"
    assert sorted(shown["data"]) == ["text/html", "text/plain"]
    assert ">x</td>" in shown["data"]["text/html"]
    assert "comm_open" not in published
    plot.client.allow_stdin = True
    reply, published = plot.run("%shm_watch x")
    (shown,) = published["display_data"]
    assert "application/vnd.jupyter.widget-view+json" in shown["data"]


def test_a_kernel_without_descriptors_survives_a_monitor(kernel):
    plot = kernel("plot.ipynb")
    plot("%load_ext shmkernel\n%shm_create x --shape 3")
    plot("import os, shmkernel.monitor.widget")
    plot("taken = []\ntry:\n    while True: taken.append(os.dup(2))\nexcept OSError: pass")
    reply, _ = plot.run("%shm_watch")
    assert (reply["status"], reply["ename"]) == ("error", "LimitError")
    plot("for one in taken: os.close(one)")
    assert plot("print(x.sum())") == "0.0\n"
    reply, _ = plot.run("%shm_watch")
    assert reply["status"] == "ok"
