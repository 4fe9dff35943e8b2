"""Attaching an object, beside joblib's and pickle's files in memory and Ray's store: what a second kernel waits for.

torch and Ray are in no group: uv run --group bench --with torch --with ray pytest benchmarks/test_object.py
"""

from __future__ import annotations

import pickle

import joblib
import numpy as np
import pytest
from scipy import sparse, spatial
from sklearn.datasets import make_regression
from sklearn.ensemble import RandomForestRegressor

import shmkernel as shm

LARGE = 1 << 30  # bytes


def forest():
    return RandomForestRegressor(100, random_state=0).fit(*make_regression(2000, 20, random_state=0))


def matrix():
    columns = np.tile(np.arange(10, dtype="i4"), LARGE // 120)
    return sparse.csr_matrix((np.ones(columns.size), columns, np.arange(0, columns.size + 1, 10, dtype="i4")))


def dataset():
    xr, pd = pytest.importorskip("xarray"), pytest.importorskip("pandas")
    days = pd.date_range("2000-01-01", periods=1024)
    names = ("heat", "rain", "wind", "snow")
    grid = np.arange(256.0)
    return xr.Dataset(
        {name: (("time", "y", "x"), np.full((1024, 128, 256), 1.0)) for name in names},
        {"time": days, "y": grid[:128], "x": grid},
        {"title": "weather"},
    )


def arrays():
    return {f"layer {n}": np.full(10_000, n, float) for n in range(1000)}


def weights():
    torch = pytest.importorskip("torch")
    layers = [torch.nn.Linear(2048, 2048) for _ in range(48)]  # 805 MB
    return torch.nn.Sequential(*layers).state_dict()


def frame():
    pd = pytest.importorskip("pandas")
    rows = LARGE // 60
    numbers = {f"number {n}": np.full(rows, n, float) for n in range(4)}
    texts = pd.Series([f"text {n:8}" for n in range(rows)], dtype="str")
    kinds = pd.Categorical.from_codes(np.arange(rows) % 3, ["low", "middle", "high"])
    return pd.DataFrame({**numbers, "day": pd.date_range("2000", periods=rows, freq="s"), "text": texts, "kind": kinds})


def small():
    return {str(n): [n, float(n), f"name {n}"] for n in range(1_000_000)}


def tree():
    return spatial.KDTree(np.random.default_rng(0).random((200_000, 3)))


OBJECTS = {
    "forest of 100 trees": forest, "CSR of 1 GB": matrix, "Dataset of 1 GB": dataset, "1,000 arrays": arrays,
    "state_dict of 800 MB": weights, "frame of 1 GB": frame, "1,000,000 lists": small, "k-d tree": tree,
}  # fmt: skip


@pytest.fixture(scope="session", autouse=True)
def _heap():
    """Have what each way copies come from malloc's heap: glibc maps blocks anew until it has freed one as large."""
    bytearray(31 << 20)  # the largest that counts


@pytest.fixture(scope="module", params=OBJECTS.values(), ids=OBJECTS)
def value(request):
    return request.param()


@pytest.fixture
def path(shm_dir):
    """A file in memory."""
    yield shm_dir / "x"
    (shm_dir / "x").unlink()


@pytest.mark.benchmark(group="attach an object", max_time=2)
def test_attach(benchmark, value):
    kind = "object" if isinstance(value, dict) else None  # the kind that `create` chooses otherwise
    made = shm.create("x", value, kind=kind, allow_pickle=True)
    benchmark(shm.attach, "x")
    shm.unlink("x")
    del made


@pytest.mark.benchmark(group="attach an object", max_time=2)
def test_joblib(benchmark, value, path):
    joblib.dump(value, path)
    benchmark(joblib.load, path, mmap_mode="r")


@pytest.mark.benchmark(group="attach an object", max_time=2)
def test_pickle(benchmark, value, path):
    path.write_bytes(pickle.dumps(value, 5))
    benchmark(lambda: pickle.loads(path.read_bytes()))


@pytest.fixture(scope="session")
def ray():
    """A store of Ray's in memory; to start it takes seconds."""
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=1, object_store_memory=3 << 30, include_dashboard=False, logging_level="ERROR")
    yield ray
    ray.shutdown()


@pytest.mark.benchmark(group="attach an object", max_time=2)
def test_ray(benchmark, value, ray):
    reference = ray.put(value)
    benchmark(ray.get, reference)
    del reference
