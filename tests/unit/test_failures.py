"""How errors that reach no user's call are counted and logged."""

import logging

import pytest

from shared_core.errors import DependencyIsDown, DependencyIsSlow, ScopeIsCold
from shared_core.failures import Failures
from shared_core.telemetry import Counters


@pytest.fixture
def counters():
    return Counters()


def levels(caplog):
    return [record.levelname for record in caplog.records if record.getMessage().startswith("IC-Cache")]


@pytest.fixture
def failures(counters, caplog):
    caplog.set_level(logging.DEBUG, logger="iccache")
    return Failures(counters)


def test_the_first_error_of_each_kind_is_a_warning(failures, counters, caplog):
    for counter, error in (
        ("query_fn", KeyError("a")),
        ("query_fn", KeyError("b")),
        ("query_fn", OSError("c")),
        ("answer", KeyError("d")),
    ):
        failures.count(counter, error)
    assert levels(caplog) == ["WARNING", "DEBUG", "WARNING", "WARNING"]
    assert "IC-Cache query_fn: OSError" in caplog.messages
    assert counters.snapshot() == {
        "answer{error=KeyError}": 1,
        "query_fn{error=KeyError}": 2,
        "query_fn{error=OSError}": 1,
    }


@pytest.mark.parametrize("error", [DependencyIsDown("x"), DependencyIsSlow("x"), ScopeIsCold("x")])
def test_an_error_that_goes_away_is_no_warning(failures, caplog, error):
    failures.count("fallback", error)
    assert levels(caplog) == ["DEBUG"]
    assert caplog.messages[0] == f"IC-Cache fallback: {type(error).__name__}: x"
