"""The command line: run one command, and say in one line what went wrong."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import TYPE_CHECKING

from shmkernel import errors
from shmkernel.cli import hosts as hosts
from shmkernel.cli.commands import argument_parser, in_shell

if TYPE_CHECKING:
    from collections.abc import Sequence

_ERROR, _INTERRUPTED, _PIPE_CLOSED = 1, 130, 141  # the last two: 128 + SIGINT, 128 + SIGPIPE


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Return 0, or 1 after an error; raise SystemExit(2) for wrong arguments."""
    written, before = _open_output(), errors.word
    errors.word = in_shell
    try:
        try:
            status = _run(argv)
        except SystemExit as done:  # from argparse, after help or wrong arguments
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
    finally:
        errors.word = before
    if not written:
        return _complain("cannot write what there is to say: standard output is closed")
    return status


def _run(argv: Sequence[str] | None) -> int:
    args = argument_parser().parse_args(argv)
    try:
        status: int | None = args.run(args)
    except errors.ShmError as error:
        return _complain(error.message)
    except OSError as error:
        if error.filename is None:  # from writing to standard output
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
    """Let standard output accept every character. Return whether there is a standard output."""
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  until the process ends
        return False
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # names of files may have letters that it cannot encode
    return True


def _discard_output() -> None:
    """Send what is left in the buffer to /dev/null, so that flushing it at exit raises no error."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
