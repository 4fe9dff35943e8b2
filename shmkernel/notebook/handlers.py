"""Carry out the magics but those of `sharing` and `cell_lock`. Each prints what happened."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import shmkernel as shm
from shmkernel import kinds, render
from shmkernel._core import capacity, paths, records, registry, segment_file
from shmkernel.errors import ArgumentError, NotFoundError
from shmkernel.verbs import attachments
from shmkernel.workspace import actions, variables

if TYPE_CHECKING:
    import argparse

    from shmkernel.notebook.magics import ShmMagics
    from shmkernel.verbs.listing import Info


def shm_attach(magics: ShmMagics, args: argparse.Namespace) -> Any:
    """Attach segments, and set variables to them: all or none."""
    if len(args.names) == 3 and args.names[1] == "as" and registry.inode_at("as") is None:  # noqa: PLR2004  x as y
        raise ArgumentError(f"write --as: %shm_attach {args.names[0]} --as {args.names[2]}", name=args.names[0])
    usual = {}  # by the names of segments: those of variables
    for name in args.names:
        local = not args.refresh and (":" not in name or name[0] == "/") and os.path.lexists(paths.path_of(name))
        here = name if local else attachments.copied(name, refresh=args.refresh) or name
        usual[here] = variables.usual(here) if "." in here else here  # a snapshot is called HOST.NAME
    form = args.variable if args.variable and any(_is_form(name, args.variable) for name in usual) else None
    if args.variable and not form and len(usual) > 1:
        raise ArgumentError("--as names one variable, so give one NAME")
    targets = {name: (not form and args.variable) or variable for name, variable in usual.items()}
    values = []
    attached = actions.attach(magics.workspace, args.scope, targets, args.mode, form,
                              overwrite=args.overwrite, allow_pickle=args.allow_pickle)  # fmt: skip
    for value, text in attached:
        values.append(value)
        print(text)
    return values[0] if len(values) == 1 else tuple(values)


def _is_form(name: str, word: str) -> bool:
    """Return whether ``--as`` names a library for this segment, not a variable."""
    inode = registry.inode_at(name)
    record = records.read(inode) if inode is not None else None
    return record is not None and word in getattr(kinds.named(record.kind), "forms", ())


def shm_close(magics: ShmMagics, args: argparse.Namespace) -> None:
    """Delete the variables that hold the segments, and print what still keeps the memory."""
    for name in args.names:
        if not actions.attached(name) and not _is_variable_of(magics, name):
            other = variables.segment_of(args.scope.get(name))
            hint = f"Your {name} is {other}: %shm_close {other}" if other else "Live names: %shm_list"
            raise NotFoundError(f"{name!r} is not attached here. {hint}", name=name)
    for text in actions.close(magics.workspace, args.scope, args.names):
        print(text)


def shm_unlink(magics: ShmMagics, args: argparse.Namespace) -> None:
    """Remove names, and print who still has the memory."""
    for text in actions.unlink(args.names):
        print(text)


def shm_keep(magics: ShmMagics, args: argparse.Namespace) -> None:
    """Change lifetimes; share a copy of memory that has lost its name."""
    for text in actions.keep(magics.workspace, args.scope, args.names, args.lifetime or "keep"):
        print(text)


def shm_list(magics: ShmMagics, args: argparse.Namespace) -> render.Rows | render.Offers:
    """Return all segments, or what hosts share, displayed as a table."""
    return render.Offers(shm.offers()) if args.hosts else _rows(magics, shm.list())


def shm_info(magics: ShmMagics, args: argparse.Namespace) -> render.Rows:
    """Return the details of segments, displayed as cards."""
    return _rows(magics, [shm.info(name) for name in args.names], cards=True)


def shm_watch(magics: ShmMagics, args: argparse.Namespace) -> Any:
    """Return a monitor, displayed as a widget."""
    if len(args.names) > 1:
        raise ArgumentError(f"the content of one segment is shown first, so give one NAME, not {', '.join(args.names)}")
    for name in args.names:
        if registry.inode_at(name) is None:
            print(segment_file.missing(name).what)
    return shm.watch(*args.names, **({"interval": args.every} if args.every is not None else {}))


def shm_save(magics: ShmMagics, args: argparse.Namespace) -> None:
    """Write a segment to a file."""
    (name,) = args.names
    allow = True if args.allow_pickle else actions.CONSENT[magics.workspace.allow_pickle]
    shm.save(name, args.path, allow_pickle=allow)
    print(f"{name}: {capacity.human(os.stat(os.path.expanduser(args.path)).st_size)} written to {args.path}")


def shm_publish(magics: ShmMagics, args: argparse.Namespace) -> Any:
    """Increase the versions, and print them."""
    for name in args.names:
        tell_if_mistyped(name, "This publishes the bare name")
    versions = [shm.publish(name) for name in args.names]
    print(", ".join(f"{name}: version {version}" for name, version in zip(args.names, versions, strict=True)))
    return versions[0] if len(versions) == 1 else tuple(versions)


def shm_wait(magics: ShmMagics, args: argparse.Namespace) -> int:
    """Wait for a new version, print it and return it."""
    (name,) = args.names
    if not paths.on_host(name) and registry.inode_at(name) is None:
        print(f"{segment_file.missing(name).what} Waiting until there is one")
    version = shm.wait(name, args.since, args.timeout)
    print(f"{name}: version {version}")
    return version


def shm_join(magics: ShmMagics, args: argparse.Namespace) -> None:
    """Connect this host to others, and print which there are."""
    hosts = shm.join(*args.hosts, listen=args.listen, host=args.host)
    print(f"joined: {', '.join(hosts)}. Share a segment: %shm_share NAME. What others share: %shm_list --hosts")


def shm_share(magics: ShmMagics, args: argparse.Namespace) -> None:
    """Let other hosts copy segments."""
    for name in args.names:
        print(f"{name}: shared with other hosts; there: %shm_attach {shm.share(name)}")


def shm_unshare(magics: ShmMagics, args: argparse.Namespace) -> None:
    """Let other hosts copy them no longer."""
    for name in args.names:
        shm.unshare(name)
        print(f"{name}: no longer shared with other hosts; their snapshots stay")


def shm_leave(magics: ShmMagics, args: argparse.Namespace) -> None:
    """Disconnect this host from others."""
    print("left: other hosts see this one no more" if shm.leave() else "this host had not joined others")


def shm_gc(magics: ShmMagics, args: argparse.Namespace) -> None:
    """Remove what ended kernels have left behind."""
    leftovers = shm.gc(dry_run=args.dry_run)
    if not leftovers:
        print("Nothing to clean up")
        return
    size = capacity.human(sum(size for _, size in leftovers))
    done = "would be unlinked by %shm_gc" if args.dry_run else "unlinked"
    print(f"{', '.join(name for name, _ in leftovers)}: left behind by ended kernels, {size}, {done}")


def shm_doctor(magics: ShmMagics, args: argparse.Namespace) -> None:
    """Print the findings with their cures."""
    for level, text, cure in shm.doctor():
        print(f"{level:4}  {text}{f': {cure}' if cure else ''}")


def shm_help(magics: ShmMagics, args: argparse.Namespace) -> None:
    """Print one screen of examples."""
    print(_HELP)


def tell_if_mistyped(name: str, what: str) -> None:
    """Print a line if there is no segment of this name, which may be meant so, but there are similar ones."""
    paths.path_of(name)
    if registry.inode_at(name) is None and paths.near(name, paths.names()):
        print(f"{segment_file.missing(name).what} {what}")


def _is_variable_of(magics: ShmMagics, name: str) -> bool:
    """Return whether a variable is a segment's value, though nothing of it is attached: a text."""
    variable = magics.workspace.bound.get(name, "")
    return variable in magics.workspace.space and variables.segment_of(magics.workspace.space[variable]) == name


