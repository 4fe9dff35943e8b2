"""How fast a value reaches another host: our attach beside raw TCP, Arrow Flight, Dask and Ray, in one run.

uv run --group large --with ray python benchmarks/hosts_transfer.py [raw tcp tls flight dask ray]

As root, on Linux, with iproute2. Two hosts are made of this machine: each has its own network, processes and /dev/shm,
and a virtual cable connects them. One holds the values, a process on the other fetches them. All ways are timed in
turn, and the median of each is printed with its ratio to raw TCP. The last column is the time of 8 bytes while another
process of the same host fetches 1 GiB in the same way.

    raw     sendfile on one side, recv and pwrite to a file in /dev/shm on the other, over a kept connection
    tcp     `shm.attach`, hosts joined by user and password: a file in /dev/shm too
    tls     the same, hosts joined by certificates
    flight  Arrow Flight: the memory of the process that fetches, as with Dask
    dask    a task whose argument is on another worker
    ray     `ray.get` of an object in another node's store: shared memory too; left out if it is not installed
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import select
import shutil
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

A, B = "10.77.0.1", "10.77.0.2"
RAY = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "RAY_raylet_start_wait_time_s": "120"}
BEGIN = "mount -t tmpfs -o size=8g shm /dev/shm && ip link set lo up && echo && exec cat >/dev/null"
BULK, TINY = 1 << 30, 8
ROUNDS = {BULK: 3, 100_000_000: 9, 1_000_000: 31, TINY: 101}  # of so many bytes
TITLES = {BULK: "1 GiB", 100_000_000: "100 MB", 1_000_000: "1 MB", TINY: "8 bytes"}
BESIDE = 2  # rounds of 8 bytes beside 1 GiB
RATED = (BULK, 100_000_000)  # printed as a rate; the others as a time


def value(size):
    return np.full(size, 7, np.uint8)


class Raw:
    """Plain sockets: a request is a size, the answer that many bytes."""

    port = 5000
    block = memoryview(bytearray(1 << 20))

    def serve(self):
        for size in ROUNDS:
            Path(f"/dev/shm/{size}").write_bytes(value(size))
        listener = socket.create_server((A, self.port))
        threading.Thread(target=self.accept, args=[listener], daemon=True).start()

    def accept(self, listener):
        while True:
            threading.Thread(target=self.answer, args=[listener.accept()[0]], daemon=True).start()

    def answer(self, connection):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while asked := connection.recv(8, socket.MSG_WAITALL):
            with open(f"/dev/shm/{struct.unpack('q', asked)[0]}", "rb") as file:
                connection.sendfile(file)

    def begin(self):
        self.connection = socket.create_connection((A, self.port))

    def fetch(self, size):
        start = time.perf_counter()
        self.connection.sendall(struct.pack("q", size))
        fd, at = os.open("/dev/shm", os.O_TMPFILE | os.O_RDWR), 0
        while at < size:
            count = self.connection.recv_into(self.block, min(size - at, len(self.block)))
            os.pwrite(fd, self.block[:count], at)
            at += count
        took = time.perf_counter() - start
        os.close(fd)
        return took


class Tcp:
    """Segments, in a folder and with a server of this way's own."""

    way, port = "tcp", 7447

    def join(self, *hosts):
        os.environ["SHMKERNEL_DIR"] = f"/dev/shm/{self.way}"
        os.makedirs(os.environ["SHMKERNEL_DIR"], exist_ok=True)
        import shmkernel as shm

        shm.join(*hosts, listen=f"{self.way}/0.0.0.0:{self.port}", host="hostB" if hosts else "hostA")
        return shm

    def serve(self):
        shm = self.join()
        self.kept = [shm.create(f"x{size}", value(size)) for size in ROUNDS]
        for size in ROUNDS:
            shm.share(f"x{size}")

    def begin(self):
        self.shm = self.join(f"{self.way}/{A}:{self.port}")

    def fetch(self, size):
        start = time.perf_counter()
        got = self.shm.attach(f"hostA:x{size}")
        took = time.perf_counter() - start
        assert got[-1] == 7
        del got
        self.shm.unlink(f"hostA.x{size}")
        return took


