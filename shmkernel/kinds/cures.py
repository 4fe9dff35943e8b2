"""Propose expressions that convert a value which cannot be shared, each tried on the value first.

Libraries are recognised by the module of the value's type, and never imported. A candidate is the text that a person
pastes. It is offered only if its result can be shared, so that no cure leads to another error.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from shmkernel.kinds import conversions

if TYPE_CHECKING:
    from collections.abc import Callable

_OFFERED = 2  # expressions in a message
_MANY = 100_000  # items; of a longer value only the beginning is tried
_DENSE = 64 << 20  # bytes: the largest sparse matrix to propose as an array, and the largest sample
_NUMBERS, _TEXTS, _VALUES, _DICT, _LIST = "Numbers", "Texts", "Its values", "In a dict", "In a list"
_AS_ARRAY = "numpy.asarray({x})"
_FIELDS = "{{field: {x}[field]%s for field in {x}.dtype.names}}"
_COLUMNS = (
    "{{column: {x}[column].to_numpy() if {x}[column].dtype.kind in 'biufcmM' else {x}[column].to_list() "
    "for column in {x}.columns}}"
)


class Cure(NamedTuple):
    """An expression, with ``{x}`` for the value, and what it yields."""

    what: str
    expression: str


def propose(called: str, value: object, works: Callable[[object], bool]) -> tuple[str, str | None]:
    """Return sentences that propose expressions in place of the value, and the first; `called` gives the value.

    Examples
    --------
    >>> propose("x", {1, 2}, lambda value: type(value) is list)
    ('Make it a list: list(x)', 'list(x)')
    """
    cures: list[Cure] = []
    try:
        part = sample(value)
        for candidates in (_candidates, _anything):
            for cure in candidates(part) if not cures else ():
                known = {part for cure in cures for part in cure}
                if len(cures) < _OFFERED and known.isdisjoint(cure) and _is_good(cure, part, works):
                    cures.append(cure)
    except Exception:  # noqa: BLE001, S110  the value's attributes may raise; the caller raises another error
        pass
    texts = [cure.expression.format(x=called) for cure in cures]
    sentences = [f"{cure.what}: {text}" for cure, text in zip(cures, texts, strict=True)]
    return ". ".join(sentences), texts[0] if texts else None


def _is_good(cure: Cure, value: object, works: Callable[[object], bool]) -> bool:
    try:
        if isinstance(value, Iterator):  # a trial would consume it
            return works([0])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = eval(cure.expression.format(x="x"), {"x": value, "numpy": np})  # noqa: S307  a text of ours
            if cure.expression == _AS_ARRAY and isinstance(value, Sequence) and not isinstance(value, memoryview):
                conversions.natural(list(value))  # not if it makes texts of numbers
            return works(made) and (cure.what != _NUMBERS or made.dtype.kind in "biufcV")
    except Exception:  # noqa: BLE001  what a value's own methods raise
        return False


def sample(value: Any) -> Any:
    """Return the value, or the beginning of a long one to try expressions on; ValueError if a row is too large."""
    size = getattr(value, "nbytes", 1)
    try:
        count, rows = len(value), _MANY
    except TypeError:  # it has no items
        return value
    if isinstance(size, int) and hasattr(value, "shape"):
        rows = min(_MANY, count * _DENSE // size if size else 0)
    if count <= rows or isinstance(value, (str, bytes, dict, set, frozenset)):
        return value
    if not rows:
        raise ValueError("one row is too large, or takes no memory, so that there is no end to them")
    return value.iloc[:rows] if hasattr(value, "iloc") else value[:rows]


def _candidates(value: Any) -> Iterator[Cure]:
    """Yield candidates by the value's library and type, the best first."""
    kind = type(value)
    library = kind.__module__.partition(".")[0]
    if isinstance(value, Iterator):
        yield Cure("Make a list of it first", "list({x})")
        return
    if hasattr(value, "toarray") and hasattr(value, "tocsr"):
        yield from _sparse(value)
    elif library == "torch":
        yield Cure(_VALUES, "{x}.detach().cpu().numpy()")
        yield Cure("Its values as float32", "{x}.detach().cpu().float().numpy()")
    elif hasattr(value, "to_numpy"):
        yield from _table(value)
    elif library == "cupy":
        yield Cure(_VALUES, "{x}.get()")
    elif hasattr(value, "dtype") and hasattr(value, "astype"):
        yield from _array(value)
    elif isinstance(value, str):
        yield Cure("A text, in a list", "[{x}]")
        yield Cure("As bytes", "{x}.encode()")
    elif isinstance(value, (list, tuple)):
        if kind not in (list, tuple):  # what is more than its items was refused
            yield Cure("Make it a list", "list({x})")
        yield Cure(_NUMBERS, _AS_ARRAY)
        yield Cure(_DICT, "{{'x': {x}}}")
        yield Cure("As bytes", "bytes({x})")
    elif isinstance(value, int):
        yield Cure("As a text, in a list", "[str({x})]")
        yield Cure(_DICT, "{{'x': {x}}}")
    elif library == "datetime":
        if getattr(value, "tzinfo", None) is None:  # numpy would drop a time zone
            yield Cure("As numpy's", "numpy.datetime64({x})" if hasattr(value, "year") else "numpy.timedelta64({x})")
        yield Cure(_DICT, "{{'x': {x}}}")


