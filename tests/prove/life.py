"""Long life: segments and sessions that come and go leave nothing, and nothing of this process grows.

One process makes, attaches, changes, closes and unlinks segments of one kind after the other, each under a name of its
own. Beside it, sessions come and go. What the process uses is measured again and again. `growth` compares the second
half of these samples with the first half: what comes and goes has the same median in both.
"""

from __future__ import annotations

import functools
import gc
import json
import os
import random
import select
import signal
import statistics
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import NamedTuple

import shmkernel as shm
from shmkernel._core import paths, records
from shmkernel.sync import sync_file
from shmkernel.verbs import attachments
from tests import helpers
from tests.prove import fresh
from tests.prove.kinds import KINDS
from tests.prove.report import Figure

TITLE = "Long life: rounds in one process, sessions that come and go beside it"
_SAMPLES = 24  # of each kind
_ROUNDS = 100_000  # of each kind at most; the others have the time that is left
_FULL = 4  # every fourth round locks and publishes its name too
_WARM = 80  # rounds before the first sample: caches fill
_CACHED = 16  # names in each cache, instead of up to 4,096: a cache that is not full yet would look like a leak


class Sample(NamedTuple):
    """What a process uses after some rounds."""

    rounds: int
    rss: int  # KiB
    objects: int
    descriptors: int
    threads: int
    mappings: int
    files: int  # in the folder of segments, also those of the sessions beside


# The largest difference of the two medians that is no growth. A leak of one a round exceeds each within seconds.
_SLACK = {"rss": 2048, "objects": 1500, "descriptors": 4, "threads": 1, "mappings": 16, "files": 150}


def run(seconds, seed, report):
    """Run rounds of each kind for the given time, with sessions beside them."""
    replay = f"life --seed {seed} --minutes {seconds / 60:.2f}"
    with fresh.folder() as environment, _Guests(seed, environment) as guests:
        try:
            measured = fresh.answer(every_kind, seconds, environment=environment, seconds=seconds)
        except subprocess.SubprocessError as error:  # too late, or an error that the process has printed
            measured = {}
            report.fault(f"the rounds: {type(error).__name__}", replay)
        for kind, samples in ((kind, [Sample(*one) for one in many]) for kind, many in measured.items()):
            for fault in growth(samples):
                report.fault(f"{kind}: {fault}", replay)
            last = samples[-1]
            used = f"{last.rss / 1024:.0f} MiB, {last.descriptors} descriptors, {last.mappings} mappings"
            report.add(f"create, attach, close, unlink: {kind}", last.rounds, f"{used} at the end")
            _plot(report, kind, samples)
    report.add("sessions that came and went", guests.count, "each was swept")
    for left in guests.left:
        report.fault(f"left behind: {left}", replay)


def growth(samples):
    """Return a sentence for each measure that has grown from the first half of the samples to the second."""
    half = len(samples) // 2
    for name, slack in _SLACK.items():
        first, second = (
            statistics.median(getattr(sample, name) for sample in part) for part in (samples[:half], samples[half:])
        )
        if second - first > slack:
            yield f"{name} grew from {first:,.0f} to {second:,.0f} within {samples[-1].rounds:,} rounds"


def rounds(subject, seconds, *, warm=_WARM, each=None):
    """Run rounds until the time is over, or there were enough; return the samples.

    `each` is called with every shared value.
    """
    gc.collect()
    gc.freeze()  # what this process had before need not be looked through at each sample
    try:
        start, samples, done = time.monotonic(), [], 0
        while len(samples) < _SAMPLES:
            done += 1
            _round(subject, f"r{done}", done, each, full=done % _FULL == 0)
            part = (len(samples) + 1) / _SAMPLES
            if done >= warm and (time.monotonic() - start >= seconds * part or done >= _ROUNDS * part):
                samples.append(sample(done))
        return samples
    finally:
        gc.unfreeze()


