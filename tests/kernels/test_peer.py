"""Cells of a notebook in a second kernel, with real kernels on both sides."""

import errno
import os
import signal
import tempfile
from contextlib import contextmanager

import pytest

from shmkernel.notebook import peer
from tests.helpers import quick_first, until
from tests.kernels.kernel import PATIENCE, Kernel

WIDGET = "application/vnd.jupyter.widget-view+json"


@contextmanager
def loaded(folder):
    kernel = Kernel("first.ipynb", folder)
    try:
        kernel("%load_ext shmkernel.peer")
        yield kernel
    finally:
        kernel.end()


@pytest.fixture(scope="module")
def notebook(tmp_path_factory):
    """One for all tests that leave it usable."""
    with loaded(tmp_path_factory.mktemp("k")) as kernel:
        yield kernel


@pytest.fixture
def mortal(tmp_path_factory, monkeypatch):
    """One for a test that ends it, and the folder for its temporary files."""
    folder = tmp_path_factory.mktemp("t")
    monkeypatch.setenv("TMPDIR", str(folder))
    with loaded(tmp_path_factory.mktemp("k")) as kernel:
        yield kernel, folder


def pid_of(notebook, name="peer"):
    return int(notebook(f"%%peer {name}\nimport os; print(os.getpid())"))


def failure(notebook, cell):
    """Run a cell that fails, and return the one error that it shows."""
    reply, published = notebook.run(cell)
    assert reply["status"] == "error"
    (error,) = published["error"]
    assert (error["ename"], error["evalue"]) == (reply["ename"], reply["evalue"])
    return error


