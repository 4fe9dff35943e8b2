"""Attaching an object, beside joblib's and pickle's files in memory: what a second kernel waits for."""

from __future__ import annotations

import pickle

import joblib
import numpy as np
import pytest
from scipy import sparse
from sklearn.datasets import make_regression
from sklearn.ensemble import RandomForestRegressor

import shmkernel as shm


def forest():
    return RandomForestRegressor(100, random_state=0).fit(*make_regression(2000, 20, random_state=0))


def matrix():
    columns = np.random.default_rng(0).integers(0, 1000, 10_000_000, "i4")
    return sparse.csr_matrix((np.ones(columns.size), columns, np.arange(0, columns.size + 1, 10)), (1_000_000, 1000))


def arrays():
    return {f"layer {n}": np.full(10_000, n, float) for n in range(1000)}


def small():
    return {str(n): [n, float(n), f"name {n}"] for n in range(1_000_000)}


OBJECTS = {"forest of 100 trees": forest, "CSR of 120 MB": matrix, "1,000 arrays": arrays, "1,000,000 lists": small}


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
    made = shm.create("x", value, kind="object", allow_pickle=True)
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
