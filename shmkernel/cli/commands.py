"""The commands, ``shmkernel list`` and so on. Each is a function; its docstring is the help text."""

from __future__ import annotations

import argparse
import base64
import fnmatch
import json
import os
import shlex
import sys
import textwrap
from typing import TYPE_CHECKING, Any, NamedTuple

import shmkernel as shm
from shmkernel import errors, render
from shmkernel._core import capacity, counts, oflock, paths, records, registry, segment_file, sessions
from shmkernel.verbs import listing

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable, Iterable, Sequence

    from shmkernel.verbs.listing import Info

    Run = Callable[[Namespace], int | None]

_QUICKEST = 0.05  # seconds
_MOST = 500  # rows of a listing in a terminal
_ORDERS: dict[str, Callable[[Info], Any]] = {
    "name": lambda info: info.name,
    "size": lambda info: -info.size,
    "age": lambda info: -(info.created or 0),
}
_FLAGS = {"allow_pickle": "pickle"}  # options of Python that flags have another name for
_commands: dict[str, tuple[Run, tuple[Argument, ...]]] = {}


class Argument(NamedTuple):
    """An argument of a command: ``options`` are those of argparse."""

    flag: str
    help: str
    options: dict[str, Any]  # for argparse


def command(name: str, *arguments: Argument) -> Callable[[Run], Run]:
    """Make a function the command `name`."""

    def add(run: Run) -> Run:
        _commands[name] = run, arguments
        return run

    return add


def _interval(text: str) -> float:
    return counts.seconds_given(text, least=_QUICKEST)


_NAME = Argument("name", "name of a segment", {"metavar": "NAME"})
NAMES = Argument("name", 'names of segments; "shmkernel list" shows them', {"metavar": "NAME", "nargs": "+"})
_PATTERNS = Argument(
    "name", "names of segments, or patterns with * ? and [] in quotes", {"metavar": "NAME", "nargs": "+"}
)
_YES = Argument("--yes", "remove all that a pattern matches", {"action": "store_true"})
_SORT = Argument(
    "--sort", "name (the default), size (largest first) or age (newest first)", {"choices": _ORDERS, "default": "name"}
)
_FILE = Argument("file", "path of the file", {"metavar": "FILE"})
_KIND = Argument("--kind", "kind of segment where no bytes tell it: list, or raw for any file", {"metavar": "KIND"})
_SHOWN = Argument("name", "show the content of this segment first", {"metavar": "NAME", "nargs": "?", "default": ""})
_EVERY = Argument(
    "--every", "time between updates, by default 0.25", {"metavar": "SECONDS", "type": _interval, "default": 0.25}
)
_JSON = Argument("--json", "print JSON, for programs", {"action": "store_true"})
_PNG = Argument("--png", "write a picture of it to this file", {"metavar": "FILE"})
_LIFETIME = Argument(
    "--lifetime", "the new lifetime, by default keep", {"choices": records.LIFETIMES, "default": "keep"}
)
_DRY_RUN = Argument("--dry-run", "only print what would be removed", {"action": "store_true"})
_SINCE = Argument(
    "--since", "last version you have seen, by default the current one",
    {"metavar": "VERSION", "type": counts.version_given},
)  # fmt: skip
_TIMEOUT = Argument("--timeout", "longest time to wait", {"metavar": "SECONDS", "type": counts.seconds_given})
_SHARED = Argument("--hosts", "show what the joined hosts share", {"action": "store_true"})
_REPLACE = Argument("--replace", "replace an existing segment of this name", {"action": "store_true"})
_PICKLE = Argument("--pickle", "run the code of an object that is not signed by you", {"action": "store_true"})


