"""Tables take the memory of one segment: while they are written, and however many processes read them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import shmkernel as shm
from shmkernel._core import capacity, paths
from tests.helpers import Child, lacking, needs, python

pa = needs("pyarrow")
pd = needs("pandas")

MB = 1_000_000
ROWS = 4_000_000  # of eight bytes, four columns: 128 MB
MEASURED = """
import sys
import numpy as np, pandas as pd, pyarrow as pa
import shmkernel as shm

def memory(field):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(field)) * 1024

ROWS = int(sys.argv[1])
shm.create("warm", pd.DataFrame({"a": [1.5], "b": ["x"]}))
shm.create("warm", pa.table({"a": [1]}), replace=True)
value = VALUE
try:
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # forget the peak
except OSError:
    print("None")
else:
    before = memory("VmRSS")
    x = shm.create("x", value)
    print(memory("VmHWM") - before)
    assert shm.info("x").size > ROWS * 32, shm.info("x")
"""
VALUES = {
    "a frame": 'pd.DataFrame({name: np.arange(ROWS) * 1.5 for name in "abcd"})',
    "dates and categories": 'pd.DataFrame({name: np.arange(ROWS).astype("M8[us]") for name in "abcd"}'
    ' | {"e": pd.Categorical.from_codes(np.zeros(ROWS, "i1"), ["x"])})',
    "a table": 'pa.table({name: np.arange(ROWS) for name in "abcd"})',
    "a stream": "pa.RecordBatchReader.from_batches(pa.schema([(name, pa.int64()) for name in 'abcd']), ("
    "pa.record_batch({name: np.full(100_000, n) for name in 'abcd'}) for n in range(ROWS // 100_000 + 1)))",
}


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
@pytest.mark.long
def test_a_table_is_written_without_a_second_copy(value):
    """Beside the 128 MB of the segment it takes a few."""
    peak = python(MEASURED.replace("VALUE", value), ROWS).stdout.strip()
    if peak == "None":
        lacking("no process may write to its /proc/self/clear_refs here: run on a machine of your own")
    assert int(peak) < 60 * MB


@pytest.mark.long
def test_a_result_of_duckdb_is_written_batch_by_batch():
    needs("duckdb")
    query = "(__import__('duckdb').sql(f'select range a, range*2 b, range*3 c, range*4 d from range({ROWS + 1})'))"
    peak = python(MEASURED.replace("VALUE", query), ROWS).stdout.strip()
    if peak == "None":
        lacking("no process may write to its /proc/self/clear_refs here: run on a machine of your own")
    assert int(peak) < 90 * MB


def proportional():
    """Return the memory of this process: what several processes share counts in parts."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024


@pytest.mark.long
def test_four_processes_hold_one_table():
    """Each reads all values: together they take the memory of one segment."""
    if not Path("/proc/self/smaps_rollup").exists():
        lacking("this kernel has no /proc/*/smaps_rollup: it has to be 4.14 or newer")
    shm.create("x", pd.DataFrame({name: np.arange(ROWS) * 1.5 for name in "abcd"}))
    size = shm.info("x").size

    def read(connection):
        shm.attach("x", as_="arrow")  # which imports what it needs
        shm.close("x")
        connection.send("ready")
        connection.recv()
        connection.send(proportional())
        connection.recv()
        x = shm.attach("x")
        total = float(sum(x[name].to_numpy().sum() for name in x))
        connection.send(total)
        connection.recv()
        connection.send(proportional())
        connection.recv()

    children = [Child(read) for _ in range(4)]
    try:
        assert {child.hear() for child in children} == {"ready"}
        before, totals, after = ask(children), ask(children), ask(children)
    finally:
        for child in children:
            child.end()
    assert len(set(totals)) == 1
    assert size * 0.9 < sum(after) - sum(before) < size + 4 * 20 * MB


def ask(children):
    """Tell all children to go on; return what each answers."""
    for child in children:
        child.tell()
    return [child.hear() for child in children]


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_a_file_that_expands_beyond_the_memory_that_is_left_is_not_read(codec, monkeypatch):
    options = pa.ipc.IpcWriteOptions(compression=codec)
    batch = pa.record_batch({"a": np.zeros(MB), "b": pa.array(["x", "y"] * (MB // 2)).dictionary_encode()})
    with pa.OSFile(paths.path_of("x"), "wb") as file, pa.ipc.new_file(file, batch.schema, options=options) as writer:
        writer.write(batch)
    assert Path(paths.path_of("x")).stat().st_size < MB
    monkeypatch.setattr(capacity, "memory", lambda: 11 * MB)
    with pytest.raises(shm.LimitError, match=r"take 11.4 MiB of memory, where 10.5 MiB are left"):
        shm.attach("x", as_="arrow")
    monkeypatch.setattr(capacity, "memory", lambda: 13 * MB)
    assert shm.attach("x", as_="arrow").num_rows == MB
    shm.unlink("x")


def test_the_memory_that_is_left_is_known():
    assert capacity.memory() > 0


NO_ROOM = """
import resource, sys
import shmkernel as shm

fresh = shm.create("fresh", shape=3)
if sys.argv[1] == "pandas":
    import pyarrow
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + (6 << 20), resource.RLIM_INFINITY))
try:
    shm.attach("x")
except (shm.UnsupportedError, shm.LimitError) as error:
    print(error)
"""


@pytest.mark.parametrize("library", ["pyarrow", "pandas"])
def test_a_library_that_is_there_and_finds_no_memory_is_not_called_missing(library):
    shm.create("x", pd.DataFrame({"a": [1.5, 2.5]}), lifetime="keep")
    said = python(NO_ROOM, library).stdout
    assert "install" not in said
    assert "is damaged" not in said
    assert f"{library} cannot be loaded: " in said or "memory" in said
    assert shm.attach("x")["a"].to_list() == [1.5, 2.5]
    shm.unlink("x")


FEW_ADDRESSES = """
import faulthandler, resource, sys
import pyarrow.csv
import shmkernel as shm

shm.attach("x")
faulthandler.dump_traceback_later(30, exit=True)
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + (int(sys.argv[2]) << 20), resource.RLIM_INFINITY))
try:
    shm.load("y", sys.argv[1]) if sys.argv[1].endswith(".csv") else shm.save("x", sys.argv[1])
except shm.LimitError:
    pass
print("done")
"""


@pytest.mark.parametrize("room", [8, 12, 16, 20])  # MiB: the stack of a thread takes 8
@pytest.mark.parametrize("suffix", ["csv", "feather"])
def test_threads_that_do_not_start_are_a_limit_and_neither_hang_nor_crash(suffix, room, tmp_path):
    """open_csv waits for ever then. A writer with threads ends the process when it is destroyed."""
    path = tmp_path / f"x.{suffix}"
    if suffix == "csv":
        path.write_text("a,b\n1,2\n")
    columns = {name: np.arange(200_000) for name in "abcd"}
    shm.create("x", pd.DataFrame(columns), lifetime="keep")
    run = python(FEW_ADDRESSES, path, room)
    assert run.stdout == "done\n", run.stderr
    assert suffix == "csv" or not path.exists() or pd.read_feather(path).equals(pd.DataFrame(columns))
    shm.unlink("x")
