"""Adapters of torch: tensors and parameters of a CPU, and the ordered dicts that a `state_dict` is.

As in torch's own files, gradients are not kept, and two tensors over the same memory have memory of their own after.
"""

from __future__ import annotations

import sys
from typing import Any

_QUANTIZED = ("q", "bits")  # types of which `to_parts` takes no tensor


def _torch() -> Any:
    return sys.modules["torch"]


def _tensor(value: Any) -> list[Any] | None:
    torch = _torch()
    special = value.layout is not torch.strided or value.is_quantized or value.is_conj() or value.is_neg()
    if value.device.type != "cpu" or special or not value.is_leaf or vars(value) or value._backward_hooks:  # noqa: SLF001  nothing public has them
        return None
    data = value.detach()
    try:
        array = data.numpy()
    except TypeError:  # bfloat16 and others that numpy has not
        array = data.view({1: torch.uint8, 2: torch.int16}[data.itemsize]).numpy()
    return [array, str(value.dtype).rpartition(".")[2], value.requires_grad]


def _data(parts: Any) -> Any:
    array, name, _ = parts
    torch = _torch()
    made = torch.from_numpy(array)
    dtype = vars(torch).get(name)  # getattr would import modules of torch by their names
    if type(dtype) is not torch.dtype or dtype.itemsize != made.itemsize or name.startswith(_QUANTIZED):
        raise ValueError(f"a tensor over {array.dtype} has no type {name!r}")
    return made if made.dtype is dtype else made.view(dtype)


def _new_tensor(_kind: Any, parts: Any, _trusted: bool) -> Any:
    return _data(parts).requires_grad_(parts[2])


def _new_parameter(kind: Any, parts: Any, _trusted: bool) -> Any:
    return kind(_data(parts), parts[2])


def _ordered(value: Any) -> list[Any]:
    return [[*map(list, value.items())], vars(value)]


def _new_ordered(kind: Any, parts: Any, _trusted: bool) -> Any:
    made = kind(parts[0])
    vars(made).update(parts[1])
    return made


ADAPTERS: dict[str, dict[str, tuple[Any, ...]]] = {
    "torch": {"Tensor": (_tensor, _new_tensor)},
    "torch.nn": {"Parameter": (_tensor, _new_parameter)},
    "collections": {"OrderedDict": (_ordered, _new_ordered)},
}
