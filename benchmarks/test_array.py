"""Compare arrays with other libraries: `uv run --group bench pytest benchmarks`.

The other libraries' files are filled, as ours are: a fault in a sparse file maps one page, in a full file sixteen
pages, which takes twice as long.
"""

from __future__ import annotations

import os
import time
from multiprocessing import shared_memory
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
import SharedArray

import shmkernel as shm
from shmkernel._core import paths, records, registry, segment_file
from shmkernel.kinds import array

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

BIG = 1 << 30


@pytest.fixture
def peers(posix_name: str, request: pytest.FixtureRequest) -> Iterator[dict[str, Callable[[], Any]]]:
    """Return functions that attach an array of this many float64 and read one value."""
    count, sparse = request.param
    path = f"/dev/shm/{posix_name}"
    _segment(posix_name, count, sparse=sparse)
    block = shared_memory.SharedMemory(f"{posix_name}b", create=True, size=8 * count)
    other = SharedArray.create(f"shm://{posix_name}s", (count,))
    if not sparse:
        block.buf[:] = bytes(8 * count)
        other[:] = 1
    del other

    def ours() -> Any:
        return shm.attach(posix_name)[0]

    def stdlib() -> None:
        attached = shared_memory.SharedMemory(f"{posix_name}b")
        values = np.ndarray((count,), float, attached.buf)
        values[0]
        del values
        attached.close()

    def extension() -> Any:
        return SharedArray.attach(f"shm://{posix_name}s")[0]

    def load() -> Any:
        return np.load(paths.path_of(posix_name), mmap_mode="r+")[0]

    yield {"shmkernel": ours, "stdlib": stdlib, "SharedArray": extension, "numpy.load": load}
    block.close()
    block.unlink()
    SharedArray.delete(f"{posix_name}s")
    shm.unlink(posix_name)
    assert not os.path.exists(path)


@pytest.mark.parametrize("peer", ["shmkernel", "stdlib", "SharedArray", "numpy.load"])
@pytest.mark.parametrize("peers", [(1_000_000, False), (1 << 30, True)], indirect=True, ids=["8 MB", "8 GB sparse"])
def test_attach_and_read_one_value(benchmark: Any, peers: dict[str, Callable[[], Any]], peer: str) -> None:
    benchmark.group = f"attach {benchmark.name[benchmark.name.index('[') :].split('-')[0]}"
    benchmark(peers[peer])


@pytest.fixture(scope="module")
def source() -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).random(BIG // 8)


@pytest.mark.benchmark(group="create from 1 GB")
@pytest.mark.parametrize("peer", ["shmkernel", "stdlib", "numpy.save", "pyarrow"])
def test_create_from_an_array(benchmark: Any, source: np.ndarray[Any, Any], peer: str, shm_dir: Path) -> None:
    def ours() -> None:
        shm.create("x", source)

    def stdlib() -> None:
        block = shared_memory.SharedMemory(f"bench{os.getpid()}", create=True, size=source.nbytes)
        np.ndarray(source.shape, source.dtype, block.buf)[:] = source
        block.close()

    def save() -> None:
        np.save(shm_dir / "x.npy", source)

    def arrow() -> None:
        with pa.OSFile(str(shm_dir / "x.arrow"), "wb") as file:
            pa.ipc.write_tensor(pa.Tensor.from_numpy(source), file)

    def clear() -> None:
        if peer == "shmkernel" and "x" in shm.session:
            shm.unlink("x")
        for path in [*shm_dir.glob("x.*"), *type(shm_dir)("/dev/shm").glob(f"bench{os.getpid()}")]:
            path.unlink()

    way = {"shmkernel": ours, "stdlib": stdlib, "numpy.save": save, "pyarrow": arrow}[peer]
    benchmark.pedantic(way, setup=clear, rounds=5, warmup_rounds=1)
    clear()


@pytest.mark.benchmark(group="list")
@pytest.mark.parametrize("count", [10, 1000])
def test_list(benchmark: Any, count: int) -> None:
    kept = [shm.create(f"x{i}", shape=4) for i in range(count)]
    benchmark.pedantic(lambda: shm.list(), rounds=3)  # noqa: PLW0108  the name is loaded lazily
    for i in range(len(kept)):
        shm.unlink(f"x{i}")


def _segment(name: str, count: int, *, sparse: bool) -> None:
    if not sparse:
        shm.create(name, np.ones(count))
        return
    session = registry.begin()
    head = array.encode((count,), np.dtype(float), "C")
    fd = segment_file.blank(paths.folder())
    os.write(fd, head)
    os.ftruncate(fd, len(head) + 8 * count)
    record = records.Record(os.fstat(fd).st_ino, name, "array", session.id, "", "session", time.time())
    registry.link_all([(fd, record)], lambda _: False)
    os.close(fd)
