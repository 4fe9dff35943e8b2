"""Sharing the notebook's values: ``%shm_create`` and ``%shm_load``.

    request  name, value, variable, flags: may it be?  -> all are checked before anything is allocated
    draft    nameless segments, filled                 -> discarded, all of them, if one fails
    name     all drafts, or none
    tell     each variable becomes its segment's array; what keeps the private copy alive is named

The steps are functions of their own, so that no local name of theirs outlives them: whether the private copy has
gone is seen by a weak reference.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import shmkernel as shm
import shmkernel.stdlib  # it sets hooks of the verbs, which are called directly here
from shmkernel import kinds, render
from shmkernel._core import paths, records, registry
from shmkernel.errors import ArgumentError, UnsupportedError
from shmkernel.notebook.parsing import evaluate, lengths, literal, number, size
from shmkernel.verbs import attachments, listing, staging
from shmkernel.workspace import actions, variables

if TYPE_CHECKING:
    import argparse
    import weakref

    from shmkernel.notebook.magics import ShmMagics
    from shmkernel.verbs.listing import Info


class _Request(NamedTuple):
    """What one name asks for: a segment to be made, or, without a plan, ``done`` already."""

    name: str
    done: Any = None
    kind: kinds.Kind | None = None
    plan: kinds.Plan | None = None
    before: str = ""
    private: weakref.ref[Any] | None = None


class _Terms(NamedTuple):
    """How what is made is to be used, how long it lives, and what gives way to it."""

    mode: str
    lifetime: str
    replace: staging.Replace


def create(magics: ShmMagics, args: argparse.Namespace) -> Any:  # noqa: ANN401
    """Share variables, the value of an expression, or what is made new."""
    _check_flags(args)
    terms, read = _terms(magics, args), _is_variable(args)
    requests = [_checked(magics, args, name, terms) for name in args.names]
    asked = [request._replace(plan=None) for request in requests]  # a plan holds the private copy
    values_of = _named(requests, terms)
    values = [values_of.pop(request.name) if request.kind else request.done for request in asked]
    for request, value in zip(asked, values, strict=True):
        if variables.is_variable(request.name):
            magics.workspace.bind(args.scope, request.name, value, request.name, read=read)
        print(_made(args, request, value) if request.kind else _done(args, request))
    return values[0] if len(values) == 1 else tuple(values)


def load(magics: ShmMagics, args: argparse.Namespace) -> Any:  # noqa: ANN401
    """Share the content of a file."""
    (name,) = args.names
    terms = _terms(magics, args)
    staging.check(name, *terms)
    args.scope.check(name)
    if not args.overwrite:
        variables.check_free(args.scope.target(name), name, name, "Use another NAME, or --overwrite to replace it")
    before = _earlier(name)
    value = shm.load(name, args.path, **terms._asdict())
    if variables.is_variable(name):
        magics.workspace.bind(args.scope, name, value, name)
    info = shm.info(name)
    print(f"{_shared(info, f', from {args.path}')}{args.scope.remark(name)}.{before} {_invitation(name)}")
    return value


def _terms(magics: ShmMagics, args: argparse.Namespace) -> _Terms:
    return _Terms(args.mode or "r+", args.lifetime or magics.lifetime, True if args.replace else "own")


def _check_flags(args: argparse.Namespace) -> None:
    if args.expression is not None:
        if args.shape or args.fill:
            raise ArgumentError("--from copies a value, --shape makes an array: give one of them")
        if not args.expression:
            raise ArgumentError(f"--from needs an expression. Example: %shm_create {args.names[0]} --from [1, 2, 3]")
        if len(args.names) > 1:
            raise ArgumentError(f"--from gives one value, so give one NAME, not {', '.join(args.names)}")
    if args.items is not None and (clash := args.expression or args.shape or args.size):
        raise ArgumentError(f"--list makes a list, so nothing else gives a value: leave out {clash}")
    if args.empty and (clash := args.expression or args.items or args.shape or args.size):
        raise ArgumentError(f"--dict makes an empty dict, so nothing else gives a value: leave out {clash}")
    if args.size and args.shape:
        raise ArgumentError("--size makes a block of bytes, --shape makes an array: give one of them")
    if args.ring is not None and not args.shape:
        raise ArgumentError("--ring makes slots for frames: give their --shape too")
    if args.fill is not None and not args.shape:
        raise ArgumentError("--fill fills a new array: give its --shape too")


def _checked(magics: ShmMagics, args: argparse.Namespace, name: str, terms: _Terms) -> _Request:
    """Check one name; what can be shared in the value's place is proposed as a line."""
    try:
        return _request(magics, args, name, terms)
    except UnsupportedError as error:
        expression = getattr(error, "expression", None)
        if not expression or not _is_variable(args):
            raise
        message = f"{error.what}. So: %shm_create {name}_shared --from {expression}"
        raise error.reworded(message) from None


def _other_name(args: argparse.Namespace, name: str, value: object) -> str:
    """Say what to do for a name that is the variable of another value."""
    cure = f"Use another name, such as {name}_shared"
    if args.expression is not None:
        cure = f"Keep both: %shm_create {name}_shared --from {args.expression}"
    else:
        with contextlib.suppress(shm.ShmError):
            kinds.for_value(name, value, {})
            cure = f"Share it: %shm_create {name}"
    return f"{cure}. Replace it: --overwrite"


