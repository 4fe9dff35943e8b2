from __future__ import annotations

import inspect
import json
import os
import pickle
import shlex
import signal
import subprocess
import sys

import numpy as np
import pytest

import shmkernel as shm
from shmkernel import cli, render
from shmkernel._core import registry, sessions
from tests.helpers import PATIENCE, until
from tests.unit import orphans

COMMANDS = ["list", "info", "watch", "keep", "unlink", "wait", "gc", "save", "load", "preview", "doctor", "demo",
            "help", "hosts", "join", "share", "unshare", "leave"]  # fmt: skip
SHMKERNEL = [sys.executable, "-m", "shmkernel"]


@pytest.fixture
def said(capsys):
    """Run a command in this process; return its exit status and its output on both streams."""

    def run(*argv):
        try:
            status = cli.main(argv)
        except SystemExit as exit_:
            status = exit_.code
        return status, *capsys.readouterr()

    return run


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_s_help_is_its_docstring(said, command):
    needs = {"save": ["x", "x"], "load": ["x", "x"], "hosts": ["init"]}
    one = ["x"] if command in ("info", "keep", "unlink", "wait", "preview", "share", "unshare") else []
    run = cli.argument_parser().parse_args([command, *needs.get(command, one)])
    status, out, err = said(command, "--help")
    assert (status, err) == (0, "")
    assert inspect.getdoc(run.run) in out


def test_the_help_lists_every_command_in_one_line_each(said):
    lines = said("--help")[1].splitlines()
    assert [line.split()[0] for line in lines if line.startswith("    ")] == COMMANDS


@pytest.mark.parametrize(
    "argv", [["lis"], ["list", "--js"], ["gc", "--dry"], ["keep", "x", "--lifetime", "long"], ["info"], ["help", "lis"]]
)
def test_a_misuse_is_status_2_and_nothing_is_abbreviated(said, argv):
    status, out, err = said(*argv)
    assert (status, out) == (2, "")
    assert err.startswith("usage: shmkernel")


@pytest.mark.parametrize(
    "argv", [["info", "elevatoin"], ["keep", "elevatoin"], ["unlink", "elevatoin"], ["save", "elevatoin", "f"]]
)
def test_a_missing_name_is_one_line_in_the_words_of_the_command_line(said, argv):
    shm.create("elevation", shape=3)
    line = "shmkernel: no segment named 'elevatoin'. Did you mean elevation? Live names: shmkernel list\n"
    assert said(*argv) == (1, "", line)


def test_list_says_what_is_shared_and_where_there_is_nothing_what_to_do(said):
    status, out, _ = said("list")
    hint = "More: shmkernel help. In a notebook: %shm_create NAME"
    assert (status, out) == (0, f"Nothing is shared yet. {hint}\n")
    shm.create("elevation", np.zeros((344, 403), "int16"))
    _, out, _ = said("list")
    assert "elevation" in out
    assert "int16 (344, 403)" in out


def test_json_holds_what_the_help_documents(said, shm_dir):
    x = shm.create("x", np.zeros((2, 3), "int16", order="F"))
    y = shm.create("y", 1.5, lifetime="keep")
    both = json.loads(said("list", "--json")[1])
    assert [one["name"] for one in both] == ["x", "y"]
    assert json.loads(said("info", "y", "x", "--json")[1]) == both[::-1]
    documented = inspect.getdoc(cli.argument_parser().parse_args(["list"]).run)
    keys = {
        word
        for line in documented.splitlines()
        if line.startswith("  ")
        for word in line[:18].replace(",", " ").split()
    }
    assert set(both[0]) == keys
    expected = {
        "kind": "array", "type": "int16 (2, 3)", "dtype": "int16", "shape": [2, 3], "order": "F", "owner_alive": True,
        "owner_pid": os.getpid(), "attached": [os.getpid()], "elsewhere": False, "lifetime": "session", "state": "",
        "path": f"{shm_dir}/shmk-{os.geteuid()}-x", "size": os.stat(f"{shm_dir}/shmk-{os.geteuid()}-x").st_size,
    }  # fmt: skip
    assert both[0] | expected == both[0]
    del x, y
    shm.unlink("y")


