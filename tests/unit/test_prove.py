"""The storm notices a broken promise: each test breaks one in its processes, and plays a short program."""

from __future__ import annotations

import inspect
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from shmkernel._core import oflock
from shmkernel.kinds.dicts.blocks import Block
from shmkernel.sync import locks, seqlock, versions
from tests.helpers import PATIENCE, Child, quick_first, until
from tests.prove.storm import QUIET, actor, acts, shrink, write
from tests.prove.storm.program import Process, Program, Step, Strand
from tests.prove.storm.stage import Stage


def hold(act, name, *body, way_out="normally"):
    return Step(act, name, (("way_in", "with"), ("way_out", way_out)), body)


def create(name, kind):
    return Step("create", name, (("kind", kind), ("mode", None), ("lifetime", "session"), ("replace", True)))


def programmed(*steps):
    return Program(0, "plain", (Process("plain", (Strand("main", steps),)),))


def faults(program, sabotage=None, quiet=QUIET):
    """Play a program, every process of it with the sabotage, and return the faults that were found."""

    def work(connection):
        if sabotage:
            sabotage()
        connection.send(Stage(program, quiet).run().faults)

    with Child(work) as child:
        assert child.connection.poll(2 * QUIET)
        return child.hear()


SOUND = programmed(
    create("a", "array"),
    create("c", "dict"),
    hold("lock", "a", Step("read", "a"), Step("fork", "", (), (Step("change", "a"),))),
    hold("transaction", "c", Step("read", "c"), way_out="an exception"),
    Step("snapshot", "a"),
    Step("publish", "c"),
    Step("count", "count"),
    Step("tally", "tally"),
    hold("transaction", "tally", hold("manager", "tally"), Step("tally", "tally"), way_out="an exception"),
)


def test_a_promise_that_holds_is_no_fault():
    assert faults(SOUND) == []


def broken(owner, name, function):
    return partial(setattr, owner, name, function)


def endless(*_):
    time.sleep(1000)


def let_all_in():
    oflock.take = lambda *_: True
    locks._Attempt.sleep = lambda _: None


IN_A_CHILD = Step("fork", "", (), (hold("lock", "a"),))
WAIT = Step("wait", "a", (("since", 0), ("timeout", 50)))
BROKEN = {
    "a lock that excludes nobody": (let_all_in, [hold("lock", "a", IN_A_CHILD, WAIT)], "two are inside at once"),
    "a transaction that is stored in spite of an exception": (
        broken(Block, "undo", lambda block, **_: block.commit()),
        [create("c", "dict"), hold("transaction", "c", way_out="an exception"), Step("read", "c")],
        "torn dict",
    ),
    "an error of a kind that nobody expects": (
        broken(versions, "publish", lambda name: {}[name]),
        [Step("publish", "a")],
        "KeyError",
    ),
    "a death": (
        broken(seqlock, "snapshot", lambda *_: os.abort()),
        [create("a", "array"), Step("snapshot", "a")],
        "-6",
    ),
}


@pytest.mark.parametrize("what", quick_first(*BROKEN))
def test_a_promise_that_is_broken_is_found(what):
    sabotage, steps, found = BROKEN[what]
    told = faults(programmed(*steps), sabotage)
    assert any(found in fault for fault in told), told


@pytest.mark.long
def test_a_hang_is_found_with_its_stack():
    told = faults(
        programmed(create("a", "array"), Step("snapshot", "a")), broken(seqlock, "snapshot", endless), quiet=15
    )
    assert "in endless" in "".join(told)


def test_a_seed_gives_one_program():
    assert write(7) == write(7)
    assert str(write(7)) != str(write(8))


def test_the_shortest_program_that_fails_is_found():
    def fails(program):
        return "snapshot(a)" in str(program)

    assert shrink.shortest(SOUND, fails, 60).processes[0].strands[0].steps == (Step("snapshot", "a"),)


def children_of(pid):
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


@pytest.mark.long
def test_a_run_that_is_terminated_ends_its_processes():
    command = [sys.executable, "-m", "tests.prove", "storm", "--minutes", "5"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout.readline().startswith("seed")
        (host,) = until(lambda: children_of(run.pid), "the run has a host")
        until(lambda: children_of(host), "it plays a program")
        run.terminate()
        assert run.wait(PATIENCE) == 128 + signal.SIGTERM
    assert not os.path.exists(f"/proc/{host}")


def test_every_option_that_an_act_draws_is_read_by_it():
    assert actor  # it registers the acts
    drawn = [(name, option) for name, leaf in acts.LEAVES.items() for option, _ in leaf.options]
    assert ("create", "mode") in drawn
    assert [pair for pair in drawn if f'"{pair[1]}"' not in inspect.getsource(acts.ACTS[pair[0]].run)] == []
