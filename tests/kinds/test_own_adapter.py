"""The adapter of the documentation, in a package that is installed, shares instances between processes."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.helpers import python

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "own-adapter.md").read_text(encoding="utf-8")
TRACK, ADAPTER = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
(ENTRY,) = re.findall(
    r"^```toml\n\[project.entry-points.\"(shmkernel.adapters)\"\]\n\"(.*?)\" = \"(.*?)\"", PAGE, re.MULTILINE
)


@pytest.fixture
def site(tmp_path, shm_dir, monkeypatch):
    """Install the package of the page, as an installer lays it out, for child processes."""
    group, name, target = ENTRY
    package, info = tmp_path / "my_package", tmp_path / "my_package-1.0.dist-info"
    package.mkdir()
    info.mkdir()
    (package / "__init__.py").touch()
    (package / "tracks.py").write_text(TRACK)
    (package / "sharing.py").write_text(f"from my_package.tracks import Track\n{ADAPTER}")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my_package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{name} = {target}\n")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    return package


MAKE = """
import sys, numpy as np, shmkernel as shm
from my_package.tracks import Track
track = Track("north", np.arange(1000.0))
shm.create("tracks", [track, {"a": track}], lifetime="keep")
shm.create("pickled", [len, track], lifetime="keep", allow_pickle=True)
"""
USE = """
import numpy as np, shmkernel as shm
for track in (shm.attach("tracks")[0], shm.attach("tracks")[1]["a"], shm.attach("pickled")[1]):
    assert (type(track).__name__, track.name, track.climb()) == ("Track", "north", 999)
    assert not track.heights.flags.owndata
assert shm.info("pickled").dtype.startswith("builtins.list: 7.8 KiB shared")
"""
FAIL = """
import shmkernel as shm
try:
    shm.attach("tracks")
except shm.UnsupportedError as error:
    print(error)
"""
UNLINK = 'import shmkernel as shm; shm.unlink("tracks"); shm.unlink("pickled")'


def test_an_adapter_of_an_installed_package_shares_instances_plain_and_in_pickles(site):
    python(MAKE)
    python(USE)
    (site / "sharing.py").write_text("import nowhere")
    assert "adapter for my_package.tracks.Track cannot be loaded: No module named 'nowhere'" in python(FAIL).stdout
    (site.parent / "my_package-1.0.dist-info" / "entry_points.txt").unlink()
    assert "a my_package.tracks.Track, and no adapter for that is installed here" in python(FAIL).stdout
    python(UNLINK)
