"""How the connection of hosts grows with hosts and shared names: traffic, memory, time to find and to attach.

uv run --group large unshare --net python benchmarks/hosts_growth.py 2 5 10 20

As root, in a network of its own, where all bytes are counted. Each host is a process with the network of
`shmkernel.hosts`, over mutual TLS on one machine; they find each other through the first. 10,000 names are shared, by
all hosts equally: tokens without segments, and one real segment at the first host. A line is printed for each number
of hosts. The times are medians.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import shmkernel as shm
from shmkernel.hosts import certificates, network

NAMES = 10_000
REST = 10.0  # seconds for which the traffic of hosts at rest is counted
ROUNDS = 50
PATIENCE = 120.0


class Here:
    """A host: what its process does when it is told to."""

    def __init__(self, host, first):
        connect = [] if host == first else [f"tls/127.0.0.1:{port(first)}"]
        self.net = network.Network(certificates.identity(host), f"tls/127.0.0.1:{port(host)}", connect)
        self.net.appear(PATIENCE, lambda: False)

    def hosts(self):
        return len(self.net.hosts())

    def share(self, names):
        for name in names:
            self.net.share(name)

    def seen(self):
        """Count all tokens."""
        return sum(1 for _ in self.net._alive(f"{network.ROOT}/shared/*/*"))

    def memory(self):
        """Return this process's own memory in bytes."""
        lines = Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines()
        return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Private_"))

    def create(self, name):
        self.x = shm.create(name, [1.0])
        self.net.share(name)

    def find(self, name):
        return timed(lambda: self.net.find(name))

    def attach(self, name):
        """Time all that a tiny attach asks the network for: who has the name, and its offer, with the bytes."""

        def ask():
            assert self.net.whole(*self.net.find(name))[1]

        return timed(ask)


class There:
    """The process of a host."""

    def __init__(self, host, first):
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--host", host, first], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def tell(self, verb, *arguments):
        self.process.stdin.write(json.dumps([verb, *arguments]) + "\n")
        self.process.stdin.flush()

    def hear(self):
        return json.loads(self.process.stdout.readline())

    def __call__(self, verb, *arguments):
        self.tell(verb, *arguments)
        return self.hear()

    def end(self):
        self.process.stdin.close()
        self.process.wait(PATIENCE)


def port(host):
    return 7447 + int(host.removeprefix("host"))


def timed(act):
    """Return the median of some calls, in milliseconds."""
    found = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        act()
        found.append(1000 * (time.perf_counter() - start))
    return statistics.median(found)


def sent():
    """Return how many bytes have been sent in this network, headers included."""
    lines = Path("/proc/net/dev").read_text(encoding="ascii").splitlines()
    return sum(int(line.split()[9]) for line in lines if line.split()[0] == "lo:")


def until(condition):
    """Wait for a condition, and return how long it took, in seconds."""
    start = time.monotonic()
    while not condition():
        if time.monotonic() > start + PATIENCE:
            raise TimeoutError
        time.sleep(0.05)
    return time.monotonic() - start


def together(hosts, verb, arguments):
    """Let all hosts do something at once."""
    for host, own in zip(hosts, arguments, strict=True):
        host.tell(verb, *own)
    for host in hosts:
        host.hear()


def measure(count):
    """Return figures for so many hosts."""
    names = [f"host{at}" for at in range(count)]
    hosts = []
    try:
        for name in names:
            hosts.append(There(name, names[0]))
            assert hosts[-1].hear() == "ready"
        until(lambda: all(host("hosts") == count for host in hosts))
        time.sleep(3)  # the last connections
        before, start = sent(), time.monotonic()
        time.sleep(REST)
        rest = (sent() - before) / (time.monotonic() - start)
        alone = statistics.mean(host("memory") for host in hosts)
        before = sent()
        share = NAMES // count
        start = time.monotonic()
        together(hosts, "share", [[[f"name{at}_{one}" for one in range(share)]] for at in range(count)])
        until(lambda: hosts[-1]("seen") == share * count)
        spread = time.monotonic() - start
        traffic = sent() - before - rest * spread
        full = statistics.mean(host("memory") for host in hosts)
        hosts[0]("create", "x")
        until(lambda: hosts[-1]("seen") == share * count + 1)
        return {
            "hosts": count,
            "at rest, bytes/s a host": rest / count,
            "bytes a name and other host": traffic / (share * count * (count - 1)),
            "spread, s": spread,
            "memory, MB": alone / 1e6,
            "bytes of memory a name": (full - alone) / (share * count),
            "find, ms": hosts[-1]("find", "x"),
            "attach, ms": hosts[-1]("attach", "x"),
        }
    finally:
        for host in hosts:
            host.end()


def serve(host, first):
    """Be a host: carry out what each line says."""
    here = Here(host, first)
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        verb, *arguments = json.loads(line)
        print(json.dumps(getattr(here, verb)(*arguments)), flush=True)
    os._exit(0)  # as the real one does: zenoh's threads need no farewell


def main(counts):
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with tempfile.TemporaryDirectory() as data, tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        os.environ |= {"XDG_DATA_HOME": data, "SHMKERNEL_DIR": folder}
        certificates.init([f"host{at}=127.0.0.1" for at in range(max(counts))])
        for count in counts:
            for title, value in measure(count).items():
                print(f"{title}: {value:,.3g}" if isinstance(value, float) else f"{title}: {value}", end="; ")
            print(flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--host"]:
        serve(*sys.argv[2:])
    else:
        main([*map(int, sys.argv[1:])])
