"""Loops survive failures."""

import threading

from shared_core.background import PATIENCE, POLL, Periodic, wait_for_requests
from shared_core.telemetry import Counters, forget_warnings
from tests.fakes import FakeClock


def test_a_loop_runs_when_poked_and_survives_failures():
    counters, runs, twice = Counters(), [], threading.Event()

    def step():
        runs.append(1)
        if len(runs) >= 2:
            twice.set()
        raise ValueError("first round fails")

    loop = Periodic("follow", 0.001, step, counters)
    assert twice.wait(5)
    loop.close()
    assert counters.value("follow.failed", error="ValueError") >= 1


def test_a_closed_loop_never_runs_again():
    runs = []
    loop = Periodic("follow", 1000, lambda: runs.append(1), Counters())
    loop.close()
    loop.wake()
    assert not any(t.name == "iccache-follow" and t.is_alive() for t in threading.enumerate())
    assert runs == []


def test_a_failure_warns_when_it_is_new_and_not_while_it_repeats(caplog):
    caplog.set_level("DEBUG", logger="iccache")
    outcomes = iter([OSError, OSError, None, OSError, TimeoutError])
    ended = threading.Event()

    def step():
        outcome = next(outcomes, "end")
        if outcome == "end":
            ended.set()
        elif outcome:
            raise outcome
        else:
            forget_warnings()  # a second later

    loop = Periodic("follow", 0.001, step, Counters())
    assert ended.wait(5)
    loop.close()
    told = [
        (record.levelname, record.getMessage().split("failed: ")[1].split()[0])
        for record in caplog.records
        if record.getMessage().startswith("IC-Cache")
    ]
    names = ["OSError", "OSError", "OSError", "TimeoutError"]
    assert told == list(zip(["WARNING", "DEBUG", "WARNING", "WARNING"], names, strict=True))


def test_a_loop_that_ends_says_nothing_of_the_store_that_is_closed_too(caplog):
    begun, release = threading.Event(), threading.Event()

    def step():
        begun.set()
        assert release.wait(5)
        raise OSError("the store is closed")

    counters = Counters()
    loop = Periodic("follow", 0.001, step, counters)
    assert begun.wait(5)
    loop.close(0)
    release.set()
    loop._thread.join(5)
    assert counters["follow.failed"] == 1
    assert caplog.records == []


def test_background_work_waits_for_requests_but_not_for_ever():
    clock, busy = FakeClock(0.0), iter([True, True, False])
    began = clock()
    wait_for_requests(lambda: next(busy), clock, clock.advance)
    assert clock() - began == 2 * POLL
    began = clock()
    wait_for_requests(lambda: True, clock, clock.advance)
    assert PATIENCE <= clock() - began < PATIENCE + 2 * POLL