def _anything(value: Any) -> Iterator[Cure]:
    """Yield candidates for a value of any type."""
    if not isinstance(value, (list, tuple, str)):
        yield Cure(_VALUES, _AS_ARRAY)
    if hasattr(value, "to_pydict"):
        yield Cure(_DICT, "{x}.to_pydict()")
    for method in ("to_pylist", "to_list", "tolist"):
        if hasattr(value, method):
            yield Cure(_LIST, f"{{x}}.{method}()")
    # without a length it may have no end: a stream waits for its next frame
    sized = hasattr(value, "__iter__") and hasattr(value, "__len__")
    if sized and not (isinstance(value, (list, tuple, str)) or hasattr(value, "columns")):
        yield Cure("Make it a list", "list({x})")
    if isinstance(value, memoryview):
        yield Cure("As bytes", "bytes({x})")
    yield Cure(_DICT, "{{'x': {x}}}")
    yield Cure(_DICT, "{{'x': {x}.tolist()}}")
    yield Cure(_DICT, "{{'x': {x}.to_list()}}")


def _sparse(value: Any) -> Iterator[Cure]:
    """Yield the parts of a sparse matrix of scipy, and the dense array if it is small."""
    yield Cure("By rows", "{x}.tocsr()")
    if value.shape[0] * value.shape[-1] * value.dtype.itemsize <= _DENSE:
        yield Cure("All of it", "{x}.toarray()")


def _table(value: Any) -> Iterator[Cure]:
    """Yield the numbers, columns and items of a table or column of pandas, polars, pyarrow and the like."""
    if getattr(value, "tzinfo", None) is not None and hasattr(value, "to_pydatetime") and not hasattr(value, "__len__"):
        yield Cure(_DICT, "{{'x': {x}.to_pydatetime()}}")
        yield Cure("In UTC", "{x}.to_datetime64()")
        return
    if hasattr(value, "columns") and hasattr(value, "select_dtypes"):
        mixed = [str(column) for column in value.select_dtypes("object").columns]
        yield Cure("Texts in place of objects", f"{{x}}.astype({{{{{str(dict.fromkeys(mixed, 'str'))[1:-1]}}}}})")
    yield Cure(_NUMBERS, "{x}.to_numpy()")
    yield Cure(_VALUES, "{x}.to_numpy()")
    if hasattr(value, "columns"):
        yield Cure("All columns, in a dict", "{x}.to_dict('list')")
        yield Cure("All columns, in a dict", "{x}.to_dict(as_series=False)")
        yield Cure("All columns, in a dict", _COLUMNS)
    if getattr(getattr(value, "dtype", None), "tz", None) is not None:
        yield Cure("In UTC", "{x}.dt.tz_convert(None).to_numpy()")
        yield Cure("In UTC", "{x}.tz_convert(None).to_numpy()")
    if str(getattr(value, "dtype", ""))[:1].isupper():  # pandas's Int64 and the like, which have missing values
        yield Cure("Numbers, NaN for what is missing", "{x}.to_numpy('float64', na_value=float('nan'))")


def _array(value: Any) -> Iterator[Cure]:
    """Yield plain arrays with the same values."""
    if hasattr(value, "filled"):
        yield Cure(_VALUES, "{x}.filled()")
        yield Cure("With its mask, in a dict", "{{'data': {x}.filled(), 'mask': numpy.ma.getmaskarray({x})}}")
        return
    yield Cure(_VALUES, _AS_ARRAY)
    if value.dtype.names:
        if all(value.dtype[field].metadata for field in value.dtype.names):
            yield Cure(_VALUES, "{x}.astype([(field, {x}.dtype[field].str) for field in {x}.dtype.names])")
        yield Cure(_VALUES, "{x}.astype([(field, {x}.dtype[field]) for field in {x}.dtype.names])")
        yield Cure("Its fields, in a dict", _FIELDS % "")
        yield Cure("Its fields, in a dict", _FIELDS % ".tolist()")
        return
    if value.dtype.metadata:
        yield Cure(_VALUES, "{x}.view({x}.dtype.str)")
    if value.dtype.kind == "O":
        types = set(map(type, value.ravel()[:_MANY].tolist()))
        if types <= {str}:
            yield Cure(_TEXTS, "{x}.astype(str)")
        if types <= {bytes}:
            yield Cure(_TEXTS, "{x}.astype(bytes)")
        for plain in (int, float, complex):
            if types <= {bool, int, float, complex} and _converts(value, plain):
                yield Cure(_NUMBERS, f"{{x}}.astype({plain.__name__})")
    elif value.dtype.kind == "T":
        yield Cure(_TEXTS, "{x}.astype(object).astype(str)")
    elif value.dtype.type.__module__ != "numpy":
        yield Cure("As float32", "{x}.astype('float32')")


def _converts(value: Any, plain: type) -> bool:
    """Return whether each object is a number that this type holds exactly."""
    part = value[:_MANY] if value.ndim else value
    try:
        made = conversions.convert(part, np.dtype(plain))
    except (ValueError, TypeError, OverflowError):
        return False
    pairs = zip(part.ravel().tolist(), made.ravel().tolist(), strict=True)
    return all(before == after or before != before for before, after in pairs)  # noqa: PLR0124  NaN
