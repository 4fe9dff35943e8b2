"""Sphinx's configuration: ``uv run --group docs sphinx-build -W docs dist/docs``."""

from __future__ import annotations

import shutil
import sys
import tempfile
from importlib.metadata import version as version_of
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

import inventories

project = "shmkernel"
release = version_of("shmkernel")
copyright = "The shmkernel developers"  # noqa: A001  Sphinx's name

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.intersphinx", "sphinx.ext.napoleon", "from_parsers"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # pytest runs the notebooks, and compares what they say
exclude_patterns = ["_ext", "**/.ipynb_checkpoints"]
autodoc_typehints = "none"  # the docstrings say it
napoleon_numpy_docstring = True
napoleon_use_rtype = False

_inventories = tempfile.TemporaryDirectory(prefix="shmkernel-docs-")  # it goes with this object
intersphinx_mapping = inventories.mapping(Path(_inventories.name))

html_theme = "furo"
html_title = "shmkernel"
html_static_path = ["_static"]
html_css_files = ["wrap.css"]

tutorials = Path(__file__).parent / "tutorials"  # copies, for Sphinx reads one folder only; git ignores them
shutil.rmtree(tutorials, ignore_errors=True)
tutorials.mkdir()
for notebook in (Path(__file__).parent.parent / "notebooks").glob("*.ipynb"):
    (tutorials / notebook.name).write_text(notebook.read_text().replace("](../docs/", "](../"))
