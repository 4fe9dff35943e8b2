import asyncio
import copy
import os
import pickle
import threading
from multiprocessing.reduction import ForkingPickler

import cloudpickle
import numpy as np
import pytest

import shmkernel as shm
from shmkernel._core import paths
from shmkernel.kinds.rings import stream
from shmkernel.sync import inotify
from shmkernel.testing import attach_hostile
from tests.helpers import Child, until


def made(slots=4, shape=(2, 3), dtype="i4", **options):
    return shm.create("frames", ring=slots, shape=shape, dtype=dtype, **options)


def in_another_process(work):
    with Child(lambda _: work()) as child:
        assert child.join() == 0


def frame(value):
    return np.full((2, 3), value, "i4")


def test_frames_come_in_order_and_as_they_were_put():
    ring = made()
    assert [ring.put(frame(i)) for i in (7, 8, 9)] == [1, 2, 3]
    frames = ring.since(0)
    assert [next(frames).tolist() for _ in range(3)] == [frame(i).tolist() for i in (7, 8, 9)]


def test_a_slot_is_filled_in_place():
    ring = made()
    with ring.slot() as out:
        assert (out.shape, out.dtype, out.flags.owndata) == ((2, 3), np.dtype("i4"), False)
        assert out.ctypes.data % 64 == 0
        out[:] = 5
        assert ring.newest == 0
    assert (ring.newest, ring.latest().tolist()) == (1, frame(5).tolist())


def test_a_slot_that_fails_is_no_frame():
    ring = made()
    ring.put(frame(1))
    with pytest.raises(ZeroDivisionError), ring.slot():
        raise ZeroDivisionError
    assert (ring.newest, ring.put(frame(2)), ring.latest().number) == (1, 2, 2)


def test_a_slot_within_a_slot_is_refused():
    ring = made()
    with ring.slot() as out:
        out[:] = 1
        with pytest.raises(shm.LockError, match=r"is filling a slot of .* already"):
            ring.put(frame(2))
    assert (ring.newest, ring.latest().max()) == (1, 1)


def test_a_frame_is_a_private_copy():
    ring = made()
    ring.put(frame(1))
    one = ring.latest()
    for i in range(2, 9):
        ring.put(frame(i))
    assert (one.number, one.tolist()) == (1, frame(1).tolist())
    assert isinstance(one, np.ndarray)


def test_a_slow_reader_learns_how_many_he_missed():
    ring = made(slots=8)
    frames = ring.since(0)
    seen = []
    for i in range(1, 30):
        ring.put(frame(i))
        if i in (1, 2, 5, 29):
            seen.append(next(frames))
    seen += [next(frames) for _ in range(29 - seen[-1].number)]
    assert [one.number for one in seen][:3] == [1, 2, 3]
    assert all((one == one.number).all() for one in seen)
    assert [one.missed for one in seen] == [0, *np.diff([one.number for one in seen]) - 1]
    assert sum(one.missed for one in seen) + len(seen) == 29
    assert seen[3].number >= 29 - 8


def test_a_loop_begins_with_the_next_frame_and_since_with_a_given_one():
    ring = made()
    for i in range(3):
        ring.put(frame(i))
    now, before = iter(ring), ring.since(2)
    ring.put(frame(3))
    assert (next(now).number, next(before).number, next(ring.since(0)).number) == (4, 3, 1)


def test_latest_is_none_before_the_first():
    assert made().latest() is None


def test_read_gives_what_is_still_there():
    ring = made(slots=2)
    for i in (1, 2, 3):
        ring.put(frame(i))
    assert [ring.read(i) is not None for i in range(-1, 6)] == [False, False, False, True, True, False, False]


def test_a_reader_sleeps_until_there_is_a_frame_of_another_process():
    ring = made()

    def work():
        attached = shm.attach("frames")
        with attached.slot() as out:
            out[:] = 42

    def act():
        until(lambda: len(inotify._waiters), "the reader sleeps")
        in_another_process(work)

    thread = threading.Thread(target=act)
    thread.start()
    assert (next(iter(ring)) == 42).all()
    thread.join()


def test_a_loop_ends_with_the_stream():
    ring = made()
    ring.put(frame(1))
    frames = ring.since(0)

    def act():
        until(lambda: len(inotify._waiters), "the reader sleeps")
        in_another_process(lambda: shm.unlink("frames"))

    thread = threading.Thread(target=act)
    thread.start()
    assert [one.number for one in frames] == [1]
    thread.join()
    made(slots=2)
    assert list(frames) == []


