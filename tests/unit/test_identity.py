"""Whose process this is."""

import sys

import pytest

from shmkernel import identity


@pytest.mark.parametrize(
    ("file", "known"),
    [("/run/kernel-1a2b.json", "1a2b"), ("/my-kernel-notes/kernel-1a2b.json", "1a2b"), ("/my-kernel-x/k.json", None)],
)
def test_a_kernel_s_id_is_read_from_the_name_of_its_file_not_from_a_folder_s(monkeypatch, file, known):
    monkeypatch.setattr(sys, "argv", ["ipykernel_launcher.py", "-f", file])
    assert identity.kernel_id() == known
