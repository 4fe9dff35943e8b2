"""How much of a copy is asked for at once: a small attach beside it waits for all of that."""

from __future__ import annotations

import pytest

from shmkernel.hosts import network, offering

MB = 1 << 20


@pytest.mark.parametrize(
    ("done", "seconds", "size"),
    [
        pytest.param(0, 0.0, MB // 4, id="at first"),
        pytest.param(10 * MB, 10.0, MB // 4, id="8 Mbit/s"),
        pytest.param(100 * MB, 5.0, 2 * MB, id="170 Mbit/s"),
        pytest.param(100 * MB, 0.2, offering.PIECE, id="a fast network"),
        pytest.param(100 * MB, 0.0, offering.PIECE, id="a clock that stands"),
    ],
)
def test_a_piece_fits_the_network(done, seconds, size):
    assert network._fitting(done, seconds) == size


@pytest.mark.parametrize("slow", ["8mbit"], indirect=True)
def test_a_slow_network_gets_small_pieces(joined, slow):
    a, b = joined
    a(f"x = shm.create('x', np.ones({MB}, 'u1')); shm.share('x')")
    b("""
from shmkernel.hosts import snapshots
class Progress(snapshots.Progress):
    def __call__(self, count):
        counts.append(count)
        super().__call__(count)
snapshots.Progress = Progress
counts = []
x = shm.attach('hostA:x')
""")
    counts = b("counts")
    assert sum(counts) == MB + 128
    assert max(counts) == MB // 4
