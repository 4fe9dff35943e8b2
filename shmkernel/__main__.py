"""``python -m shmkernel`` is the command ``shmkernel``."""

from __future__ import annotations

import sys

from shmkernel.cli import main

if __name__ == "__main__":
    sys.argv[0] = "shmkernel"  # what an owner is called
    sys.exit(main())
