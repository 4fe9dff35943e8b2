"""The bytes of an object's segment.

    0   prefix   64 bytes: magic, sizes, signature
        head     JSON: what listings show
        index    start and size of each buffer, 8 bytes each, little-endian, at a multiple of 8
        buffers  each at a multiple of 64
        stream   the rest of the file, at a multiple of 64

    prefix   8s magic | I size of the head | I number of buffers | Q start of the stream | Q its size | 32s signature

Head, index and stream say what the object is; buffers are the memory of arrays, which every process maps. Numbers are
checked against the size of the file before they are used.
"""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable, Iterator, Sequence

MAGIC = b"shmkobj\1"
_PREFIX = struct.Struct("<8sIIQQ32s")
_ENTRY = struct.Struct("<QQ")
_SIGNED = _PREFIX.size - 32  # bytes of the prefix in front of the signature
_ALIGN = 64
PIECE = 16 << 20  # bytes between two updates of the progress bar, where Ctrl-C can interrupt
_LONGEST = 12 << 10  # bytes of a head
_TEXT = 80  # characters
PLAIN, PICKLE = "plain", "pickle"


class Head(NamedTuple):
    """What is known of an object without its content: ``copied`` bytes in its stream, ``shared`` in its buffers.

    ``modules`` maps the names of packages to their versions. ``tree`` has a name and a description of each part.
    """

    content: str
    type: str
    text: str
    shared: int
    copied: int
    python: str
    modules: dict[str, str]
    tree: list[list[str]]


class Buffer(NamedTuple):
    """Memory to write: ``pieces`` yields as many bytes as it has."""

    nbytes: int
    pieces: Callable[[], Iterator[memoryview]]


class Opened(NamedTuple):
    """A segment, checked: ``front`` is a private copy of all in front of the buffers, ``stream`` of the stream."""

    head: Head
    buffers: list[memoryview]
    stream: bytes
    signature: bytes
    front: bytes


def short(text: str) -> str:
    """Cut a text that a head holds."""
    return text if len(text) <= _TEXT else f"{text[: _TEXT - 1]}…"


def whole(data: memoryview) -> Buffer:
    """Return the buffer that consists of these bytes."""
    return Buffer(len(data), lambda: (data[begin : begin + PIECE] for begin in range(0, len(data), PIECE)))


def _up(number: int, to: int) -> int:
    return -(-number // to) * to


def _encode(head: Head) -> bytes:
    """Encode a head, without its tree or modules if it would be too long."""
    for shorter in (head, head._replace(tree=[]), head._replace(tree=[], modules={})):
        text = json.dumps(shorter._asdict()).encode()
        if len(text) <= _LONGEST:
            break
    return text


def lay_out(
    head: Head, buffers: Sequence[Buffer], stream: bytes, sign: Callable[[bytes, bytes], bytes] | None = None
) -> tuple[int, Callable[[], Iterator[memoryview]]]:
    """Return the size of a segment, and a function that yields its bytes. The buffers are read when they are written.

    `sign` returns the signature of what is in front of the buffers, and of the stream.
    """
    text = _encode(head)
    text += b" " * (-len(text) % 8)
    end = _PREFIX.size + len(text) + _ENTRY.size * len(buffers)
    entries = bytearray()
    for buffer in buffers:
        start = _up(end, _ALIGN)
        end = start + buffer.nbytes
        entries += _ENTRY.pack(start, buffer.nbytes)
    start = _up(end, _ALIGN)

    def prefix(signature: bytes) -> bytes:
        return _PREFIX.pack(MAGIC, len(text), len(buffers), start, len(stream), signature)

    rest = text + bytes(entries)
    front = prefix(sign(prefix(b"")[:_SIGNED] + rest, stream) if sign else b"") + rest

    def pieces() -> Iterator[memoryview]:
        yield memoryview(front)
        at = len(front)
        for buffer in (*buffers, whole(memoryview(stream))):
            yield memoryview(bytes(-at % _ALIGN))
            yield from buffer.pieces()
            at = _up(at, _ALIGN) + buffer.nbytes

    return start + len(stream), pieces


def head_of(data: bytes, size: int) -> Head:
    """Return the head of a segment of `size` bytes that begins with `data`; ValueError if it is damaged."""
    length, *_ = _sizes(data, size)
    try:
        facts = json.loads(data[_PREFIX.size : _PREFIX.size + length])
        head = Head(**facts)
        modules = [text for pair in head.modules.items() for text in pair]
        texts = [head.content, head.type, head.text, head.python, *modules, *(text for _, text in head.tree)]
        if not _are(str, [*texts, *(name for name, _ in head.tree)]) or not _are(int, [head.shared, head.copied]):
            raise TypeError("a field has another type")  # noqa: TRY301  handled below
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"its head makes no sense ({str(error)[:_TEXT]})") from None
    return head


def _are(kind: type, values: Sequence[object]) -> bool:
    return {*map(type, values)} <= {kind}


def _sizes(data: bytes, size: int) -> tuple[int, int, int, int, bytes]:
    """Return the numbers of a prefix; ValueError unless all that they tell of lies in the file."""
    if len(data) < _PREFIX.size or not data.startswith(MAGIC):
        raise ValueError("its first bytes are not those of an object")
    _, length, count, start, stream, signature = _PREFIX.unpack_from(data)
    front = _PREFIX.size + length + _ENTRY.size * count
    if length % 8 or not length or length > _LONGEST + 8 or front > start or start + stream != size or start % _ALIGN:
        raise ValueError("its sizes contradict each other")
    return length, count, start, stream, signature


def open_(mapping: mmap.mmap | memoryview) -> Opened:
    """Check a mapped segment; ValueError if it is damaged. The buffers hold the mapping."""
    data = memoryview(mapping)
    prefix = bytes(data[: _PREFIX.size])
    length, count, start, stream, signature = _sizes(prefix, len(data))
    end = _PREFIX.size + length + _ENTRY.size * count
    front = prefix + bytes(data[_PREFIX.size : end])  # what is checked and used is this copy
    head = head_of(front, len(data))
    buffers, last = [], end
    for begin, size in _ENTRY.iter_unpack(front[_PREFIX.size + length :]):
        if begin % _ALIGN or begin < last or begin + size > start:
            raise ValueError("a buffer lies outside of the file, or over another")
        last = begin + size
        buffers.append(data[begin:last])
    signed = front[:_SIGNED] + front[_PREFIX.size :]
    return Opened(head, buffers, bytes(data[start : start + stream]), signature, signed)
