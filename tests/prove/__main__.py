"""Try what nobody has written down: ``uv run --group prove python -m tests.prove [--minutes M] [PART ...]``.

Each part is a module with a title and ``run(seconds, seed, report)``. A part stops when its seconds are over, and says
what it has tried. Without ``--minutes`` the run takes three minutes, as in CI. A fault ends the run with status 1
after the other parts have run, and prints the arguments that show it again.
"""

from __future__ import annotations

import argparse
import importlib
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.prove.report import Report, page

_TERMINATED = 128 + signal.SIGTERM
SHARES: dict[str, float] = {  # of the time: a part's module and its weight
    "hostile": 2,
    "interrupts": 2,
    "life": 1,
    "points": 2,
    "scale": 1,
    "storm": 4,
}


def main() -> int:
    """Run the parts, print what they tried, and return the status for the shell."""
    parser = argparse.ArgumentParser(prog="python -m tests.prove", description=__doc__.partition("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"only these: {', '.join(SHARES)}")
    parser.add_argument("--minutes", type=float, default=3, help="how long in all (default: 3)")
    parser.add_argument("--seed", type=int, help="replay the random choices of an earlier run")
    parser.add_argument("--page", type=Path, help="write what was tried into a page in Markdown, a section a part")
    asked = parser.parse_args()
    chosen = asked.parts or [*SHARES]
    if unknown := {*chosen} - {*SHARES}:
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(_TERMINATED))  # so that the parts end their processes
    seed = random.SystemRandom().randrange(2**32) if asked.seed is None else asked.seed
    print(f"seed {seed}", flush=True)
    reports = []
    with tempfile.TemporaryDirectory(prefix="shmkernel-prove-") as data:
        os.environ["XDG_DATA_HOME"] = data  # of the key that signs objects
        for name in chosen:
            part = importlib.import_module(f"tests.prove.{name}")
            reports.append(report := Report(part.TITLE))
            began = time.monotonic()
            part.run(asked.minutes * 60 * SHARES[name] / sum(SHARES[one] for one in chosen), seed, report)
            report.minutes = (time.monotonic() - began) / 60
            for row in report.rows:
                print(f"{name}: {row.what}: {row.times:,} times, {row.outcome}", flush=True)
    if asked.page:
        from tests.prove import figures

        parts = zip(chosen, reports, strict=True)
        pictures = {report.title: figures.draw(report.figures, asked.page, name) for name, report in parts}
        old = asked.page.read_text() if asked.page.exists() else ""
        asked.page.write_text(page(old, reports, pictures))
    return any(report.faults for report in reports)


if __name__ == "__main__":
    sys.exit(main())
