"""A real Jupyter server, in a process of its own: what the Running panel asks it."""

import http.cookiejar
import importlib.util
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import numpy as np
import pytest

import shmkernel as shm
from shmkernel import server as ours
from shmkernel._core import registry, sessions
from shmkernel.testing import remove
from tests.helpers import Child, lacking, make_snapshot, until_left

if importlib.util.find_spec("jupyter_server") is None:
    lacking("jupyter_server is not installed: uv run --group large pytest tests/unit/test_server.py")

TOKEN = "for-tests"
ADDRESS = "shmkernel/segments"
OTHERS = ("jupyterlab", "jupyter_lsp", "jupyter_server_terminals", "notebook", "notebook_shim")  # slow to load
PATIENCE = 100  # seconds for a start, which takes one or two


def _free_port():
    """Return a port that was free just now; if it is taken meanwhile, the server tries others."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]


class Server:
    """A Jupyter server without extensions but ours, and its folder of segments."""

    def __init__(self, root):
        self.root, self.folder = root, Path(tempfile.mkdtemp(prefix="shmkernel-test-", dir="/dev/shm"))
        names = {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data", "JUPYTER_RUNTIME_DIR": "runtime"}
        places = {name: str(root / folder) for name, folder in (names | {"HOME": "", "IPYTHONDIR": "ipython"}).items()}
        environment = os.environ | places | {"SHMKERNEL_DIR": str(self.folder)}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path.cwd()), os.environ.get("PYTHONPATH", "")]))
        with (root / "log").open("w") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable, "-m", "jupyter_server", "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1",
                    f"--ServerApp.port={_free_port()}", f"--IdentityProvider.token={TOKEN}",
                    f"--ServerApp.root_dir={root}",
                    f"--ServerApp.jpserver_extensions={dict.fromkeys(OTHERS, False) | {'shmkernel.server': True}}",
                ],
                env=environment, stdout=log, stderr=subprocess.STDOUT, cwd=root,
            )  # fmt: skip
        try:
            self.url = self._ready()
        except BaseException:
            self.close()
            raise

    def _ready(self):
        began = time.monotonic()
        while not (url := self._address()):
            assert self.process.poll() is None, (self.root / "log").read_text()
            assert time.monotonic() - began < PATIENCE, (self.root / "log").read_text()
            time.sleep(0.02)
        return url

    def _address(self):
        try:
            found = json.loads((self.root / "runtime" / f"jpserver-{self.process.pid}.json").read_text())["url"]
            urllib.request.urlopen(f"{found}api").close()
        except (OSError, ValueError):  # not written yet, half written, not served yet
            return None
        return found

    def ask(self, method="GET", address=ADDRESS, headers=None, cookies=None, **query):
        """Return the status, and what the answer's JSON says."""
        url = f"{self.url}{address}?{urllib.parse.urlencode(query)}"
        headers = {"Authorization": f"token {TOKEN}"} if headers is None else headers
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(cookies))
        try:
            answer = opener.open(urllib.request.Request(url, method=method, headers=headers))
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            assert answer.headers.get_content_type() == "application/json"
            return answer.status, json.load(answer)

    def close(self):
        self.process.kill()  # it has no kernels to end first
        self.process.wait()
        remove(self.folder)


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    found = Server(tmp_path_factory.mktemp("server"))
    yield found
    found.close()


@pytest.fixture
def server(running, monkeypatch):
    """The server; this test shares its folder of segments, and leaves it empty."""
    monkeypatch.setenv("SHMKERNEL_DIR", str(running.folder))
    yield running
    sessions.end()
    until_left(running.folder)


def test_it_lists_the_segments_of_its_folder(server):
    x = shm.create("x", np.zeros((3, 4)))
    shm.create("kept", b"bytes", lifetime="keep")
    status, found = server.ask()
    assert (status, found["folder"]) == (200, str(server.folder))
    assert "2 segments" in found["total"]
    assert str(server.folder) in found["total"]
    kept, shown = found["segments"]
    assert (shown["name"], shown["kind"], shown["type"], shown["size"]) == ("x", "array", "float64 (3, 4)", "224 B")
    assert (shown["count"], shown["lifetime"]) == (1, "session")
    assert shown["holders"][0].endswith(f" ({os.getpid()})")
    assert shown["inode"] == str(registry.inode_at("x"))
    assert (kept["name"], kept["lifetime"]) == ("kept", "keep")
    shm.unlink("kept")
    del x


def test_it_tells_all_details_of_one_segment(server):
    shm.create("x", np.zeros((3, 4)))
    status, found = server.ask(name="x")
    facts = dict(found["facts"])
    assert (status, found["name"], found["folder"]) == (200, "x", str(server.folder))
    assert facts["path"].startswith(f"{server.folder}/")
    assert facts["lifetime"].startswith("session: until ")
    assert str(os.getpid()) in facts["owner"]