def _request(magics: ShmMagics, args: argparse.Namespace, name: str, terms: _Terms) -> _Request:
    """Check one name."""
    try:
        paths.path_of(name)
    except ArgumentError as error:
        if name not in args.scope:
            raise
        raise ArgumentError(f"{error.what}. So: %shm_create NAME --from {name}", name=name) from None
    read = _is_variable(args)
    args.scope.check(name, read=read)
    value = _value(magics, args, name)
    space = args.scope if read else args.scope.target(name)
    if (args.shape or args.size or args.empty or value is not space.get(name)) and name in space and not args.overwrite:
        variables.check_free(space, name, name, _other_name(args, name, space.get(name)))
    if _is_done(args, name, value):
        return _Request(name, value)
    taken = staging.check(name, *terms)
    options = {
        "shape": lengths(args.shape) if args.shape else None,
        "dtype": args.dtype,
        "order": args.order,
        "fill": number(args.fill, args.dtype) if args.fill is not None else None,
        "size": size(args.size) if args.size else None,
        "ring": args.ring,
    }
    wanted = args.kind or (args.items and "list") or (args.empty and "dict")
    kind, plan = kinds.planned(name, value, options, wanted)
    private = variables.watch(space.get(name))
    return _Request(name, None, kind, plan, _earlier(name) if taken else "", private)


def _value(magics: ShmMagics, args: argparse.Namespace, name: str) -> Any:  # noqa: ANN401
    if args.expression is not None:
        return evaluate(args.expression, args.scope)
    if args.items is not None:
        return literal(args.items)
    if args.shape or args.size or args.empty:
        return None
    if name in args.scope:
        return args.scope[name]
    known = {key for key in args.scope if not key.startswith("_")}
    hint = paths.hint(paths.near(name, known - set(magics.shell.user_ns_hidden)))
    raise ArgumentError(
        f"no variable {name}.{hint} Give --from EXPR, or make an array: %shm_create {name} --shape 10", name=name
    )


def _is_done(args: argparse.Namespace, name: str, value: object) -> bool:
    """Say whether the value is that very segment, as it is asked for."""
    attachment = attachments.given(value)
    if attachment is None or attachment.name != name or attachment.key[1] != registry.inode_at(name):
        return False
    if (args.replace and not shm.info(name).mine) or (args.kind or attachment.kind) != attachment.kind:
        return False
    if not isinstance(value, np.ndarray):
        return not (args.dtype or args.order or args.size) and attachment.key[2] == (args.mode or attachment.key[2])
    try:
        same = args.dtype is None or np.dtype(args.dtype) == value.dtype
    except (TypeError, ValueError, SyntaxError):
        return False
    ordered = {None: True, "C": value.flags.c_contiguous, "F": value.flags.f_contiguous}.get(args.order, False)
    return same and ordered and attachment.key[2] == (args.mode or attachment.key[2])


def _named(requests: list[_Request], terms: _Terms) -> dict[str, Any]:
    """Make what is asked for; the requests are consumed, since their plans hold the private copies."""
    made: list[staging.Draft] = []
    try:
        while requests:
            name, _, kind, plan, *_ = requests.pop(0)
            if kind and plan:
                made.append(staging.make(name, kind, plan, terms.mode, terms.lifetime))
    except BaseException:
        staging.discard(made)
        made.clear()  # an interrupt's traceback keeps this frame
        raise
    values = staging.name_all(made, terms.replace) if made else []
    return dict(zip([draft.record.name for draft in made], values, strict=True))


def _is_variable(args: argparse.Namespace) -> bool:
    """Say whether what is shared are the variables of the names."""
    return args.expression is None and args.items is None and not (args.shape or args.size or args.empty)


def _made(args: argparse.Namespace, request: _Request, value: object) -> str:
    info, remarks = listing.of_value(request.name, value), request.before
    keepers = variables.left(args.scope, request.private)
    if keepers and keepers != args.expression:
        which = "The earlier one" if variables.is_shared(request.private) else "Its private copy"
        remarks += f" {which} stays in memory, held by {keepers}."
    if args.expression and args.expression.isidentifier() and args.expression != request.name:
        remarks += f" {args.expression} stays as it is, a copy."
    return f"{_shared(info)}{args.scope.remark(request.name)}.{remarks} {_invitation(request.name)}"


def _done(args: argparse.Namespace, request: _Request) -> str:
    info = shm.info(request.name)
    if args.lifetime and args.lifetime != info.lifetime:
        info = shm.keep(request.name, args.lifetime)
        return f"{info.name}: shared already, now {actions.until(info)}"
    by = "" if info.mine else f", by {render.clean(info.owner)}"
    return f"{info.name}: shared already{by}, {actions.until(info)}; nothing to do"


def _shared(info: Info, source: str = "") -> str:
    return f"{info.name}: {render.what(info)}{source}, shared {actions.until(info)}"


def _invitation(name: str) -> str:
    """Say how others get it."""
    return f"In another notebook: %shm_attach {name}{'' if variables.is_variable(name) else ' --as NAME'}"


def _earlier(name: str) -> str:
    """Say what a new segment of this name will replace, and who goes on with the old one."""
    inode = registry.inode_at(name)
    if inode is None:
        return ""
    with contextlib.suppress(shm.ShmError), registry.locked():
        record = records.read(inode)
        if record and registry.ended(record):
            return ""
    info = shm.info(name)
    others = [holder for holder in info.attached if holder.pid != os.getpid()]
    whose = "the earlier one" if info.mine else f"that of {render.clean(info.owner)}"
    held = f", which {render.people(others)} still hold{'s' * (len(others) == 1)} (there: %shm_attach {name})"
    return f" It replaces {whose}{held if others else ''}."
