"""The pure functions of the monitor's page, run by node: texts that Python also makes must be equal."""

import json
import math
import os
import re
import shutil
import subprocess
import urllib.parse
from pathlib import Path

import pytest

import shmkernel
from shmkernel import render
from shmkernel._core import capacity

HERE = Path(__file__).parents[2]
SCRIPT = Path(shmkernel.__file__).parent / "monitor" / "static" / "texts.js"
ROW = {
    "key": "x", "inode": "7", "name": "x", "kind": "array", "type": "int8 (3,)", "size": 131, "human": "131 B",
    "owner": "a.ipynb", "alive": True, "mine": False, "pid": 41, "attached": ["a (41)", "b (42)", "c (43)"], "count": 3,
    "lifetime": "session", "created": 0, "state": "", "note": "", "origin": "", "version": None,
}  # fmt: skip
BYTES = bytes([0, 31, 65, 126, 127, 255])


@pytest.fixture(scope="module")
def page():
    """Evaluate an expression with `texts`, and with a value as `it`."""
    if shutil.which("node") is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("there is no node: apt-get install nodejs")
    text = urllib.parse.quote(SCRIPT.read_text())

    def evaluate(expression, it=None):
        code = f"import * as texts from 'data:text/javascript,{text}'; const it = {json.dumps(it)};"
        code += f"console.log(JSON.stringify({expression}))"
        command = ["node", "--input-type=module", "--eval", code]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        assert not found.returncode, found.stderr
        return json.loads(found.stdout)

    return evaluate


def row(**changes):
    return ROW | changes


def test_sizes_and_ages_read_as_in_python(page):
    sizes = [0, 1, 1023, 1024, 1535, 270_900, 1 << 20, 5 << 30, (1 << 40) - 1, 3 << 40, 1 << 52]
    assert page("it.map(texts.human)", sizes) == [capacity.human(size) for size in sizes]
    ages = [-3, 0, 59.9, 60, 3599, 3600, 86_399, 86_400, 1e7]
    assert page("it.map(texts.age)", ages) == [render.age(age) for age in ages]


def test_numbers_are_written_short(page):
    values = [0, 3, -2.5, 1 / 3, 1e-9, 123456.789, 1e15, 1e300]
    assert page("it.map(texts.brief)", values) == [
        "0", "3", "-2.5", "0.333333", "1.000e-9", "123457", "1.000e+15", "1.000e+300",
    ]  # fmt: skip
    assert page("[NaN, Infinity, -Infinity].map(texts.brief)") == ["NaN", "∞", "\N{MINUS SIGN}∞"]


def test_rows_are_sorted_by_each_column_and_names_with_numbers_as_people_count(page):
    rows = [
        row(key=name, name=name, size=size, count=size % 3, created=-size, version=version)
        for name, size, version in (("x10", 5, None), ("x9", 7, 2), ("a", 6, 11))
    ]
    order = "[...it[0]].sort(texts.by(it[1], it[2])).map((one) => one.key)"
    assert page(order, [rows, "name", False]) == ["a", "x9", "x10"]
    assert page(order, [rows, "name", True]) == ["x10", "x9", "a"]
    assert page(order, [rows, "size", False]) == ["x10", "a", "x9"]
    assert page(order, [rows, "version", True]) == ["a", "x9", "x10"]
    assert page(order, [rows, "age", True]) == ["x9", "a", "x10"]
    assert page(order, [rows, "kind", False]) == ["a", "x9", "x10"]  # all the same: by name


def test_a_filter_wants_every_word_somewhere(page):
    found = "it[1].map((wanted) => texts.matches(it[0], wanted))"
    wanted = ["", "ARRAY", "int8 a.ipynb", "int8 nobody"]
    assert page(found, [row(), wanted]) == [True, True, True, False]


def test_a_row_tells_of_its_owner_and_holders(page):
    life = "it.map((one) => texts.life(one)[1])"
    rows = [row(), row(alive=False), row(lifetime="keep"), row(lifetime="keep", alive=False), row(state="damaged")]
    assert page(life, rows) == ["its owner runs", "its owner has ended", "kept, its owner runs", "kept", "damaged"]
    assert page("it.map(texts.holders)", [row(), row(count=0, attached=[])]) == ["3: a, b +1", "0"]
    assert page("texts.people(it)", row()) == "made by a.ipynb, process 41 · attached by a (41), b (42), c (43)"
    lonely = row(mine=True, attached=[], count=0, version=3)
    assert page("texts.people(it)", lonely) == "made by this notebook · attached by nobody · version 3"
    assert page("texts.people(it)", row(alive=False, count=25)).startswith(
        "made by a.ipynb, process 41 (ended) · attached"
    )
    assert page("texts.people(it)", row(count=25)).endswith("and 22 more")


def test_a_snapshot_tells_what_it_copies(page):
    copy = row(origin="hostA:x, version 3")
    assert page("it.map(texts.copied)", [row(), copy]) == ["", "snapshot of hostA:x, version 3"]
    assert page("texts.people(it)", copy).startswith("snapshot of hostA:x, version 3 · made by a.ipynb, process 41 · ")
    assert page("['hosta:x', 'snapshot', 'hostB'].map((wanted) => texts.matches(it, wanted))", copy) == [
        True, True, False,
    ]  # fmt: skip
    order = "it.sort(texts.by('owner', false)).map((one) => one.owner)"
    assert page(order, [row(owner="z"), {**copy, "owner": "a"}, row(owner="b")]) == ["b", "a", "z"]


def test_bytes_are_dumped_in_lines(page):
    dump = "texts.dump(new DataView(new Uint8Array(it).buffer), 2, 4)"
    assert page(dump, list(BYTES)) == [
        ["00000008", "00", "1f", "41", "7e", "··A~"], ["0000000c", "7f", "ff", "", "", "··"],
    ]  # fmt: skip


def test_colours_grow_lighter_from_end_to_end(page):
    colours = page("Array.from({ length: 101 }, (_, at) => texts.colour(at / 100))")
    assert all(0 <= part <= 255 for colour in colours for part in colour)
    light = [0.3 * red + 0.59 * green + 0.11 * blue for red, green, blue in colours]
    assert light == sorted(light)
    assert page("[texts.colour(-1), texts.colour(2)]") == [colours[0], colours[-1]]
    assert not math.isclose(light[0], light[-1], abs_tol=150)


def test_the_styles_of_the_running_panel_and_of_the_monitor_do_not_meet():
    """Both are in JupyterLab's page at the same time."""
    panel, monitor = (
        set(re.findall(r"\.(shm-[\w-]+)", (HERE / path).read_text()))
        for path in ("lab/shmkernel/static/style.css", "shmkernel/monitor/static/monitor.css")
    )
    assert panel
    assert not panel & monitor
