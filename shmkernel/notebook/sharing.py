"""Share the notebook's values: ``%shm_create`` and ``%shm_load``.

    request  name, value, flags           -> all are checked before memory is allocated
    draft    fill segments without names  -> if one fails, all are discarded
    name     name all drafts or none
    report   set each variable to its segment's value; say what keeps its private copy alive

Each step is a function, so that its local variables do not outlive it: a weak reference tells whether the private
copy was freed.
"""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import shmkernel as shm
from shmkernel import kinds, render
from shmkernel._core import paths, records, registry
from shmkernel.errors import ArgumentError, UnsupportedError
from shmkernel.notebook.parsing import evaluate, lengths, literal, number, size
from shmkernel.verbs import attachments, listing, staging
from shmkernel.workspace import actions, variables
from shmkernel.workspace.scope import is_variable

if TYPE_CHECKING:
    import argparse
    import weakref
    from collections.abc import Sequence

    from shmkernel.notebook.magics import ShmMagics


class _Request(NamedTuple):
    """A name to share: with a plan for a new segment, or without one if ``done`` is its shared value already."""

    name: str
    done: Any = None
    kind: kinds.Kind | None = None
    plan: kinds.Plan | None = None
    before: Sequence[str] = ()
    private: weakref.ref[Any] | None = None


class _Terms(NamedTuple):
    """The mode and lifetime of new segments, and which segments they may replace."""

    mode: str | None
    lifetime: str
    replace: staging.Replace


def shm_create(magics: ShmMagics, args: argparse.Namespace) -> Any:
    """Share variables, the value of an expression, or a new array, list, dict or block."""
    _check_flags(args)
    terms, read = _terms(magics, args), _shares_variables(args)
    requests = [_checked(magics, args, name, terms) for name in args.names]
    reports = [request._replace(plan=None) for request in requests]  # a plan holds the private copy
    values_of = _named(requests, terms)
    values = [values_of.pop(request.name) if request.kind else request.done for request in reports]
    for request, value in zip(reports, values, strict=True):
        name = request.name
        if is_variable(name):
            magics.workspace.bind(args.scope, name, value, name, read=read)
        print(_made(args, request, value) if request.kind else _done(args, name))
    if made := [request.name for request in reports if request.kind]:
        print(invitation(made, terms.lifetime))
    return values[0] if len(values) == 1 else tuple(values)


def shm_load(magics: ShmMagics, args: argparse.Namespace) -> Any:
    """Share the content of a file."""
    (name,) = args.names
    terms = _terms(magics, args)
    staging.check(name, *terms)
    args.scope.check(name)
    if not args.overwrite:
        variables.check_free(args.scope.target(name), name, name, "Use another NAME, or --overwrite to replace it")
    before = earlier(name)
    value = shm.load(name, args.path, kind=args.kind, **terms._asdict(), allow_pickle=args.allow_pickle)
    if is_variable(name):
        magics.workspace.bind(args.scope, name, value, name)
    info = shm.info(name)
    what = f"{name}: {render.what(info)},", f"from {args.path}{args.scope.remark(name)}."
    print(actions.in_lines([*what, *before]))
    print(invitation([name], terms.lifetime))
    return value


def _terms(magics: ShmMagics, args: argparse.Namespace) -> _Terms:
    return _Terms(args.mode, args.lifetime or magics.lifetime, True if args.replace else "own")


def _check_flags(args: argparse.Namespace) -> None:
    if args.expression is not None:
        if args.shape or args.fill:
            raise ArgumentError("--from copies a value, --shape makes an array: give one of them")
        if not args.expression:
            raise ArgumentError(f"--from needs an expression. Example: %shm_create {args.names[0]} --from [1, 2, 3]")
        if len(args.names) > 1:
            raise ArgumentError(f"--from gives one value, so give one NAME, not {', '.join(args.names)}")
    values = {"--list": args.items, "--from": args.expression, "--shape": args.shape, "--size": args.size}
    given = [f"{flag} {value}" for flag, value in values.items() if value]
    if args.empty and given:
        raise ArgumentError(f"--dict makes an empty dict, so no other flag may give a value: leave out {given[0]}")
    if args.items is not None and given[1:]:
        raise ArgumentError(f"--list makes a list, so no other flag may give a value: leave out {given[1]}")
    if args.size and args.shape:
        raise ArgumentError("--size makes a block of bytes, --shape makes an array: give one of them")
    if args.ring is not None and not args.shape:
        raise ArgumentError("--ring makes slots for frames: give their --shape too")
    if args.fill is not None and not args.shape:
        raise ArgumentError("--fill fills a new array: give its --shape too")


def _checked(magics: ShmMagics, args: argparse.Namespace, name: str, terms: _Terms) -> _Request:
    """Check one name. If its value cannot be shared, propose a line that shares it in another form."""
    try:
        return _request(magics, args, name, terms)
    except UnsupportedError as error:
        expression, called = getattr(error, "expression", None), args.expression and kinds.operand(args.expression)
        if not expression or not (_names(called, expression) if called else _shares_variables(args)):
            raise
        kind = f" --kind {args.kind}" if args.kind else ""
        message = f"{error.what}. So: %shm_create {name if called else f'{name}_shared'} --from {expression}{kind}"
        raise error.reworded(message) from None


def _names(called: str, expression: str) -> bool:
    """Return whether a proposed expression is about this one: a kind's own proposals name a variable."""
    return re.search(rf"(?<![\w.]){re.escape(called)}(?!\w)", expression) is not None


