"""The proof of a long life notices a planted leak."""

import os

from tests.prove import kinds, life

RAW = next(subject for subject in kinds.KINDS if subject.kind == "raw")


def test_a_leak_of_descriptors_is_noticed():
    leaked = []
    try:
        found = [*life.growth(life.rounds(RAW, 0, warm=1, each=lambda _: leaked.append(os.dup(0))))]
    finally:
        for fd in leaked:
            os.close(fd)
    assert any(text.startswith("descriptors grew") for text in found)


def test_a_leak_of_objects_is_noticed():
    leaked = []
    found = [*life.growth(life.rounds(RAW, 0, warm=1, each=lambda _: leaked.extend({} for _ in range(500))))]
    assert any(text.startswith("objects grew") for text in found)


def test_what_comes_and_goes_is_no_growth():
    use = life.Sample(0, 50_000, 100_000, 50, 1, 300, 80)
    samples = [use._replace(rounds=at, descriptors=50 + at % 7, files=80 + 400 * (at % 5 == 0)) for at in range(24)]
    assert [*life.growth(samples)] == []


def test_rounds_end_before_their_time_where_there_were_enough(monkeypatch):
    monkeypatch.setattr(life, "_ROUNDS", 48)
    samples = life.rounds(RAW, 1e9, warm=1)
    assert [sample.rounds for sample in samples] == [*range(2, 50, 2)]
