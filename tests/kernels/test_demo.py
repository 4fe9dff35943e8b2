from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import shmkernel as shm
from shmkernel._core import sessions
from tests.helpers import quick_first
from tests.unit import orphans

DEMO = [sys.executable, "-m", "shmkernel", "demo"]
STOPPING = """
import os, signal, sys
from shmkernel import cli, demo

def say_and_stop(line, say=demo._say):
    say(line)
    if sys.argv[1] in line:
        os.kill(os.getpid(), signal.SIGSTOP)

demo._say = say_and_stop
sys.exit(cli.main(["demo"]))
"""


@pytest.fixture
def demo(tmp_path, shm_dir):
    """Run the demo to its end; return its exit status and what it said, and see that nothing stays.

    With `at`, do something when it has said this line: it stops itself there, else it would go on meanwhile.
    """

    def run(command=DEMO, at=None, do=lambda process: process.send_signal(signal.SIGINT), **env):
        process = subprocess.Popen(
            [sys.executable, "-c", STOPPING, at] if at else command,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=os.environ | {"TMPDIR": str(tmp_path), "HOME": str(tmp_path), "PYTHONUNBUFFERED": ""} | env,
        )  # fmt: skip
        if at:
            os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
            do(process)
            process.send_signal(signal.SIGCONT)
        out, err = process.communicate()
        assert not list(tmp_path.iterdir()), "files left"
        assert not [line for line in _command_lines() if str(tmp_path) in line], "kernels left"
        assert {path.name for path in shm_dir.iterdir()} <= {f".shmk-{os.geteuid()}", *kept}, "segments left"
        return process.returncode, out, err

    kept: set[str] = set()
    run.kept = kept
    return run


def _command_lines():
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            yield path.read_text(errors="replace")
        except OSError:
            continue


def test_the_demo_shows_two_kernels_on_the_same_pages_and_what_a_kill_leaves(demo, shm_dir):
    status, out, err = demo()
    assert (status, err) == (0, "")
    pids = re.findall(r"ipynb \(kernel (\d+)\)", out)
    maps = re.findall(r"mapped device (\S+), inode (\d+) in /proc/(\d+)/maps", out)
    assert [pid for _, _, pid in maps] == pids
    assert maps[0][:2] == maps[1][:2]
    assert "first.ipynb reads 4321 at dem[0, 0]" in out
    assert re.search(rf"{shm_dir}/shmk-\d+-dem is gone after \d+\.\d ms", out)
    assert "second.ipynb still reads all values" in out
    timed = [line for line in out.splitlines() if line.endswith(" ms") or re.search(r" ms  \d", line)]
    assert len([line for line in timed if "%shm_" in line and "B copied" in line]) == 3
    assert re.search(r"no copy   \d.* [MG]iB attached in [\d.]+ ms; a copy took [\d.]+ ms\n", out)
    assert max(map(len, out.splitlines())) <= 110
    assert "%shm_create x " in out.splitlines()[-2]


@pytest.mark.long
def test_a_segment_of_the_user_s_is_left_alone(demo):
    shm.create("dem", np.arange(3), lifetime="keep")
    demo.kept.add(f"shmk-{os.geteuid()}-dem")
    status, out, _ = demo()
    assert (status, "%shm_create dem2 --from elevation" in out) == (0, True)
    assert shm.attach("dem").tolist() == [0, 1, 2]
    shm.unlink("dem")


@pytest.mark.long
def test_what_does_not_happen_is_named_and_fails(demo, tmp_path_factory):
    fake = tmp_path_factory.mktemp("fake") / "matplotlib"
    fake.mkdir()
    (fake / "__init__.py").touch()
    status, _, err = demo(PYTHONPATH=str(fake.parent))
    assert status == 1
    assert err.startswith("shmkernel demo: expected elevation = ")
    assert "to succeed in first.ipynb, and it said: ImportError" in err
    assert err.count("\n") == 1


@pytest.mark.long
def test_a_name_that_stays_is_named_and_fails_and_is_removed_at_last(demo, shm_dir):
    def kill_its_watchdog(_):
        (session,) = (one for one in sessions.everyone() if one.label == "first.ipynb")
        orphans.kill_watchdog_of(session, shm_dir)

    status, out, err = demo(at="The same pages", do=kill_its_watchdog)
    assert (status, "is gone" in out) == (1, False)
    assert re.fullmatch(r"shmkernel demo: expected \S+-dem to be gone 20 s after the kill\n", err)


@pytest.mark.parametrize("line", quick_first("%shm_create", "Two kernels", "The same pages"))
def test_ctrl_c_leaves_nothing(demo, line):
    status, out, err = demo(at=line)
    assert (status, err) == (128 + signal.SIGINT, "")
    assert "is gone after" not in out


def test_without_its_data_the_demo_names_the_cure(demo):
    script = "import sys; sys.modules['matplotlib'] = None; from shmkernel.cli import main; sys.exit(main(['demo']))"
    status, out, err = demo([sys.executable, "-c", script])
    assert (status, out) == (1, "")
    assert 'pip install "shmkernel[demo]"' in err
    assert err.count("\n") == 1
