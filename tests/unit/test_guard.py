"""The guard: deadlines hold, threads stay bounded, a failing dependency is spared."""

import threading
import time

import pytest

from shared_core.errors import DependencyIsDown, DependencyIsSlow
from shared_core.guard import FAILURES_TO_OPEN, OPEN_SECONDS, Deadline, Guard


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def stuck():
    """A function that blocks until the test is over."""
    release = threading.Event()
    yield release.wait
    release.set()


def soon(seconds=5.0):
    return Deadline(seconds, time.monotonic)


def guard_threads():
    return [t for t in threading.enumerate() if t.name == "iccache-guard"]


def test_a_result_and_an_exception_come_through():
    guard = Guard(2, time.monotonic)
    assert guard.call("a", soon(), lambda x: x + 1, 1) == 2
    with pytest.raises(KeyError):
        guard.call("a", soon(), {}.__getitem__, "missing")
    guard.close()


def test_context_variables_reach_the_call():
    from contextvars import ContextVar

    tenant = ContextVar("tenant", default="none")
    tenant.set("acme")
    guard = Guard(1, time.monotonic)
    assert guard.call("a", soon(), tenant.get) == "acme"
    guard.close()


def test_a_stuck_call_ends_at_the_deadline(stuck):
    guard = Guard(2, time.monotonic)
    begun = time.monotonic()
    with pytest.raises(DependencyIsSlow, match="embedder"):
        guard.call("embedder", soon(0.05), stuck)
    assert time.monotonic() - begun < 0.15


def test_fifty_stuck_calls_leave_a_bounded_number_of_threads(stuck):
    before = len(guard_threads())
    guard = Guard(4, time.monotonic)
    begun = time.monotonic()
    for _ in range(50):
        with pytest.raises((DependencyIsSlow, DependencyIsDown)):
            guard.call("embedder", soon(0.01), stuck)
    assert len(guard_threads()) - before <= 4
    assert time.monotonic() - begun < 3


def test_one_stuck_dependency_leaves_the_others_alone(stuck):
    guard = Guard(2, time.monotonic)
    for _ in range(3):
        with pytest.raises(DependencyIsSlow):
            guard.call("embedder", soon(0.01), stuck)
    assert guard.call("store", soon(), lambda: "fine") == "fine"


def test_the_breaker_opens_after_failures_and_lets_one_try_again_later():
    clock = Clock()
    guard = Guard(1, clock)
    calls = []

    def broken():
        calls.append(1)
        raise OSError("down")

    for _ in range(FAILURES_TO_OPEN):
        with pytest.raises(OSError):
            guard.call("store", Deadline(5, clock), broken)
    with pytest.raises(DependencyIsDown):
        guard.call("store", Deadline(5, clock), broken)
    assert len(calls) == FAILURES_TO_OPEN
    clock.now += OPEN_SECONDS
    with pytest.raises(OSError):
        guard.call("store", Deadline(5, clock), broken)  # the one that tries
    with pytest.raises(DependencyIsDown):
        guard.call("store", Deadline(5, clock), broken)
    clock.now += OPEN_SECONDS
    assert guard.call("store", Deadline(5, clock), lambda: 1) == 1
    assert guard.call("store", Deadline(5, clock), lambda: 2) == 2  # closed again


def test_many_threads_share_the_guard():
    guard = Guard(8, time.monotonic)
    results = []

    def ask(n):
        for i in range(50):
            try:
                results.append(guard.call("a", soon(), lambda: n * 100 + i) == n * 100 + i)
            except DependencyIsSlow:  # more callers than threads and places to wait: refused at once
                results.append(True)

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 400
    assert all(results)