def ended(pid):
    """Say whether no thread of a process runs any more, a zombie aside."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] == "Z" and len(os.listdir(f"/proc/{pid}/task")) == 1
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_a_peer_s_outputs_are_shown_as_the_cell_s_own(notebook):
    _, published = notebook.run(
        "%%peer\nimport os, sys\nfrom IPython.display import HTML, display\n"
        "print('printed'); print('warned', file=sys.stderr); os.system('echo from a child')\n"
        "display(HTML('<b>rich</b>'))\nx = 41\nx + 1"
    )
    assert {
        name: "".join(one["text"] for one in published["stream"] if one["name"] == name)
        for name in ("stdout", "stderr")
    } == {"stdout": "printed\nfrom a child\n", "stderr": "warned\n"}
    html, out = (one["data"] for one in published["display_data"])
    assert (html["text/html"], out["text/plain"]) == ("<b>rich</b>", "42")
    assert notebook("print('x' in globals())") == "False\n"
    assert notebook("%%peer\nprint(x)") == "41\n"


def test_a_picture_a_progress_bar_and_an_updated_display_arrive(notebook):
    _, published = notebook.run(
        "%%peer\n%matplotlib inline\nimport matplotlib.pyplot as plt\nplt.plot([1, 2]);\n"
        "from tqdm.notebook import tqdm\nfor i in tqdm(range(3)): pass\n"
        "from IPython.display import clear_output, display\nshown = display('before', display_id='it')\n"
        "shown.update('after'); clear_output(wait=True)"
    )
    data = [one["data"] for one in published["display_data"]]
    assert any("image/png" in one for one in data)
    view = next(one[WIDGET]["model_id"] for one in data if WIDGET in one)
    assert view in {one["comm_id"] for one in published["comm_open"]}
    assert any(one["data"]["state"].get("value") == 3 for one in published["comm_msg"])
    assert published["update_display_data"][0]["data"]["text/plain"] == "'after'"
    assert published["clear_output"] == [{"wait": True}]


def test_a_peer_s_error_fails_the_cell_and_shows_as_there(notebook):
    error = failure(notebook, "%%peer\nvalues = {}\nvalues['gone']")
    assert (error["ename"], error["evalue"]) == ("KeyError", "'gone'")
    assert "values" in "".join(error["traceback"])
    assert "peer.py" not in "".join(error["traceback"])
    assert notebook("%%peer\nprint(values)") == "{}\n"


def test_what_a_peer_would_only_print_as_an_error_fails_the_cell_too(notebook):
    reply, published = notebook.run("%%peer\n%nonsense 3")
    assert (reply["status"], reply["ename"]) == ("error", "UsageError")
    assert "`%nonsense` not found" in published["stream"][0]["text"]


def test_help_and_a_loaded_text_arrive(notebook, tmp_path):
    reply, _ = notebook.run("%%peer\nimport os\nos.getcwd?")
    (page,) = reply["payload"]
    assert "current working directory" in page["data"]["text/plain"]
    (tmp_path / "cell.py").write_text("x = 1\n")
    reply, _ = notebook.run(f"%%peer plot\n%load {tmp_path}/cell.py")
    (load,) = reply["payload"]
    assert load["text"].startswith("%%peer plot\n")
    assert load["text"].endswith("x = 1\n")


def test_what_a_thread_of_a_peer_prints_between_two_cells_shows_at_the_next(notebook, tmp_path):
    go, gone = tmp_path / "go", tmp_path / "gone"
    for fifo in (go, gone):
        os.mkfifo(fifo)
    notebook(
        f"%%peer\nimport sys, threading\ndef work():\n    open({str(go)!r}).close()\n    print('from a thread')\n"
        f"    sys.stdout.flush(); open({str(gone)!r}, 'w').close()\nthreading.Thread(target=work).start()"
    )
    go.open("w").close()
    gone.open().close()
    assert notebook("%%peer\nprint('from the cell')") == "from a thread\nfrom the cell\n"


def test_peers_have_names_and_variables_of_their_own(notebook):
    notebook("%reload_ext shmkernel.peer")
    notebook("%%peer plot\nx = 'in plot'")
    notebook("%%peer model\nx = 'in model'")
    assert notebook("%%peer plot\nprint(x, __session__)") == "in plot plot.ipynb\n"
    assert notebook("%peer") == "peers: plot, model\n"


def test_ctrl_c_reaches_the_peer_and_leaves_it_usable(notebook):
    notebook("%%peer\nimport threading; x = 1")

    def interrupt(message):
        if message["content"].get("text") == "begun\n":
            notebook.manager.interrupt_kernel()

    cell = "%%peer\nprint('begun')\nthreading.Event().wait()"
    reply = notebook.client.execute_interactive(cell, timeout=PATIENCE, output_hook=interrupt)
    assert reply["content"]["ename"] == "KeyboardInterrupt"
    assert notebook("%%peer\nprint(x)") == "1\n"


def test_a_peer_that_dies_fails_its_cell_in_one_line_and_the_next_starts_anew(notebook):
    error = failure(notebook, "%%peer\nx = 1\nimport os, signal\nos.kill(os.getpid(), signal.SIGSEGV)")
    assert error["ename"] == "PeerError"
    assert error["traceback"] == [f"shmkernel: {error['evalue']}"]
    assert error["evalue"].startswith("peer 'peer' died while it ran this cell (SIGSEGV)")
    assert notebook("%%peer\nprint('x' in globals())") == "False\n"


def test_a_peer_that_died_between_two_cells_is_not_replaced_in_silence(notebook):
    pid = pid_of(notebook)
    os.killpg(pid, signal.SIGKILL)
    until(lambda: ended(pid), "the peer's end")
    error = failure(notebook, "%%peer\nprint(1)")
    assert "has died since its last cell (SIGKILL)" in error["evalue"]
    assert notebook("%%peer\nprint(1)") == "1\n"


@pytest.mark.parametrize(
    ("flag", "said"), quick_first(("restart", "restarted"), ("kill", "killed"), ("shutdown", "shut down"))
)
def test_a_peer_is_ended_or_restarted_by_hand(notebook, tmp_path, flag, said):
    notebook("%reload_ext shmkernel.peer")
    pid = pid_of(notebook, "plot")
    notebook(f"%%peer plot\nimport atexit; atexit.register(open, {str(tmp_path / 'last')!r}, 'w');")
    assert notebook(f"%peer plot --{flag}") == f"plot: {said}\n"
    assert ended(pid)
    assert (tmp_path / "last").exists() == (flag != "kill")
    assert notebook("%peer").startswith("peers: plot" if flag == "restart" else "peers: none")
    assert pid_of(notebook, "plot") != pid


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("%peer nobody --kill", "there is no peer 'nobody'"),
        ("%peer --kil", "Did you mean --kill?"),
        ("%peer two-words", "no name for a peer"),
        ("%peer --kill --restart", "not both"),
        ("%%peer --kill\nprint(1)", "a line of its own"),
    ],
)
def test_a_mistake_is_one_line_and_fails_the_cell(notebook, line, why):
    error = failure(notebook, line)
    assert why in error["evalue"]
    assert len(error["traceback"]) == 1


@pytest.mark.parametrize("now", quick_first(True, False))
def test_peers_end_with_the_notebook_s_kernel_and_leave_no_files(mortal, now):
    notebook, folder = mortal
    pids = [pid_of(notebook, name) for name in ("one", "two")]
    assert not list(folder.iterdir())
    notebook.manager.shutdown_kernel(now=now)
    until(lambda: all(map(ended, pids)), "the end of the peers")


@pytest.mark.long
def test_a_peer_ends_in_the_midst_of_a_cell_when_the_notebook_s_kernel_is_killed(mortal):
    notebook, _ = mortal
    pid = pid_of(notebook)
    notebook.client.execute("%%peer\nprint('begun')\nwhile True: pass", stop_on_error=False)
    while notebook.client.get_iopub_msg(timeout=PATIENCE)["content"].get("text") != "begun\n":
        pass
    os.kill(notebook.manager.provisioner.process.pid, signal.SIGKILL)
    until(lambda: ended(pid), "the end of the peer")


@pytest.mark.long
def test_peers_that_hang_end_with_the_notebook_s_kernel(mortal):
    notebook, _ = mortal
    pids = [pid_of(notebook, name) for name in ("one", "two")]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    notebook.client.shutdown()
    until(lambda: all(map(ended, pids)), "the end of the peers")


@pytest.mark.long
def test_a_folder_for_temporary_files_may_have_a_long_path(tmp_path, monkeypatch):
    folder = tmp_path / ("x" * 90)
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    with loaded(tempfile.mkdtemp(dir="/tmp")) as kernel:
        assert kernel("%%peer\nprint(1)") == "1\n"


def test_unloading_ends_the_peers_and_takes_the_magic_away(mortal):
    notebook, _ = mortal
    pid = pid_of(notebook)
    notebook("%unload_ext shmkernel.peer")
    assert ended(pid)
    assert notebook("print(get_ipython().find_magic('peer'), get_ipython().find_cell_magic('peer'))") == "None None\n"


def test_a_peer_s_question_is_asked_here(notebook):
    notebook.client.allow_stdin = True
    reply = notebook.client.execute_interactive(
        "%%peer\nanswer = input('why? ')", timeout=PATIENCE,
        stdin_hook=lambda message: notebook.client.input(f"{message['content']['prompt']}because"),
    )  # fmt: skip
    assert reply["content"]["status"] == "ok"
    assert notebook("%%peer\nprint(answer)") == "why? because\n"


def test_a_question_that_nobody_can_answer_fails_and_leaves_the_peer_usable(notebook):
    cell = "%%peer\nanswer = input('why? ')"
    reply = notebook.client.execute_interactive(cell, timeout=PATIENCE, allow_stdin=False, output_hook=lambda _: None)
    assert reply["content"]["ename"] == "StdinNotImplementedError"
    assert notebook("%%peer\nprint(1)") == "1\n"


def test_a_peer_that_ends_itself_ends_quietly_and_the_next_cell_starts_another(notebook):
    first = pid_of(notebook, "brief")
    assert notebook("%%peer brief\nx = 1\nexit()") == "brief: ended. The next %%peer brief starts a new one\n"
    assert ended(first)
    assert "brief" not in notebook("%peer")
    second = pid_of(notebook, "brief")
    assert second != first
    notebook("%%peer brief\nquit(keep_kernel=True)")
    assert pid_of(notebook, "brief") == second
    notebook("%peer brief --kill")


def test_what_the_standard_library_shares_in_a_peer_goes_with_the_peer(notebook):
    """multiprocessing starts a process in the peer's group, which removes it."""
    name = notebook(
        "%%peer brief\nfrom multiprocessing.shared_memory import SharedMemory\n"
        "block = SharedMemory(create=True, size=9)\nprint(block.name)"
    ).strip()
    assert os.path.exists(f"/dev/shm/{name}")
    notebook("%peer brief --kill")
    until(lambda: not os.path.exists(f"/dev/shm/{name}"), "the block is removed")


