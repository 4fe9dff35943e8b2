"""Waiting between two real kernels, and what the interrupt button does to it."""

import pytest

import shmkernel as shm
from tests.helpers import until, until_left
from tests.kernels.kernel import PATIENCE, Kernel

SLEEPS = ("72", "232", "281")  # fcntl, epoll_wait, epoll_pwait


@pytest.fixture
def kernels(tmp_path, shm_dir):
    """Two kernels: one that produces, one that consumes."""
    pair = [Kernel(name, tmp_path) for name in ("produce.ipynb", "consume.ipynb")]
    for one in pair:
        one("import os, asyncio, shmkernel as shm\n%load_ext shmkernel")
    yield pair
    for one in pair:
        one.end()
    until_left(shm_dir)


def start(kernel, code):
    """Run a cell without waiting for its end; return what tells whether its process sleeps by itself."""
    pid = int(kernel("print(os.getpid())"))
    kernel.started = kernel.client.execute(f"print('begun', flush=True)\n{code}", stop_on_error=False)
    until(lambda: "begun" in stream(kernel), "the cell begins")

    def asleep():
        with open(f"/proc/{pid}/syscall") as file:
            return file.read().split()[0] in SLEEPS

    return asleep


def stream(kernel):
    """Return what the kernel prints next."""
    message = kernel.client.get_iopub_msg(timeout=PATIENCE)
    return message["content"].get("text", "")


def end(kernel):
    """Return the reply to the cell that was started."""
    while True:
        reply = kernel.client.get_shell_msg(timeout=PATIENCE)
        if reply["parent_header"]["msg_id"] == kernel.started:
            return reply["content"]


@pytest.mark.long
def test_a_consumer_takes_three_lines(kernels):
    produce, consume = kernels
    produce("import numpy as np\nx = np.zeros(3)\n%shm_create x")
    consume("%shm_attach x\nseen = []")
    asleep = start(
        consume,
        "async for version in shm.changes(x):\n"
        "    seen.append((version, x.sum()))\n"
        "    shm.publish('taken')\n"
        "    if len(seen) == 3: break",
    )
    until(asleep, "it waits for what comes from now on")
    produce(
        "known = shm.version('taken')\n"
        "for i in 1, 2, 3:\n"
        "    with shm.lock(x):\n"
        "        x += 1\n"
        "    known = shm.wait('taken', since=known, timeout=100)"
    )
    assert end(consume)["status"] == "ok"
    assert consume("print([(v, float(s)) for v, s in seen])") == "[(1, 3.0), (2, 6.0), (3, 9.0)]\n"


def test_the_interrupt_button_ends_every_wait(kernels):
    produce, consume = kernels
    produce("ring = shm.create('frames', ring=4, shape=3)\nlock = shm.lock('x')\n_ = lock.acquire()")
    consume("ring = shm.attach('frames')\nfrom shmkernel.sync import inotify")
    for code in (
        "shm.wait('x')",
        "shm.wait('x', timeout=600)",
        "shm.lock('x').__enter__()",
        "shm.lock('x', timeout=600).__enter__()",
        "async for _ in shm.changes('x'): pass",
        "async with shm.lock('x'): pass",
        "for frame in ring: pass",
        "async for frame in ring: pass",
    ):
        asleep = start(consume, code)
        until(asleep, f"{code} sleeps")
        consume.manager.interrupt_kernel()
        reply = end(consume)
        assert reply["ename"] in ("KeyboardInterrupt", "CancelledError"), code
        assert consume("import gc; _ = gc.collect(); print(len(inotify._waiters))") == "0\n", code
    produce("lock.release()")
    assert consume("print(shm.lock('x').acquire(timeout=100))") == "True\n"


def test_an_interrupted_cell_holds_no_lock(kernels):
    """Ctrl-C that comes within one long operation ends the block before its ``__exit__`` has run a line."""
    produce, consume = kernels
    produce("import numpy as np\nx = shm.create('x', shape=10_000_000)\ny = np.ones(10_000_000)")
    start(produce, "while True:\n    with shm.lock('x'):\n        x += y")
    until(lambda: shm.version("x") > 2, "it works")
    produce.manager.interrupt_kernel()
    assert end(produce)["ename"] == "KeyboardInterrupt"
    assert consume("print(shm.lock('x').acquire(timeout=100))") == "True\n"


def test_a_cell_that_awaits_learns_how_to_take_the_lock(kernels):
    _, consume = kernels
    reply, _ = consume.run("%%shm_lock x\nawait asyncio.sleep(0)")
    assert reply["ename"] == "ArgumentError"
    assert reply["evalue"].endswith("Take the lock in it: async with shm.lock('x'):")
    assert consume("async with shm.lock('x'):\n    await asyncio.sleep(0)\n    print('inside')") == "inside\n"
    assert consume("%%shm_lock x\nprint('inside')") == "inside\n"


@pytest.mark.long
def test_the_interrupt_button_ends_the_wait_for_another_s_transaction(kernels):
    produce, consume = kernels
    produce("cfg = shm.create('cfg', {'a': 1})")
    consume("cfg = shm.attach('cfg')")
    inside = start(produce, "with cfg.transaction():\n    cfg['a'] = 2\n    shm.wait('leave')")
    until(inside, "it waits inside")
    asleep = start(consume, "cfg['b'] = 1")
    until(asleep, "it waits for its turn")
    consume.manager.interrupt_kernel()
    assert end(consume)["ename"] == "KeyboardInterrupt"
    assert consume("print(cfg)") == "{'a': 1}\n"
    shm.publish("leave")
    assert end(produce)["status"] == "ok"
    assert consume("print(cfg)") == "{'a': 2}\n"


@pytest.mark.long
def test_an_interrupted_cell_holds_no_transaction(kernels):
    """As for a lock: the block may be ended before its ``__exit__`` has run a line."""
    produce, consume = kernels
    produce("import numpy as np\ncfg = shm.create('cfg', {'n': 0})\nx, y = np.zeros((2, 10_000_000))")
    consume("cfg = shm.attach('cfg')")
    start(produce, "while True:\n    with cfg.transaction():\n        cfg['n'] += 1\n        x += y")
    consume("while cfg['n'] < 2: pass")
    produce.manager.interrupt_kernel()
    assert end(produce)["ename"] == "KeyboardInterrupt"
    consume("cfg['n'] = -1")
    assert produce("print(cfg['n'])\ncfg['n'] = 7") == "-1\n"
    assert consume("print(cfg)") == "{'n': 7}\n"


def test_the_timeout_of_a_lock_names_the_holder_s_kernel_and_notebook(kernels):
    produce, consume = kernels
    pid = produce("print(os.getpid())").strip()
    produce("_ = shm.lock('x').acquire()")
    reply, _ = consume.run("with shm.lock('x', timeout=0.1): pass")
    assert reply["ename"] == "TimedOutError"
    assert f"by produce.ipynb (pid {pid})" in reply["evalue"]


@pytest.mark.long
def test_a_restarted_holder_leaves_the_lock_and_is_told(kernels):
    produce, consume = kernels
    produce("_ = shm.lock('x').acquire()")
    start(consume, "import warnings\nwarnings.simplefilter('error')\nwith shm.lock('x'): pass")
    produce.manager.restart_kernel(now=True)
    reply = end(consume)
    assert (reply["ename"], "produce.ipynb" in reply["evalue"]) == ("RuntimeWarning", True)
