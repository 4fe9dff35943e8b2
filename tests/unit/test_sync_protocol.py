"""A model checker of the lock-free protocols: copies beside a writer, and the ring.

The reader is the real code over simulated memory. Before each access of the reader the writer does some of its steps.
Another test checks that these steps, and their order, are those of the real writer.
"""

from __future__ import annotations

import contextlib
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

import shmkernel as shm
from shmkernel._core import owners
from shmkernel.kinds.rings import stream
from shmkernel.sync import holds, locks, seqlock, sync_file
from shmkernel.sync.sync_file import HOLDER, RELEASED


class Locked(Exception):  # noqa: N818  no error: where the model ends
    """The reader gave up, and would take the lock."""


class Interleaved:
    """Words or a frame: before each access the writer does some steps."""

    def __init__(self, memory, advance):
        self.memory, self.advance = memory, advance

    def __getitem__(self, at):
        self.advance()
        return self.memory[at]

    def __setitem__(self, at, value):
        self.memory[at] = value


def writes(memory, value):
    """Do the steps of a holder of the exclusive lock, one store at a time."""
    memory[HOLDER] = 1
    yield
    for at in ("a", "b"):
        memory[at] = value
        yield
    memory[RELEASED] += 1
    yield
    memory[HOLDER] = 0
    yield


def test_the_writer_s_stores_are_in_the_order_that_is_checked():
    class Recorded:
        def __init__(self, memory, name):
            self.memory, self.name = memory, name

        def __getitem__(self, at):
            return self.memory[at]

        def __setitem__(self, at, value):
            order.append((self.name, at, value if isinstance(value, int) else any(value)))
            self.memory[at] = value

    order = []
    file = sync_file.opened("x")
    file.words, file.page = Recorded(file.words, "word"), Recorded(file.page, "page")
    with shm.lock("x"):
        order.append("data")
    start = slice(HOLDER * 8, HOLDER * 8 + sync_file.WHO)
    assert order == [("page", start, True), "data", ("word", RELEASED, 1), ("word", HOLDER, 0)]


@pytest.mark.parametrize("dies_after", [None, 1, 2, 3])
def test_no_copy_beside_a_writer_is_torn_however_their_steps_interleave(dies_after, monkeypatch):
    """All schedules of 0, 1, 2 or 5 steps of the writer before each of the reader's first 7 accesses."""

    class File:
        holds = ()

    class Lock:
        def __init__(self, *_, **__):
            pass

        def __enter__(self):
            raise Locked

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(sync_file, "opened", lambda _: file)
    monkeypatch.setattr(locks, "Lock", Lock)
    monkeypatch.setattr(seqlock, "ORDERED", True)
    file = File()
    accepted = 0
    for schedule in itertools.product((0, 1, 2, 5), repeat=7):
        memory = {RELEASED: 0, HOLDER: 0, "a": 0, "b": 0}
        steps = itertools.chain.from_iterable(writes(memory, value) for value in (1, 2, 3))
        steps = itertools.islice(steps, dies_after)
        turns = iter(schedule)

        def advance(steps=steps, turns=turns):
            for _ in range(next(turns, 0)):
                next(steps, None)

        shared = file.words = Interleaved(memory, advance)
        with contextlib.suppress(Locked):
            a, b = seqlock.snapshot("x", lambda shared=shared: (shared["a"], shared["b"]))
            assert a == b, schedule
            accepted += 1
    assert accepted


class NoLock:
    """A lock that does nothing, since there is one writer."""

    def enter(self, entry, _):
        hold = holds.Hold(sync_file.opened("frames"), owners.Owner(), shared=False)
        entry.taken = holds.Inside(hold, hold.owner, explicit=True)


class Slots:
    """The words and frames of a ring, for the reader."""

    def __init__(self, ring, advance):
        self.ring, self.advance = ring, advance

    def __getitem__(self, slot):
        """Copy a frame element by element."""
        made = np.empty_like(self.ring[slot])
        for at in range(len(made)):
            self.advance()
            made[at] = self.ring[slot, at]
        return made


@settings(max_examples=300, deadline=None)
@given(
    slots=st.integers(2, 4),
    schedule=st.lists(st.integers(0, 9), max_size=60),
    deaths=st.sets(st.integers(0, 30), max_size=4),
)
def test_no_frame_of_a_ring_is_torn_out_of_order_or_counted_wrong(slots, schedule, deaths):
    def write():
        for attempt in itertools.count():
            slot = ring.slot()
            out = slot.__enter__()
            number = ring._number
            yield
            for at in range(len(out)):
                out[at] = number
                yield
            slot.__exit__(KeyboardInterrupt if attempt in deaths else None, None, None)
            yield

    def advance():
        for _ in range(next(turns, 0)):
            next(steps)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream.Ring, "_exclusive", NoLock())
        patch.setattr(seqlock, "ORDERED", True)
        ring = shm.create("frames", ring=slots, shape=3, dtype="i4", replace=True)
        reader = shm.attach("frames", mode="r")
        steps, turns = write(), iter(schedule)
        reader._words, reader._frames = Interleaved(reader._words, advance), Slots(reader._frames, advance)
        frames, last = reader.since(0), 0
        for _ in range(20):
            frame = frames.ready()
            if frame is not None:
                assert set(frame.tolist()) == {frame.number}
                assert frame.missed == frame.number - last - 1 >= 0
                last = frame.number
            newest = reader.latest()
            assert newest is None or set(newest.tolist()) == {newest.number}
        assert last <= ring.newest


class RingAndList(RuleBasedStateMachine):
    """A ring and a list of all frames, with writers that fail and readers of different speed."""

    def __init__(self):
        super().__init__()
        self.ring = shm.create("frames", ring=3, shape=2, dtype="i8", replace=True)
        self.frames = []
        self.readers = []

    @rule(value=st.integers(0, 99))
    def put(self, value):
        self.frames.append(value)
        assert self.ring.put([value, value]) == len(self.frames)

    @rule(value=st.integers(0, 99))
    def fail(self, value):
        with contextlib.suppress(ZeroDivisionError), self.ring.slot() as out:
            out[0] = value
            raise ZeroDivisionError

    @rule(since=st.integers(0, 5))
    def begin(self, since):
        since = max(len(self.frames) - since, 0)
        self.readers.append((self.ring.since(since), since))

    @rule()
    def forget(self):
        self.ring._newest = 0

    @precondition(lambda self: self.readers)
    @rule(data=st.data())
    def read(self, data):
        at = data.draw(st.integers(0, len(self.readers) - 1))
        frames, last = self.readers[at]
        if (frame := frames.ready()) is None:
            assert last == len(self.frames)
            return
        assert frame.tolist() == [self.frames[frame.number - 1]] * 2
        assert frame.missed == frame.number - last - 1
        assert frame.number > len(self.frames) - self.ring.slots
        self.readers[at] = frames, frame.number

    @invariant()
    def the_newest_is_known(self):
        assert self.ring.newest == len(self.frames)
        if self.frames:
            assert self.ring.latest().tolist() == [self.frames[-1]] * 2

    def teardown(self):
        shm.unlink("frames")


RingAndList.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestRingAndList = RingAndList.TestCase