def test_a_loop_ends_when_another_stream_takes_the_name():
    ring = made()
    ring.put(frame(1))
    other = made(replace=True)
    other.put(frame(2))
    assert [one.max() for one in ring.since(0)] == [1]
    assert other.newest == 1


def test_async_for_gives_the_same_frames():
    async def main():
        ring = made()

        async def consume():
            return [one.number async for one in ring]

        task = asyncio.create_task(consume())
        while not len(inotify._waiters):  # noqa: ASYNC110  it sends no event when it falls asleep
            await asyncio.sleep(0)
        in_another_process(lambda: [shm.attach("frames").put(frame(i)) for i in range(3)])
        shm.unlink("frames")
        return await asyncio.wait_for(task, 30)

    assert asyncio.run(main()) == [1, 2, 3]


def test_writers_in_several_processes_lose_no_frame_and_tear_none():
    ring = made(slots=4000)

    def work(base):
        attached = shm.attach("frames")
        for i in range(500):
            attached.put(frame(base + i))

    with Child(lambda _: work(1000)) as one, Child(lambda _: work(5000)) as other:
        assert (one.join(), other.join()) == (0, 0)
    frames = ring.since(0)
    seen = [next(frames) for _ in range(1000)]
    assert all(one.min() == one.max() for one in seen)
    values = [int(one.max()) for one in seen]
    assert [v for v in values if v < 5000] == list(range(1000, 1500))
    assert [v for v in values if v >= 5000] == list(range(5000, 5500))


def test_readers_who_are_overtaken_again_and_again_still_get_whole_frames():
    ring = made(slots=2, shape=(300_000,))

    def work(connection):
        attached = shm.attach("frames")
        connection.send("ready")
        number = 0
        while not connection.poll():
            number += 1
            with attached.slot() as out:
                out[:] = number

    with Child(work) as child:
        child.hear()
        frames = iter(ring)
        for _ in range(30):
            one = next(frames)
            assert one.min() == one.max() == one.number
            two = ring.latest()
            assert two.min() == two.max() == two.number
        child.tell()
        assert child.join() == 0


def test_without_ordered_stores_readers_lock(monkeypatch):
    ring = made()
    ring.put(frame(1))
    monkeypatch.setattr(stream.seqlock, "ORDERED", False)
    entered = []
    monkeypatch.setattr(type(ring._shared), "__enter__", lambda lock: entered.append(lock.shared))
    monkeypatch.setattr(type(ring._shared), "__exit__", lambda *_: None)
    assert (ring.latest().number, next(ring.since(0)).number) == (1, 1)
    assert entered
    assert all(entered)


def test_numpy_opens_it_as_records():
    ring = made(slots=3)
    for i in (1, 2, 3, 4):
        ring.put(frame(i))
    records = np.load(paths.path_of("frames"), mmap_mode="r")
    assert records["number"].tolist() == [4, 2, 3]
    assert (records["frame"][0] == 4).all()


def test_the_listing_describes_it():
    made(slots=64, shape=(480, 640, 3), dtype="u1")
    one = shm.info("frames")
    assert (one.kind, one.type, one.dtype, one.shape) == (
        "ring", "64 slots of uint8 (480, 640, 3)", "uint8", (64, 480, 640, 3),
    )  # fmt: skip


@pytest.mark.parametrize(("shape", "dtype"), [((), "f8"), (3, "M8[ns]"), ((2, 2), [("a", "i2"), ("b", "U3")])])
def test_frames_of_any_shape_and_dtype(shape, dtype):
    ring = made(shape=shape, dtype=dtype)
    value = np.zeros(shape, dtype)
    ring.put(value)
    assert (ring.latest() == value).all()
    assert (ring.latest().shape, ring.latest().dtype) == (value.shape, value.dtype)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"slots": 1}, shm.ArgumentError, "at least 2 slots"),
        ({"slots": 2.5}, shm.ArgumentError, "at least 2 slots"),
        ({"shape": None}, shm.ArgumentError, "a stream begins empty"),
        ({"value": [1, 2]}, shm.ArgumentError, "a stream begins empty"),
        ({"shape": (3, 0)}, shm.ArgumentError, "hold nothing"),
        ({"dtype": "nonsense"}, shm.ArgumentError, "cannot be made"),
        ({"dtype": object}, shm.UnsupportedError, "would not come back"),
        ({"fill": 3}, shm.ArgumentError, "takes no fill"),
        ({"mode": "c"}, shm.ArgumentError, "no private changes"),
    ],
)
def test_what_makes_no_sense_is_refused(options, error, message):
    with pytest.raises(error, match=message):
        made(**options)