@command("list", _SORT, _JSON, _SHARED)
def _list(args: Namespace) -> None:
    """Show all segments: who made them, and who has them attached.

    A terminal shows the first 500.

    --json prints a list of objects with these keys; later versions may add more:

      name            the name to attach
      kind            "array", "list", "dict", "raw", ...
      type            description for people: "int16 (344, 403)"
      dtype, shape    of an array, else null; the shape is a list of numbers
      order           "C" or "F" for an array, else null
      size            size of the segment in bytes
      copied          bytes of an object that each process copies when it attaches; it shares the others
      owner           the notebook or program that made it
      owner_pid       process id of the owner, or null
      owner_alive     whether the owner still runs
      attached        process ids that have it attached
      elsewhere       whether a process in another container has it attached
      lifetime        "session", "attached" or "keep"
      created         seconds since 1970
      path            path of the file
      version         how often its content was published
      origin          of a snapshot: host, name, inode, version and time (created) of what it was copied from, else null
      state           "", or "damaged" or "unreadable"; then "type" gives the reason
      recipe          fingerprints of the cell and values that %%shm_cache kept it for, or ""
    """
    if args.hosts:
        offers = render.Offers(shm.offers())
        print(json.dumps([one._asdict() for one in offers], indent=2) if args.json else offers)
        return
    width = None if args.json else render.terminal_width()
    if width and args.sort == "name":
        rows, count, size = listing.first(_MOST)
    else:
        rows = sorted(shm.list(), key=_ORDERS[args.sort])
        count, size = len(rows), sum(row.size for row in rows)
    if args.json:
        print(_json(rows))
    elif width and count > _MOST:
        below = render.summary(count, size), f"Only the first {_MOST} are shown. For the others: shmkernel list | less"
        print(render.table(rows[:_MOST], width=width, below=below))
    elif rows:
        print(render.table(rows, width=width))
    else:
        print(f"{render.nothing()}. In a notebook: %shm_create NAME")


@command("info", NAMES, _JSON)
def _info(args: Namespace) -> None:
    """Show all details of segments.

    --json prints the same objects as "shmkernel list --json".
    """
    rows = [shm.info(name) for name in args.name]
    print(_json(rows) if args.json else "\n\n".join(map(render.card, rows)))


@command("watch", _SHOWN, _EVERY)
def _watch(args: Namespace) -> None:
    """Show all segments and the content of one, and update them live.

    The arrow keys select a segment, q quits. It needs rich: pip install "shmkernel[terminal]". If the output is not
    a terminal, it prints once and ends.
    """
    if args.name:
        _check([args.name])
    try:
        from shmkernel.monitor.terminal import watch  # noqa: PLC0415  rich comes with it
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("rich"):
            raise
        raise errors.UnsupportedError('shmkernel watch needs rich: pip install "shmkernel[terminal]"') from None
    watch(args.name, args.every)


@command("keep", NAMES, _LIFETIME)
def _keep(args: Namespace) -> None:
    """Change the lifetime of segments.

    keep        until somebody unlinks it, or the machine restarts
    attached    until the last process lets go of it (removed at once if no process has it)
    session     until its owner ends (removed at once if it has ended already)
    """
    _check(args.name)
    for name in args.name:
        print(f"{name}: lifetime {shm.keep(name, args.lifetime).lifetime}")


@command("unlink", _PATTERNS, _YES)
def _unlink(args: Namespace) -> None:
    """Remove segments, no matter who made them.

    Processes that have one attached keep its memory until they let go. If one of the names does not exist, nothing
    is removed. A pattern such as 'run_*' shows what it matches; add --yes to remove that.
    """
    names = _matching(args.name)
    if names != args.name and not args.yes:
        print(render.table([shm.info(name) for name in names], width=render.terminal_width()))
        again = shlex.join(["shmkernel", "unlink", *args.name, "--yes"])
        raise errors.ShmError(f"nothing is removed yet. To remove what is listed: {again}")
    labels = {session.pid: session.label for session in sessions.everyone()}
    attached = oflock.holders()
    for name in names:
        status = os.lstat(paths.path_of(name))
        shm.unlink(name)
        pids = sorted({*attached.get((status.st_dev, status.st_ino), ())})
        still = ", ".join(f"{render.clean(labels.get(pid, 'process'))} ({pid})" for pid in pids)
        print(f"{name}: unlinked{f'; still attached by {still}' if still else ''}")


