from __future__ import annotations

import gc

import pytest

from tests.helpers import lacking, without_collector


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


def test_where_signals_strike_no_finaliser_of_an_earlier_test_runs():
    class Earlier:
        def __del__(self):
            ended.append("earlier")

    ended, one = [], Earlier()
    one.itself = one
    del one
    with without_collector():
        assert ended == ["earlier"]
        assert not gc.isenabled()
    assert gc.isenabled()