class Tls(Tcp):
    way, port = "tls", 7448


class Flight:
    """A table with one column, in pieces of 4 MB."""

    address = f"grpc://{A}:5001"

    def serve(self):
        import pyarrow as pa
        from pyarrow import flight

        tables = {size: pa.table({"x": value(size)}) for size in ROUNDS}

        class Server(flight.FlightServerBase):
            def do_get(self, _, ticket):
                table = tables[int(ticket.ticket)]
                return flight.RecordBatchStream(table.to_reader(max_chunksize=4 << 20))

        self.server = Server(self.address)

    def begin(self):
        from pyarrow import flight

        self.client, self.ticket = flight.connect(self.address), flight.Ticket

    def fetch(self, size):
        start = time.perf_counter()
        got = self.client.do_get(self.ticket(str(size))).read_all()
        took = time.perf_counter() - start
        assert got.nbytes == size
        return took


class Dask:
    """A scheduler and a worker there, a worker here."""

    address = f"{A}:8786"

    def worker(self, name, host):
        folder = tempfile.mkdtemp()
        command = ["worker", f"tcp://{self.address}", "--name", name, "--host", host, "--local-directory", folder]
        self.start(*command, "--no-nanny", "--no-dashboard", "--nthreads", "2", "--memory-limit", "0")

    def start(self, *command):
        subprocess.Popen([sys.executable, "-m", "dask", *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def serve(self):
        self.start("scheduler", "--host", A, "--port", "8786", "--no-dashboard")
        self.worker("A", A)

    def begin(self, first=True):
        from distributed import Client, wait

        if first:
            self.worker("B", B)
        self.client, self.wait = Client(f"tcp://{self.address}", timeout=60), wait
        self.client.wait_for_workers(2, timeout=60)

    def fetch(self, size):
        there = self.client.submit(value, size, workers=["A"], pure=False)
        self.wait(there)
        start = time.perf_counter()
        assert self.client.submit(len, there, workers=["B"], pure=False).result() == size
        return time.perf_counter() - start


class Ray:
    """A node each; an actor there puts the values into its store."""

    address = f"{A}:6379"

    def start(self, host, *command):
        command = ["start", *command, f"--node-ip-address={host}", "--num-cpus=2", f"--object-store-memory={3 << 30}"]
        subprocess.run([Path(sys.executable).with_name("ray"), *command], check=True, stdout=subprocess.DEVNULL)

    def serve(self):
        folder = tempfile.mkdtemp(prefix="r")  # a socket's path in it has 107 bytes at most
        self.start(
            A, "--head", "--port=6379", "--include-dashboard=false", '--resources={"there": 9}', f"--temp-dir={folder}"
        )

    def begin(self, first=True):
        import ray

        if first:
            self.start(B, f"--address={self.address}")

        @ray.remote(num_cpus=0, resources={"there": 1})
        class There:
            def put(self, size):
                return [ray.put(np.full(size, 7, np.uint8))]

        ray.init(self.address, _node_ip_address=B, log_to_driver=False, logging_level="error")
        self.ray, self.there = ray, There.remote()

    def fetch(self, size):
        (there,) = self.ray.get(self.there.put.remote(size))
        start = time.perf_counter()
        got = self.ray.get(there)
        took = time.perf_counter() - start
        assert len(got) == size
        return took


WAYS = {"raw": Raw, "tcp": Tcp, "tls": Tls, "flight": Flight, "dask": Dask, "ray": Ray}


class Host:
    """A machine: namespaces that end, with all processes in them, when their first process does."""

    def __init__(self, name, data):
        self.environment = {"XDG_DATA_HOME": str(data / name)}
        command = ["unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-c", BEGIN]
        self.outer = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # it ends with this one
        self.outer.stdout.readline()
        (self.init,) = Path(f"/proc/{self.outer.pid}/task/{self.outer.pid}/children").read_text().split()

    def inside(self, *command):
        return ["nsenter", "--target", self.init, "--net", "--mount", "--pid", *command]

    def run(self, command):
        subprocess.run(["nsenter", "--target", self.init, "--net", "sh", "-c", command], check=True)

    def end(self):
        self.outer.kill()
        self.outer.wait()


class Process:
    """A process on a host that serves or fetches in one way."""

    def __init__(self, host, way, role):
        environment = {name: text for name, text in os.environ.items() if not name.startswith("SHMKERNEL")}
        self.process = subprocess.Popen(
            host.inside(sys.executable, __file__, "--process", way, role), env=environment | RAY | host.environment,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.hear()

    def tell(self, size):
        self.process.stdin.write(f"{size}\n")
        self.process.stdin.flush()

    def done(self):
        return bool(select.select([self.process.stdout], [], [], 0)[0])

    def hear(self):
        return json.loads(self.process.stdout.readline())

    def fetch(self, size):
        self.tell(size)
        return self.hear()


def process(way, role):
    """Be a process on a host: fetch what each line says, and answer how long it took."""
    answer = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # libraries may print
    one = WAYS[way]()
    if role == "serve":
        one.serve()
    elif role == "begin" or not hasattr(one, "start"):
        one.begin()
    else:
        one.begin(first=False)
    print(json.dumps(None), file=answer)
    for line in sys.stdin:
        print(json.dumps(one.fetch(int(line))), file=answer)


def beside(bulk, small):
    """Return the times of 8 bytes while 1 GiB is fetched."""
    bulk.tell(BULK)
    found = []
    while not bulk.done():
        found.append(small.fetch(TINY))
    bulk.hear()
    return found[1:-1] or found  # those began and ended with it


def measure(ways, there, here):
    """Return the times of each way: by size, and of 8 bytes beside 1 GiB."""
    kept = [Process(there, way, "serve") for way in ways]
    bulk = {way: Process(here, way, "begin") for way in ways}
    small = {way: Process(here, way, "too") for way in ways}
    found = {way: {size: [] for size in [*ROUNDS, "beside"]} for way in ways}
    for size, rounds in ROUNDS.items():
        for way in ways:
            bulk[way].fetch(size)  # connections, pools of memory
        for _ in range(rounds):
            for way in ways:
                found[way][size].append(bulk[way].fetch(size))
    for way in ways:
        small[way].fetch(TINY)
    for _ in range(BESIDE):
        for way in ways:
            found[way]["beside"] += beside(bulk[way], small[way])
    del kept
    return found


def cell(size, times, raw):
    median, base = statistics.median(times), statistics.median(raw)
    if size in RATED:
        return f"{size / median / 1e9:.2f} GB/s ({base / median:.2f})"
    return f"{median * 1e3:.2f} ms ({median / base:.1f} x)"


def identify(data):
    """Make the certificates and the password of both hosts, each in its data folder."""
    from shmkernel.hosts import certificates, passwords

    for host in ("hostA", "hostB"):
        os.environ["XDG_DATA_HOME"] = str(data / host)
        passwords.set_password("a benchmark", "ada")
    for path in certificates.init([f"hostA={A}", f"hostB={B}"]):
        with contextlib.suppress(shutil.SameFileError):
            shutil.copy(path, data / Path(path).stem / "shmkernel/hosts")


def main(ways):
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        data = Path(folder)
        tempfile.tempdir = os.environ["TMPDIR"] = folder
        identify(data)
        hosts = [Host(name, data) for name in ("hostA", "hostB")]
        for host in hosts:
            stack.callback(host.end)
        there, here = hosts
        there.run(f"ip link add eth0 type veth peer name eth0 netns {here.init}")
        for host, address in ((there, A), (here, B)):
            host.run(f"ip addr add {address}/24 dev eth0 && ip link set eth0 up")
        found = measure(ways, there, here)
    print("|", *(f"| {title}" for title in TITLES.values()), "| 8 bytes beside 1 GiB |")
    print("|---" * (len(TITLES) + 2) + "|")
    for way in ways:
        print("|", way, *(f"| {cell(size, times, found['raw'][size])}" for size, times in found[way].items()), "|")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--process"]:
        process(*sys.argv[2:])
    else:
        main(sys.argv[1:] or [way for way in WAYS if way != "ray" or importlib.util.find_spec("ray")])
