from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys

import pytest

import shmkernel as shm
from shmkernel._core import capacity, launch
from shmkernel.verbs.doctor import _logind
from tests.helpers import lacking
from tests.unit import orphans


def wrong():
    return [one for one in shm.doctor() if one.level in ("warn", "fail")]


def run(*prefix, folder):
    """Run the doctor in a process of its own, and return its problems."""
    script = (
        "import shmkernel as shm; print(*(f'{one.level} {one.text}: {one.cure}' for one in shm.doctor()), sep='\\n')"
    )
    done = subprocess.run(
        [*prefix, sys.executable, "-c", script],
        env=os.environ | {"SHMKERNEL_DIR": str(folder)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode and "unshare" in done.stderr:
        lacking(f"no namespaces here: {done.stderr.strip()}")
    assert not done.stderr
    return [line for line in done.stdout.splitlines() if line.startswith(("warn ", "fail "))]


def test_a_good_machine_gets_no_warning_and_learns_what_it_has(shm_dir):
    found = shm.doctor()
    assert [one.level for one in found] == ["ok"] * (len(found) - 1) + ["note"]  # the last is about the stdlib
    assert found[0].text.startswith(f"{shm_dir} is a tmpfs, {capacity.human(capacity.room().total)}")
    assert not any(one.cure for one in found)


def test_the_trial_of_the_mechanisms_leaves_no_file(shm_dir):
    shm.doctor()
    assert not list(shm_dir.glob(".shmk-*/pending/*"))
    assert not list(shm_dir.glob("shmk-*"))


def test_a_missing_folder_is_the_only_finding_and_has_a_cure(monkeypatch, shm_dir):
    monkeypatch.setenv("SHMKERNEL_DIR", f"{shm_dir}/missing")
    (one,) = shm.doctor()
    assert (one.level, "missing cannot hold segments" in one.text, "SHMKERNEL_DIR" in one.cure) == ("fail", True, True)


def test_a_runtime_folder_that_others_can_enter_fails(shm_dir):
    (shm_dir / f".shmk-{os.geteuid()}").mkdir(mode=0o700)
    (shm_dir / f".shmk-{os.geteuid()}").chmod(0o755)
    (one,) = shm.doctor()
    assert one.level == "fail"
    assert "not trusted" in one.text


def test_a_folder_where_others_may_delete_is_a_warning(shm_dir):
    shm_dir.chmod(0o777)
    (one,) = wrong()
    assert one == ("warn", f"others may delete your segments in {shm_dir}", f"chmod +t {shm_dir}")


def test_a_folder_on_disk_is_a_warning(tmp_path):
    if capacity.is_tmpfs(str(tmp_path)):
        lacking("the temporary folder of this machine lies in memory: --basetemp names another")
    (one,) = run(folder=tmp_path)
    assert "not in memory" in one


@pytest.mark.parametrize(("size", "held", "text"), [("64m", 0, "default of a container"), ("99m", 60, "nearly full")])
def test_a_small_or_full_folder_is_a_warning_with_the_figures(tmp_path, size, held, text):
    mount = f"mount -t tmpfs -o size={size} none {tmp_path} && head -c {held}M /dev/zero > {tmp_path}/held && exec "
    (one,) = run("unshare", "-rm", "sh", "-c", f'{mount} "$@"', "sh", folder=tmp_path)
    assert text in one
    assert f"{size[:2]}.0 MiB" in one


def test_what_ended_kernels_left_is_a_warning_until_it_is_swept(shm_dir):
    size = orphans.leave("big", shm_dir)
    (one,) = wrong()
    assert one == ("warn", f"a segment of an ended kernel, {capacity.human(size)}: big", "shm.gc()")
    assert shm.gc() == [("big", size)]
    assert not wrong()


def test_a_watchdog_that_does_not_start_fails(monkeypatch):
    monkeypatch.setattr(launch, "interpreters", lambda: iter(["/missing/python"]))
    (one,) = wrong()
    assert one.level == "fail"
    assert "watchdog" in one.text
    assert "/missing/python: No such file or directory" in one.text


def test_a_machine_without_inotify_instances_left_is_a_warning(shm_dir):
    if not shutil.which("unshare"):
        lacking("no unshare here: apt-get install util-linux")
    (one,) = run(
        "unshare", "-r", "sh", "-c", 'echo 0 > /proc/sys/user/max_inotify_instances && exec "$@"', "sh", folder=shm_dir
    )
    assert "inotify" in one
    assert "max_user_instances" in one


@pytest.mark.parametrize(
    ("files", "uid", "removes"),
    [
        ({"etc": "[Login]\n#RemoveIPC=yes\n"}, 1000, True),
        ({"etc": "[Login]\n#RemoveIPC=no\n"}, 1000, False),
        ({"etc": "[Login]\n#RemoveIPC=no\nRemoveIPC = yes\n"}, 1000, True),
        ({}, 1000, True),
        ({"usr/lib": "RemoveIPC=no\n"}, 1000, False),
        ({"etc": "RemoveIPC=yes\n", "usr/lib": "RemoveIPC=no\n"}, 1000, True),
        ({"etc": "RemoveIPC=yes\n"}, 999, False),
        ({"etc": "", "etc/d/50-site": "RemoveIPC=no\n"}, 1000, False),
        ({"etc/d/50-site": "RemoveIPC=no\n", "run/d/60-site": "RemoveIPC=on\n"}, 1000, True),
        ({"etc/d/50-site": "RemoveIPC=no\n", "usr/lib/d/50-site": "RemoveIPC=yes\n"}, 1000, False),
    ],
)  # fmt: skip
def test_what_logind_would_delete_is_read_as_logind_reads_it(monkeypatch, tmp_path, files, uid, removes):
    for where, text in files.items():
        top, _, drop_in = where.partition("/d/")
        path = tmp_path / top / "systemd" / (f"logind.conf.d/{drop_in}.conf" if drop_in else "logind.conf")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(sys.modules["shmkernel.verbs.doctor"], "_ROOT", str(tmp_path))
    assert not list(_logind(uid, "ada")), "without a logind that runs"
    for part in ("system", "seats"):
        (tmp_path / "run/systemd" / part).mkdir(parents=True)
    assert [one.cure for one in _logind(uid, "ada")] == ["sudo loginctl enable-linger ada"] * removes
    (tmp_path / "var/lib/systemd/linger").mkdir(parents=True)
    (tmp_path / "var/lib/systemd/linger/ada").touch()
    assert not list(_logind(uid, "ada")), "with lingering"


def test_the_standard_library_s_pitfall_is_told_where_it_has_it():
    (text,) = (one.text for one in shm.doctor() if one.text.startswith("Python"))
    assert ("deletes what it attached" in text) == (sys.version_info < (3, 13))


@pytest.mark.parametrize(
    ("limit", "level", "text"),
    [
        ("-n 100", "warn", "may have 100 files open"),
        ("-v 4000000", "warn", "3.8 GiB"),
        ("-f 4000000", "warn", "dicts cannot"),
    ],
)
def test_a_limit_of_the_process_is_a_warning_with_its_name(limit, level, text, shm_dir):
    (one,) = run("sh", "-c", f'ulimit -S {limit} && exec "$@"', "sh", folder=shm_dir)
    assert one.startswith(level)
    assert text in one
    assert (
        f"ulimit {limit[:2]} unlimited" in one
        or f"ulimit {limit[:2]} {resource.getrlimit(resource.RLIMIT_NOFILE)[1]}" in one
    )


def test_a_process_without_a_descriptor_left_learns_that_and_how_to_get_more():
    shm.create("x", 1)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
    try:
        found = shm.doctor()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert found[-1].level == "fail"
    assert "oo many open files" in found[-1].text
    assert "resource.setrlimit" in found[-1].cure
    assert "unlink" not in found[-1].cure
