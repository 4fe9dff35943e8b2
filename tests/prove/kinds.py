"""The kinds of segments as the parts of the proof use them: one line a kind.

Every value carries a stamp, a number below 2**31, several times over. A value is whole if all its copies are equal.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

import shmkernel as shm

if TYPE_CHECKING:
    from collections.abc import Callable

COPIES = 64


@dataclasses.dataclass(frozen=True)
class Subject:
    """How to make, change and read a segment of one kind.

    `create` takes a name, a stamp and options of `shm.create`. `change` gives what `shm.attach` returned another stamp,
    while nobody else writes. `stamps` returns all stamps that a reader finds.
    """

    kind: str
    create: Callable[..., Any]
    change: Callable[[Any, int], None]
    stamps: Callable[[Any], set[int]]


def _creator(value: Callable[[int], Any]) -> Callable[..., Any]:
    def create(name: str, stamp: int, **options: Any) -> Any:
        return shm.create(name, value(stamp), **options)

    return create


def _change_array(x: Any, stamp: int) -> None:
    x[:] = stamp


def _change_list(x: Any, stamp: int) -> None:
    for index in range(len(x)):
        x[index] = stamp


def _change_raw(x: Any, stamp: int) -> None:
    x.buf[:] = stamp.to_bytes(4, "little") * COPIES


def _change_dict(x: Any, stamp: int) -> None:
    with x.transaction():
        for key in range(COPIES):
            x[str(key)] = stamp


def _make_raw(stamp: int) -> bytes:
    return stamp.to_bytes(4, "little") * COPIES


def _create_ring(name: str, stamp: int, **options: Any) -> Any:
    ring = shm.create(name, ring=4, shape=COPIES, dtype=int, **options)
    ring.put(np.full(COPIES, stamp))
    return ring


def _change_ring(x: Any, stamp: int) -> None:
    x.put(np.full(COPIES, stamp))


def _ring_stamps(x: Any) -> set[int]:
    return set(x.latest().tolist())


KINDS = [
    Subject("array", _creator(lambda s: np.full(COPIES, s)), _change_array, lambda x: set(x.tolist())),
    Subject("list", _creator(lambda s: [s] * COPIES), _change_list, set),
    Subject("raw", _creator(_make_raw), _change_raw, lambda x: set(memoryview(bytes(x.buf)).cast("I"))),
    Subject("ring", _create_ring, _change_ring, _ring_stamps),
    Subject("dict", _creator(lambda s: {str(k): s for k in range(COPIES)}), _change_dict, lambda x: set(x.values())),
]
