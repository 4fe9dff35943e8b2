"""Adapters of numpy and scipy: masked arrays, records and matrices, sparse matrices."""

from __future__ import annotations

import sys
from typing import Any


def _numpy() -> Any:
    return sys.modules["numpy"]


def _masked(value: Any) -> Any:
    if value._optinfo or type(value.data) is not _numpy().ndarray:  # noqa: SLF001  it has no other name
        return None
    mask = None if value.mask is _numpy().ma.nomask else value.mask
    return [value.data, mask, value._fill_value, value.hardmask]  # noqa: SLF001  None if nobody has set one


def _new_masked(kind: Any, parts: Any, _trusted: bool) -> Any:
    data, mask, fill, hard = parts
    made = kind(data, _numpy().ma.nomask if mask is None else mask, hard_mask=bool(hard), copy=False)
    if fill is not None:
        made._fill_value = _numpy().asarray(fill)  # noqa: SLF001  to set fill_value would cut a text
    return made


def _view(value: Any) -> Any:
    if vars(value).keys() - {"_getitem"}:  # a matrix notes whether it is being indexed
        return None
    dtype = _numpy().dtype((_numpy().void, value.dtype)) if value.dtype.names else value.dtype
    return value.view(dtype, _numpy().ndarray)


def _new_view(kind: Any, parts: Any, _trusted: bool) -> Any:
    return parts.view(kind)


def _compressed(value: Any) -> Any:
    return [value.shape, value.data, value.indices, value.indptr]


def _new_compressed(kind: Any, parts: Any, trusted: bool) -> Any:
    shape, data, indices, indptr = parts
    made = kind((data, indices, indptr), shape=shape, copy=False)
    made.data, made.indices, made.indptr = data, indices, indptr  # whatever type of index the constructor chose
    made.check_format(full_check=not trusted)
    return made


def _coordinates(value: Any) -> Any:
    return [value.shape, value.data, value.row, value.col] if len(value.shape) == _PLANE else None


def _new_coordinates(kind: Any, parts: Any, _trusted: bool) -> Any:
    shape, data, row, column = parts
    return kind((data, (row, column)), shape=shape, copy=False)  # it checks them


def _diagonals(value: Any) -> Any:
    return [value.shape, value.data, value.offsets]


def _new_diagonals(kind: Any, parts: Any, _trusted: bool) -> Any:
    shape, data, offsets = parts
    return kind((data, offsets), shape=shape, copy=False)  # it checks them


_PLANE = 2  # dimensions
SPARSE = {
    **dict.fromkeys(("csr", "csc", "bsr"), (_compressed, _new_compressed)),
    "coo": (_coordinates, _new_coordinates),
    "dia": (_diagonals, _new_diagonals),
}
ADAPTERS: dict[str, dict[str, tuple[Any, ...]]] = {
    "numpy": dict.fromkeys(("recarray", "matrix"), (_view, _new_view)),
    "numpy.ma": {"MaskedArray": (_masked, _new_masked)},
    "scipy.sparse": {f"{form}_{what}": pair for what in ("matrix", "array") for form, pair in SPARSE.items()},
}
