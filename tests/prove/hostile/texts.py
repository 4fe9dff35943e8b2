"""Parsers of texts: names, lines of magics, the command line, and the messages of a page or a peer."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from typing import TYPE_CHECKING, Any

from IPython.core.interactiveshell import InteractiveShell

import shmkernel as shm
from shmkernel import cli
from shmkernel._core import paths
from shmkernel.errors import ShmError
from shmkernel.monitor.widget import watch
from shmkernel.notebook import completion, magics, parsing, peer

if TYPE_CHECKING:
    import random
    from collections.abc import Callable


def text(data: bytes) -> str:
    """Return any text, with lone surrogates too."""
    return data.decode("utf-8", "surrogateescape")


_ODD = [
    None, True, False, 0, 1, -1, 2**31, 2**63, 2**64, 10**30, -(10**30), 0.5, 1e308, "", "x", "9" * 5000, "\0",
    "\udc80", "../x", "/x", [], [[]], [None], ["a"], [2**64], {}, {"": {}}, "session", "attached", "keep", "stdout",
]  # fmt: skip


def edited(data: bytes, chance: random.Random) -> bytes:
    """Change one value or key in a text of JSON."""
    try:
        top = [json.loads(data)]
    except (ValueError, RecursionError):
        return data[: chance.randrange(len(data) + 1)]
    parts = [(top, 0)]
    for inside, at in parts:
        value = inside[at]
        if isinstance(value, (list, dict)):
            parts += [(value, key) for key in (value if isinstance(value, dict) else range(len(value)))]
    inside, at = chance.choice(parts)
    match chance.randrange(4):
        case 0 if isinstance(inside, dict):
            del inside[at]
        case 1 if isinstance(inside, dict):
            inside[str(chance.choice(_ODD))] = inside.pop(at)
        case 2:
            inside[at] = [inside[at]]
        case _:
            inside[at] = chance.choice(_ODD)
    return json.dumps(top[0]).encode()


def names() -> Callable[[bytes], None]:
    """Ask for a segment by any name."""
    shm.create("elevation", shape=3)

    def act(data: bytes) -> None:
        name = text(data)
        for verb in (paths.path_of, shm.info, shm.attach, shm.unlink, shm.close, shm.keep):
            with contextlib.suppress(ShmError):
                verb(name)
        paths.called(f"/dev/shm/{name}")
        str(shm.NotFoundError(name, name=name))

    return act


def lines() -> Callable[[bytes], None]:
    """Parse and complete the line of each magic, and parse the values of its flags; no expression is evaluated."""
    parsers = [vars(function)["parser"] for function in vars(magics.ShmMagics).values() if "parser" in _vars(function)]
    shell = InteractiveShell.instance()
    parsing.evaluate = lambda *_: "a"  # nobody's code is run

    def act(data: bytes) -> None:
        line = text(data)
        for step in (
            lambda: parsers[len(line) % len(parsers)].parse_line(line, None),
            lambda: parsers[0].parse_line(line, {"n": 1}),
            lambda: list(completion._complete(shell, "shm_create", parsers[0], line)[2]),
            lambda: parsing.uncommented(line),
            lambda: parsing.expanded(line, {}),
            lambda: parsing.python(line, {}),
            lambda: parsing.split(line),
            lambda: parsing.number(line, None),
            lambda: parsing.number(line, "U3"),
            lambda: parsing.lengths(line),
            lambda: parsing.literal(line),
            lambda: parsing.size(line),
        ):
            with contextlib.suppress(ShmError, parsing.Helped):
                step()

    return act


def _vars(thing: object) -> dict[str, Any]:
    return getattr(thing, "__dict__", {})


LINES = [
    b"x --from a[0, 1] - -1 --order F", b"x y z --shape 3, 4 --dtype float32 --fill -1e-3", b"[1, 'a']", b"1, 2",
    b"x --list \"[1, 'a', None]\"", b"x --size 1.5 MiB", b"{n} $n.a $$ {{}} # comment", b"x --as other --mode r ;",
    b"--every 1", b"x --since 7 --timeout 0.5", b"x --ring 64 --shape 480,640,3 --lifetime keep --kind array", b"-h",
    b"(10,)", b"64K",
]  # fmt: skip


def commands() -> Callable[[bytes], None]:
    """Parse a command line; wrong arguments end it with status 2."""
    parser = cli.argument_parser()
    sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115  the child's end closes it

    def act(data: bytes) -> None:
        words = text(data).split("\0")
        with contextlib.suppress(SystemExit):
            parser.parse_args(words)
        cli.in_shell(shm.errors.Cure(words[0], words[-1], *words))

    return act


COMMANDS = [
    b"list\0--json", b"info\0x", b"watch\0x\0--every\0001", b"keep\0x\0--lifetime\0attached", b"wait\0x\0--since\0007",
    b"load\0x\0x.npy\0--replace", b"save\0x\0x.npy", b"gc\0--dry-run", b"unlink\0a\0b", b"wait\0x\0--timeout=1e3",
]  # fmt: skip


def clicks() -> Callable[[bytes], None]:
    """Send the monitor a message as its page does, but of any content."""
    shm.create("x", shape=(3, 4))
    monitor = watch("x")

    def act(data: bytes) -> None:
        try:
            content = json.loads(data)
        except (ValueError, RecursionError):
            return
        monitor._on_message(None, content, [])
        if data[-2:-1] == b"0":  # seldom: it takes a millisecond
            monitor._sampler.sample()

    return act


CLICKS = [
    b'{"do": "hello"}', b'{"do": "see", "view": "a", "on": true}',
    b'{"do": "look", "key": "x", "axes": [0, 1], "start": 50}',
    b'{"do": "act", "id": 1, "verb": "attach", "name": "x", "inode": "12"}',
    b'{"do": "act", "id": 1, "verb": "keep", "name": "x", "inode": "0"}',
]  # fmt: skip


def outputs() -> Callable[[bytes], None]:
    """Show a message that a peer's kernel has published, of any content."""
    shell = InteractiveShell.instance()
    shown = peer.PeerMagics(shell)
    sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115  the child's end closes it

    def act(data: bytes) -> None:
        try:
            kind, content = json.loads(data)
        except (ValueError, TypeError, RecursionError):
            return
        if isinstance(kind, str) and isinstance(content, dict):  # jupyter_client sees to that
            if kind == "error":
                error = peer._as_there("peer", content)
                str(error), "".join(error._render_traceback_())
            shown._publish("peer", {"msg_type": kind, "content": content, "metadata": {}, "buffers": []})

    return act


OUTPUTS = [
    b'["error", {"ename": "ValueError", "evalue": "a", "traceback": ["a"]}]',
    b'["stream", {"name": "stdout", "text": "a"}]', b'["display_data", {"data": {"text/plain": "a"}, "metadata": {}}]',
    b'["execute_result", {"data": {}, "metadata": {}, "transient": {"display_id": "a"}}]',
    b'["clear_output", {"wait": true}]', b'["comm_msg", {"comm_id": "a", "data": {}}]',
    b'["execute_reply", {"payload": [{"source": "set_next_input", "text": "a", "replace": false}]}]',
    b'["execute_reply", {"payload": [{"source": "page", "data": {"text/plain": "a"}}]}]',
]  # fmt: skip
