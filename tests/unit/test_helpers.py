from __future__ import annotations

import pytest

from tests.helpers import lacking


@pytest.mark.parametrize(
    ("ci", "outcome"),
    [(None, pytest.skip.Exception), ("false", pytest.skip.Exception), ("true", pytest.fail.Exception)],
)
def test_what_a_machine_lacks_is_skipped_but_fails_in_ci(ci, outcome, monkeypatch):
    monkeypatch.delenv("CI", raising=False)
    if ci:
        monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome, match="apt-get install it"):
        lacking("it is not there: apt-get install it")
