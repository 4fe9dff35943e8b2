"""A shared dict and a plain one stay equal, whatever is done to both."""

from __future__ import annotations

import contextlib
import random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

import shmkernel as shm

KEYS = st.one_of(
    st.sampled_from(["a", "b", "", "x" * 600, 0, 1, True, 1.0, 0.5, None, b"a", (1,), (True,), ("a", None)]),
    st.integers(-3, 40),
)
VALUES = st.one_of(
    st.none(),
    st.integers(),
    st.text(max_size=5),
    st.lists(st.integers(), max_size=3),
    st.integers(0, 9000).map(lambda size: b"x" * size),  # pages of their own, and none
)
CONTENT = st.dictionaries(KEYS, VALUES, max_size=8)


class Undone(Exception):  # noqa: N818  no error
    pass


class Both(RuleBasedStateMachine):
    """Each rule does the same to both, and compares results and errors."""

    def __init__(self):
        super().__init__()
        self.plain = {}
        self.shared = shm.create("model", {}, replace=True)
        self.other = shm.attach("model", "r")

    def both(self, act):
        results = []
        for one in (self.plain, self.shared):
            try:
                results.append(act(one))
            except (KeyError, TypeError, ValueError) as error:
                results.append((type(error), str(error)))
        assert results[0] == results[1]
        assert type(results[0]) is type(results[1])

    @rule(key=KEYS, value=VALUES)
    def set(self, key, value):
        self.both(lambda one: one.__setitem__(key, value))

    @rule(key=KEYS)
    def read(self, key):
        self.both(lambda one: one[key])
        self.both(lambda one: one.get(key, "none"))
        self.both(lambda one: key in one)

    @rule(key=KEYS)
    def delete(self, key):
        self.both(lambda one: one.__delitem__(key))

    @rule(key=KEYS)
    def pop(self, key):
        self.both(lambda one: one.pop(key))

    @rule(key=KEYS, value=VALUES)
    def pop_or(self, key, value):
        self.both(lambda one: one.pop(key, value))

    @rule()
    def popitem(self):
        self.both(lambda one: one.popitem())

    @rule(key=KEYS, value=VALUES)
    def setdefault(self, key, value):
        self.both(lambda one: one.setdefault(key, value))

    @rule(content=CONTENT)
    def update(self, content):
        self.both(lambda one: one.update(content))

    @rule(content=CONTENT)
    def update_from_pairs(self, content):
        self.both(lambda one: one.update(iter(content.items()), named=1))

    @rule(content=CONTENT)
    def join(self, content):
        self.both(lambda one: one | content)
        self.both(lambda one: content | one)
        self.shared |= content
        self.plain |= content

    @rule(content=CONTENT)
    def create_anew(self, content):
        self.plain = dict(content)
        self.shared = shm.create("model", content, replace=True)
        self.other = shm.attach("model", "r")

    @precondition(lambda self: len(self.plain) > 5)
    @rule()
    def clear(self):
        self.both(lambda one: one.clear())

    @rule(key=KEYS, value=VALUES, content=CONTENT)
    def undo(self, key, value, content):
        with contextlib.suppress(Undone), self.shared.transaction():
            self.shared[key] = value
            self.shared.update(content)
            assert self.shared[key] == content.get(key, value)
            assert len(self.shared) == len({**self.plain, key: value, **content})
            self.shared.clear()
            assert list(self.shared) == []
            raise Undone

    @rule(key=KEYS, value=VALUES, content=CONTENT)
    def all_at_once(self, key, value, content):
        with self.shared.transaction():
            self.shared.pop(key, None)
            self.shared[key] = value
            self.shared.update(content)
        self.plain.pop(key, None)
        self.plain[key] = value
        self.plain.update(content)

    @rule(key=KEYS, by=st.integers())
    def increment(self, key, by):
        if isinstance(self.plain.get(key, 0), int):
            self.plain[key] = self.plain.get(key, 0) + by
            assert self.shared.increment(key, by) == self.plain[key]

    @rule(key=KEYS, old=VALUES, new=VALUES)
    def compare_and_set(self, key, old, new):
        matches = key in self.plain and self.plain[key] == old
        assert self.shared.compare_and_set(key, old, new) is matches
        if matches:
            self.plain[key] = new

    @invariant()
    def they_are_the_same(self):
        for one in (self.shared, self.other):
            assert repr(list(one.items())) == repr(list(self.plain.items()))  # order, and the types of the keys
            assert len(one) == len(self.plain)
        assert list(reversed(self.shared)) == list(reversed(self.plain))
        assert list(reversed(self.shared.items())) == list(reversed(self.plain.items()))
        assert self.shared == self.plain
        assert repr(self.shared) == repr(self.plain)


TestBoth = Both.TestCase
TestBoth.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


def test_a_large_dict_stays_the_same_as_a_plain_one_through_many_changes():
    chance = random.Random(4)
    plain = {f"k{n}": n for n in range(3000)}
    shared = shm.create("large", plain)
    for n in range(6000):
        key = f"k{chance.randrange(4000)}"
        if chance.random() < 0.4:
            plain.pop(key, None)
            shared.pop(key, None)
        else:
            plain[key] = shared[key] = n
    assert list(shared.items()) == list(plain.items())
    assert list(reversed(shared.keys())) == list(reversed(plain.keys()))
    assert list(shared.values()) == list(plain.values())
    while plain:
        assert shared.popitem() == plain.popitem()
    assert shared == {}