def test_it_tells_what_a_snapshot_of_another_host_copies(server):
    x = shm.create("x", shape=3)
    make_snapshot("x")
    _, everything = server.ask()
    assert [row["origin"] for row in everything["segments"]] == ["hostA:x, version 3"]
    _, found = server.ask(name="x")
    assert ["snapshot of", "hostA:x, version 3, inode 7"] in found["facts"]
    shm.unlink("x")
    del x


def test_it_unlinks_and_says_who_keeps_the_memory(server):
    x = shm.create("x", np.ones(3))
    inode = str(registry.inode_at("x"))
    status, found = server.ask("DELETE", name="x", inode=inode)
    assert status == 200
    assert found["message"].startswith("x: unlinked, 152 B stay in memory until ")
    assert registry.inode_at("x") is None
    assert x.tolist() == [1, 1, 1]
    assert server.ask()[1]["segments"] == []
    status, found = server.ask("DELETE", name="x", inode=inode)
    assert (status, "no segment named 'x'" in found["message"]) == (404, True)


def test_it_frees_what_nobody_has(server):
    with Child(lambda _: shm.create("x", np.ones(3), lifetime="keep") is None) as child:
        child.join()
    assert server.ask("DELETE", name="x") == (200, {"message": "x: unlinked, 152 B freed"})


def test_it_leaves_another_segment_of_the_name_alone(server):
    shm.create("x", 1)
    inode = str(registry.inode_at("x"))
    shm.create("x", 2, replace=True)
    status, found = server.ask("DELETE", name="x", inode=inode)
    assert (status, found["message"]) == (409, "'x' belongs to another segment by now")
    assert shm.attach("x") == 2


def test_it_removes_a_damaged_segment(server):
    path = server.folder / f"shmk-{os.geteuid()}-bad"
    with Child(lambda _: shm.create("bad", np.ones(3), lifetime="keep") is None) as child:
        child.join()
    path.write_bytes(b"\x93NUMPY nonsense")
    (shown,) = server.ask()[1]["segments"]
    assert shown["state"] == "damaged"
    assert server.ask("DELETE", name="bad", inode=shown["inode"])[0] == 200
    assert not path.exists()


@pytest.mark.parametrize("name", ["two words", "../x", "", "/a/b", "x" * 300])
@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_a_bad_name_is_a_bad_request(server, method, name):
    status, found = server.ask(method, name=name)
    assert status == 400
    assert "name" in found["message"]


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_a_name_that_nobody_has_is_not_found(server, method):
    assert server.ask(method, name="nobody")[0] == 404


def test_without_a_token_it_says_and_does_nothing(server):
    shm.create("x", 1)
    for headers in ({}, {"Authorization": "token wrong"}):
        for method, query in (("GET", {}), ("GET", {"name": "x"}), ("DELETE", {"name": "x"})):
            status, found = server.ask(method, headers=headers, **query)
            assert status == 403
            assert "x" not in json.dumps(found).split()
    assert registry.inode_at("x")


def test_a_page_of_another_site_cannot_unlink_with_the_users_cookies(server):
    """A browser sends the cookies along; only a page of the server can read the XSRF cookie and repeat it."""
    shm.create("x", 1)
    cookies = http.cookiejar.CookieJar()
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(cookies))
    opener.open(f"{server.url}login?token={TOKEN}").close()
    assert server.ask(headers={}, cookies=cookies)[0] == 200
    assert server.ask("DELETE", headers={}, cookies=cookies, name="x")[0] == 403
    assert server.ask("DELETE", headers={"X-XSRFToken": "made up"}, cookies=cookies, name="x")[0] == 403
    assert registry.inode_at("x")
    token = next(cookie.value for cookie in cookies if cookie.name == "_xsrf")
    assert server.ask("DELETE", headers={"X-XSRFToken": token}, cookies=cookies, name="x")[0] == 200


def test_it_knows_no_other_method(server):
    for method in ("POST", "PUT", "PATCH"):
        assert server.ask(method)[0] == 405


def test_a_page_that_looks_on_does_not_keep_an_idle_server_alive(server):
    shm.create("x", 1)
    before = server.ask(address="api/status")[1]["last_activity"]
    server.ask()
    server.ask(name="x")
    assert server.ask(address="api/status")[1]["last_activity"] == before
    server.ask("DELETE", name="x")
    assert server.ask(address="api/status")[1]["last_activity"] > before


def test_what_is_wrong_with_the_folder_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("SHMKERNEL_DIR", str(tmp_path / "missing"))
    status, found = ours.answer(ours.everything)
    assert status == 500
    assert "missing" in found["message"]
