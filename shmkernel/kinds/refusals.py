"""What follows when a kind does not take a value: it becomes an object, or an error that says what to give instead."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from shmkernel import kinds
from shmkernel._core import limits
from shmkernel.errors import Cure, RangeError, ShmError, UnsupportedError
from shmkernel.kinds import cures

if TYPE_CHECKING:
    from collections.abc import Callable


def instead(
    error: Exception,
    maker: kinds.Kind | None,
    name: str,
    value: object,
    options: Mapping[str, object],
    kind: str | None,
    *,
    allow_pickle: object,
    called: str | None,
) -> tuple[kinds.Kind, kinds.Plan]:
    """Lay out as an object what its own kind has refused; else raise the error, with what to give instead."""
    refused = error if isinstance(error, (UnsupportedError, RangeError)) else _ours(error, name, value, maker)
    cause = error.__cause__ if refused is error else error
    try:
        if kind is not None or value is None or any(option is not None for option in options.values()):
            raise _cured(refused, name, value, options, kind, called) from cause
        if maker is not None and getattr(maker, "pickles", False):
            raise _cured(_explained(refused, name, value), name, value, options, kind, called) from cause
        return kinds.last(), _as_object(
            _explained(refused, name, value), name, value, called, allow_pickle=allow_pickle
        )
    finally:
        del error, refused, cause  # an error and the frame that raises it would refer to each other


def _ours(error: Exception, name: str, value: object, maker: kinds.Kind | None) -> UnsupportedError:
    """Return the error for what a library, or a method of the value, has raised; raise it if it tells of a limit."""
    limits.raise_told(error)
    into = kinds.with_article(maker.name if maker else "segment")
    what = f"{name!r}: {kinds.a_type(value)} cannot become {into}: {kinds.said(error)}"
    return UnsupportedError(what, name=name, type=type(value).__name__)


def _as_object(
    error: UnsupportedError | RangeError, name: str, value: object, called: str | None, *, allow_pickle: object
) -> kinds.Plan:
    """Lay out as an object what its own kind has refused; a mapping only if it is pickled: all are to change it."""
    try:
        plan = kinds.last().plan(name, value, {"allow_pickle": allow_pickle})
    except UnsupportedError as refused:
        if refused.cures != error.cures:
            error = error.reworded(error.what, *refused.cures)
        raise _cured(error, name, value, {}, None, called) from refused.__cause__
    if isinstance(value, Mapping) and not allow_pickle:
        cure = Cure("A snapshot of it, which does not change, can be shared", kind=kinds.LAST)
        raise error.reworded(error.what, cure)
    return plan


def _explained(error: UnsupportedError | RangeError, name: str, value: object) -> UnsupportedError | RangeError:
    """Let the kind of another package say why it does not take a value that is almost of its kind."""
    others = (kind for other, kind in kinds.known().items() if other not in kinds.OURS and hasattr(kind, "explain"))
    if why := next(filter(None, (kind.explain(value) for kind in others)), None):
        return error.reworded(f"{name!r}: {kinds.a_type(value)} like this cannot be shared: {why}")
    return error


def _cured(
    error: UnsupportedError | RangeError,
    name: str,
    value: object,
    options: Mapping[str, object],
    kind: str | None,
    called: str | None,
) -> ShmError:
    """Add to an error what can be shared in the value's place."""
    if any(option is not None for option in options.values()):
        return error
    as_it_is = _as_it_is(name, value, cures.sample) if kind else ()
    if value is None or (isinstance(value, Mapping) and not hasattr(value, "toarray")):  # as a dok_array of scipy
        return error.reworded(error.what, *as_it_is)

    def works(made: object) -> bool:
        maker = kinds.named(kind) if kind else kinds.for_value(name, made, {})
        plan = maker.plan(name, made, {})
        return plan.size > 0 or plan.grows

    last = name.rpartition(".")[2]
    operand = kinds.operand(called) if called else last if last.isidentifier() else "x"
    cure, expression = cures.propose(operand, value, works)
    known = [{"kind": kind, **cure.options} for cure in error.cures]  # what follows if the call is repeated with them
    more = [other for other in as_it_is if other.options not in known]
    if not cure and (error.cures or more):
        return error.reworded(error.what, *more)
    end = cure or "Shared are tables, arrays, and what consists of arrays, numbers, texts, lists, dicts and so on"
    return error.reworded(f"{error.what}. {end}", *more, expression=expression)


def _as_it_is(name: str, value: object, sample: Callable[[Any], Any]) -> tuple[Cure, ...]:
    """Return how to share a value that the kind asked for does not take: by another kind, if one takes it."""
    if value is None:
        return (Cure("As a value", kind=kinds.LAST),)
    if isinstance(value, Iterator):  # a trial would consume it
        maker = kinds.for_value(name, value, {})
        return (Cure("Its items", kind="list"),) if maker is kinds.last() else (Cure("As it is", kind=maker.name),)
    try:
        maker, _ = kinds.planned(name, sample(value), {})
    except UnsupportedError as error:
        asked = (cure for cure in error.cures if "allow_pickle" in cure.options)
        return tuple(Cure(cure.lead, cure.verb, **{"kind": kinds.LAST, **cure.options}) for cure in asked)
    except Exception:  # noqa: BLE001  what the value's own methods raise; the caller raises another error
        return ()
    return (Cure("As it is", kind=maker.name),)