@command("wait", _NAME, _SINCE, _TIMEOUT)
def _wait(args: Namespace) -> None:
    """Wait until a segment has a new version, and print it.

    The version increases when somebody publishes the segment, leaves its exclusive lock, or replaces it. If there is
    no such segment yet, wait for it. The exit status is 1 after a timeout, or if the segment is unlinked. "hostA:x" is
    what another host shares: wait until it is newer than its snapshot here.
    """
    if not paths.on_host(args.name) and registry.inode_at(args.name) is None:
        print(f"shmkernel: no segment named {args.name!r}. Waiting until there is one", file=sys.stderr)
    print(shm.wait(args.name, args.since, args.timeout))


@command("gc", _DRY_RUN)
def _gc(args: Namespace) -> None:
    """Remove segments that ended kernels have left behind.

    This is rarely needed: a kernel leaves segments only if its watchdog was killed too, and the next kernel that
    starts removes them as well.
    """
    leftovers = shm.gc(dry_run=args.dry_run)
    for name, size in leftovers:
        print(f"{name}: {'would be unlinked' if args.dry_run else 'unlinked'}, {capacity.human(size)}")
    if not leftovers:
        print("Nothing to clean up")


@command("save", _NAME, _FILE, _PICKLE)
def _save(args: Namespace) -> None:
    """Write a segment to a file.

    An array becomes a .npy file at exactly this path. The suffix chooses among the formats of a kind: .parquet, .csv,
    .feather and .arrow for a table, .json and .msgpack for a dict, .npz and .safetensors for a mapping of arrays, .pkl
    for an object. An older file is replaced when the new one is complete.
    """
    shm.save(args.name, args.file, allow_pickle=args.pickle or None)
    print(f"{args.name}: saved to {args.file}, {capacity.human(os.stat(args.file).st_size)}")


@command("load", _NAME, _FILE, _KIND, _REPLACE, _PICKLE)
def _load(args: Namespace) -> None:
    """Share the content of a file.

    An array comes from a .npy file, a table from a .parquet file, and so on. A pickle needs --pickle, since to load it
    runs code.

    The segment has the lifetime keep: it stays until "shmkernel unlink NAME". The usual lifetime, session, would end
    together with this command. Once a notebook has attached it, "shmkernel keep NAME --lifetime attached" removes it
    after the last use.
    """
    options = {"kind": args.kind, "replace": args.replace, "allow_pickle": args.pickle}
    shm.load(args.name, args.file, mode="r", lifetime="keep", **options)
    segment = shm.info(args.name)
    print(
        f"{segment.name}: {render.what(segment)}, "
        f"kept until shmkernel unlink {segment.name}. In a notebook: %shm_attach {segment.name}"
    )


@command("preview", _NAME, _PNG, _JSON)
def _preview(args: Namespace) -> None:
    """Print some values of a segment.

    Nothing is attached. --json prints an object: "text", and "png", a small picture in base64 or null.
    """
    from shmkernel import agents  # noqa: PLC0415  the other commands do without

    shown = agents.preview(args.name)
    if args.png:
        if not shown["png"]:
            raise errors.UnsupportedError(f"{args.name!r} is shown as text, there is no picture of it", name=args.name)
        with open(args.png, "wb") as file:
            file.write(base64.b64decode(shown["png"]))
    print(json.dumps(shown, indent=2) if args.json else shown["text"])


@command("doctor", _JSON)
def _doctor(args: Namespace) -> int:
    """Check this machine, and print a cure for each problem.

    The exit status is 1 if a check fails. --json prints a list of objects with "level", "text" and "cure".
    """
    findings = shm.doctor()
    if args.json:
        print(json.dumps([finding._asdict() for finding in findings], indent=2))
    for level, text, cure in [] if args.json else findings:
        print(f"{level:4}  {text}" + (f"\n      {cure}" if cure else ""))
    return int(any(finding.level == "fail" for finding in findings))