def _rows(magics: ShmMagics, rows: list[Info], *, cards: bool = False) -> render.Rows:
    remarks = {row.name: text for row in rows if not row.state and (text := _remark(magics, row))}
    return render.Rows(rows, remarks, cards=cards)


def _remark(magics: ShmMagics, row: Info) -> str:
    """Return a remark if the variable is no longer the segment's value, as after ``x = x + 1``."""
    name = row.name
    variable = magics.workspace.bound.get(name, name if row.mine else "")
    if variable not in magics.workspace.space:
        return ""
    if variables.segment_of(magics.workspace.space[variable]) == name:
        return ""
    share = row.mine and variable == name
    back = f"share the new one: %shm_create {name}" if share else f"attach again: %shm_attach {name} --overwrite"
    return f"your {variable} is no longer the shared one; {back} (next time {variable}[:] = ...)"


_HELP = """\
Share          %shm_create x                        the variable x becomes the shared array
               %shm_create x --from a[:, 0]         a copy of any expression; a stays as it is
without two    %shm_create x --shape 1000,1000 --dtype float32
copies         x[:] = ...                           created in shared memory, then filled there
Dicts, lists   %shm_create d --dict                 an empty dict, which every notebook can fill
               %shm_create l --list "[1, 'a']"      a list of numbers, texts, bytes and None
Use elsewhere  %shm_attach x                        x is the array of the other notebook, not a copy
               %shm_attach x --as y --mode r        under another name, read only
DataFrames     %shm_attach df --as polars           as pandas, polars, arrow or duckdb
Look           %shm_list                            all segments, their owners and users
               %shm_info x                          all details of one
               %shm_watch                           live: the table, the contents, buttons
Let go         %shm_close x                         here; the others keep it
               %shm_unlink x                        remove the name; the last user frees the memory
Lifetime       %shm_keep x                          until it is unlinked; it survives this kernel
               %%shm_cache x --uses n               run the cell once, later attach its x
Files          %shm_save x x.npy                    write it to a file
               %shm_load x x.npy                    share the content of a file
Models         %shm_create model --pickle           what is not plain; to attach it runs code
Take turns     %%shm_lock x                         others that lock x wait until the cell ends
Wait           %shm_wait x --timeout 10             sleep until there is a new version
               %shm_publish x                       announce a new version
Streams        %shm_create f --ring 64 --shape 480,640           f.put(a), for a in f: ...
Other hosts    %shm_join tls/hostA:7447             connect; then %shm_share x, there %shm_attach x
               %shm_list --hosts                    what they share; %shm_unshare x, %shm_leave
Care           %shm_gc --dry-run                    leftovers of killed kernels
               %shm_doctor                          check this machine
All flags      %shm_create -h                       Defaults: %config ShmMagics"""
