"""Check arguments: sizes, counts and shapes (integers of any type, numpy's too), and seconds."""

from __future__ import annotations

import math
import operator
import sys
from typing import Any, cast

from shmkernel.errors import ArgumentError

_LONGEST = 1e9  # seconds: every call of the OS accepts this


def whole(value: object) -> int | None:
    """Return an integer of any type as an int; None for everything else, bools and arrays included.

    Examples
    --------
    >>> import numpy as np
    >>> whole(np.uint8(3)), whole(True), whole(np.True_), whole(2.0)
    (3, None, None, None)
    """
    numpy = sys.modules.get("numpy")  # if it is not loaded, there are no arrays
    if isinstance(value, bool) or (numpy and isinstance(value, (numpy.ndarray, numpy.bool_))):
        return None
    try:
        return operator.index(cast("int", value))
    except TypeError:
        return None


def lengths(shape: object) -> tuple[int, ...]:
    """Return a shape as a tuple of ints; ValueError if `shape` is not one.

    Examples
    --------
    >>> import numpy as np
    >>> lengths(3), lengths([np.int64(2), 3]), lengths(np.array([4, 5]))
    ((3,), (2, 3), (4, 5))
    """
    single = whole(shape)
    each = (single,) if single is not None else tuple(map(whole, cast("Any", shape)))
    if any(length is None or length < 0 for length in each):
        raise ValueError("no shape")
    return cast("tuple[int, ...]", each)


def seconds(value: object, *, least: float = 0.0) -> float:
    """Return a time to wait as a float; ArgumentError unless it is a finite number, `least` or more.

    Examples
    --------
    >>> seconds("0.5"), seconds(10)
    (0.5, 10.0)
    """
    try:
        number = float(cast("Any", value))
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not least <= number <= _LONGEST:
        shown = value if isinstance(value, str) else repr(value)
        raise ArgumentError(f"{shown} is not a number of seconds, {least:g} or more", value=value)
    return number


def seconds_given(text: str, *, least: float = 0.0) -> float:
    """Convert an argument of the command line to seconds, for argparse."""
    try:
        return seconds(text, least=least)
    except ArgumentError as error:
        import argparse  # noqa: PLC0415  kinds count too, and parse no arguments

        raise argparse.ArgumentTypeError(error.message) from None


def version_given(text: str) -> int:
    """Convert an argument of the command line to a version, for argparse."""
    if not (text.isascii() and text.isdigit()):
        import argparse  # noqa: PLC0415  kinds count too, and parse no arguments

        raise argparse.ArgumentTypeError(f"{text} is not a version: a whole number, 0 or more")
    return int(text)
