"""The process that all programs of a storm start from: it has imported everything, and has no session and no thread."""

from __future__ import annotations

import importlib
import os
import pickle
import pkgutil
import subprocess
import sys
import traceback
from typing import TYPE_CHECKING, Self

import shmkernel.kinds
import shmkernel.stdlib
import shmkernel.sync
from tests.prove.kinds import KINDS
from tests.prove.storm.stage import Outcome, Stage

if TYPE_CHECKING:
    from tests.prove.storm.program import Program


_LATEST = 120  # seconds for the program that runs to come to its end


class Host:
    """A handle for such a process."""

    def __enter__(self) -> Self:
        command = [sys.executable, "-c", "from tests.prove.storm import host; host.serve()"]
        # a session of its own: Ctrl-C in the terminal lets the program that runs come to its end, and clean up
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
        return self

    def play(self, program: Program, quiet: float) -> Outcome:
        """Run a program, and return what was wrong with it."""
        pickle.dump((program, quiet), self._process.stdin)
        self._process.stdin.flush()
        return pickle.load(self._process.stdout)

    def __exit__(self, *_: object) -> None:
        self._process.stdin.close()
        self._process.stdout.close()  # nobody reads the answer that a program may still have, after SIGTERM
        self._process.wait(_LATEST)


def _import_all() -> None:
    """Import what the processes would each import for themselves."""
    import lmdb  # noqa: F401  loaded before anything is counted
    import msgspec  # noqa: F401  loaded before anything is counted
    import numpy.ma  # noqa: F401  loaded before anything is counted

    importlib.import_module("shmkernel.monitor.widget")
    for subject in KINDS:
        for module in subject.needs:
            importlib.import_module(module)
    if "pandas" in sys.modules:  # a child forked beside the first frame of a process would wait for pyarrow for ever
        sys.modules["pandas"].DataFrame({"text": ["a"]})
    for package in (shmkernel.kinds, shmkernel.stdlib, shmkernel.sync):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)


def serve() -> None:
    """Answer requests until there are no more."""
    _import_all()
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the product prints is no answer
    while True:
        try:
            program, quiet = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            _play(program, quiet, write)
        os.close(write)
        with os.fdopen(read, "rb") as answer:
            outcome = answer.read()
        os.waitpid(pid, 0)
        try:
            answers.write(outcome or pickle.dumps(Outcome(["the stage died"])))
            answers.flush()
        except BrokenPipeError:  # the run is over
            os._exit(0)  # what is in the buffer cannot be written at exit either


def _play(program: Program, quiet: float, write: int) -> None:
    try:
        os.set_inheritable(write, False)
        outcome = Stage(program, quiet).run()
        with os.fdopen(write, "wb") as answer:
            pickle.dump(outcome, answer)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)