@pytest.mark.parametrize(
    ("dtype", "given"),
    [
        ("u1", [0, 255]), ("u1", np.array([3, 4], "i8")), ("f4", np.array([0.1, 1e-60])), ("f4", [1, 2]),
        ("i4", np.array([1.0, 2.0])), ("f8", np.array([1, 2], "i8")),
    ],
)  # fmt: skip
def test_a_frame_is_converted_where_that_loses_but_digits(dtype, given):
    ring = made(shape=2, dtype=dtype)
    ring.put(given)
    assert np.allclose(ring.latest(), given)


@pytest.mark.parametrize(
    ("dtype", "given"),
    [("u1", [0, 256]), ("u1", [-1, 0]), ("i4", [0.5, 1]), ("i2", [1e9, 0]), ("f8", [1j, 0]), ("i4", "ab")],
)
def test_a_frame_whose_values_would_change_is_refused(dtype, given):
    ring = made(shape=2, dtype=dtype)
    with pytest.raises(shm.UnsupportedError, match="would change"):
        ring.put(np.array(list(given)))
    assert ring.newest == 0


@pytest.mark.parametrize(
    ("given", "error"),
    [(np.zeros(3, "i4"), shm.ArgumentError), (np.full((2, 3), 0.5), shm.UnsupportedError), ("text", shm.ArgumentError)],
)
def test_a_frame_that_does_not_fit_is_refused(given, error):
    ring = made()
    with pytest.raises(error, match="'frames' holds"):
        ring.put(given)
    assert ring.newest == 0


def test_attached_to_be_read_it_takes_no_frame():
    made().put(frame(3))
    ring = shm.attach("frames", mode="r")
    assert ring.latest().max() == 3
    with pytest.raises(PermissionError, match="attached read only"):
        ring.put(frame(1))


def test_a_live_ring_is_refused_as_a_value_at_once():
    ring = made()
    ring.put(frame(1))
    with pytest.raises(shm.UnsupportedError, match="a Ring cannot be shared"):
        shm.create("y", ring)  # to try list(ring) as a cure would wait for the next frame


def test_it_goes_to_another_process_by_name():
    ring = made()
    assert pickle.loads(ForkingPickler.dumps(ring)) is ring
    with pytest.raises(TypeError):
        pickle.dumps(ring)
    for copying in (cloudpickle.dumps, copy.copy, copy.deepcopy):  # one that copied the memory got no new frames
        with pytest.raises(shm.UnsupportedError, match=r"a ring cannot be pickled .* shm\.attach\('frames'\)"):
            copying(ring)
    with pytest.raises(shm.UnsupportedError):
        cloudpickle.dumps(ring.since(0))


def test_the_memory_goes_with_the_last_reference():
    ring = made()
    assert shm.close("frames") is False
    del ring
    assert shm.close("frames") is True


def test_a_saved_one_is_loaded_as_records(tmp_path):
    made().put(frame(6))
    shm.save("frames", tmp_path / "x.npy")
    assert shm.load("x", tmp_path / "x.npy")["frame"][0].tolist() == frame(6).tolist()
    with pytest.raises(shm.UnsupportedError, match=r"an array: kind=.array."):
        shm.load("y", tmp_path / "x.npy", kind="ring")


class Hostile:
    """What `attach_hostile` asks for."""

    kind = "ring"

    @staticmethod
    def touch(ring):
        ring.latest()
        ring.read(1)


def test_bytes_that_are_no_ring_are_damaged_or_harmless():
    made(slots=2)
    with open(paths.path_of("frames"), "rb") as file:
        whole = bytearray(file.read())
    for end in range(0, len(whole), 7):
        attach_hostile(Hostile, bytes(whole[:end]))
    generator = np.random.default_rng(0)
    for _ in range(300):
        changed = whole.copy()
        for at in generator.integers(0, 200, 3):
            changed[at] = generator.integers(0, 256)
        attach_hostile(Hostile, bytes(changed))
    assert os.path.exists(paths.path_of("frames"))