def _other_name(args: argparse.Namespace, name: str, value: object) -> str:
    """Propose what to do about a variable of this name with another value."""
    cure = f"Use another name, such as {name}_shared"
    if args.expression is not None:
        cure = f"Keep both: %shm_create {name}_shared --from {args.expression}"
    else:
        with contextlib.suppress(shm.ShmError):
            kinds.planned(name, value, {})
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
    read = _shares_variables(args)
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
        "allow_pickle": args.allow_pickle or None,
    }
    kind_name = args.kind or ("list" if args.items else "dict" if args.empty else None)
    kind, plan = kinds.planned(name, value, options, kind_name, called=args.expression)
    remarks = earlier(name) if taken else []
    if isinstance(value, np.recarray) and kind.name == "array":
        remarks.append(f"Its fields are no attributes now. As before: import numpy; {name}.view(numpy.recarray)")
    return _Request(name, None, kind, plan, remarks, variables.watch(space.get(name)))


def _value(magics: ShmMagics, args: argparse.Namespace, name: str) -> Any:
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
    """Return whether the value is already this segment's, in the form that the flags ask for."""
    attachment = attachments.given(value)
    if attachment is None or attachment.name != name or attachment.key[1] != registry.inode_at(name):
        return False
    if attachment.key[2] == "c" or getattr(
        kinds.named(attachment.kind), "fresh", False
    ):  # it may have been changed since
        return False
    if (args.replace and not shm.info(name).mine) or (args.kind or attachment.kind) != attachment.kind:
        return False
    mode = attachment.key[2]
    if not isinstance(value, np.ndarray):
        return not (args.dtype or args.order or args.size) and mode == (args.mode or mode)
    try:
        same = args.dtype is None or np.dtype(args.dtype) == value.dtype
    except (TypeError, ValueError, SyntaxError):
        return False
    ordered = {None: True, "C": value.flags.c_contiguous, "F": value.flags.f_contiguous}.get(args.order, False)
    return same and ordered and mode == (args.mode or mode)


def _named(requests: list[_Request], terms: _Terms) -> dict[str, Any]:
    """Make and name the segments. Empty the list of requests, whose plans hold the private copies."""
    drafts: list[staging.Draft] = []
    try:
        while requests:
            name, _, kind, plan, *_ = requests.pop(0)
            if kind and plan:
                drafts.append(staging.make(name, kind, plan, terms.mode, terms.lifetime))
    except BaseException:
        staging.discard(drafts)
        drafts.clear()  # an interrupt's traceback keeps this frame
        raise
    values = staging.name_all(drafts, terms.replace) if drafts else []
    return dict(zip([draft.record.name for draft in drafts], values, strict=True))


def _shares_variables(args: argparse.Namespace) -> bool:
    """Return whether the magic shares variables: no flag gives another value."""
    return args.expression is None and args.items is None and not (args.shape or args.size or args.empty)


def _made(args: argparse.Namespace, request: _Request, value: object) -> str:
    name, remarks = request.name, [*request.before]
    keepers = variables.left(args.scope, request.private)
    if keepers and keepers != args.expression:
        which = "The earlier one" if variables.is_shared(request.private) else "Its private copy"
        remarks.append(f"{which} stays in memory, held by {keepers}.")
    if args.expression and is_variable(args.expression) and args.expression != name:
        remarks.append(f"{args.expression} stays as it is, a copy.")
    what = f"{name}: {render.what(listing.of_value(name, value))}{args.scope.remark(name)}."
    return actions.in_lines([what, *remarks])


def _done(args: argparse.Namespace, name: str) -> str:
    info = shm.info(name)
    if args.lifetime and args.lifetime != info.lifetime:
        info = shm.keep(name, args.lifetime)
        return f"{name}: shared already, now {actions.until(info)}"
    by = "" if info.mine else f", by {render.clean(info.owner)}"
    return f"{name}: shared already{by}, {actions.until(info)}; nothing to do"


def invitation(names: list[str], lifetime: str) -> str:
    """Return a line that says how long the segments live, and those that attach them in another notebook.

    One line is for all names that variables can have. Each fits into a notebook of half a screen's width, where
    JupyterLab breaks words.
    """
    together, others = "", []
    for name in names:
        if is_variable(name):
            together += f" {name}"
        else:
            others.append(f" {name} --as NAME")
    lines = [together, *others] if together else others
    longer = f". Longer: %shm_keep {' '.join(names)}" if lifetime == "session" else ""
    first = f"Shared until {actions.end(lifetime, names)}{longer}"
    return "\n".join([first, *(f"In another notebook: %shm_attach{line}" for line in lines)])


def earlier(name: str) -> list[str]:
    """Return sentences about the segment that will be replaced, and about the processes that keep it."""
    inode = registry.inode_at(name)
    if inode is None:
        return []
    with contextlib.suppress(shm.ShmError), registry.locked():
        record = records.read(inode)
        if record and registry.ended(record):
            return []
    info = shm.info(name)
    others = render.others(info)
    whose = "the earlier one" if info.mine else f"the one of {render.clean(info.owner)}"
    verb = "has" if len(others) == 1 else "have"
    held = f"{render.people(others)} still {verb} the old one; there: %shm_attach {name}."
    return [f"It replaces {whose}.", *[held] * bool(others)]
