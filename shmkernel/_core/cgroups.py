"""Read the memory limits of this process's control groups, as Docker, Kubernetes and systemd set them.

A limit on any enclosing group applies too; the limit with the least memory left decides. Pages of a tmpfs count for
the group that wrote them. A process that exceeds the limit is killed without an error.

    version 2   /sys/fs/cgroup/<group>/memory.max, memory.high, memory.swap.max
    version 1   /sys/fs/cgroup/memory/<group>/memory.limit_in_bytes, memory.memsw.limit_in_bytes (with swap)

Inside a container /proc may show the path outside, while the group itself is mounted at the top. So paths that do
not exist are skipped.
"""

from __future__ import annotations

from typing import NamedTuple

_ROOT = ""  # prefix of all paths; tests set it to a fake machine's
_CGROUP = "/sys/fs/cgroup"
_MARGIN = 16  # 1/16 of the limit is kept back for the process: its next small allocation must not exceed the limit
_MOST = 64 << 20  # bytes: the largest margin


class Limit(NamedTuple):
    """The memory that a group may use and has left, in bytes; ``file`` is the path that sets the limit."""

    limit: int
    left: int
    file: str


def tightest(swap: int, machine: int) -> Limit | None:
    """Return the limit that would be reached first, None if there is none.

    `swap` is the machine's free swap and `machine` its memory, in bytes; limits above its memory are ignored.
    """
    limits = (limit for group in _groups() for limit in _limits(*group, swap) if limit.limit < machine)
    return min(limits, key=lambda limit: limit.left, default=None)


def _groups() -> list[tuple[str, bool]]:
    """Return the folders of this process's groups, each with whether it is of version 1."""
    folders = []
    for line in read("/proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if "memory" in controllers.split(","):
            folders += [(folder, True) for folder in _around(f"{_CGROUP}/memory", group)]
        elif number == "0":
            for top in (_CGROUP, f"{_CGROUP}/unified"):
                folders += [(folder, False) for folder in _around(top, group)]
    return folders or [(_CGROUP, False), (f"{_CGROUP}/memory", True)]


def _around(top: str, group: str) -> list[str]:
    parts = [part for part in group.split("/") if part not in ("", ".", "..")]
    return ["/".join((top, *parts[:depth])) for depth in range(len(parts) + 1)]


def _limits(group: str, first: bool, swap: int) -> list[Limit]:
    used = _number(f"{group}/memory.{'usage_in_bytes' if first else 'current'}")
    if used is None:
        return []
    stat = dict(line.split()[:2] for line in read(f"{group}/memory.stat").splitlines() if " " in line)
    cache = int(stat.get("total_inactive_file", stat.get("inactive_file", 0)))  # freed before a process is killed
    if first:
        both = _number(f"{group}/memory.memsw.usage_in_bytes") or used
        files = {"limit_in_bytes": used - swap, "memsw.limit_in_bytes": both}
    else:
        most, now = _number(f"{group}/memory.swap.max"), _number(f"{group}/memory.swap.current")
        if most is not None:
            swap = max(0, min(swap, most - (now or 0)))
        files = {"max": used - swap, "high": used - swap}
    limits = []
    for name, taken in files.items():
        file = f"{group}/memory.{name}"
        limit = _number(file)
        if limit is not None:
            limits.append(Limit(limit, limit - taken + cache - min(limit // _MARGIN, _MOST), file))
    return limits


def _number(path: str) -> int | None:
    text = read(path).strip()
    return int(text) if text.isdigit() else None


def read(path: str) -> str:
    """Return the text of a file of /proc or /sys, an empty string if it cannot be read."""
    try:
        with open(f"{_ROOT}{path}", encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
