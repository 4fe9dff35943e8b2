"""Dask by reference: what crosses to other processes and hosts, and how. `test_dask.py` runs this file."""

from __future__ import annotations

import pickle
import subprocess
import sys

import distributed
import numpy as np
import pytest
from dask._task_spec import Task
from distributed import protocol

import shmkernel as shm
import shmkernel.dask
from shmkernel.dask import agreement
from shmkernel.stdlib import references
from tests import workers
from tests.helpers import PATIENCE, Child, lacking, needs

AGREED = {"shmkernel": True, "pickle-protocol": 5, "compression": None}


def sent(value, context=AGREED, **options):
    """Return a value's message as frames."""
    return protocol.dumps({"value": protocol.to_serialize(value)}, context=context, **options)


def size(frames):
    return sum(memoryview(frame).nbytes for frame in frames)


def over(value, context=AGREED):
    """Serialize and deserialize a value as for a connection."""
    return protocol.loads(arrived(sent(value, context)))["value"]


def arrived(frames):
    """Return frames as a socket does: in memory of their own."""
    return [bytearray(frame) for frame in frames]


def address(array):
    return array.__array_interface__["data"][0]


VIEWS = {
    "whole": lambda x: x,
    "slice": lambda x: x[10:20],
    "transposed": lambda x: x.T[2:],
    "backwards": lambda x: x[::-1, ::3],
    "broadcast": lambda x: np.broadcast_to(x[3], (5, 100)),
    "read only": lambda x: np.lib.stride_tricks.as_strided(x, writeable=False),
    "matrix": lambda x: x.view(np.matrix),
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_a_view_of_a_segment_crosses_as_a_reference(view):
    given = view(shm.create("x", np.arange(10_000.0).reshape(100, 100)))
    assert size(sent(given)) < 2000
    got = over(given)
    assert (type(got), got.shape, got.strides, got.dtype) == (type(given), given.shape, given.strides, given.dtype)
    assert (address(got), got.flags.writeable) == (address(given), given.flags.writeable)


@pytest.mark.parametrize("protocol_asked", [4, 5])
def test_parts_of_lists_dicts_and_objects_cross_as_references_too(protocol_asked):
    x = shm.create("x", np.zeros((100, 100)))
    context = {**AGREED, "pickle-protocol": protocol_asked}
    for value in ([x, x[3:]], {"a": x}, {"a": {"b": (1, [x[5:]])}}, (x, "text"), slice(x, lambda: x)):
        assert size(sent(value, context)) < 4000
    assert np.shares_memory(over({"a": {"b": (1, [x[5:]])}}, context)["a"]["b"][1][0], x)


@pytest.mark.parametrize("context", [None, {}, {**AGREED, "shmkernel": False}])
def test_who_has_not_agreed_gets_the_values(context):
    x = shm.create("x", np.arange(10_000.0))
    for value in (x, {"a": {"b": x}}, [x]):
        assert size(sent(value, context)) > x.nbytes
    got = over(x, context)
    assert not np.shares_memory(got, x)
    assert got.tolist() == x.tolist()


def test_a_segment_that_lost_its_name_or_gave_it_to_another_goes_as_values():
    x = shm.create("x", np.arange(1000.0))
    shm.create("x", np.zeros(1000), replace=True)
    assert over(x).tolist() == [*range(1000)]
    shm.unlink("x")
    assert over(x[3:]).tolist() == [*range(3, 1000)]
    assert size(sent(x)) > 8000


@pytest.mark.parametrize("mode", ["r+", "r"])
@pytest.mark.parametrize("change", ["unlinked", "replaced", "another folder", "another host"])
def test_a_reference_that_is_overtaken_is_an_error_and_never_another_array(change, mode, monkeypatch, tmp_path):
    shm.create("x", np.arange(1000.0))
    frames = sent(shm.attach("x", mode=mode)[1:])  # nobody holds it
    if change == "unlinked":
        shm.unlink("x")
    elif change == "replaced":
        shm.create("x", np.zeros(1000), replace=True)
    with monkeypatch.context() as patch, pytest.raises(pickle.UnpicklingError, match=r"NotFoundError: 'x'|named 'x'"):
        if change == "another folder":
            patch.setenv("SHMKERNEL_DIR", str(tmp_path))
        elif change == "another host":
            patch.setattr(references, "boot", lambda: "another")
        protocol.loads(frames)


@pytest.mark.parametrize("mode", ["r+", "r"])
def test_a_reference_to_another_file_system_is_an_error_though_name_and_inode_are_the_same(mode):
    shm.create("x", np.arange(1000.0))
    rebuild, (reference, *about) = references.view(shm.attach("x", mode=mode))
    with pytest.raises(shm.NotFoundError):
        rebuild(reference._replace(device=reference.device + 1), *about)


def test_a_segment_that_loses_its_name_on_its_way_arrives_if_its_sender_holds_it():
    def work(connection):
        x = shm.create("x", np.arange(1000.0))
        connection.send([bytes(frame) for frame in sent(x[1:])])
        shm.create("x", np.zeros(1000), replace=True)
        connection.send("replaced")
        connection.recv()
        x[5] = -1
        connection.send("changed")
        connection.recv()

    with Child(work) as child:
        frames = child.hear()
        assert child.hear() == "replaced"
        got = protocol.loads(frames)["value"]
        assert got.tolist() == [*range(1, 1000)]
        child.tell()
        assert child.hear() == "changed"
        assert got[4] == -1


def test_a_task_with_a_ring_is_one_that_raises_where_it_has_no_reference():
    ring = shm.create("x", ring=4, shape=2)
    task = Task("key", workers.lies, ring)
    with agreement.serializing(agreed=False):  # from the scheduler to another host
        stream = distributed.protocol.pickle.dumps(task)
    with pytest.raises(shm.UnsupportedError, match="'x': a ring cannot be pickled"):
        pickle.loads(stream)()
    with pytest.raises(shm.UnsupportedError):
        distributed.protocol.pickle.dumps(ring)


def test_a_task_that_cannot_be_read_is_one_that_raises():
    task = Task("key", workers.lies, shm.create("x", np.arange(1000.0)))
    with agreement.serializing(agreed=True):
        stream = distributed.protocol.pickle.dumps(task)
        assert len(stream) < 2000
        assert distributed.protocol.pickle.loads(stream)()[0] == "segment"
        shm.unlink("x")
        del task
        broken = distributed.protocol.pickle.loads(stream)
    assert broken.key == "key"
    with pytest.raises(shm.NotFoundError, match="no segment named 'x'"):
        broken()


def test_private_memory_of_what_may_change_goes_as_values():
    shm.create("x", np.arange(10_000.0))
    y = shm.attach("x", mode="c")
    y[0] = 5
    assert over(y)[0] == 5
    assert size(sent(y)) > y.nbytes


def test_what_a_message_brings_is_private_to_it():
    model = shm.create("model", {"weights": np.ones(10_000)}, kind="object")
    first, second = over(model), over(model)
    first["weights"][0] = 5
    assert (model["weights"][0], second["weights"][0]) == (1, 1)


def test_a_list_and_a_dict_cross_by_name():
    people, settings = shm.create("people", ["Ada", 1815]), shm.create("settings", kind="list", value=[1])
    assert over(people) is people
    assert over({"a": (people, settings)})["a"][0] is people
    assert [*over(people, None)] == ["Ada", 1815]


def test_arrays_in_an_object_cross_as_references():
    model = shm.create("model", {"weights": np.ones(10_000), "name": "m"}, kind="object")
    assert size(sent(model)) < 3000
    got = over(model)
    assert (got["name"], got["weights"].sum()) == ("m", 10_000)
    model["weights"][0] = 5
    assert size(sent(model)) > 80_000
    assert over(model)["weights"][0] == 5


def tables():
    pandas, pyarrow = needs("pandas"), needs("pyarrow")
    frame = pandas.DataFrame({"a": np.arange(50_000.0), "b": np.arange(50_000), "c": [f"t{i}" for i in range(50_000)]})
    return frame, pyarrow.Table.from_pandas(frame)


@pytest.mark.parametrize("which", [0, 1], ids=["pandas", "arrow"])
def test_a_table_and_its_slices_cross_as_references(which):
    df = shm.create("df", tables()[which])
    for part in (df, df[100:200], df[["a", "c"]] if which == 0 else df.select(["a", "c"])):
        assert size(sent(part)) < 6000
        got = over(part)
        assert got.equals(part)
        assert type(got) is type(part)


def test_a_frame_that_was_changed_crosses_as_it_is_now():
    df = shm.create("df", tables()[0])
    df.loc[5, "a"] = 7.5
    df["d"] = df["b"] * 2
    got = over(df)
    assert got.equals(df)
    assert 2 * 50_000 * 8 < size(sent(df)) < 4 * 50_000 * 8


def test_what_the_scheduler_only_passes_on_becomes_values_for_another_host():
    x = shm.create("x", np.arange(1000.0))
    for value in (x, [x, x[3:]], {"a": (x, "b")}):
        passed = protocol.loads(sent(value), deserialize=False)
        assert size(protocol.dumps({"data": [{"k": passed["value"]}]}, context=AGREED)) < 4000
        frames = protocol.dumps({"data": [{"k": passed["value"]}]}, context=None)
        assert size(frames) > x.nbytes
        got = protocol.loads(arrived(frames))["data"][0]["k"]
        assert not np.shares_memory(got if value is x else got["a"][0] if type(got) is dict else got[0], x)


def test_what_the_scheduler_cannot_read_any_more_is_an_error_where_it_arrives():
    passed = protocol.loads(arrived(sent(shm.create("x", np.arange(1000.0)))), deserialize=False)
    shm.unlink("x")
    with pytest.raises(TypeError, match="no segment named 'x'"):
        protocol.loads(protocol.dumps(passed))


def test_only_the_same_folder_of_the_same_machine_user_and_release_agrees(monkeypatch, tmp_path):
    def agree(mine, theirs):
        plain = {"compression": None, "pickle-protocol": 5}
        return distributed.comm.core.Comm.handshake_configuration(plain | mine, plain | theirs)["shmkernel"]

    here = {"shmkernel": agreement.here()}
    assert agree(here, here)
    assert agree(here, {"shmkernel": tuple(agreement.here())})  # as it arrives
    assert not agree(here, {})
    assert not agree({}, here)
    assert not agree({}, {})
    for place in range(5):
        other = agreement.here()
        other[place] = "other"
        assert not agree(here, {"shmkernel": other})
    monkeypatch.setenv("SHMKERNEL_DIR", str(tmp_path))
    assert not agree(here, {"shmkernel": agreement.here()})
    monkeypatch.setenv("SHMKERNEL_DIR", str(tmp_path / "none"))
    assert not agree({"shmkernel": agreement.here()}, {"shmkernel": agreement.here()})


HOST = """
import asyncio, os, sys
import numpy as np
import shmkernel as shm
import shmkernel.dask
from distributed import Client, Scheduler, Worker

async def one():
    x = shm.create("x", np.ones(1000))
    async with Scheduler(port=0, dashboard=False, host="127.0.0.1") as scheduler:
        async with Worker(scheduler.address, name="one", host="127.0.0.1") as worker:
            print(scheduler.address, flush=True)
            await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)

def where(array):
    from shmkernel.stdlib import references
    return references.view(array) is not None, float(array.sum())

def attached():
    import shmkernel
    return shmkernel.attach("x")

async def two(address):
    x = shm.create("x", np.zeros(1000))  # the same name, on another host
    async with Worker(address, name="two", host="127.0.0.1"):
        async with Client(address, asynchronous=True) as client:
            theirs = client.submit(attached, workers="one", pure=False)
            got = await theirs                                     # through the scheduler, which agrees with worker one
            print("gathered", where(got))
            print("moved", await client.submit(where, theirs, workers="two", allow_other_workers=False, pure=False))
            print("sent", await client.submit(where, x[1:], workers="one", pure=False))
            here = await client.scatter(x, workers="one")
            print("scattered", await client.submit(where, here, workers="one", pure=False))
            print("own", await client.submit(where, client.submit(attached, workers="two", pure=False), workers="two"))
            nested = await client.submit(lambda: {"a": [attached()]}, workers="one", pure=False)
            print("nested", where(nested["a"][0]))

if __name__ == "__main__":
    asyncio.run(one() if len(sys.argv) == 1 else two(sys.argv[1]))
"""


def test_another_host_gets_the_values_also_through_the_scheduler(tmp_path, shm_dir):
    (tmp_path / "host.py").write_text(HOST)
    run = [sys.executable, str(tmp_path / "host.py")]
    with subprocess.Popen(run, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as one:
        try:
            scheduler = one.stdout.readline().strip()
            mount = f"mount --make-rprivate / && mount -t tmpfs -o size=16m two {shm_dir}"
            command = ["unshare", "--mount", "sh", "-c", f'{mount} && exec "$@"', "sh", *run, scheduler]
            two = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
        finally:
            one.communicate("end\n", timeout=PATIENCE)
    if any(tool in two.stderr for tool in ("unshare:", "mount:")):
        lacking(f"a private /dev/shm needs root and unshare: {two.stderr.strip()}")
    assert two.returncode == 0, two.stderr
    assert two.stdout.splitlines() == [
        "gathered (False, 1000.0)", "moved (False, 1000.0)", "sent (False, 0.0)", "scattered (False, 0.0)",
        "own (True, 0.0)", "nested (False, 1000.0)",
    ]  # fmt: skip
