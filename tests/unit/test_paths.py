from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import shmkernel as shm
from shmkernel._core import folders, paths


@pytest.mark.parametrize("name", ["x", "_", "X9", "ds.var", "a.0.b_", "a" * 200])
def test_identifiers_with_dots_are_names(name):
    assert paths.path_of(name) == f"{paths.folder()}/shmk-{os.geteuid()}-{name}"


@pytest.mark.parametrize("name", ["/psm_1a2b", "/x y", "/..x", "/ü"])
def test_posix_names_are_taken_as_they_are(name):
    assert paths.path_of(name) == paths.folder() + name


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a b", "a/b", "../x", "a..b", ".a", "a.", "9a", "a-b", "ü", "x\n", "x\0", "/", "//x"]
)  # fmt: skip
def test_all_else_is_refused(name):
    with pytest.raises(shm.ArgumentError, match="cannot be the name of a segment") as caught:
        paths.path_of(name)
    assert caught.value.name == name


@pytest.mark.parametrize(
    ("name", "example"),
    [("my-name", "my_name"), ("my name", "my_name"), ("3d", "n3d"), ("Höhe", "Hohe"), ("a..b", "a_b")],
)
def test_a_name_that_can_be_is_proposed(name, example):
    with pytest.raises(shm.ArgumentError, match=f"For example {example}$"):
        paths.path_of(name)
    assert paths.path_of(example)


@pytest.mark.parametrize("verb", [shm.info, shm.changes, shm.version, shm.unlink, shm.keep, shm.publish, shm.lock])
def test_a_segment_of_another_host_is_told_by_the_name_that_its_snapshot_has_here(verb):
    with pytest.raises(shm.ArgumentError, match=r"whose snapshot here is node_7\.ds\.x\. To have that: ") as caught:
        verb("node-7:ds.x")
    assert str(caught.value).endswith(": shm.attach('node-7:ds.x')")
    assert paths.path_of("node_7.ds.x")


def test_where_no_letter_is_left_nothing_is_proposed():
    with pytest.raises(shm.ArgumentError, match=r"\(a to z, without accents\)$"):
        paths.path_of("темп")


def test_what_is_no_text_is_named_with_its_article():
    with pytest.raises(shm.ArgumentError, match=r"a str, not an int$"):
        paths.path_of(5)


def test_a_name_in_capitals_comes_near():
    assert paths.near("ELEVATION", ["elevation", "x"]) == ["elevation"]
    assert paths.near("x", ["X", "Y"]) == ["X"]


@pytest.mark.parametrize("name", ["/.", "/..", "a" * 251, "/" + "ü" * 128])
def test_names_that_no_file_can_have_are_refused(name):
    with pytest.raises(shm.ArgumentError):
        paths.path_of(name)


@pytest.mark.parametrize("name", [None, 1, b"x", ["x"], ("x",)])
def test_what_is_no_text_is_refused(name):
    with pytest.raises(shm.ArgumentError, match="is a str, not a"):
        paths.path_of(name)


@given(st.text())
def test_no_name_leads_out_of_the_folder(name):
    try:
        path = paths.path_of(name)
    except shm.ArgumentError:
        return
    assert os.path.dirname(os.path.normpath(path)) == paths.folder()


def test_a_relative_folder_is_meant_from_where_it_was_first_used(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SHMKERNEL_DIR", "here")
    assert paths.folder() == str(tmp_path / "here")


def test_an_empty_setting_means_the_usual_folder(monkeypatch):
    monkeypatch.setenv("SHMKERNEL_DIR", "")
    assert paths.folder() == "/dev/shm"


def test_only_names_of_this_user_are_listed_sorted(shm_dir):
    for entry in ("b", "a.c", "not-a-name"):
        (shm_dir / f"{paths.prefix()}{entry}").touch()
    (shm_dir / f"shmk-{os.geteuid() + 1}-x").touch()
    (shm_dir / "psm_1").touch()
    assert paths.names() == ["a.c", "b"]
    for path in filter(Path.is_file, shm_dir.iterdir()):
        path.unlink()


def test_near_names_come_best_first():
    assert paths.near("elevatoin", ["elevation2", "elevation", "x"]) == ["elevation", "elevation2"]


def test_the_runtime_folder_is_made_once_and_again_if_somebody_removes_it(shm_dir):
    root = folders.prepare()
    assert os.stat(root).st_mode & 0o777 == 0o700
    shutil.rmtree(root)
    assert folders.prepare() == root
    assert {"pending", "records", "sessions"} <= {*os.listdir(root)}
    assert os.listdir(shm_dir) == [os.path.basename(root)]


def test_a_folder_may_begin_with_a_tilde(shm_dir, monkeypatch):
    monkeypatch.setenv("HOME", str(shm_dir))
    monkeypatch.setenv("SHMKERNEL_DIR", "~/shared")
    assert paths.folder() == f"{shm_dir}/shared"


def test_a_relative_folder_in_one_that_is_gone_is_an_error_that_says_so(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    monkeypatch.setenv("SHMKERNEL_DIR", "my-shm")
    with pytest.raises(shm.FolderError, match="give its full path"):
        paths.folder()
