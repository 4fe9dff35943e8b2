"""Tensors of torch in objects: state_dicts and parameters come back over the memory of the segment.

torch is in no group, since it takes gigabytes: uv run --with torch pytest tests/kinds/test_object_tensors.py
"""

from __future__ import annotations

import numpy as np
import pytest

import shmkernel as shm
from shmkernel.kinds.objects import tensors
from tests.helpers import lacking, lies_in

try:
    import torch
except ImportError:
    lacking("torch is not installed: uv run --with torch pytest tests/kinds/test_object_tensors.py")


@pytest.fixture(autouse=True)
def _own(shm_dir, tmp_path, monkeypatch):
    """Use the folder and the key of the test."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))


def model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(100, 50), torch.nn.BatchNorm1d(50), torch.nn.Linear(50, 3))


DTYPES = [torch.float64, torch.float16, torch.bfloat16, torch.int8, torch.bool, torch.complex64, torch.float8_e4m3fn]


def test_a_state_dict_comes_back_over_the_same_memory():
    value = model().state_dict()
    x = shm.create("x", value, kind="object")
    assert type(x) is type(value)
    assert [*x] == [*value]
    assert x._metadata == value._metadata
    assert all(torch.equal(x[key], value[key]) for key in value)
    assert lies_in("x", x["0.weight"].numpy())
    other = model()
    other.load_state_dict(x)
    x["0.weight"].zero_()
    assert torch.equal(shm.attach("x")["0.weight"], value["0.weight"])


@pytest.mark.parametrize("dtype", DTYPES, ids=map(str, DTYPES))
def test_tensors_of_all_dtypes_and_layouts_come_back(dtype):
    value = torch.arange(2000.0).reshape(40, 50).remainder(2).to(dtype)
    values = [value, value.T, value[::2, 1::3], value[0, 0], value[:0]]
    got = shm.create("x", [values])[0]
    for one, other in zip(got, values, strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert torch.equal(
            one.contiguous().view(torch.uint8) if one.ndim and one.numel() else one.to(torch.complex128),
            other.contiguous().view(torch.uint8) if one.ndim and one.numel() else other.to(torch.complex128),
        )


def test_a_parameter_stays_one_and_without_its_gradient():
    value = torch.nn.Parameter(torch.ones(1000))
    value.sum().backward()
    (got,) = shm.create("x", [value])
    assert type(got) is torch.nn.Parameter
    assert got.requires_grad
    assert got.grad is None
    assert torch.equal(got, value)
    (got * 2).sum().backward()
    assert got.grad.sum() == 2000


@pytest.mark.parametrize(
    "value", [torch.eye(3).to_sparse(), torch.ones(3, requires_grad=True) * 2, torch.ones(2, device="meta")]
)
def test_what_would_not_come_back_is_refused(value):
    with pytest.raises(shm.UnsupportedError, match="a Tensor, cannot be an item"):
        shm.create("x", [value])


@pytest.mark.parametrize("name", ["onnx", "float64", "quint8", "_dynamo.config", "Tensor", "bits8", 1])
def test_a_dtype_that_no_tensor_over_the_array_has_is_damage_and_reaches_nothing_of_torch(name, monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "__getattr__", asked.append)  # which imports modules of torch by their names
    with pytest.raises(ValueError, match="has no type"):
        tensors._data([np.zeros(8, "u1"), name, False])
    assert not asked


def test_a_whole_model_is_pickled_with_its_weights_out_of_the_stream():
    value = model()
    x = shm.create("x", value, allow_pickle=True)
    batch = torch.ones(4, 100)
    assert torch.equal(x.eval()(batch), value.eval()(batch))
    assert lies_in("x", x[0].weight.detach().numpy())
    x.train()(batch).sum().backward()
    torch.optim.SGD(x.parameters(), 0.1).step()
    assert torch.equal(shm.attach("x")[0].weight, value[0].weight)


def test_weights_that_two_layers_share_are_shared_afterwards():
    value = model()
    value[2].weight = value[0].weight
    x = shm.create("x", value, allow_pickle=True)
    assert x[2].weight is x[0].weight
