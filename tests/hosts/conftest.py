"""Two machines on one: each host has its own network, processes and /dev/shm, and a cable connects them."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from shmkernel.hosts import certificates
from tests.helpers import PATIENCE, lacking, needs, until

AGENT = Path(__file__).with_name("agent.py")
ADDRESSES = {"hostA": "10.77.0.1", "hostB": "10.77.0.2"}
BEGIN = "mount -t tmpfs -o size={size}m shm /dev/shm && ip link set lo up && echo ready && exec sleep infinity"
LOOK = """
import json, time, zenoh
from shmkernel.hosts import certificates, network, passwords
settings = network.settings({who}, '{way}/127.0.0.1:7447', ['{way}/10.77.0.1:7447'])
settings['listen']['endpoints'] = []
{change}
with zenoh.open(zenoh.Config.from_json5(json.dumps(settings))) as session:
    until = time.monotonic() + {patience}
    seen = []
    while not seen and time.monotonic() < until:
        seen = [str(reply.ok.key_expr) for reply in session.liveliness().get('**', timeout=5) if reply.ok]
        seen += [str(reply) for reply in session.get('shmkernel/1/ask/hostA/piece/x?inode=0;at=0;size=9', timeout=5)]
        time.sleep(0.05)
seen
"""  # what a client of zenoh sees that is no host of ours


class AgentError(Exception):
    """What went wrong in a kernel of a host."""

    def __init__(self, answer):
        super().__init__(f"{answer['error']}: {answer['text']}")
        self.kinds, self.text, self.facts = answer["mro"], answer["text"], answer["facts"]


class Kernel:
    """A process on a host that runs what it is told."""

    def __init__(self, host):
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SHMKERNEL")}
        command = [*host.inside("--mount", "--pid"), sys.executable, str(AGENT)]
        self.process = subprocess.Popen(
            command, env=environment | {"XDG_DATA_HOME": str(host.data), "HOME": str(host.data)},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0,
        )  # fmt: skip
        self.heard = b""
        assert self.hear() == {"event": "ready"}

    def __call__(self, code):
        self.begin(code)
        return self.answer()

    def begin(self, code):
        self.process.stdin.write(json.dumps(code).encode() + b"\n")

    def hear(self):
        while b"\n" not in self.heard:  # no buffer of Python's: select does not see what is in it
            assert select.select([self.process.stdout], [], [], PATIENCE)[0], "the kernel is silent"
            part = self.process.stdout.read(1 << 16)
            assert part, "the kernel has ended"
            self.heard += part
        line, _, self.heard = self.heard.partition(b"\n")
        return json.loads(line)

    def answer(self):
        answer = self.hear()
        if "error" in answer:
            raise AgentError(answer)
        return answer["value"]

    def fails(self, code, kind):
        """Run code that must raise an error of this kind; return it."""
        with pytest.raises(AgentError) as failed:
            self(code)
        assert kind in failed.value.kinds, failed.value
        return failed.value

    def end(self):
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait(PATIENCE)
        self.process.stdout.close()


class Host:
    """A machine: namespaces that end with their first process."""

    def __init__(self, name, data, size):
        self.name, self.data, self.address = name, data, ADDRESSES[name]
        self.kernels = []
        for program in ("unshare", "nsenter", "ip", "tc"):
            if not shutil.which(program):
                lacking(f"{program} is not installed: apt-get install util-linux iproute2")
        command = ["unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]
        self.outer = subprocess.Popen(
            [*command, "sh", "-c", BEGIN.format(size=size)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        if self.outer.stdout.readline() != "ready\n":
            pytest.skip(f"no network or mount namespaces here: {self.outer.stderr.read()}")
        (self.init,) = Path(f"/proc/{self.outer.pid}/task/{self.outer.pid}/children").read_text().split()
        self.files = Path("/proc", self.init, "root")  # what "/" is on this host

    def inside(self, *spaces):
        return ["nsenter", "--target", self.init, "--net", *spaces]

    def shell(self, command):
        done = subprocess.run([*self.inside(), "sh", "-c", command], capture_output=True, text=True, check=False)
        if done.returncode:  # no package cures that, so it is no failure in CI
            pytest.skip(f"this kernel cannot do what the test needs: {command}: {done.stderr}")

    def plug(self, other):
        self.shell(f"ip link add eth0 type veth peer name eth0 netns {other.init}")
        for host in (self, other):
            host.shell(f"ip addr add {host.address}/24 dev eth0 && ip link set eth0 up")

    def kernel(self):
        self.kernels.append(Kernel(self))
        return self.kernels[-1]

    def server(self):
        """Return the pid of the process that serves this host."""
        here = os.readlink(f"/proc/{self.init}/ns/net")
        for entry in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                line = Path(f"/proc/{entry}/cmdline").read_bytes()
                if b"shmkernel.hosts import server" in line and os.readlink(f"/proc/{entry}/ns/net") == here:
                    return int(entry)
        return None

    def refusals(self):
        """Return how often nobody has listened where a process of this host wanted to connect."""
        lines = Path(f"/proc/{self.init}/net/snmp").read_text().splitlines()
        titles, figures = (line.split() for line in lines if line.startswith("Tcp:"))
        return int(figures[titles.index("AttemptFails")])

    def signal_server(self, how):
        os.kill(self.server(), how)

    def segments(self):
        """List all in /dev/shm but the runtime folder."""
        names = os.listdir(self.files / "dev/shm")
        return sorted(name for name in names if not name.startswith(".shmk-"))

    def clear(self):
        """End the kernels and the server, and see that they leave nothing."""
        for kernel in self.kernels:
            kernel.end()
        self.kernels.clear()
        if server := self.server():
            os.kill(server, signal.SIGCONT)
            os.kill(server, signal.SIGTERM)
            until(lambda: self.server() is None, "the server has ended")
        until(lambda: not self.segments(), f"{self.name} has no segments")

    def end(self):
        self.outer.kill()
        self.outer.communicate()


def authority(data, hosts, monkeypatch):
    """Make an authority, and the certificates of hosts, each in its data folder."""
    monkeypatch.setenv("XDG_DATA_HOME", str(data / "authority"))
    for path in certificates.init([f"{name}={ADDRESSES[name]}" for name in hosts]):
        name = Path(path).stem
        target = data / name / "shmkernel/hosts"
        target.mkdir(parents=True, exist_ok=True)
        shutil.move(path, target / f"{name}.pem")


@pytest.fixture(scope="module")
def machines(tmp_path_factory):
    needs("zenoh")
    data = tmp_path_factory.mktemp("hosts")
    with pytest.MonkeyPatch.context() as patch:
        authority(data, ADDRESSES, patch)
    made = []
    try:
        for name, size in (("hostA", 512), ("hostB", 256)):
            made.append(Host(name, data / name, size))
        made[0].plug(made[1])
        yield made
    finally:
        for host in made:
            host.end()


@pytest.fixture
def hosts(machines):
    """Both hosts, not joined."""
    yield machines
    for host in machines:
        host.clear()


@pytest.fixture
def joined(hosts):
    """A kernel on each host; the hosts are joined."""
    a, b = (host.kernel() for host in hosts)
    assert a(f"shm.join(listen='tls/{ADDRESSES['hostA']}')") == ["hostA"]
    assert b(f"shm.join('tls/{ADDRESSES['hostA']}', timeout={PATIENCE})") == ["hostA", "hostB"]
    return a, b


@pytest.fixture(params=["100mbit"])
def slow(hosts, request):
    """A cable that carries so much, so that a copy of 24 MB takes 2 seconds."""
    hosts[0].shell(f"tc qdisc add dev eth0 root tbf rate {request.param} burst 128kb latency 50ms")
    yield
    hosts[0].shell("tc qdisc del dev eth0 root")


def bytes_of(text):
    """Return the figures of an error that ends a copy."""
    received, size = re.search(r"after (\d+) of (\d+) bytes", text).groups()
    return int(received), int(size)


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(word) for word in file.read().split()]
