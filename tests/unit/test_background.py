"""The writer keeps order, drains, and counts what it drops; loops survive failures."""

import threading

from shared_core.background import PENDING_LIMIT, Periodic, Writer
from shared_core.telemetry import Counters, forget_warnings


def test_jobs_run_in_order_and_flush_waits_for_them():
    done = []
    writer = Writer(Counters(), drain=5)
    for n in range(500):
        assert writer.submit(done.append, n)
    assert writer.flush(5)
    assert done == list(range(500))
    writer.close()


def test_a_failing_job_is_counted_and_the_next_one_runs():
    counters, done = Counters(), []
    writer = Writer(counters, drain=5)

    def fail():
        raise OSError("disk full")

    writer.submit(fail)
    writer.submit(done.append, 1)
    assert writer.flush(5)
    assert done == [1]
    assert counters["writer.failed"] == 1
    assert counters.value("writer.failed", error="OSError") == 1
    writer.close()


def test_flush_gives_up_in_time_and_close_counts_what_is_lost():
    counters, release, running = Counters(), threading.Event(), threading.Event()
    writer = Writer(counters, drain=0.01)

    def block():
        running.set()
        release.wait()

    writer.submit(block)
    assert running.wait(5)
    writer.submit(lambda: None)
    assert not writer.flush(0.01)
    writer.close()
    assert counters["writer.dropped"] >= 1
    release.set()


def test_a_writer_that_is_far_behind_takes_no_more():
    counters, release = Counters(), threading.Event()
    writer = Writer(counters, drain=5)
    writer.submit(release.wait)
    taken = sum(writer.submit(list) for _ in range(PENDING_LIMIT + 5))
    assert PENDING_LIMIT <= taken + 1 <= PENDING_LIMIT + 2
    assert counters["writer.dropped"] == PENDING_LIMIT + 5 - taken
    release.set()
    writer.close()


def test_after_close_nothing_is_taken():
    counters = Counters()
    writer = Writer(counters, drain=1)
    writer.close()
    assert not writer.submit(print)
    assert counters["writer.dropped"] == 1


def test_flush_from_within_a_job_does_not_wait_for_itself():
    writer, answers = Writer(Counters(), drain=5), []
    writer.submit(lambda: answers.append(writer.flush(5)))
    assert writer.flush(5)
    assert answers == [False]
    writer.close()


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
    outcomes = iter(["down", "down", None, "down", "slow"])
    ended = threading.Event()

    def step():
        outcome = next(outcomes, "end")
        if outcome == "end":
            ended.set()
        elif outcome:
            raise OSError(outcome)
        else:
            forget_warnings()  # a second later

    loop = Periodic("follow", 0.001, step, Counters())
    assert ended.wait(5)
    loop.close()
    told = [(record.levelname, record.getMessage().rsplit(" ", 1)[1]) for record in caplog.records]
    assert told == [("WARNING", "down"), ("DEBUG", "down"), ("WARNING", "down"), ("WARNING", "slow")]
