"""Check whether arrays of a dtype and shape can be shared, for values and for untrusted headers."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
from numpy.lib import format as npy

_UNKNOWN = "no file format says what its bytes mean"
_KINDS = "?biufcmMSUV"
_NOTHINGS = 1 << 20  # elements without bytes: few enough to loop over
_DIMENSIONS = 64 if np.lib.NumpyVersion(np.__version__) >= "2.0.0" else 32


def unbounded(shape: tuple[int, ...], dtype: np.dtype[Any]) -> str | None:
    """Return why no array can have this shape, or None. No file size limits elements without bytes: this does."""
    if len(shape) > _DIMENSIONS:
        return f"{len(shape)} dimensions are more than numpy has"
    count = math.prod(length for length in shape if length)
    if count * max(dtype.itemsize, 1) > sys.maxsize:
        return "it is larger than any memory"
    if count > _NOTHINGS and (0 in shape or not dtype.itemsize):
        return f"of elements that take no memory an array has {_NOTHINGS:,} at most"
    return None


def unfit(dtype: np.dtype[Any]) -> str | None:
    """Return why values of this dtype cannot be shared, or None if they can."""
    if dtype.hasobject or dtype.kind == "T":
        return "it holds addresses, which mean nothing in another process"
    if dtype.itemsize < 0:  # numpy 1 accepts V-8
        return "its size is negative"
    if dtype.metadata:
        return "its metadata would be lost"
    if dtype.subdtype is not None:
        return unbounded(dtype.shape, dtype.base) or unfit(dtype.base)
    if dtype.kind in "SU" and not dtype.itemsize:  # numpy would make the size 1, and read beyond the end
        return "it does not say how long its texts are (S10, U20)"
    if dtype.names is not None:
        return next((why for field in dtype.names if (why := unfit(dtype[field]))), None)
    if dtype.kind in "mM" and np.datetime_data(dtype)[1] < 1:
        return "its unit of time has no length"
    return None if dtype.kind in _KINDS else _UNKNOWN


def unsaved(dtype: np.dtype[Any]) -> str | None:
    """Return why an ``.npy`` file would not give values of this dtype back as they are, or None."""
    if dtype.isbuiltin == 1 and dtype.kind in "?biufc" and not dtype.metadata:
        return None  # most arrays, at once
    if why := unfit(dtype):
        return why
    try:
        back = npy.descr_to_dtype(npy.dtype_to_descr(dtype))
    except (ValueError, TypeError):
        return "a .npy file has no fields that overlap or are out of order" if dtype.names else _UNKNOWN
    if back != dtype or back.itemsize != dtype.itemsize:
        return f"a .npy file gives it back as {back}, so that its values would change"
    return None
