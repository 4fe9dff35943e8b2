"""What agents ask is answered in bounded size, reads alone, and runs nothing of a segment's maker."""

import base64
import importlib.metadata
import json
import os
import struct
import zlib

import numpy as np
import pytest

import shmkernel as shm
from shmkernel import agents, cli
from shmkernel._core import paths
from tests.unit.elsewhere import elsewhere

VALUES = {
    "line": np.arange(5000.0),
    "gaps": np.array([1.0, np.nan, np.inf, 3.0]),
    "flat": np.ones(7),
    "heat": np.arange(12.0).reshape(3, 4),
    "large": np.arange(1e6).reshape(1000, 1000),
    "picture": np.random.default_rng(0).integers(0, 255, (400, 300, 3), "u1"),
    "words": np.array(["a", "b\x1b[2J"]),
    "config": {"rate": 0.1, "long": "x" * 100_000},
    "items": [1, "two", None],
    "object": [{"a": [1, [2, 3]]}],
    "block": b"abc" * 10_000,
}


loud = []


class Loud:
    """Unpickling one is noticed."""

    def __reduce__(self):
        return loud.append, (1,)


@pytest.fixture
def shared():
    def make():
        made = [shm.create(name, value) for name, value in VALUES.items()]
        return made, shm.create("stream", ring=4, shape=(2, 2))

    with elsewhere(make):
        yield


def pixels(png):
    """Return the size of a PNG; fail if it is none."""
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">2I", png[16:24])
    at = png.index(b"IDAT")
    (size,) = struct.unpack(">I", png[at - 4 : at])
    assert len(zlib.decompress(png[at + 4 : at + 4 + size])) == height * (1 + 3 * width)
    return width, height


def test_the_list_is_bounded_and_has_the_largest_first(shared):
    found = agents.shm_list()
    assert (found["total"], found["folder"]) == (len(VALUES) + 1, paths.folder())
    assert found["segments"][0]["name"] == "large"
    assert len(agents.shm_list(2)["segments"]) == 2
    assert agents.shm_list(-1)["segments"] == []
    json.dumps(found)


def test_a_description_says_who_has_it_and_how_to_use_it(shared):
    found = agents.shm_describe("heat")
    assert (found["dtype"], found["shape"], found["kind"]) == ("float64", (3, 4), "array")
    assert [one["label"] for one in found["attached"]] == ["plot.ipynb"]
    space = {}
    exec(found["python"], space)
    assert space["value"].tolist() == VALUES["heat"].tolist()
    assert not space["value"].flags.writeable
    json.dumps(found)
    with pytest.raises(shm.NotFoundError, match="Did you mean heat"):
        agents.shm_describe("heatt")


def test_the_line_of_each_kind_attaches_it(shared):
    for name in (*VALUES, "stream"):
        space = {}
        exec(agents.shm_describe(name)["python"], space)
        assert space["value"] is not None
        del space


def test_a_preview_of_what_is_pickled_runs_nothing(shared, capsys):
    with elsewhere(lambda: shm.create("pickled", Loud(), allow_pickle=True)):
        capsys.readouterr()
        assert "Loud, pickled" in agents.preview("pickled")["text"]
        assert agents.shm_describe("pickled")["kind"] == "object"
        assert not loud


@pytest.mark.parametrize("name", VALUES)
def test_a_preview_is_small_and_attaches_nothing(shared, name):
    found = agents.preview(name)
    assert len(json.dumps(found)) < 100_000
    assert found["text"].startswith(f"{name}: ")
    assert "\x1b" not in found["text"]
    drawn = name in ("line", "gaps", "flat", "heat", "large", "picture")
    assert bool(found["png"]) == drawn
    if drawn:
        width, height = pixels(base64.b64decode(found["png"]))
        assert max(width, height) <= 320
    assert os.getpid() not in [holder.pid for holder in shm.info(name).attached]


def test_a_preview_shows_values(shared):
    assert agents.preview("heat")["text"].splitlines()[2:] == ["0, 1, 2, 3", "4, 5, 6, 7", "8, 9, 10, 11"]
    assert "1, nan, inf, 3" in agents.preview("gaps")["text"]
    assert "'rate' | float | 0.1" in agents.preview("config")["text"]
    assert "61 62 63" in agents.preview("block")["text"]
    assert agents.preview("items", 1)["text"].endswith("rows 0 to 3 of 3")


def test_the_picture_of_an_image_has_its_colours():
    x = shm.create("x", np.array([[[255, 0, 0], [0, 0, 255]]], "u1"))
    png = base64.b64decode(agents.preview("x")["png"])
    lines = zlib.decompress(png[png.index(b"IDAT") + 4 : png.index(b"IEND") - 8])
    assert pixels(png) == (256, 128)
    assert (lines[1:4], lines[-3:]) == (b"\xff\0\0", b"\0\0\xff")
    shm.unlink("x")
    del x


def test_what_cannot_be_read_is_said(shm_dir):
    x = shm.create("x", shape=1000)
    with open(paths.path_of("x"), "r+b") as file:
        file.write(b"damaged")
    assert "damaged" in agents.preview("x")["text"]
    assert agents.shm_describe("x")["state"] == "damaged"
    shm.unlink("x")
    del x


def test_a_tool_server_finds_the_functions_and_their_descriptions():
    (entry,) = [one for one in importlib.metadata.entry_points(group="jupyter_server_mcp.tools") if "shm" in one.name]
    names = []
    for tool in entry.load():
        module, _, function = tool.partition(":")
        found = getattr(importlib.import_module(module), function)
        assert found.__doc__
        names.append(found.__name__)
    assert names == ["shm_list", "shm_describe", "shm_preview", "shm_doctor"]


def test_the_doctor_answers_agents():
    levels = {one["level"] for one in agents.shm_doctor()["findings"]}
    assert levels <= {"ok", "note", "warn", "fail"}


def test_the_command_line_prints_the_same_as_json(shared, capsys, tmp_path):
    assert cli.main(["preview", "heat", "--json", "--png", f"{tmp_path}/heat.png"]) == 0
    assert json.loads(capsys.readouterr().out) == agents.preview("heat")
    assert pixels((tmp_path / "heat.png").read_bytes()) == (256, 192)
    assert cli.main(["preview", "items"]) == 0
    assert capsys.readouterr().out.startswith("items: list 3 items, ")
    assert cli.main(["preview", "items", "--png", f"{tmp_path}/items.png"]) == 1
    assert "there is no picture of it" in capsys.readouterr().err
    assert not (tmp_path / "items.png").exists()
    assert cli.main(["doctor", "--json"]) in (0, 1)
    assert {*json.loads(capsys.readouterr().out)[0]} == {"level", "text", "cure"}
    assert cli.main(["preview", "nothing"]) == 1
