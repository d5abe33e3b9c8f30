"""Lanes keep order, keep what is refused for a passing reason, drain, and say what they lose."""

import errno
import re
import sys
import threading

import pytest

from shared_core.lanes import Job, Lanes, Limits
from shared_core.lanes.lane import FIRST_PAUSE, LONGEST_PAUSE, Lane
from shared_core.lanes.pending import Pending
from shared_core.telemetry import Counters


class Store:
    """Takes batches; refuses each while `refusal` is set."""

    def __init__(self):
        self.batches, self.refusal, self.tried = [], None, threading.Event()

    def write(self, items):
        self.tried.set()
        if self.refusal:
            raise self.refusal
        self.batches.append(list(items))

    @property
    def items(self):
        return [item for batch in self.batches for item in batch]


class Held:
    """A job that does not end before it is released."""

    def __init__(self):
        self.running, self.release = threading.Event(), threading.Event()

    def __call__(self, items):
        self.running.set()
        assert self.release.wait(20)


@pytest.fixture
def counters():
    return Counters()


@pytest.fixture
def lanes(counters):
    made = Lanes(counters, drain=0.05)
    yield made
    made.close()


@pytest.fixture
def store():
    return Store()


def away(error):
    return isinstance(error, OSError)


def submit(lane, function, *items, size=0):
    return [lane.submit(Job(lane, function, item, size)) for item in items]


def ignore(items):
    """A job that does nothing."""


def hold(lane):
    held = Held()
    submit(lane, held, None)
    assert held.running.wait(5)
    return held


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


# order and batches ------------------------------------------------------------------------------------------------


def test_jobs_run_in_order_and_those_of_one_function_together(lanes, store):
    lane = lanes.add("writer", "records", limits=Limits(batch=3))
    held, other = hold(lane), []
    submit(lane, store.write, 1, 2, 3, 4)
    submit(lane, other.extend, "x")
    submit(lane, store.write, 5)
    held.release.set()
    assert lanes.flush(5)
    assert store.batches == [[1, 2, 3], [4], [5]]
    assert other == ["x"]


def test_a_batch_is_bounded_in_bytes(lanes, store):
    lane = lanes.add("writer", "records", limits=Limits(batch=100))
    held = hold(lane)
    submit(lane, store.write, 1, 2, 3, 4, size=600_000)
    held.release.set()
    assert lanes.flush(5)
    assert store.batches == [[1, 2], [3, 4]]


def test_flush_waits_for_what_follows_on_other_lanes(lanes, store):
    writer, scoring = lanes.add("writer", "records"), lanes.add("scoring", "answers", threads=3)
    held = Held()

    def score(items):
        held(items)
        return [Job(writer, store.write, f"score of {item}") for item in items]

    submit(writer, lambda items: [Job(scoring, score, item) for item in items], "a")
    assert held.running.wait(5)
    assert not lanes.flush(0.01)
    held.release.set()
    assert lanes.flush(5)
    assert store.items == ["score of a"]


def test_flush_does_not_wait_for_what_comes_later():
    pending, ended = Pending(), []
    earlier = pending.add()
    waiting = threading.Thread(target=lambda: ended.append(pending.wait(20)))
    waiting.start()
    while not pending._changed._waiters:
        pass
    pending.add()
    pending.remove([earlier])
    waiting.join(20)
    assert ended == [True]
    assert not pending.wait(0)


def test_flush_from_within_a_job_does_not_wait_for_itself(lanes):
    lane, answers = lanes.add("writer", "records"), []
    submit(lane, lambda _: answers.append(lanes.flush(5)), None)
    assert lanes.flush(5)
    assert answers == [False]


# failures ---------------------------------------------------------------------------------------------------------


def test_only_the_item_that_cannot_be_stored_is_lost_and_flush_says_so_once(lanes, counters, caplog):
    lane, stored = lanes.add("writer", "records", limits=Limits(batch=10)), []

    def write(items):
        if "bad" in items:
            raise ValueError("it cannot be encoded")
        stored.extend(items)

    held = hold(lane)
    submit(lane, write, 1, "bad", 2)
    held.release.set()
    assert not lanes.flush(5)
    assert lanes.flush(5)
    assert stored == [1, 2]
    assert counters.value("writer.failed", error="ValueError") == counters["writer.failed"] == 1
    assert re.fullmatch(r"IC-Cache lost one of its records: ValueError at test_lanes\.py:\d+", *warnings(caplog))


def test_a_function_that_exits_loses_its_item_and_not_the_thread(lanes, counters):
    lane, stored = lanes.add("prepare", "answers to be prepared"), []
    submit(lane, lambda items: sys.exit(*items), 1)
    submit(lane, stored.extend, 2)
    assert not lanes.flush(5)
    assert stored == [2]
    assert counters.value("prepare.failed", error="SystemExit") == 1


