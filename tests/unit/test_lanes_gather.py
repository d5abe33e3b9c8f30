"""A lane may wait a moment for more jobs, so that fewer calls are made; nobody waits for that moment."""

import threading

import pytest

from shared_core.lanes import Job, Lanes, Limits
from shared_core.lanes.lane import Lane
from shared_core.lanes.pending import Pending
from shared_core.telemetry import Counters

LONG = 60.0  # seconds; a test that waits for it fails


@pytest.fixture
def batches():
    return []


def submit(lane, batches, *items):
    for item in items:
        assert lane.submit(Job(lane, batches.append, item))


def test_jobs_that_come_while_a_call_waits_are_in_that_call(batches):
    called = threading.Event()

    def call(items):
        batches.append(items)
        called.set()

    def wait(hurry, seconds):
        assert seconds == LONG
        lane.submit(Job(lane, call, 2))
        lane.submit(Job(lane, call, 3))

    lane = Lane("writer", "records", Pending(), Counters(), limits=Limits(batch=8, gather=LONG), wait=wait)
    lane.submit(Job(lane, call, 1))
    assert called.wait(5)
    assert batches == [[1, 2, 3]]
    lane.stop()


def test_a_full_batch_waits_for_nothing(batches):
    waits = []
    lane = Lane(
        "writer",
        "records",
        Pending(),
        Counters(),
        limits=Limits(batch=1, gather=LONG),
        wait=lambda *waited: waits.append(waited),
    )
    submit(lane, batches, 1, 2)
    ended = threading.Event()
    lane.submit(Job(lane, lambda _: ended.set(), None))
    assert ended.wait(5)
    assert waits == []
    lane.stop()


@pytest.mark.parametrize("times", [1, 3])
def test_flush_and_close_cut_the_wait_short(batches, times):
    lanes = Lanes(Counters(), drain=5.0)
    lane = lanes.add("writer", "records", limits=Limits(batch=8, gather=LONG))
    for time in range(times):
        submit(lane, batches, time)
        assert lanes.flush()
    submit(lane, batches, "last")
    lanes.close()
    assert [item for batch in batches for item in batch] == [*range(times), "last"]


def test_what_follows_from_a_flushed_job_waits_for_nothing_either(batches):
    lanes = Lanes(Counters(), drain=5.0)
    lane = lanes.add("writer", "records", limits=Limits(batch=8, gather=LONG))

    def follow(items):
        batches.append(items)
        return [Job(lane, follow, item - 1) for item in items if item]

    lane.submit(Job(lane, follow, 3))
    assert lanes.flush()
    assert batches == [[3], [2], [1], [0]]
    lanes.close()
