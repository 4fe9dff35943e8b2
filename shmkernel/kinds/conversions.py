"""Conversions that keep every value: what would change one is refused, with the value and what it would become.

A float may be rounded to the digits that its new type has. All else comes back equal, or raises ValueError.
"""

from __future__ import annotations

import numbers
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_INTEGERS, _REALS, _NUMBERS, _TEXTS, _TIMES = "biu", "biuf", "biufc", "SU", "mM"
_LONG = 60  # characters of a value in a message


def is_masked(value: object) -> bool:
    """Say whether a value, or an item of a list, is a masked array, of which any conversion loses the mask."""
    if isinstance(value, (list, tuple)):
        return any(map(is_masked, value))
    masked = sys.modules.get("numpy.ma")  # where it is not loaded, there are no such arrays
    return masked is not None and isinstance(value, masked.MaskedArray)


def convert(given: object, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return values as an array of the dtype.

    Raises
    ------
    ValueError, TypeError, OverflowError
        If a value would become another, and says which.

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
            found = given.astype(dtype, casting="unsafe")
        except ValueError:
            if given.dtype.kind in _TEXTS and dtype.kind in _NUMBERS:
                raise ValueError(f"{_short(given)} cannot be read as {dtype}") from None
            raise
        _check(found, given, _same(found, given))
    return found


def natural(given: object) -> NDArray[Any]:
    """Return what numpy makes of a value, unless that changes an item of a list: ``[1, "a"]`` to texts.

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
    found = np.asarray(given)
    if isinstance(given, (list, tuple)) and found.dtype.kind not in (*_INTEGERS, "O"):
        exact = _plain(given, np.dtype(bool))  # as objects
        if exact.dtype == object:
            _check(found, exact, _equal(exact, found))
    return found


def _check(found: NDArray[Any], given: NDArray[Any], same: Any) -> None:  # noqa: ANN401  a bool, or an array of them
    """Raise ValueError that shows the first value which is another now."""
    if np.all(same):
        return
    if given.ndim == 0:
        raise ValueError(f"it would become {_short(found)}")
    if np.shape(same) != given.shape:
        raise ValueError(f"{_short(given)} would become {_short(found)}")
    at = tuple(np.argwhere(~np.asarray(same))[0])
    before, after = _short(given[at]), _short(found[at])
    if before == after:
        before, after = repr(given[at]), repr(found[at].item())
    raise ValueError(f"{before} would become {after}")


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= _LONG else f"{text[:_LONG]}..."


def _plain(given: object, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return Python values as an array that holds each exactly: as objects, where numpy would round or write texts."""
    found = np.asarray(given)
    if found.dtype.kind in _INTEGERS or not isinstance(given, (list, tuple)):
        return found
    if found.dtype.kind in "fc" and dtype.kind in "fc":  # which may be rounded
        return found
    if all(isinstance(item, (np.ndarray, np.generic)) for item in given):
        return found
    exact = np.empty(found.shape, object)
    exact[...] = given
    texts = found.dtype.kind in _TEXTS and all(isinstance(item, (str, bytes)) for item in exact.ravel().tolist())
    return found if texts and dtype.kind not in (*_TEXTS, "b") else exact  # to be read as numbers or times


def _records(given: Any, dtype: np.dtype[Any]) -> NDArray[Any]:  # noqa: ANN401  a record, or lists of records
    """Return tuples as records, each field checked."""
    found = np.array(given, dtype)
    rows: list[Any] = [given]
    for _ in range(found.ndim):
        rows = [item for row in rows for item in row]
    for at, field in enumerate(dtype.names or ()):
        column = [row[at] for row in rows]
        if not all(isinstance(item, (np.ndarray, np.void)) for item in column):
            part = dtype[field]
            convert(column, part.base if part.subdtype else part)
    return found


def _same(found: NDArray[Any], given: NDArray[Any]) -> Any:  # noqa: ANN401  a case a line
    """Say, for each value, whether it is still what it was."""
    to, of = found.dtype, given.dtype
    if to == of:
        return True
    if to.names or of.names:
        return _same_fields(found, given)
    if of.hasobject or of.kind == "T":
        return _same_objects(found, given.astype(object))
    if to.kind in _TEXTS:
        return found == given.astype(to.kind)
    if of.kind in _TEXTS:
        return _same_parsed(found, given)
    if of.kind in _REALS and to.kind in _INTEGERS:
        in_range = given < 2.0 ** (8 * to.itemsize) if of.kind == "f" else True  # a cast may stop at the last int
        return (found == given) & in_range
    if of.kind in _NUMBERS and to.kind in "fc":
        return np.isfinite(found) | ~np.isfinite(given)
    if of.kind == "f" and to.kind in _TIMES:
        return np.where(np.isnan(given), np.isnat(found), found.astype(np.int64) == given)
    if of.kind == to.kind == "V" and to.itemsize < of.itemsize:
        return False
    back = found.astype(of)
    same = back == given
    missing = np.isnat if of.kind in _TIMES else (lambda values: values != values)  # noqa: PLR0124  NaN of any type
    return same | (missing(back) & missing(given))


def _same_fields(found: NDArray[Any], given: NDArray[Any]) -> Any:  # noqa: ANN401
    to, of = found.dtype.names or (None,), given.dtype.names or (None,)
    if len(of) not in (1, len(to)) or (len(of) == 1 and found.dtype.names and given.dtype.names and len(to) > 1):
        return False
    same = True
    for at, field in enumerate(to):
        before = given if of[0] is None else given[of[at if len(of) > 1 else 0]]
        after = found if field is None else found[field]
        if before.shape not in (after.shape, found.shape):
            return False
        if before.shape != after.shape:  # one value for each element of a subarray
            before = np.broadcast_to(before.reshape(before.shape + (1,) * (after.ndim - before.ndim)), after.shape)
        same = same and bool(np.all(_same(after, before)))
    return same


def _same_objects(found: NDArray[Any], given: NDArray[Any]) -> Any:  # noqa: ANN401
    if found.dtype.kind in _TIMES:
        return _same(found, np.array(given.tolist(), f"{found.dtype.kind}8"))
    if found.dtype.kind in "fc":
        numeric = [isinstance(item, numbers.Number) for item in given.ravel().tolist()]
        finite = [number and _is_finite(item) for number, item in zip(numeric, given.ravel().tolist(), strict=True)]
        return np.reshape(numeric, given.shape) & (np.isfinite(found) | ~np.reshape(finite, given.shape))
    return _equal(given, found)


def _is_finite(number: Any) -> bool:  # noqa: ANN401
    return bool(np.isfinite(complex(number)))


def _equal(given: NDArray[Any], found: NDArray[Any]) -> NDArray[np.bool_]:
    """Compare values as Python does, a NaN with itself."""
    pairs = zip(given.ravel().tolist(), found.ravel().tolist(), strict=True)
    same = [bool(one == other or (one != one and other != other)) for one, other in pairs]  # noqa: PLR0124  a NaN
    return np.array(same, bool).reshape(given.shape)


def _same_parsed(found: NDArray[Any], given: NDArray[Any]) -> Any:  # noqa: ANN401
    """Say whether texts were read as the numbers or times that they are."""
    if found.dtype.kind in _TIMES:
        return _same(found, given.astype(f"{found.dtype.kind}8"))
    if found.dtype.kind == "b":
        return np.zeros(given.shape, bool)
    if found.dtype.kind in "iu":
        read = [int(text) == value for text, value in zip(given.ravel().tolist(), found.ravel().tolist(), strict=True)]
        return np.reshape(read, given.shape)
    wide = given.astype("G" if found.dtype.kind == "c" else "g")
    return np.isfinite(found) | ~np.isfinite(wide)
