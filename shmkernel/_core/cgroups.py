"""The memory limits of the control groups that this process is in: what Docker, Kubernetes and systemd set.

Each group around the process's own counts for it, too, and the one with the least left is the limit. What lies in a
tmpfs counts as memory of the group that wrote it. Who goes beyond is not told, but killed.

    version 2   /sys/fs/cgroup/<group>/memory.max, memory.high, memory.swap.max
    version 1   /sys/fs/cgroup/memory/<group>/memory.limit_in_bytes, memory.memsw.limit_in_bytes (with swap)

Inside a container the path that /proc tells may be the one outside, and the group itself be mounted at the top: so
what is not there is passed over.
"""

from __future__ import annotations

from typing import NamedTuple

_ROOT = ""  # where the machine's own files begin
_CGROUP = "/sys/fs/cgroup"
_MARGIN = 16  # a part of the limit stays for the process itself: without it the next small object would end it
_MOST = 64 << 20  # bytes: the margin of large limits


class Limit(NamedTuple):
    """What a group may use and has left, in bytes; ``file`` says the limit."""

    limit: int
    left: int
    file: str


def tightest(swap: int, machine: int) -> Limit | None:
    """Return the limit that would be reached first, None if there is none.

    `swap` is what the machine has free of it, `machine` its memory: a limit beyond that is none.
    """
    found = (limit for group in _groups() for limit in _limits(*group, swap) if limit.limit < machine)
    return min(found, key=lambda one: one.left, default=None)


def _groups() -> list[tuple[str, bool]]:
    """List the folders of the groups that this process is in, and whether they are of version 1."""
    found = []
    for line in read("/proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if "memory" in controllers.split(","):
            found += [(folder, True) for folder in _around(f"{_CGROUP}/memory", group)]
        elif number == "0":
            for top in (_CGROUP, f"{_CGROUP}/unified"):
                found += [(folder, False) for folder in _around(top, group)]
    return found or [(_CGROUP, False), (f"{_CGROUP}/memory", True)]


def _around(top: str, group: str) -> list[str]:
    parts = [part for part in group.split("/") if part not in ("", ".", "..")]
    return ["/".join((top, *parts[:depth])) for depth in range(len(parts) + 1)]


def _limits(group: str, first: bool, swap: int) -> list[Limit]:
    used = _number(f"{group}/memory.{'usage_in_bytes' if first else 'current'}")
    if used is None:
        return []
    stat = dict(line.split()[:2] for line in read(f"{group}/memory.stat").splitlines() if " " in line)
    cache = int(stat.get("total_inactive_file", stat.get("inactive_file", 0)))  # given back before anybody is killed
    if first:
        both = _number(f"{group}/memory.memsw.usage_in_bytes") or used
        files = {"limit_in_bytes": used - swap, "memsw.limit_in_bytes": both}
    else:
        most, now = _number(f"{group}/memory.swap.max"), _number(f"{group}/memory.swap.current")
        if most is not None:
            swap = max(0, min(swap, most - (now or 0)))
        files = {"max": used - swap, "high": used - swap}
    found = []
    for name, taken in files.items():
        file = f"{group}/memory.{name}"
        limit = _number(file)
        if limit is not None:
            found.append(Limit(limit, limit - taken + cache - min(limit // _MARGIN, _MOST), file))
    return found


def _number(path: str) -> int | None:
    text = read(path).strip()
    return int(text) if text.isdigit() else None


def read(path: str) -> str:
    """Return the text of one of the machine's own files, nothing if it cannot be read."""
    try:
        with open(f"{_ROOT}{path}", encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
