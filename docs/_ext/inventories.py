"""Inventories for intersphinx of the few names that these pages link to, so that they build without a network."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_PYTHON = {
    "library/functions.html": ("class", "bool float int list memoryview object type"),
    "library/stdtypes.html": ("class", "bytes dict str tuple"),
    "library/os.html": ("class", "os.PathLike"),
    "library/exceptions.html": (
        "exception",
        """BufferError FileExistsError FileNotFoundError KeyError MemoryError OSError PermissionError RuntimeError
        TimeoutError TypeError ValueError""",
    ),
    "library/multiprocessing.shared_memory.html": (
        "class",
        """multiprocessing.shared_memory.SharedMemory multiprocessing.shared_memory.ShareableList
        multiprocessing.managers.SharedMemoryManager""",
    ),
}
_NUMPY = {
    "reference/generated/numpy.ndarray.html": ("class", "numpy.ndarray"),
    "reference/generated/numpy.load.html": ("function", "numpy.load"),
    "reference/generated/numpy.save.html": ("function", "numpy.save"),
}
_SITES = {
    "python": ("https://docs.python.org/3", _PYTHON),
    "numpy": ("https://numpy.org/doc/stable", _NUMPY),
}


def mapping(folder: Path) -> dict[str, tuple[str, str]]:
    """Write the inventories into a folder, and return the setting for intersphinx."""
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for site, (address, pages) in _SITES.items():
        lines = "".join(
            f"{name} py:{role} 1 {page}#$ -\n" for page, (role, names) in pages.items() for name in names.split()
        )
        head = (
            f"# Sphinx inventory version 2\n# Project: {site}\n# Version: \n# The remainder is compressed using zlib.\n"
        )
        path = folder / f"{site}.inv"
        path.write_bytes(head.encode() + zlib.compress(lines.encode()))
        found[site] = (address, str(path))
    return found
