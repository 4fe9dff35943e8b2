"""The monitor on a terminal."""

import io
import os
import pty
import subprocess
import sys
import termios

import numpy as np
import pytest
from rich.console import Console

import shmkernel as shm
from shmkernel import cli
from shmkernel.monitor.terminal import Screen
from tests.helpers import PATIENCE, make_snapshot


def shown(screen, width=100, height=40):
    console = Console(width=width, height=height, color_system=None, file=io.StringIO())
    console.print(screen.draw(width, height))
    return console.file.getvalue()


@pytest.fixture
def segments():
    made = {
        "line": shm.create("line", np.linspace(0, 1, 30)),
        "map": shm.create("map", np.eye(4)),
        "words": shm.create("words", ["one", 2, None]),
        "zeros": shm.create("zeros", b"zeros and ones"),
    }
    yield made
    for name in made:
        shm.unlink(name)


def test_the_chosen_segments_content_is_drawn_in_characters(segments):
    screen = Screen("line")
    line = shown(screen)
    assert line.index("⠉⠉⠉") < line.index("⣀⣀⣀")  # the greatest above, the least below
    screen.move(1)
    assert "█ " in shown(screen)
    screen.move(1)
    assert "one" in shown(screen)
    screen.move(10)
    assert "7a 65 72 6f" in shown(screen)
    screen.move(-10)
    assert screen.chosen == "line"


def test_many_segments_scroll_with_the_choice():
    made = [shm.create(f"x{at:02}", shape=1) for at in range(60)]
    screen = Screen()
    assert "x00" in shown(screen)
    assert "x59" not in shown(screen)
    screen.move(59)
    text = shown(screen)
    assert "x59" in text
    assert "of 60" in text
    assert len(text.splitlines()) <= 40
    for at in range(len(made)):
        shm.unlink(f"x{at:02}")


def test_the_owner_of_a_snapshot_is_what_it_copies(segments):
    make_snapshot("line")
    assert "snapshot of hostA:x, version 3" in shown(Screen("line"), 160)


@pytest.mark.parametrize("height", [16, 24, 50])
def test_the_way_out_is_always_in_sight(segments, height):
    long = shm.create("temperature_of_monday_evening_in_the_laboratory", np.zeros((40, 40)))
    for name in (*segments, shm.info("temperature_of_monday_evening_in_the_laboratory").name):
        lines = shown(Screen(name, "q quit"), 80, height).splitlines()
        assert "q quit" in lines[:3]
        assert len(lines) <= height
    del long
    shm.unlink("temperature_of_monday_evening_in_the_laboratory")


def test_without_a_terminal_it_prints_once(segments, capsys):
    assert cli.main(["watch", "words"]) == 0
    assert "3 items" in capsys.readouterr().out
    assert cli.main(["watch", "wordz"]) == 1
    assert "Did you mean words?" in capsys.readouterr().err


def test_without_rich_it_names_the_cure(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "rich.console", None)
    monkeypatch.delitem(sys.modules, "shmkernel.monitor.terminal", raising=False)
    assert cli.main(["watch"]) == 1
    assert 'pip install "shmkernel[terminal]"' in capsys.readouterr().err


def test_on_a_terminal_keys_choose_and_end_it(segments):
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (40, 100))
    before = termios.tcgetattr(theirs)
    command = [sys.executable, "-m", "shmkernel", "watch"]
    environment = os.environ | {"TERM": "xterm"}
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as child:
        text = _until(ours, b"min 0")
        os.write(ours, b"\x1b[B\x1b[B")
        text += _until(ours, b"None")
        os.write(ours, b"q")
        assert child.wait(PATIENCE) == 0
    assert b"line" in text
    assert termios.tcgetattr(theirs)[3] == before[3]
    os.close(ours)
    os.close(theirs)


def _until(fd, wanted):
    text = b""
    while wanted not in text:
        text += os.read(fd, 65536)
    return text
