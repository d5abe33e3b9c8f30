"""A storm of fallbacks is logged once a minute, in one sentence."""

import logging

import pytest

from shared_core.errors import DependencyIsBusy
from shared_core.failures import STORM_FALLBACKS, STORM_QUIET, STORM_WINDOW, Failures
from shared_core.telemetry import Counters
from tests.fakes import FakeClock

BUSY = DependencyIsBusy("embedder was busy with other requests")


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def failures(clock):
    return Failures(Counters(), clock)


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_storm_is_logged_once_and_again_after_a_minute(failures, clock, caplog):
    for _ in range(40):
        failures.note_decided("small")
    for _ in range(200):
        failures.note_fallback(BUSY)
        clock.advance(0.1)
    assert warnings(caplog) == [
        "10 of the last 50 requests fell back, the latest because of DependencyIsBusy: embedder was busy with "
        "other requests; the counters fallback{error=…} give every cause, and docs/settings.md tells what to "
        "change"
    ]
    clock.advance(STORM_QUIET)
    failures.note_fallback(BUSY)
    assert [text[:35] for text in warnings(caplog)][1:] == ["100 of the last 100 requests fell b"]
    assert failures._counters.value("fallback", error="DependencyIsBusy") == 201


def test_a_few_fallbacks_among_many_requests_are_no_storm(failures, caplog):
    for _ in range(20):
        for _ in range(STORM_FALLBACKS - 1):
            failures.note_fallback(BUSY)
        for _ in range(STORM_WINDOW - STORM_FALLBACKS + 1):
            failures.note_decided("small")
    assert warnings(caplog) == []
