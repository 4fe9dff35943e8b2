"""Segments with wrong numbers, dtypes and formats, made from a seed: the same at each run.

uv run python -m tests.kinds.hostile array 100000 7    # kind, how many, seed: what the test does with a few
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import mmap
import random
import re
import sys

import numpy as np

from shmkernel import kinds
from shmkernel.kinds import array
from shmkernel.kinds.lists import layout
from shmkernel.kinds.preview import Look, Source
from shmkernel.kinds.rings import kind

PATIENCE = 120  # seconds for one input; it takes a millisecond
NUMBERS = [
    *(0, 1, -1, 2, 3, 7, 8, 9, 16, 64, 127, 128, 255, 256, -8, 10**30),
    *(sign * 2**power + more for power in (15, 16, 31, 32, 40, 62, 63, 64) for more in (-1, 0) for sign in (1, -1)),
]
DTYPES = [
    "'|V0'", "'<U0'", "'|S0'", "'O'", "'T'", "[]", "{}", "()", "None", "True", "'<U536870911'",
    "'|V-8'", "'|V2147483647'",
    "('<i4', (2, 2))", "('<i4', (0, 2147483647))", "[('a', '<i4')]", "[('a', 'O')]", "[('a', '<f8', (2147483647,))]",
    "[('a', [], (99999, 99999)), ('b', '<i4')]", "'<M8[ns]'", "'<M8[99999999ns]'", "'<M8[0ns]'", "'<m8'", "'<f16'",
    "'i4,f8'", "'(9,9)i4'", "[('number', '<u8'), ('frame', '<f8', (3,))]", "[('', '|V3'), ('b', 'u1')]", "'<f2'",
    "'>f4'", "'?'", "[(('t', 'a'), '<i4')]",
]  # fmt: skip
PIECES = ["(", "[", "-", "{", "'", "\\x", "9" * 50, "1j", "lambda:", "é", "\0", "#", "...", "b'a'", "1e999", "*(1,)"]
FORMATS = [b"q", b"d", b"xxxxxxx?", b"xxxxxx?x", b"9999999s", b"0s", b"8s ", b"999999s ", b"s", b" ", b"", b"-1s"]


def arrays():
    """Give segments of arrays."""
    for dtype in ("<f8", "u1", "?", "<U3", "S5", "<M8[ns]", "<c16", "V4", "<f2", "V0"):
        for shape in ((3, 4), (10,), (), (2, 3, 3), (0, 3)):
            for order in "CF":
                value = np.zeros(shape, dtype, order)
                yield array.encode(shape, np.dtype(dtype), order) + value.tobytes(order)
    fields = np.dtype([("a", "<i4"), ("b", "<f8", (2,)), ("c", [("d", "U3")])])
    yield array.encode((4,), fields, "C") + bytes(4 * fields.itemsize)


def streams():
    """Give segments of rings."""
    for dtype, shape in (("<f8", (3,)), ("u1", (4, 4, 3)), ("<i4", (100,))):
        record = kind._record(np.dtype(dtype), shape)
        data = bytearray((head := kind.encode(4, record)) + bytes(4 * record.itemsize))
        for at in range(3):
            data[len(head) + at * record.itemsize] = at + 1
        yield bytes(data)


def lists():
    """Give segments of lists."""
    for items in ([1, 2], [0.5], [1, "a", None, 0.5, b"b", True], ["é" * 9, "x" * 100, b"\0a\0"], [None], ["a"] * 60):
        yield b"".join(layout.encode(items))


SEEDS = {"array": arrays, "ring": streams, "list": lists, "raw": lambda: [b"abc", bytes(4096)]}


class Mutations:
    """Yields segments of a kind, each damaged in a few ways."""

    def __init__(self, kind: str, seed: int) -> None:
        self.kind, self.random, self.seeds = kind, random.Random(seed), list(SEEDS[kind]())

    def number(self):
        return self.random.choice(NUMBERS) if self.random.random() < 0.7 else self.random.randrange(-300, 300)

    def one(self):
        data = self.random.choice(self.seeds)
        for _ in range(self.random.randint(1, 2)):
            data = self.random.choice([self.cut, self.flip, self.grow, *[self.typical] * 6])(data) or b"\0"
        return data

    def cut(self, data):
        return data[: self.random.randrange(len(data) + 1)]

    def grow(self, data):
        return data + bytes(self.random.randrange(300))

    def flip(self, data):
        data = bytearray(data)
        for _ in range(self.random.randint(1, 4)):
            data[self.random.randrange(min(len(data), 200))] = self.random.randrange(256)
        return bytes(data)

    def typical(self, data):
        if self.kind in ("array", "ring") and self.random.random() < 0.85:
            return self.header(data)
        if self.kind == "list" and self.random.random() < 0.4:
            return self.put(data, self.random.choice(FORMATS).ljust(8, b"\0"))
        for _ in range(self.random.randint(1, 3)):
            data = self.put(data, (self.number() % 2**64).to_bytes(8, "little"))
        return data

    def put(self, data, word):
        at = self.random.randrange(max(len(data) // 8, 1)) * 8
        return data[:at] + word + data[at + 8 :]

    def header(self, data):
        """Change the text of a ``.npy`` header, and its length to match."""
        text, line, rest = data[10:].partition(b"\n")
        if not line:
            return data
        text = text.decode("latin-1").rstrip()
        for _ in range(self.random.randint(1, 3)):
            text = self.random.choice([self.a_number, self.a_dtype, self.a_shape, self.a_piece])(text)
        text += " " * (-(len(text) + 11) % 64) + "\n"
        head = text.encode("latin-1", "replace")
        return data[:8] + (len(head) & 0xFFFF).to_bytes(2, "little") + head + rest

    def a_number(self, text):
        places = list(re.finditer(r"-?\d+", text))
        place = self.random.choice(places) if places else re.search("$", text)
        return f"{text[: place.start()]}{self.number()}{text[place.end() :]}"

    def a_dtype(self, text):
        return re.sub("'descr': .*?, 'fort", lambda _: f"'descr': {self.random.choice(DTYPES)}, 'fort", text, count=1)

    def a_shape(self, text):
        shape = tuple(self.number() for _ in range(self.random.randint(0, 6)))
        return re.sub(r"'shape': \(.*?\)", f"'shape': {shape!r}", text, count=1)

    def a_piece(self, text):
        at = self.random.randrange(len(text) + 1)
        return text[:at] + self.random.choice(PIECES) * self.random.choice([1, 1, 3, 200]) + text[at:]


def touch(kind, value, memory, mutations):
    """Read all of a value, read it again after another process has stored to it, and store to a list."""
    for _ in range(3):
        _touch(kind, value)
        if kind in ("array", "raw"):
            return
        start = 0 if kind == "list" else value._memory.at * 8
        at = mutations.random.randrange(start, len(memory) - 7) // 8 * 8
        memory[at : at + 8] = (mutations.number() % 2**64).to_bytes(8, "little")
        if kind == "list":
            for position in range(min(len(value), 5)):
                try:
                    value[position] = mutations.random.choice([1, "a", b"bc", None, 0.5, True])
                except ValueError:
                    break


def _touch(kind, value):
    try:
        if kind == "array":
            value.tobytes(), value.tolist(), repr(value)
        elif kind == "list":
            list(value), repr(value), value.count(1), value.count("a"), value.format
        elif kind == "ring":
            frames, found = value.since(0), value.latest()
            [frames.ready() for _ in range(9)], repr(value), None if found is None else found.tolist()
        else:
            bytes(value)
    except SystemError:  # numpy's, for a number beyond Unicode
        pass


def try_all(kind: str, count: int, seed: int) -> int:
    """Describe, preview, open and read segments; return how many could be opened. Only ValueError is caught."""
    mutations, opened, kind_ = Mutations(kind, seed), 0, kinds.named(kind)
    faulthandler.dump_traceback_later(PATIENCE + count / 500, exit=True)
    try:
        for _ in range(count):
            opened += _try(kind, kind_, mutations)
    finally:
        faulthandler.cancel_dump_traceback_later()
    return opened


def _try(kind, kind_, mutations):
    data = mutations.one()
    try:
        for step in (
            lambda: kind_.describe(data[: kinds.HEAD], len(data)),
            lambda: _look(kind_, data),
        ):
            with contextlib.suppress(ValueError):
                step()
        memory = mmap.mmap(-1, len(data))
        memory[:] = data
        try:
            value = kind_.open(memory, "/dev/shm/shmk-0-x", "r+")
            touch(kind, value.buf if kind == "raw" and hasattr(value, "buf") else value, memory, mutations)
        except ValueError:
            return 0
    except Exception as error:
        error.add_note(f"the {kind} {data[:2000].hex()}")
        raise
    return 1


def _look(kind_, data):
    def read(at, size):
        assert 0 <= at < 2**63 > size >= 0, f"offset {at}, size {size}"  # what pread takes
        return data[at : at + size]

    seen = kind_.preview(Source(read, len(data)), Look((1, 2, 3), 7))
    assert len(json.dumps(seen.facts, allow_nan=False)) + len(seen.data) < 64 << 10


if __name__ == "__main__":
    print(try_all(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