def test_info_shows_a_block_for_each_name(said):
    shm.create("x", shape=3)
    shm.create("y", shape=(4, 5))
    _, out, _ = said("info", "x", "y")
    first, second = out.split("\n\n")
    assert "float64 (3,)" in first
    assert "float64 (4, 5)" in second


def test_keep_lets_a_segment_outlive_its_owner_and_takes_that_back(said):
    shm.create("x", shape=3)
    assert said("keep", "x") == (0, "x: lifetime keep\n", "")
    assert shm.info("x").lifetime == "keep"
    assert said("keep", "x", "--lifetime", "session") == (0, "x: lifetime session\n", "")
    assert shm.info("x").lifetime == "session"


def test_unlink_removes_all_names_or_none_and_says_who_holds_them(said):
    x = shm.create("x", shape=3)
    y = shm.create("y", shape=3)
    assert said("unlink", "x", "z", "y")[0] == 1
    assert list(shm.session) == ["x", "y"]
    del y
    status, out, _ = said("unlink", "x", "y")
    owner = sessions.mine().label
    assert (status, out) == (0, f"x: unlinked; still attached by {owner} ({os.getpid()})\ny: unlinked\n")
    assert not list(shm.session)
    del x


def test_unlink_shows_what_a_pattern_matches_and_removes_it_with_yes(said):
    kept = [shm.create(name, shape=3) for name in ("run_1", "run_2", "other", "last")]
    status, out, err = said("unlink", "run_*", "last")
    shown = [line.partition(" ")[0] for line in out.splitlines()[1:-1]]  # the owner may be called anything
    assert (status, shown) == (1, ["run_1", "run_2", "last"])
    command = "shmkernel unlink 'run_*' last --yes"
    assert err == f"shmkernel: nothing is removed yet. To remove what is listed: {command}\n"
    assert len(shm.session) == len(kept)
    missing = "shmkernel: no segment matches 'walk_*'. Live names: shmkernel list\n"
    assert said("unlink", "run_*", "walk_*", "--yes") == (1, "", missing)
    assert said(*shlex.split(command)[1:])[0] == 0
    assert list(shm.session) == ["other"]


def test_list_is_sorted_as_wanted(said):
    sizes = {"b": 1, "c": 100, "a": 10}
    kept = [shm.create(name, shape=size) for name, size in sizes.items()]

    def order(*argv):
        return [line.split()[0] for line in said("list", *argv)[1].splitlines()[1 : 1 + len(kept)]]

    assert (order(), order("--sort", "size"), order("--sort", "age")) == ([*"abc"], [*"cab"], [*"acb"])
    assert [row["name"] for row in json.loads(said("list", "--sort", "size", "--json")[1])] == [*"cab"]


@pytest.mark.parametrize("argv", [[], ["--sort", "size"]])
def test_a_terminal_shows_the_first_segments_and_counts_all(said, monkeypatch, argv):
    monkeypatch.setattr(cli.commands, "_MOST", 2)
    kept = [shm.create(name, shape=size) for name, size in {"c": 100, "a": 30, "b": 1}.items()]
    piped = said("list", *argv)[1].splitlines()
    assert len(piped) == 5
    monkeypatch.setattr(render, "terminal_width", lambda: 120)
    _, *rows, count, others = said("list", *argv)[1].splitlines()
    assert [row.split()[0] for row in rows] == [row.split()[0] for row in piped[1:3]]
    assert count.partition(".")[0] == piped[-1].partition(".")[0]  # the rest is the folder's use, which changes
    assert others == "Only the first 2 are shown. For the others: shmkernel list | less"
    del kept


def test_without_a_command_there_is_the_help(said):
    assert said() == said("--help")


@pytest.mark.parametrize("asked", [[], ["list"], ["hosts", "init"]])
def test_help_is_a_command_too(said, asked):
    assert said("help", *asked) == said(*asked, "--help")


def test_waiting_for_a_name_that_is_not_there_says_so(said):
    status, out, err = said("wait", "nope", "--timeout", "0")
    assert (status, out) == (1, "")
    assert err.startswith("shmkernel: no segment named 'nope'. Waiting until there is one\n")