@pytest.mark.parametrize(
    ("dtype", "frame"),
    [
        ("i4", np.ma.array([1, 2], mask=[False, True])),
        ("i4", [1, np.ma.masked]),
        ("f4", [1e300, 1]),
        ("f4", np.array([1e300, 1])),
        ("u1", [300, 1]),
        ("i8", [2**53 + 1, 0.5]),
        ("i8", np.array([2.0**63, 1])),
        ("U2", ["abc", "d"]),
        ("U2", [1, 2]),
        ("f8", ["1", "2"]),
        ("M8[D]", np.array(["2020-01-01T05"] * 2, "M8[h]")),
        ("M8[ns]", np.array(["9999-01-01"] * 2, "M8[D]")),
        ("M8[D]", [1, 2]),
        ([("a", "u1")], np.array([(300,), (1,)], [("a", "i4")])),
    ],
    ids=range(14),
)
def test_a_frame_of_any_type_whose_values_would_change_is_refused(dtype, frame):
    ring = shm.create("x", ring=2, shape=2, dtype=dtype)
    with pytest.raises(shm.UnsupportedError, match="'x'"):
        ring.put(frame)
    assert ring.newest == 0


@pytest.mark.parametrize(
    ("dtype", "frame"),
    [
        ("f4", [0.1, float("inf")]),
        ("f4", np.array([0.1, np.nan])),
        ("i8", [2**53 + 1, 2]),
        ("u1", np.array([1.0, 255.0])),
        ("U5", ["abc", "d"]),
        ("M8[D]", np.array(["2020-01-01T00"] * 2, "M8[h]")),
        ("f8", np.array([1, 2], object)),
    ],
    ids=range(7),
)
def test_a_frame_is_converted_where_that_changes_no_value(dtype, frame):
    ring = shm.create("x", ring=2, shape=2, dtype=dtype)
    ring.put(frame)
    with np.errstate(over="ignore"):
        assert np.array_equal(ring.latest(), np.asarray(frame).astype(dtype), equal_nan=ring.dtype.kind == "f")


@pytest.mark.parametrize("count", [np.int64(4), np.uint8(4)])
def test_the_slots_are_counted_by_any_integer(count):
    assert shm.create("x", ring=count, shape=(np.int32(2),)).slots == 4


@pytest.mark.parametrize("count", [True, np.True_, 4.0, "4", np.array(4), -4])
def test_what_is_no_number_of_slots_is_refused(count):
    with pytest.raises(shm.ArgumentError, match="slots"):
        shm.create("x", ring=count, shape=2)


def test_what_is_made_of_a_frame_knows_its_number_in_another_process_too():
    ring = made()
    for i in (1, 2):
        ring.put(frame(i))
    one = next(ring.since(1))
    forms = [one, one.copy(), one[0], one + 1, pickle.loads(pickle.dumps(one)), pickle.loads(pickle.dumps(one, 2))]
    assert [two.number for two in forms] == [2] * 6
    assert [two.tolist() for two in forms[4:]] == [one.tolist()] * 2
    assert stream.Frame((2, 2)).number == 0


def test_an_integer_that_a_float_does_not_hold_is_not_put():
    ring = shm.create("x", ring=2, shape=1, dtype=float)
    ring.put([2**53])
    for value in ([2**53 + 1], np.array([2**64 - 1], "u8")):
        with pytest.raises(shm.UnsupportedError, match="would become"):
            ring.put(value)
    assert ring.latest().tolist() == [2.0**53]


def test_records_are_put_as_tuples():
    ring = shm.create("x", ring=2, shape=2, dtype="i4,U2")
    ring.put([(1, "ab"), (2, "c")])
    assert ring.latest().tolist() == [(1, "ab"), (2, "c")]
    with pytest.raises(shm.UnsupportedError, match=r"1\.5 would become 1"):
        ring.put([(1.5, "ab"), (2, "c")])
    with pytest.raises(shm.ArgumentError, match="holds frames of shape"):
        ring.put([(1, "ab")])


def test_a_number_that_is_computed_from_a_frame_is_a_scalar_as_of_a_plain_array():
    one = np.arange(4.0).reshape(2, 2).view(stream.Frame)
    plain = np.asarray(one)
    for made in (np.mean, np.sum, np.max, np.std, np.median, np.any, np.linalg.norm, lambda x: x[0] @ x[1]):
        assert type(made(one)) is type(made(plain))
        assert made(one) == made(plain)
    assert [type(x) for x in (one.sum(axis=0), one.max(keepdims=True), one + 1)] == [stream.Frame] * 3
