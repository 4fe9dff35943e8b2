"""Compare lists with the stdlib's class: `uv run --group bench pytest benchmarks/test_list.py`."""

from __future__ import annotations

from multiprocessing import shared_memory
from typing import TYPE_CHECKING, Any

import pytest

import shmkernel as shm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

COUNT = 2_000
INTS = list(range(COUNT))
MIXED = [[f"howdy{i}", b"HoWdY", -273.154, i, None, True][i % 6] for i in range(COUNT)]
TEXTS = [f"text {i}" for i in range(COUNT)]
MILLION = list(range(1_000_000))

pytestmark = pytest.mark.parametrize("peer", ["shmkernel", "stdlib"])


@pytest.fixture
def make(posix_name: str, peer: str) -> Iterator[Callable[[list[Any]], Any]]:
    kind = {"shmkernel": shm.ShareableList, "stdlib": shared_memory.ShareableList}[peer]
    made: list[Any] = []

    def make(values: list[Any]) -> Any:
        made.append(kind(values, name=f"{posix_name}{len(made)}"))
        return made[-1]

    yield make
    for items in made:
        items.shm.close()
        items.shm.unlink()


READS: dict[str, tuple[list[Any], Callable[[Any], Any]]] = {
    "get an int": (INTS, lambda items: items[1000]),
    "get a text": (TEXTS, lambda items: items[1000]),
    "iterate ints": (INTS, list),
    "iterate mixed": (MIXED, list),
    "index of the last int": (INTS, lambda items: items.index(COUNT - 1)),
    "index of the last text": (TEXTS, lambda items: items.index(TEXTS[-1])),
    "count ints": (INTS, lambda items: items.count(7)),
    "count an int in mixed": (MIXED, lambda items: items.count(3)),
    "count a text in mixed": (MIXED, lambda items: items.count("howdy6")),
}


@pytest.mark.parametrize("what", READS)
def test_read(benchmark: Any, make: Callable[[list[Any]], Any], what: str) -> None:
    benchmark.group = what
    values, read = READS[what]
    items = make(values)
    assert benchmark(read, items) == read(values)


@pytest.mark.parametrize("value", [7, 0.5, "text"], ids=type)
def test_set(benchmark: Any, make: Callable[[list[Any]], Any], value: object) -> None:
    benchmark.group = f"set {type(value).__name__}"
    items = make([value] * COUNT)

    def store() -> None:
        items[1000] = value

    benchmark(store)


@pytest.mark.parametrize("values", [INTS, MILLION, MIXED * 50], ids=["2,000 ints", "1,000,000 ints", "100,000 mixed"])
def test_make(benchmark: Any, make: Callable[[list[Any]], Any], values: list[Any]) -> None:
    benchmark.group = f"make {benchmark.name[benchmark.name.index('[') + 1 : -1].rpartition('-')[0]}"
    benchmark.pedantic(make, (values,), rounds=5)