def test_gc_sweeps_what_ended_kernels_left_and_a_dry_run_only_tells(said, shm_dir):
    assert said("gc") == (0, "Nothing to clean up\n", "")
    size = orphans.leave("big", shm_dir)
    assert said("gc", "--dry-run") == (0, f"big: would be unlinked, {size} B\n", "")
    assert list(shm.session) == ["big"]
    assert said("gc") == (0, f"big: unlinked, {size} B\n", "")
    assert not list(shm.session)


def test_a_pickle_is_loaded_and_saved_when_its_flag_is_given(said, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))  # of the key that signs it
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(range(3)))
    status, _, err = said("load", "model", str(tmp_path / "model.pkl"))
    assert status == 1
    assert err.endswith("model.pkl is a pickle. To load it runs its code. If you trust who made it: --pickle\n")
    status, out, _ = said("load", "model", str(tmp_path / "model.pkl"), "--pickle")
    assert (status, out[:28]) == (0, "model: object range, pickled")
    assert said("save", "model", str(tmp_path / "again.pkl"))[0] == 0
    assert pickle.loads((tmp_path / "again.pkl").read_bytes()) == range(3)
    assert "range" in said("preview", "model")[1]
    shm.unlink("model")


def test_a_loaded_file_stays_shared_after_the_command_and_is_saved_again(said, tmp_path):
    values = np.arange(12.0).reshape(3, 4)
    np.save(tmp_path / "values.npy", values)
    done = subprocess.run(
        [*SHMKERNEL, "load", "x", tmp_path / "values.npy"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("x: array float64 (3, 4), ")
    assert done.stdout.endswith("kept until shmkernel unlink x. In a notebook: %shm_attach x\n")
    assert done.stderr == ""
    np.testing.assert_array_equal(shm.attach("x"), values)
    assert (shm.info("x").lifetime, shm.info("x").owner.split()[0]) == ("keep", "shmkernel")
    assert said("save", "x", str(tmp_path / "again.npy"))[0] == 0
    np.testing.assert_array_equal(np.load(tmp_path / "again.npy"), values)
    shm.unlink("x")


def test_load_takes_a_name_that_is_in_use_only_with_replace(said, tmp_path):
    np.save(tmp_path / "new.npy", np.ones(3))
    shm.create("x", shape=3)
    status, _, err = said("load", "x", str(tmp_path / "new.npy"))
    assert status == 1
    assert err.startswith("shmkernel: 'x' is taken")
    assert "--replace" in err
    assert said("load", "x", str(tmp_path / "new.npy"), "--replace")[0] == 0
    assert shm.attach("x").sum() == 3
    shm.unlink("x")


def test_doctor_succeeds_on_a_good_machine_and_fails_with_the_cure_on_another(said, monkeypatch, shm_dir):
    status, out, _ = said("doctor")
    assert status == 0
    assert {line.split()[0] for line in out.splitlines()} == {"ok", "note"}
    orphans.leave("big", shm_dir)
    status, out, _ = said("doctor")
    assert (status, "\n      shmkernel gc\n" in out) == (0, True)
    shm.gc()
    monkeypatch.setenv("SHMKERNEL_DIR", f"{shm_dir}/missing")
    status, out, _ = said("doctor")
    assert (status, out.startswith("fail  ")) == (1, True)


@pytest.mark.parametrize(
    "argv", [["--help"], ["list", "--help"], ["list"], ["info", "x"], ["gc"], ["unlink", "x"], ["doctor"]]
)
def test_what_can_do_without_starts_neither_numpy_nor_ipython(argv):
    shm.create("x", shape=3)
    script = (
        "import sys\nfrom shmkernel.cli import main\ntry: main(sys.argv[1:])\nexcept SystemExit: pass\n"
        "heavy = {'numpy', 'IPython', 'ipykernel', 'tqdm', 'jupyter_client', 'importlib.metadata'}\n"
        "heavy |= {'inspect'} if sys.version_info[:2] != (3, 14) else set()  # argparse imports it there, for colours\n"
        "print('loaded:', *sorted(heavy & {*sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", script, *argv], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "loaded:"
    assert done.stderr == ""


def test_a_reader_that_has_gone_is_no_error():
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([*SHMKERNEL, "list"], stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")


def test_ctrl_c_ends_a_command_without_a_word():
    def waits():
        with open("/proc/locks") as file:
            return any(line.split()[1] == "->" and int(line.split()[5]) == command.pid for line in file)

    with registry.locked(), subprocess.Popen([*SHMKERNEL, "gc"], stderr=subprocess.PIPE) as command:
        until(waits, "the command waits for the lock of names")
        command.send_signal(signal.SIGINT)
        _, err = command.communicate(timeout=PATIENCE)
    assert (command.returncode, err) == (128 + signal.SIGINT, b"")


def test_the_installed_command_is_the_module():
    (entry,) = __import__("importlib.metadata").metadata.entry_points(group="console_scripts", name="shmkernel")
    assert entry.load() is cli.main
    done = subprocess.run([*SHMKERNEL, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"shmkernel {shm.__version__}\n"


def ran(*argv, redirect="", **env):
    """Run a command in a shell; return its exit status and its output on both streams."""
    done = subprocess.run(
        ["bash", "-c", f'"$@" {redirect}', "bash", *SHMKERNEL, *argv],
        env=os.environ | env, timeout=PATIENCE, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("argv", [["list"], ["info", "x"], ["list", "--json"], ["doctor"], ["--help"], ["watch"]])
@pytest.mark.parametrize(
    ("redirect", "status", "error"),
    [
        (">/dev/full", 1, "shmkernel: cannot write what there is to say: No space left on device\n"),
        (">&-", 1, "shmkernel: cannot write what there is to say: standard output is closed\n"),
        ("2>&-", 0, ""),
    ],
)
def test_output_that_cannot_be_written_is_told_in_one_line(argv, redirect, status, error):
    x = shm.create("x", shape=3)
    found = ran(*argv, redirect=redirect)
    shm.unlink("x")
    del x
    assert (found[0], found[2]) == (status, error)


@pytest.mark.parametrize("argv", [["list"], ["list", "--json"], ["doctor"], ["--help"], ["watch"]])
def test_a_reader_that_has_gone_ends_a_command_quietly(argv):
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [*SHMKERNEL, *argv], stdout=writing, stderr=subprocess.PIPE, timeout=PATIENCE, check=False
    )  # fmt: skip
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


def test_an_output_of_ascii_shows_what_it_can(tmp_path):
    work = "import shmkernel as shm, sys; x = shm.create('x', shape=3, lifetime='keep')"
    subprocess.run(
        [sys.executable, "-c", work],
        env=os.environ | {"JPY_SESSION_NAME": "Zürich.ipynb"},
        timeout=PATIENCE,
        check=True,
    )
    for argv in (["list"], ["info", "x"], ["watch"], ["save", "x", str(tmp_path / "ü.npy")]):
        status, out, err = ran(*argv, PYTHONIOENCODING="ascii", PYTHONUTF8="0", LC_ALL="C")
        assert (status, err) == (0, ""), argv
        assert "?" in out
    shm.unlink("x")


@pytest.mark.parametrize(
    "argv",
    [
        ["wait", "x", "--timeout", "nan"],
        ["wait", "x", "--timeout", "-1"],
        ["wait", "x", "--timeout", "inf"],
        ["wait", "x", "--timeout", "soon"],
        ["wait", "x", "--since", "-5"],
        ["watch", "--every", "0"],
        ["watch", "--every", "-1"],
        ["watch", "--every", "nan"],
    ],
)
def test_a_time_or_version_that_is_none_is_refused(said, argv):
    status, _, err = said(*argv)
    assert status == 2
    assert f"argument {argv[-2]}: {argv[-1]} is not a " in err


def test_a_file_that_does_not_tell_its_kind_is_loaded_as_the_error_says(said, tmp_path):
    shm.create("x", [1, 2], kind="list")
    path = f"{tmp_path}/x.data"
    shm.save("x", path)
    status, _, refused = said("load", "y", path)
    cure = f"shmkernel load y {path} --kind list"
    assert (status, f"If a list was saved to it: {cure}. " in refused) == (1, True)
    assert said(*shlex.split(cure)[1:])[0] == 0
    assert list(shm.attach("y")) == [1, 2]
    shm.unlink("y")
