"""Sizes, counts and shapes: whatever is an integer, of numpy too, and nothing else."""

from __future__ import annotations

import operator
import sys
from typing import Any, cast


def whole(value: object) -> int | None:
    """Return an integer of whatever type as an int, or None: a bool is no count, nor is an array.

    Examples
    --------
    >>> import numpy as np
    >>> whole(np.uint8(3)), whole(True), whole(np.True_), whole(2.0)
    (3, None, None, None)
    """
    numpy = sys.modules.get("numpy")  # where it is not loaded, there are no arrays
    if isinstance(value, bool) or (numpy and isinstance(value, numpy.ndarray)):
        return None
    try:
        return operator.index(cast("int", value))
    except TypeError:
        return None


def lengths(shape: object) -> tuple[int, ...]:
    """Return a shape as a tuple of ints; ValueError if it is none.

    Examples
    --------
    >>> import numpy as np
    >>> lengths(3), lengths([np.int64(2), 3]), lengths(np.array([4, 5]))
    ((3,), (2, 3), (4, 5))
    """
    one = whole(shape)
    each = (one,) if one is not None else tuple(map(whole, cast("Any", shape)))
    if any(length is None or length < 0 for length in each):
        raise ValueError("no shape")
    return cast("tuple[int, ...]", each)
