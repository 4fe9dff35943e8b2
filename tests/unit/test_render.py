"""Segments as people see them."""

import os
import re
import subprocess
import sys
import time

import pytest

from shmkernel import render
from shmkernel._core import capacity
from shmkernel.monitor import saved
from shmkernel.verbs.listing import Holder, Info

NOW = 1_700_000_000.0
ONE = Info(
    name="x", kind="array", type="int16 (344, 403)", size=277_264, owner="prepare.ipynb", owner_alive=True,
    owner_pid=41552, mine=False, attached=(Holder(41552, "prepare.ipynb"), Holder(41702, "plot.ipynb")),
    elsewhere=False, lifetime="session", created=NOW - 250, path="/dev/shm/shmk-0-x",
    dtype="int16", shape=(344, 403), order="C",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _today(monkeypatch):
    monkeypatch.setattr(time, "time", lambda: NOW)


def test_a_table_is_aligned_and_sums_up():
    other = ONE._replace(name="features", size=512 << 20, attached=(), owner_alive=False, lifetime="keep")
    head, first, second, total = render.table([ONE, other]).splitlines()
    assert first == (
        "x         array  int16 (344, 403)  270.8 KiB  prepare.ipynb (41552)  2: prepare, plot  session   4 min"
    )
    assert second.split()[-5:] == ["(ended)", "0", "keep", "4", "min"]
    assert head.index("size") + 4 == first.index("KiB") + 3
    assert "note" not in head
    assert total.startswith("2 segments, 512.3 MiB. /dev/shm/")
    assert " used, " in total


@pytest.mark.parametrize("width", [40, 60, 80, 100])
def test_a_table_fits_the_terminal(width, monkeypatch):
    room = capacity.room()
    monkeypatch.setattr(capacity, "room", lambda: room)  # other tests use the folder meanwhile
    long = ONE._replace(name="temperature_of_monday_evening", attached=ONE.attached * 3)
    text = render.table([ONE, long, long._replace(name="y", state="damaged")], width=width)
    assert max(map(len, text.splitlines())) <= width
    assert "temp" in text
    assert "evening"[-3:] in text
    assert "damaged: shm.unlink('y')" in text
    assert " ".join(render.total([ONE, long, long]).split()) in " ".join(text.split())


def test_two_holders_are_named_and_the_others_counted():
    many = ONE._replace(attached=(Holder(os.getpid(), "me.ipynb"), *(Holder(pid, f"{pid}.ipynb") for pid in (1, 2, 3))))
    assert "4: here, 1 +2" in render.table([many])
    assert "elsewhere" in render.table([ONE._replace(attached=(), elsewhere=True)])


def test_the_state_of_a_segment_comes_with_a_cure():
    assert render.note(ONE) == ""
    assert render.note(ONE._replace(state="replaced")) == "replaced: shm.attach('x')"
    here = Holder(os.getpid(), "here")
    alone = ONE._replace(state="unlinked", attached=(here,))
    assert render.note(alone) == "unlinked, only here: shm.keep('x')"
    assert render.note(alone._replace(owner_alive=False)) == "owner ended, only here: shm.keep('x')"
    shared = alone._replace(attached=(here, Holder(41552, "prepare.ipynb")))
    assert render.note(shared) == "unlinked, prepare has it too. To share a copy: shm.keep('x')"
    assert "unlinked, prepare, plot have it too." in render.note(ONE._replace(state="unlinked"))
    assert "shm.unlink('x')" in render.table([ONE._replace(state="damaged")])


def test_nothing_in_a_label_is_taken_for_markup_or_a_terminals_command():
    odd = ONE._replace(owner="<b>\x1b[31m&\n.ipynb", attached=(Holder(1, "<i>"),), type="<u>")
    for text in (render.table_html([odd], {"x": "<s>"}), render.card_html(odd, "<s>")):
        assert not {"<b>", "<i>", "<u>", "<s>"} & set(text.replace(">", ">\0").split("\0"))
        assert "&lt;b&gt;" in text
    for text in (render.table([odd]), render.card(odd), render.owner(odd), render.source(odd)):
        assert "\x1b" not in text
    assert len(render.table([odd]).splitlines()) == 3


def test_a_number_and_its_unit_stay_on_one_line_of_a_narrow_page_and_a_terminal_has_plain_blanks():
    picture = saved.table([ONE])
    for text in (render.table_html([ONE]), render.card_html(ONE), picture.html):
        assert "int16 (344,\N{NO-BREAK SPACE}403)" in text
        assert "270.8\N{NO-BREAK SPACE}KiB" in text
        assert "4\N{NO-BREAK SPACE}min" in text
        assert not re.search(r"\d ([KMGT]iB|bytes|min|s|h|d)\b", text)
    for text in (render.table([ONE]), render.card(ONE), render.what(ONE), picture.text):
        assert "\N{NO-BREAK SPACE}" not in text


def test_colours_come_from_the_theme_alone():
    text = render.table_html([ONE])
    assert text.count("color:") == text.count("color: var(--jp-") == 1


def test_rendering_needs_neither_numpy_nor_ipython():
    code = "import sys, shmkernel.render; print({'numpy', 'IPython'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"set()\n"


def test_a_long_listing_shows_its_beginning_and_how_to_see_the_rest():
    rows = render.Rows([ONE._replace(name=f"x{number}") for number in range(3000)], {"x150": "look here"})
    html = rows._repr_html_()
    assert html.count("<tr>") == 101
    assert len(html) < 100_000
    assert "3000 segments" in html
    assert "Only the first 100 are shown. For the others: rows = shm.list(), then rows[100:200]" in html
    assert "look here" in rows[100:200]._repr_html_()
    assert (len(rows), rows[150].name) == (3000, "x150")
    assert len(render.table(rows).splitlines()) == 3002
