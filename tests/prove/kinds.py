"""The kinds of segments as the parts of the proof use them: one line a kind.

Every value carries a stamp, a number below 2**31, several times over. A value is whole if all its copies are equal.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from typing import TYPE_CHECKING, Any

import numpy as np

import shmkernel as shm
from shmkernel import kinds

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

COPIES = 64


@dataclasses.dataclass(frozen=True)
class Subject:
    """How to make, change and read a segment of one kind.

    `value` returns what to share for a stamp. `change` gives what `shm.attach` returned another stamp, while nobody
    else writes. `stamps` returns all stamps that a reader finds. A segment without `value` is made empty, by its
    `options` alone, and then changed; no file holds such a one. `label` tells two subjects of one kind apart.
    """

    kind: str
    value: Callable[[int], Any] | None
    change: Callable[[Any, int], None] | None
    stamps: Callable[[Any], set[int]]
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    needs: tuple[str, ...] = ()  # modules that not every machine has
    label: str = ""
    suffix: str = ""  # of the files that it is saved to

    @property
    def name(self) -> str:
        """What this subject is called, in names of segments too."""
        return self.label or self.kind

    def create(self, name: str, stamp: int, **options: Any) -> Any:
        """Create a segment of this stamp."""
        made = shm.create(name, None if self.value is None else self.value(stamp), **self.options, **options)
        if self.value is None and self.change is not None:
            self.change(made, stamp)
        return made

    def save(self, name: str, path: str) -> None:
        """Save such a segment to a file."""
        shm.save(name, path, **({} if self.value is None else self.options))

    def load(self, name: str, path: str, **options: Any) -> Any:
        """Load a file that such a segment was saved to."""
        return shm.load(name, path, kind=self.kind, **self.options, **options)

    @property
    def fresh(self) -> bool:
        """Whether each `attach` makes a new value."""
        return bool(getattr(kinds.named(self.kind), "fresh", False))

    @property
    def forms(self) -> tuple[str, ...]:
        """What `attach` takes as ``as_``, as far as its libraries are installed."""
        forms: tuple[str, ...] = getattr(kinds.named(self.kind), "forms", ())
        return tuple(form for form in forms if form == "arrow" or importlib.util.find_spec(form))


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


def _change_ring(x: Any, stamp: int) -> None:
    x.put(np.full(COPIES, stamp))


def _ring_stamps(x: Any) -> set[int]:
    return set(x.latest().tolist())


def _make_table(stamp: int) -> Any:
    import pandas as pd  # these three are in the group `prove`
    import polars as pl
    import pyarrow as pa

    columns = {"number": np.full(COPIES, stamp), "text": [str(stamp)] * COPIES}
    return (pl.DataFrame, pd.DataFrame, pa.table)[stamp % 3](columns)


def _table_stamps(x: Any) -> set[int]:
    columns = x.fetchnumpy() if hasattr(x, "fetchnumpy") else x  # a relation of DuckDB, where that is installed
    return {int(stamp) for column in ("number", "text") for stamp in np.asarray(columns[column]).tolist()}


@dataclasses.dataclass
class Parts:
    """A plain object: memory that is shared, and parts that each process copies."""

    memory: Any
    copied: list[str]


class Pickled(Parts):
    """As such, but its class lets it be pickled alone."""

    def __init__(self, memory: Any, copied: list[str]) -> None:
        super().__init__(memory, copied)
        self.more = len(copied)  # which is no field


def _make_parts(stamp: int) -> Parts:
    return Parts(np.full(2 * COPIES, stamp), [str(stamp)] * COPIES)


def _make_pickled(stamp: int) -> Pickled:
    return Pickled(np.full(2 * COPIES, stamp), [str(stamp)] * COPIES)


def _parts_stamps(x: Any) -> set[int]:
    return {*x.memory.tolist(), *map(int, x.copied)}


_ALL = [
    Subject("array", lambda s: np.full(COPIES, s), _change_array, lambda x: set(x.tolist())),
    Subject("list", lambda s: [s] * COPIES, _change_list, set),
    Subject("raw", _make_raw, _change_raw, lambda x: set(memoryview(bytes(x.buf)).cast("I"))),
    Subject("ring", None, _change_ring, _ring_stamps, {"ring": 4, "shape": COPIES, "dtype": int}),
    Subject(
        "dict", lambda s: {str(k): s for k in range(COPIES)}, _change_dict, lambda x: set(x.values()), suffix=".msgpack"
    ),
    Subject("object", _make_parts, None, _parts_stamps),
    Subject("object", _make_pickled, None, _parts_stamps, {"allow_pickle": True}, (), "pickle", ".pkl"),
    Subject("table", _make_table, None, _table_stamps, {}, ("pandas", "polars", "pyarrow"), suffix=".arrow"),
]
KINDS = [subject for subject in _ALL if all(map(importlib.util.find_spec, subject.needs))]
