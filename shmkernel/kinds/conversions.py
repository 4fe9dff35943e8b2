"""Convert values to a dtype without changing them: ValueError names the first that would change.

Floats and decimals may be rounded to the precision of their new type. All other values must compare equal after the
conversion, integers too.
"""

from __future__ import annotations

import math
import numbers
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_INTEGERS, _REALS, _NUMBERS, _TEXTS, _TIMES = "biu", "biuf", "biufc", "SU", "mM"
_LONG = 60  # characters of a value in a message


def is_masked(value: object) -> bool:
    """Return whether a value, or an item of a list, is a masked array: a conversion would lose its mask."""
    if isinstance(value, (list, tuple)):
        return any(map(is_masked, value))
    masked = sys.modules.get("numpy.ma")  # if it is not loaded, there are no such arrays
    return masked is not None and isinstance(value, masked.MaskedArray)


def convert(given: object, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return values as an array of the dtype.

    Raises
    ------
    ValueError, TypeError, OverflowError
        If a value would change; the message shows it, and what it would become.

    Examples
    --------
    >>> convert([1, 2.0], np.dtype("u1"))
    array([1, 2], dtype=uint8)
    >>> convert([1, 300], np.dtype("u1"))
    Traceback (most recent call last):
    ValueError: 300 would become 44
    """
    if is_masked(given):
        raise ValueError("its mask would be lost")
    if not isinstance(given, np.ndarray):
        if dtype.names and isinstance(given, (list, tuple)):
            return _records(given, dtype)
        given = _plain(given, dtype)
    if given.dtype == dtype:
        return given
    if given.dtype.kind == "c" and dtype.kind in _REALS:
        raise ValueError("it is complex")
    with np.errstate(all="ignore"):
        try:
            result = given.astype(dtype, casting="unsafe")
        except ValueError:
            if given.dtype.kind in _TEXTS and dtype.kind in _NUMBERS:
                raise ValueError(f"{_short(given)} cannot be read as {dtype}") from None
            raise
        _check(result, given, _same(result, given))
    return result


def natural(given: object) -> NDArray[Any]:
    """Return ``numpy.asarray(given)``; ValueError if that changes an item of a list: ``[1, "a"]`` to texts.

    Examples
    --------
    >>> natural([1, 2.5])
    array([1. , 2.5])
    >>> natural([1, "a"])
    Traceback (most recent call last):
    ValueError: 1 would become '1'
    """
    if is_masked(given):
        raise ValueError("its mask would be lost")
    result = np.asarray(given)
    if isinstance(given, (list, tuple)) and result.dtype.kind not in (*_INTEGERS, "O"):
        exact = _plain(given, np.dtype(bool))  # as objects
        if exact.dtype == object:
            _check(result, exact, _equal(exact, result))
    return result


def _check(result: NDArray[Any], given: NDArray[Any], same: Any) -> None:
    """Raise ValueError if not all are the same; it shows the first value that has changed."""
    if np.all(same):
        return
    if given.ndim == 0:
        raise ValueError(f"it would become {_short(result)}")
    if np.shape(same) != given.shape:
        raise ValueError(f"{_short(given)} would become {_short(result)}")
    at = tuple(np.argwhere(~np.asarray(same))[0])
    before, after = _short(given[at]), _short(result[at])
    if before == after:
        before, after = repr(given[at]), repr(result[at].item())
    raise ValueError(f"{before} would become {after}")


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= _LONG else f"{text[:_LONG]}..."


def _plain(given: object, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return Python values as an array of objects if numpy would round them or convert them to texts."""
    array = np.asarray(given)
    if array.dtype.kind in _INTEGERS or not isinstance(given, (list, tuple)):
        return array
    if array.dtype.kind in "fc" and dtype.kind in "fc":  # floats may be rounded
        return array
    if all(isinstance(item, (np.ndarray, np.generic)) for item in given):
        return array
    exact = np.empty(array.shape, object)
    exact[...] = given
    texts = array.dtype.kind in _TEXTS and all(isinstance(item, (str, bytes)) for item in exact.ravel().tolist())
    return array if texts and dtype.kind not in (*_TEXTS, "b") else exact  # to be read as numbers or times


def _records(given: Any, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return tuples as an array of records, each field checked."""
    records = np.array(given, dtype)
    rows: list[Any] = [given]
    for _ in range(records.ndim):
        rows = [item for row in rows for item in row]
    for at, field in enumerate(dtype.names or ()):
        column = [row[at] for row in rows]
        if not all(isinstance(item, (np.ndarray, np.void)) for item in column):
            part = dtype[field]
            convert(column, part.base if part.subdtype else part)
    return records


def _same(result: NDArray[Any], given: NDArray[Any]) -> Any:
    """Return for each value whether it is unchanged."""
    to, of = result.dtype, given.dtype
    if to == of:
        return True
    if to.names or of.names:
        return _same_fields(result, given)
    if of.hasobject or of.kind == "T":
        return _same_objects(result, given.astype(object))
    if to.kind in _TEXTS:
        return result == given.astype(to.kind)
    if of.kind in _TEXTS:
        return _same_parsed(result, given)
    if of.kind in _REALS and to.kind in _INTEGERS:
        in_range = given < 2.0 ** (8 * to.itemsize) if of.kind == "f" else True  # the cast may saturate
        return (result == given) & in_range
    if of.kind in "iu" and to.kind in "fc":
        return _same_integers(result.real, given)
    if of.kind in _NUMBERS and to.kind in "fc":
        return np.isfinite(result) | ~np.isfinite(given)
    if of.kind == "f" and to.kind in _TIMES:
        return np.where(np.isnan(given), np.isnat(result), result.astype(np.int64) == given)
    if of.kind == to.kind == "V" and to.itemsize < of.itemsize:
        return False
    back = result.astype(of)
    same = back == given
    if (of.kind in _TIMES) != (to.kind in _TIMES):  # no number is NaT
        return same & ~np.isnat(given if of.kind in _TIMES else result)
    missing = np.isnat if of.kind in _TIMES else (lambda values: values != values)  # noqa: PLR0124  NaN of any type
    return same | (missing(back) & missing(given))


def _same_integers(result: NDArray[Any], given: NDArray[Any]) -> Any:
    """Return for each integer whether the float is the same; numpy would round it to a float to compare them."""
    beyond = np.float64(2.0 ** (8 * given.dtype.itemsize - (given.dtype.kind == "i")))  # the cast back may saturate
    return (result < beyond) & (result.astype(given.dtype) == given)


def _same_fields(result: NDArray[Any], given: NDArray[Any]) -> Any:
    to, of = result.dtype.names or (None,), given.dtype.names or (None,)
    if len(of) not in (1, len(to)) or (len(of) == 1 and result.dtype.names and given.dtype.names and len(to) > 1):
        return False
    same = True
    for at, field in enumerate(to):
        before = given if of[0] is None else given[of[at if len(of) > 1 else 0]]
        after = result if field is None else result[field]
        if before.shape not in (after.shape, result.shape):
            return False
        if before.shape != after.shape:  # one value for each element of a subarray
            before = np.broadcast_to(before.reshape(before.shape + (1,) * (after.ndim - before.ndim)), after.shape)
        same = same and bool(np.all(_same(after, before)))
    return same


def _same_objects(result: NDArray[Any], given: NDArray[Any]) -> Any:
    if result.dtype.kind in _TIMES:
        return _same(result, np.array(given.tolist(), f"{result.dtype.kind}8"))
    if result.dtype.kind in "fc":
        pairs = zip(given.ravel().tolist(), result.ravel().tolist(), strict=True)
        return np.reshape([_is_rounded(before, after) for before, after in pairs], given.shape)
    return _equal(given, result)


def _is_rounded(before: Any, after: Any) -> bool:
    """Return whether a float is this number, rounded if that is no integer."""
    if isinstance(before, numbers.Integral):
        return bool(before == after)
    if not isinstance(before, numbers.Number):
        return False
    return bool(np.isfinite(after) or before != before or abs(before) == math.inf)  # type: ignore[arg-type]  # noqa: PLR0124  NaN


def _equal(given: NDArray[Any], result: NDArray[Any]) -> NDArray[np.bool_]:
    """Compare values as Python does, but a NaN equals a NaN."""
    pairs = zip(given.ravel().tolist(), result.ravel().tolist(), strict=True)
    same = [bool(before == after or (before != before and after != after)) for before, after in pairs]  # noqa: PLR0124  NaN
    return np.array(same, bool).reshape(given.shape)


def _same_parsed(result: NDArray[Any], given: NDArray[Any]) -> Any:
    """Return for each text whether it was read as the number or time that it shows."""
    if result.dtype.kind in _TIMES:
        return _same(result, given.astype(f"{result.dtype.kind}8"))
    if result.dtype.kind == "b":
        return np.zeros(given.shape, bool)
    if result.dtype.kind in "iu":
        read = [int(text) == value for text, value in zip(given.ravel().tolist(), result.ravel().tolist(), strict=True)]
        return np.reshape(read, given.shape)
    wide = given.astype("G" if result.dtype.kind == "c" else "g")
    return np.isfinite(result) | ~np.isfinite(wide)