@command("demo")
def _demo(_: Namespace) -> int:
    """Let two real kernels share an array, then kill one.

    It takes a few seconds, needs matplotlib for its data (pip install "shmkernel[demo]"), and leaves nothing behind.
    The exit status is 0 only if everything worked as promised.
    """
    from shmkernel.demo import main  # noqa: PLC0415  jupyter_client comes with it

    return main()


@command("help", Argument("command", "one of the commands", {"metavar": "COMMAND", "nargs": "*"}))
def _help(args: Namespace) -> None:
    """Show what a command is for, or list all of them."""
    argument_parser().parse_args([*args.command, "--help"])


class _Parser(argparse.ArgumentParser):
    def _print_message(self, message: str, file: Any = None) -> None:
        """Write without hiding errors, as argparse would."""
        if message and (file := file or sys.stderr) is not None:
            file.write(message)


class _Version(argparse.Action):
    """Look the version up only when it is asked for: that takes as long as all else at the start."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print(f"shmkernel {shm.__version__}")
        parser.exit()


def argument_parser() -> argparse.ArgumentParser:
    """Make the parser of all commands; the parsed ``run`` is the function that carries the command out.

    Examples
    --------
    >>> argument_parser().parse_args(["keep", "x"]).lifetime
    'keep'
    """
    parser = _Parser("shmkernel", description=shm.__doc__, allow_abbrev=False)
    parser.add_argument("--version", action=_Version, nargs=0, help="show program's version number and exit")
    parser.set_defaults(run=lambda _: parser.print_help())
    commands = parser.add_subparsers(metavar="COMMAND")
    for name, (run, arguments) in _commands.items():
        first, _, rest = (run.__doc__ or "").partition("\n")
        text = f"{first}\n{textwrap.dedent(rest)}".strip()
        command = commands.add_parser(
            name, help=text.partition("\n")[0].rstrip("."), description=text, allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        for flag, help_, options in arguments:
            command.add_argument(flag, help=help_, **options)
        command.set_defaults(run=run)
    return parser


def in_shell(cure: errors.Cure) -> str:
    """Word a cure as a command, or as nothing where no command does it.

    Examples
    --------
    >>> in_shell(errors.Cure("Remove it", "unlink", "/a b")), in_shell(errors.Cure("To write", "attach", "x"))
    ("shmkernel unlink '/a b'", '')
    """
    options = {_FLAGS.get(name, name): value for name, value in cure.options.items()}
    flags = [f"--{name}" if value is True else f"--{name} {value}" for name, value in options.items()]
    if not cure.verb:
        return " ".join(flags)
    _, known = _commands.get(cure.verb, (None, None))
    if known is None or not {f"--{name}" for name in options} <= {one.flag for one in known}:
        return ""
    return " ".join(["shmkernel", cure.verb, *map(_quoted, cure.arguments), *flags])


def _quoted(value: object) -> str:
    """Quote a word for the shell; what cannot be typed is written in escapes, as bash, zsh and ksh read them."""
    text = str(value)
    if text.isprintable():
        return shlex.quote(text)
    return "$'" + "".join(f"\\x{byte:02x}" for byte in os.fsencode(text)) + "'"


def _json(rows: Sequence[Info]) -> str:
    return json.dumps([render.as_object(row) for row in rows], indent=2)


def _matching(wanted: Sequence[str]) -> list[str]:
    """Return these names, and in place of each pattern the names that it matches; all of them exist."""
    names: dict[str, None] = {}
    for pattern in wanted:
        if pattern.startswith("/") or not set(pattern) & set("*?["):  # a name of another program may have these
            _check([pattern])
            names[pattern] = None
        elif found := fnmatch.filter(sorted(paths.names()), pattern):
            names.update(dict.fromkeys(found))
        else:
            message = f"no segment matches {pattern!r}. Live names: {in_shell(errors.Cure('', 'list'))}"
            raise errors.NotFoundError(message, name=pattern)
    return [*names]


def _check(wanted: Iterable[str]) -> None:
    for name in wanted:
        if registry.inode_at(name) is None:
            raise segment_file.missing(name)
