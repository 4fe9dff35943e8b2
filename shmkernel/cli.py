"""The command line, ``shmkernel list`` and so on: a function for each command, its docstring the help."""

from __future__ import annotations

import argparse
import contextlib
import inspect
import io
import json
import os
import re
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import shmkernel as shm
from shmkernel import render
from shmkernel._core import capacity, counts, paths, records, registry, segment_file, sessions
from shmkernel.errors import ShmError, UnsupportedError

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable, Iterable, Sequence

    from shmkernel.verbs.listing import Info

    Run = Callable[[Namespace], int | None]

_ERROR, _INTERRUPTED, _PIPE_CLOSED = 1, 130, 141  # the last two as a shell says of SIGINT and SIGPIPE
_QUICKEST = 0.05  # seconds
_commands: dict[str, tuple[Run, tuple[_Argument, ...]]] = {}


class _Argument(NamedTuple):
    flag: str
    help: str
    options: dict[str, Any]  # argparse's


def _command(name: str, *arguments: _Argument) -> Callable[[Run], Run]:
    def add(run: Run) -> Run:
        _commands[name] = run, arguments
        return run

    return add


def _interval(text: str) -> float:
    return counts.seconds_given(text, least=_QUICKEST)


_NAME = _Argument("name", "a segment's name", {"metavar": "NAME"})
_NAMES = _Argument("name", "names, as in: shmkernel list", {"metavar": "NAME", "nargs": "+"})
_FILE = _Argument("file", "its path", {"metavar": "FILE"})
_SHOWN = _Argument("name", "whose content is shown first", {"metavar": "NAME", "nargs": "?", "default": ""})
_EVERY = _Argument(
    "--every", "how often to look, by default every 0.25", {"metavar": "SECONDS", "type": _interval, "default": 0.25}
)
_JSON = _Argument("--json", "print objects, for programs", {"action": "store_true"})
_LIFETIME = _Argument("--lifetime", "by default keep", {"choices": records.LIFETIMES, "default": "keep"})
_DRY_RUN = _Argument("--dry-run", "only say what would be unlinked", {"action": "store_true"})
_SINCE = _Argument(
    "--since", "known so far; by default the present one", {"metavar": "VERSION", "type": counts.version_given}
)
_TIMEOUT = _Argument("--timeout", "to wait at most", {"metavar": "SECONDS", "type": counts.seconds_given})
_REPLACE = _Argument("--replace", "take the name from the segment that has it", {"action": "store_true"})


@_command("list", _JSON)
def _list(args: Namespace) -> None:
    """Show what is shared, by whom, and who has it attached.

    --json prints a list of objects with these keys, to which a later version may add:

      name, kind      what to attach, and the kind of value, "array" for one
      type            for people: "int16 (344, 403)"
      dtype, shape    of an array, else null; the shape is a list of numbers
      order           "C" or "F", else null
      size            bytes of the segment
      owner           notebook or program that made it
      owner_pid       its process, or null
      owner_alive     whether that lives
      attached        pids of those who have it attached
      elsewhere       whether it is attached out of sight, in another container
      lifetime        "session", "attached" or "keep"
      created         seconds since 1970
      path            the file
      version         how often its content was published
      state           "", or "damaged": then "type" says why
    """
    rows = shm.list()
    print(_json(rows) if args.json else _as_typed_here(render.table(rows)))


@_command("info", _NAMES, _JSON)
def _info(args: Namespace) -> None:
    """Show all that is known of one segment, or of several.

    --json prints the objects that "shmkernel list --json" has for them.
    """
    rows = [shm.info(name) for name in args.name]
    print(_json(rows) if args.json else _as_typed_here("\n\n".join(map(render.card, rows))))


@_command("watch", _SHOWN, _EVERY)
def _watch(args: Namespace) -> None:
    """Show what is shared, live, with the content of one segment.

    The arrow keys choose the segment, q ends it. It needs rich: pip install "shmkernel[terminal]". Without a terminal
    it prints once what it would show.
    """
    if args.name:
        _check([args.name])
    try:
        from shmkernel.monitor.terminal import watch  # noqa: PLC0415  rich comes with it
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("rich"):
            raise
        raise UnsupportedError('shmkernel watch needs rich: pip install "shmkernel[terminal]"') from None
    watch(args.name, args.every)


@_command("keep", _NAMES, _LIFETIME)
def _keep(args: Namespace) -> None:
    """Change how long a segment lives.

    keep        until it is unlinked by hand, or the machine restarts
    attached    until the last process lets go of it: at once, if none has it
    session     until its owner ends: at once, if that has ended
    """
    _check(args.name)
    for name in args.name:
        print(f"{name}: lifetime {shm.keep(name, args.lifetime).lifetime}")


@_command("unlink", _NAMES)
def _unlink(args: Namespace) -> None:
    """Remove segments, whoever made them.

    Those who have one attached keep its memory until they let go. If a name does not exist, nothing is removed.
    """
    _check(args.name)
    labels = {one.pid: one.label for one in sessions.everyone()}
    attached = registry.holders()
    for name in args.name:
        found = os.lstat(paths.path_of(name))
        shm.unlink(name)
        pids = sorted({*attached.get((found.st_dev, found.st_ino), ())})
        still = ", ".join(f"{render.clean(labels.get(pid, 'process'))} ({pid})" for pid in pids)
        print(f"{name}: unlinked{f'; still attached by {still}' if still else ''}")


@_command("wait", _NAME, _SINCE, _TIMEOUT)
def _wait(args: Namespace) -> None:
    """Sleep until there is something new, and print its version.

    That is when somebody publishes it, leaves its exclusive lock, or replaces it. A name without a segment is waited
    for until it has one. The exit status is 1 when the time is over, or the segment unlinked.
    """
    print(shm.wait(args.name, args.since, args.timeout))