def sample(done):
    """Measure what this process uses now."""
    gc.collect()
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return Sample(
        rounds=done,
        rss=int(status["VmRSS"].split()[0]),
        objects=sys.getallocatedblocks(),
        descriptors=len(os.listdir("/proc/self/fd")),
        threads=int(status["Threads"]),
        mappings=len(Path("/proc/self/maps").read_bytes().splitlines()),
        files=sum(len(files) for _, _, files in os.walk(os.environ["SHMKERNEL_DIR"])),
    )


def _round(subject, name, stamp, each, *, full):
    x = subject.create(name, stamp)
    y = shm.attach(name, mode="r")
    assert subject.stamps(y) == {stamp}
    if each is not None:
        each(x)
    if full:
        with shm.lock(name):
            if subject.change is not None:
                subject.change(x, stamp + 1)
        if subject.change is not None:
            shm.publish(name)
        assert shm.info(name).version
    del x, y
    assert shm.close(name)
    shm.unlink(name)


def every_kind(seconds):
    """Run rounds of each kind, and return the samples. Call it in a fresh process: it makes caches smaller."""
    attachments._KNOWN = records._KNOWN = _CACHED
    for module, name in ((paths, "_path"), (sync_file, "_recent")):
        setattr(module, name, functools.lru_cache(maxsize=_CACHED)(getattr(module, name).__wrapped__))
    end, samples = time.monotonic() + seconds, {}
    order = sorted(KINDS, key=lambda subject: subject.kind == "dict")  # last, since its rounds take longest
    for left, subject in zip(range(len(KINDS), 0, -1), order, strict=True):
        samples[subject.name] = rounds(subject, (end - time.monotonic()) / left)
    return samples


class _Guests:
    """A process beside, whose children are sessions that come and go; ``count`` and ``left`` are known at the end."""

    count, left = 0, ()

    def __init__(self, seed, environment):
        script = "import sys\nfrom tests.prove import life\nlife.host(int(sys.argv[1]))"
        self._process = subprocess.Popen(
            [sys.executable, "-c", script, str(seed)],
            env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        try:
            answer, _ = self._process.communicate(timeout=fresh.LIMIT)  # which closes its standard input
        finally:
            self._process.kill()
            self._process.wait()
        if kind is None:
            assert self._process.returncode == 0, "the host of the sessions has failed"
            self.count, self.left = json.loads(answer)


def host(seed):
    """Let sessions come and go, two at a time, until standard input ends. Print how many, and what is left then."""
    chance, count, folder = random.Random(seed), 0, os.environ["SHMKERNEL_DIR"]
    while not select.select([sys.stdin], [], [], 0)[0]:
        for pid in [_guest(f"guest{count + at}", chance.random()) for at in range(2)]:
            _, status = os.waitpid(pid, 0)
            assert os.waitstatus_to_exitcode(status) in (0, -signal.SIGKILL)
            count += 1
    deadline = time.monotonic() + helpers.PATIENCE
    while (left := [*helpers.watchdogs(folder), *helpers.left(folder)]) and time.monotonic() < deadline:
        time.sleep(0.01)
    print(json.dumps([count, left]))


def _guest(name, chance):
    """Fork a session that shares something of a random kind, and then ends in one of the ways to end."""
    pid = os.fork()
    if pid:
        return pid
    try:
        subject = KINDS[int(chance * 1000) % len(KINDS)]
        value = subject.create(name, 1, lifetime="attached" if chance < 0.3 else "session")
        with shm.lock(name):
            if subject.change is not None:
                subject.change(value, 2)
        if chance < 0.5:
            os.kill(os.getpid(), signal.SIGKILL)
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def _plot(report, kind, samples):
    for name in ("rss", "descriptors"):
        figure = next((one for one in report.figures if one.name == f"life-{name}"), None)
        if figure is None:
            label = {"rss": "resident memory, MiB", "descriptors": "descriptors"}[name]
            report.figures.append(figure := Figure(f"life-{name}", "rounds", label, {}))
        scale = 1024 if name == "rss" else 1
        figure.curves[kind] = [(one.rounds, getattr(one, name) / scale) for one in samples]