def test_a_debugger_of_the_notebook_does_not_take_its_peers_over(notebook):
    notebook("import debugpy; address = debugpy.listen(0)")
    pid = pid_of(notebook, "free")
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        command = file.read().split(b"\0")
    assert not [one for one in command if b"pydevd" in one or b"debugpy" in one]
    notebook("%peer free --kill")


def test_a_vanished_folder_for_temporary_files_is_no_obstacle(tmp_path, monkeypatch):
    monkeypatch.setattr(peer.tempfile, "tempdir", str(tmp_path / "gone"))
    with peer._folder_for_sockets("plot") as folder:
        assert len(folder) < 80
    monkeypatch.setattr(peer.tempfile, "TemporaryDirectory", _nothing_can_be_made)
    with pytest.raises(peer.PeerError, match="needs a folder for its sockets, and none can be made"):
        peer._folder_for_sockets("plot")


def _nothing_can_be_made(prefix, dir):  # noqa: A002  as tempfile calls it
    raise OSError(errno.EROFS, os.strerror(errno.EROFS), f"{dir}/{prefix}")


@pytest.mark.parametrize(
    ("before", "why"),
    [
        ("import os, tempfile; d = tempfile.mkdtemp(); os.chdir(d); os.rmdir(d)", "folder was removed: os.chdir(...)"),
        ("import sys; python, sys.executable = sys.executable, None", "sys.executable has none. Set it"),
        ("taken = []\ntry:\n    while True: taken.append(os.dup(2))\nexcept OSError: pass", "(ulimit -n)"),
    ],
)
def test_a_peer_that_cannot_start_says_why_in_one_line(notebook, before, why):
    notebook("import os, sys\ntaken, python = [], sys.executable")
    notebook(before)
    error = failure(notebook, "%%peer never\nx = 1")
    notebook("for one in taken: os.close(one)\nsys.executable = python; os.chdir('/')")
    assert why in error["evalue"]
    assert len(error["traceback"]) == 1
    assert "never" not in notebook("%peer")