@_command("gc", _DRY_RUN)
def _gc(args: Namespace) -> None:
    """Unlink what ended kernels have left.

    There is something only where a kernel's watchdog was killed too; the next session to begin does the same.
    """
    over = shm.gc(dry_run=args.dry_run)
    for name, size in over:
        print(f"{name}: {'would be unlinked' if args.dry_run else 'unlinked'}, {capacity.human(size)}")
    if not over:
        print("Ended kernels have left nothing")


@_command("save", _NAME, _FILE)
def _save(args: Namespace) -> None:
    """Write a segment to a file.

    An array becomes a .npy file, under exactly that path; an older file is replaced when the new one is whole.
    """
    shm.save(args.name, args.file)
    print(f"{args.name}: saved to {args.file}, {capacity.human(os.stat(args.file).st_size)}")


@_command("load", _NAME, _FILE, _REPLACE)
def _load(args: Namespace) -> None:
    """Share the content of a file, a .npy file.

    The lifetime is keep, until "shmkernel unlink NAME", since a segment of the usual lifetime, session, would end
    with this command, at once. When a notebook has attached it: "shmkernel keep NAME --lifetime attached".
    """
    shm.load(args.name, args.file, mode="r", lifetime="keep", replace=args.replace)
    found = shm.info(args.name)
    print(
        f"{found.name}: {render.what(found)}, "
        f"kept until shmkernel unlink {found.name}. In a notebook: %shm_attach {found.name}"
    )


@_command("doctor")
def _doctor(_: Namespace) -> int:
    """Check what this machine allows, and name cures.

    The exit status is 1 if something fails.
    """
    found = shm.doctor()
    for level, text, cure in found:
        print(_as_typed_here(f"{level:4}  {text}" + (f"\n      {cure}" if cure else "")))
    return _ERROR if any(one.level == "fail" for one in found) else 0


@_command("demo")
def _demo(_: Namespace) -> int:
    """Let two real kernels share an array, then kill one.

    It takes some seconds, needs matplotlib for its data (pip install "shmkernel[demo]"), and leaves nothing behind.
    The exit status is 0 only if everything happened as promised.
    """
    from shmkernel.demo import main  # noqa: PLC0415  jupyter_client comes with it

    return main()


class _Parser(argparse.ArgumentParser):
    def _print_message(self, message: str, file: Any = None) -> None:  # noqa: ANN401  as in the base class
        """Let errors of writing through, which argparse hides."""
        if message and (file := file or sys.stderr) is not None:
            file.write(message)


def argument_parser() -> argparse.ArgumentParser:
    """Make the parser of all commands; ``run`` among its results is the function to call with them.

    Examples
    --------
    >>> argument_parser().parse_args(["keep", "x"]).lifetime
    'keep'
    """
    parser = _Parser("shmkernel", description=shm.__doc__, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"shmkernel {shm.__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, (run, arguments) in _commands.items():
        text = inspect.getdoc(run) or ""
        command = commands.add_parser(
            name, help=text.partition("\n")[0].rstrip("."), description=text, allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        for flag, help_, options in arguments:
            command.add_argument(flag, help=help_, **options)
        command.set_defaults(run=run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. The exit status is 0, 1 after an error of ours, or 2, by SystemExit, for a misuse."""
    written = _open_output()
    try:
        try:
            status = _run(argv)
        except SystemExit as done:  # argparse's: a misuse, or help
            if done.code:
                raise
            status = 0
        sys.stdout.flush()
    except BrokenPipeError:
        _discard_output()
        return _PIPE_CLOSED
    except OSError as error:
        _discard_output()
        return _complain(f"cannot write what there is to say: {error.strerror or error}")
    if not written:
        return _complain("cannot write what there is to say: standard output is closed")
    return status


def _run(argv: Sequence[str] | None) -> int:
    args = argument_parser().parse_args(argv)
    try:
        status: int | None = args.run(args)
    except ShmError as error:
        return _complain(_as_typed_here(error.message))
    except OSError as error:
        if error.filename is None:  # written to standard output
            raise
        return _complain(f"{error.filename}: {error.strerror}")
    except KeyboardInterrupt:
        return _INTERRUPTED
    return status or 0


def _complain(message: str) -> int:
    if sys.stderr is not None:
        with contextlib.suppress(OSError):
            print(f"shmkernel: {message}", file=sys.stderr)
    return _ERROR


def _open_output() -> bool:
    """Let standard output take every character, and say whether there is one."""
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  until the process ends
        return False
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # ASCII has no letters for many a file's name
    return True


def _discard_output() -> None:
    """Give what is left in the buffer a place to go."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _as_typed_here(text: str) -> str:
    """Turn the magics in a message into commands, where there is such a command.

    Examples
    --------
    >>> _as_typed_here("Inspect: %shm_info x. Live names: %shm_list. Share another: %shm_create y")
    'Inspect: shmkernel info x. Live names: shmkernel list. Share another: %shm_create y'
    """
    text = text.replace("%shm_help", "shmkernel --help")
    return re.sub(rf"%shm_(?=(?:{'|'.join(_commands)})\b)", "shmkernel ", text)


def _json(rows: Sequence[Info]) -> str:
    return json.dumps([_as_object(one) for one in rows], indent=2)


def _as_object(row: Info) -> dict[str, object]:
    fields = row._asdict() | {"attached": [holder.pid for holder in row.attached]}
    del fields["mine"], fields["stayed"]  # this process owns nothing, and has kept nothing
    return fields


def _check(wanted: Iterable[str]) -> None:
    for name in wanted:
        if registry.inode_at(name) is None:
            raise segment_file.missing(name)
