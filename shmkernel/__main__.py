"""``python -m shmkernel`` runs the command ``shmkernel``."""

from __future__ import annotations

import sys

from shmkernel.cli import main

if __name__ == "__main__":
    sys.argv[0] = "shmkernel"  # listings show this as the owner
    sys.exit(main())
