"""No text is read or written in the locale's encoding."""

from tests.helpers import python

SCRIPT = """
import contextlib, importlib.util, os, tempfile
import numpy as np
import shmkernel as shm
from shmkernel import cli

x = shm.create("x", np.zeros(3))
with shm.lock("x"), shm.writing(x):
    x[:] = 1
shm.publish("x")
if importlib.util.find_spec("lmdb"):
    d = shm.create("d", {"a": 1})
    with d.transaction():
        d["b"] = np.arange(3)
shm.create("words", ["one", "two"])
shm.create("frames", ring=4, shape=(3,)).put(np.ones(3))
child = os.fork()
if child == 0:
    y = shm.attach("x")
    os._exit(0)
os.waitpid(child, 0)
shm.list(), shm.info("x"), shm.attach("x"), shm.doctor(), shm.gc()
with tempfile.TemporaryDirectory() as folder:
    shm.save("x", f"{folder}/x.npy")
    shm.load("y", f"{folder}/x.npy")
with contextlib.suppress(shm.NotFoundError):
    shm.attach("nothing")
shm.keep("x")
shm.unlink("x")
shm.watch()
for command in ("list", "doctor", "gc"):
    cli.main([command])
"""


def test_no_file_is_opened_in_the_locale_s_encoding():
    python(SCRIPT, flags=("-X", "warn_default_encoding", "-W", "error::EncodingWarning"))


def test_nothing_is_left_open_at_the_end_of_a_program():
    python(SCRIPT, flags=("-X", "dev", "-W", "error::ResourceWarning"))
    done = python("import shmkernel as shm; x = shm.create('x', [1])", flags=("-X", "dev"))
    assert done.stderr == ""
