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
    else writes. `stamps` returns all stamps that a reader finds. With `options` in the place of a value, a segment is
    made empty and then changed; no file holds such a one.
    """

    kind: str
    value: Callable[[int], Any] | None
    change: Callable[[Any, int], None] | None
    stamps: Callable[[Any], set[int]]
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    needs: tuple[str, ...] = ()  # modules that not every machine has

    def create(self, name: str, stamp: int, **options: Any) -> Any:
        """Create a segment of this stamp."""
        made = shm.create(name, None if self.value is None else self.value(stamp), **self.options, **options)
        if self.value is None and self.change is not None:
            self.change(made, stamp)
        return made

    @property
    def forms(self) -> tuple[str, ...]:
        """What `attach` takes as ``as_``, as far as its libraries are installed."""
        forms: tuple[str, ...] = getattr(kinds.named(self.kind), "forms", ())
        return tuple(form for form in forms if form == "arrow" or importlib.util.find_spec(form))

    @property
    def suffix(self) -> str:
        """What the name of a file ends in that `save` is to write."""
        suffixes: tuple[str, ...] = getattr(kinds.named(self.kind), "suffixes", ("",))
        return suffixes[-1]


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


_ALL = [
    Subject("array", lambda s: np.full(COPIES, s), _change_array, lambda x: set(x.tolist())),
    Subject("list", lambda s: [s] * COPIES, _change_list, set),
    Subject("raw", _make_raw, _change_raw, lambda x: set(memoryview(bytes(x.buf)).cast("I"))),
    Subject("ring", None, _change_ring, _ring_stamps, {"ring": 4, "shape": COPIES, "dtype": int}),
    Subject("dict", lambda s: {str(k): s for k in range(COPIES)}, _change_dict, lambda x: set(x.values())),
    Subject("table", _make_table, None, _table_stamps, needs=("pandas", "polars", "pyarrow")),
]
KINDS = [subject for subject in _ALL if all(map(importlib.util.find_spec, subject.needs))]
