"""dask.array.from_array of a shared array without a copy, so that its blocks are references."""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from shmkernel._core.import_hooks import after_import
from shmkernel.stdlib import references

if TYPE_CHECKING:
    from types import ModuleType


class _Shared(np.ndarray[Any, Any]):
    """An array whose `copy`, which Dask takes first of all, is a view: of what is shared, all want to see changes."""

    def copy(self, order: Any = "C") -> Any:  # noqa: ARG002  numpy's signature
        """Return the array itself, as a plain one."""
        return self.view(np.ndarray)


def _teach(module: ModuleType) -> None:
    original = module.from_array

    @functools.wraps(original)
    def from_array(x: Any, *about: Any, **options: Any) -> Any:
        if type(x) is np.ndarray and references.view(x):
            x = x.view(_Shared)
        return original(x, *about, **options)

    vars(module)["from_array"] = from_array
    package = sys.modules.get("dask.array")
    if getattr(package, "from_array", None) is original:
        vars(package)["from_array"] = from_array


def install() -> None:
    """Patch dask.array when it is imported."""
    after_import("dask.array.core", _teach)
