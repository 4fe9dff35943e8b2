"""Every test has a folder of segments to itself, and must leave it empty.

Two runs of the suite on one machine do not meet, and neither meets the segments of whoever is at work there.
"""

from __future__ import annotations

import gc
import os
import secrets
import signal
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytest_plugins = ["tests.documents", "tests.tutorials"]
collect_ignore = ["tests/kinds/hostile_tables.py"]  # a program without tests, which needs pandas
collect_ignore += [
    f"tests/unit/dask_{part}.py" for part in ("arrays", "cluster", "frames", "messages")
]  # test_dask.py runs them
collect_ignore += ["shmkernel/dask"]  # its modules, which have no examples, import distributed: see test_dask.py

# A shell's job in the background ignores Ctrl-C, and so would the processes that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

_FEW = 5  # files: a process starts as fast as it takes to run them
_PATIENCE = 120.0  # seconds for a watchdog to sweep; the promise of 100 ms has tests of its own


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Choose the number of processes (``-n`` says another): a few files need none, and most tests wait for others."""
    named = [argument.partition("::")[0] for argument in config.args]
    if config.args_source is pytest.Config.ArgsSource.ARGS and len(named) <= _FEW and all(map(os.path.isfile, named)):
        return 0
    return max(4, min(len(os.sched_getaffinity(0)), 8))


def pytest_configure(config: pytest.Config) -> None:
    """Run a test that is named, ``long`` or not. Have hypothesis try the same values each time, and time none.

    Its deadline of 200 ms for a value is missed where other processes hold the machine up.
    """
    slow = [HealthCheck.too_slow]
    settings.register_profile("same", deadline=None, derandomize=True, database=None, suppress_health_check=slow)
    settings.load_profile("same")
    if config.args_source is pytest.Config.ArgsSource.ARGS and all("::" in argument for argument in config.args):
        config.option.markexpr = config.option.markexpr.replace("not long", "")


def _end_clean(left: Callable[[], list[Path]]) -> None:
    """End the session of this process, if it has one, and see that its watchdog removes everything."""
    if sessions := sys.modules.get("shmkernel._core.sessions"):
        sessions.end()
    deadline = time.monotonic() + _PATIENCE
    while (paths := left()) and time.monotonic() < deadline:
        time.sleep(0.002)
    assert not paths, "left behind"


@contextmanager
def _private_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="shmkernel-test-", dir="/dev/shm"))

    def left() -> list[Path]:
        inside = (path for part in ("records", "sessions", "stores") for path in folder.glob(f".shmk-*/{part}/*"))
        return [*(path for path in folder.iterdir() if not path.name.startswith(".shmk-")), *inside]

    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SHMKERNEL_DIR", str(folder))
            yield folder
            _end_clean(left)
    finally:
        if server := sys.modules.get("multiprocessing.forkserver"):
            server._forkserver._stop()  # it keeps the environment of its first use
        from shmkernel.testing import remove  # not before the tests decide what is imported when

        remove(folder)


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop() -> Iterator[None]:
    """Give the notebooks a folder: their cells are tests that take no fixtures. joblib's lies apart from it.

    nbval kills kernels, and joblib's own folder, in /dev/shm by default, would stay. The key that signs objects is made
    there too, not at the user's home.
    """
    with _private_folder(), tempfile.TemporaryDirectory() as apart, pytest.MonkeyPatch.context() as patch:
        patch.setenv("JOBLIB_TEMP_FOLDER", apart)
        patch.setenv("XDG_DATA_HOME", f"{apart}/data")
        return (yield)


@pytest.fixture(scope="module", autouse=True)
def _imports_are_not_collected() -> None:
    """Collect garbage, and keep what is left, all that was imported, out of the many collections of the tests."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def shm_dir() -> Iterator[Path]:
    """The folder of segments for this test and the processes that it starts. Its garbage and monitors end with it.

    Collected during a later test, garbage would fail there, at any line of it. A monitor's thread would call what that
    test replaces.
    """
    with _private_folder() as folder:
        yield folder
        gc.collect()
        for thread in threading.enumerate():
            if thread.name.startswith("shmkernel-"):
                thread.join(_PATIENCE)
                assert not thread.is_alive(), f"{thread.name} lives on"


@pytest.fixture
def posix_name(shm_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A name that nobody else has, in /dev/shm itself: the one folder that shm_open knows."""
    monkeypatch.delenv("SHMKERNEL_DIR")
    name = f"test_{os.getpid()}_{secrets.token_hex(4)}"

    def left() -> list[Path]:
        return list(Path("/dev/shm").glob(f"*{name}*"))

    yield name
    try:
        _end_clean(left)
    finally:
        for path in left():
            path.unlink()