def test_what_is_refused_for_a_passing_reason_waits_and_is_stored_in_order(lanes, counters, store, caplog):
    lane = lanes.add("writer", "records", limits=Limits(batch=2), is_temporary=away)
    store.refusal = OSError(errno.ENOSPC, "the disk is full")
    submit(lane, store.write, 1)
    assert store.tried.wait(5)
    submit(lane, store.write, 2, 3, 4)
    assert not lanes.flush(0.05)
    assert counters["writer.retried"] >= 2
    store.refusal = None
    assert lanes.flush(5)
    assert store.items == [1, 2, 3, 4]
    assert counters["writer.failed"] == counters["writer.dropped"] == 0
    kept, again = warnings(caplog)
    assert kept.startswith(
        "IC-Cache keeps its records in memory until the store accepts them: OSError (No space left on device) at "
    )
    assert again == "IC-Cache's store accepts records again; 4 are being written"


def test_the_pauses_between_attempts_grow_to_a_limit(counters, store):
    pauses = []

    def wait(hurry, seconds):
        pauses.append(seconds)
        if len(pauses) == 12:
            store.refusal = None

    pending = Pending()
    lane = Lane("writer", "records", pending, counters, is_temporary=away, wait=wait)
    store.refusal = OSError("away")
    submit(lane, store.write, 1)
    assert pending.wait(5)
    assert pauses[:4] == [FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE, 8 * FIRST_PAUSE]
    assert pauses[-3:] == [LONGEST_PAUSE] * 3
    assert store.items == [1]
    lane.stop()


def test_what_waits_is_bounded_in_number_and_bytes(lanes, counters):
    lane = lanes.add("writer", "records", limits=Limits(jobs=5, size=1000))
    held = hold(lane)
    assert submit(lane, ignore, 1, 2, 3, 4, 5) == [True, True, True, True, False]
    held.release.set()
    assert not lanes.flush(5)
    held = hold(lane)
    assert submit(lane, ignore, 1, 2, 3, size=400) == [True, True, False]
    assert counters["writer.dropped"] == 2
    held.release.set()


def test_one_record_may_be_larger_than_the_limit(lanes, store):
    lane = lanes.add("writer", "records", limits=Limits(size=1000))
    assert submit(lane, store.write, 1, size=2000) == [True]
    assert lanes.flush(5)


def test_nearly_full_is_said_and_what_was_dropped_is_said_in_one_sentence(lanes, caplog):
    lane = lanes.add("writer", "records", limits=Limits(jobs=10))
    held = hold(lane)
    submit(lane, ignore, *range(6))
    lanes.report()
    assert warnings(caplog) == []
    submit(lane, ignore, *range(20))
    lanes.report()
    lanes.report()
    held.release.set()
    lanes.flush(5)
    lanes.report()
    assert warnings(caplog) == [
        "IC-Cache's writer is nearly full: 10 records (0 MB) wait; beyond 10 (64 MB) they are dropped",
        "IC-Cache dropped 17 records, because its writer was full",
    ]


# the end ----------------------------------------------------------------------------------------------------------


def test_close_says_what_is_lost_and_why_and_stops(lanes, counters, store, caplog):
    lane = lanes.add("writer", "records", is_temporary=away)
    store.refusal = OSError("the server is away")
    submit(lane, store.write, 1, 2, 3)
    assert store.tried.wait(5)
    lanes.close()
    store.refusal = None
    lane._threads[0].join(5)
    assert not lane.is_alive
    assert store.items == []
    assert counters["writer.dropped"] == 3
    assert re.fullmatch(r"IC-Cache closes and loses 3 records \(OSError at \w+\.py:\d+\)", warnings(caplog)[-1])
    assert not lanes.flush()


def test_a_job_that_hangs_holds_close_no_longer_than_the_limit_and_nothing_runs_after_it(lanes, store, caplog):
    writer, scoring = lanes.add("writer", "records"), lanes.add("scoring", "answers to be scored")
    held = hold(scoring)
    submit(scoring, store.write, 1)
    lanes.close()
    held.release.set()
    scoring._threads[0].join(5)
    assert store.items == []
    assert warnings(caplog) == ["IC-Cache closes and loses 2 answers to be scored"]


def test_close_stores_what_follows_from_earlier_jobs(counters, store):
    lanes = Lanes(counters, drain=5)
    writer, scoring = lanes.add("writer", "records"), lanes.add("scoring", "answers")
    held = Held()

    def score(items):
        held(items)
        return [Job(writer, store.write, item) for item in items]

    submit(scoring, score, "score")
    assert held.running.wait(5)
    closing = threading.Thread(target=lanes.close)
    closing.start()
    held.release.set()
    closing.join(5)
    assert store.items == ["score"]
    assert counters.snapshot() == {}


def test_after_close_nothing_is_taken(lanes, counters):
    lane = lanes.add("writer", "records")
    lanes.close()
    assert submit(lane, ignore, 1) == [False]
    assert counters["writer.dropped"] == 1


def test_nothing_is_logged_after_the_sentence_that_says_what_is_lost(lanes, counters, caplog):
    lane = lanes.add("writer", "records")
    begun, release = threading.Event(), threading.Event()

    def write(items):
        begun.set()
        assert release.wait(5)
        raise ValueError("the store is closed")

    submit(lane, write, 1, 2)
    assert begun.wait(5)
    lanes.close()
    release.set()
    lane._threads[0].join(5)
    assert warnings(caplog) == ["IC-Cache closes and loses 2 records"]
    assert lane.lost == counters["writer.dropped"] == 2
