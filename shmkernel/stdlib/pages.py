"""Whether private memory (mode c) is still that of its segment: the kernel notes each page that a write has copied.

A bit of /proc/self/pagemap is set for pages of a file, and not for a private copy
(https://docs.kernel.org/admin-guide/mm/pagemap.html).
"""

from __future__ import annotations

import mmap
import os

import numpy as np

_ENTRY = 8  # bytes for each page
_PIECE = 1 << 17  # entries that are read at once: of 512 MiB
_FILE = np.uint64(1 << 61)
_PRESENT_OR_SWAPPED = np.uint64(62)  # the first of two bits


def untouched(low: int, high: int) -> bool:
    """Return whether this process has written to no page of private memory at these addresses; False if in doubt."""
    first, end = low // mmap.PAGESIZE, -(-high // mmap.PAGESIZE)
    try:
        with open("/proc/self/pagemap", "rb", buffering=0) as file:
            while first < end:
                data = os.pread(file.fileno(), min(_PIECE, end - first) * _ENTRY, first * _ENTRY)
                entries = np.frombuffer(data, np.uint64, len(data) // _ENTRY)
                if not len(entries) or bool(((entries >> _PRESENT_OR_SWAPPED != 0) & (entries & _FILE == 0)).any()):
                    return False
                first += len(entries)
    except OSError:  # without /proc, or in a process that must not read it
        return False
    return True
