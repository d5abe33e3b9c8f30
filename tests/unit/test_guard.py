"""The guard: deadlines hold, threads stay bounded, a failing dependency is spared."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar

import pytest

from shared_core.errors import DependencyIsDown, DependencyIsSlow
from shared_core.guard import Step, immediately
from shared_core.guard.breaker import FAILURES_TO_OPEN, OPEN_SECONDS
from shared_core.guard.deadline import Deadline
from shared_core.guard.threads import Guard


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
            results.append(guard.call("a", soon(), lambda: n * 100 + i) == n * 100 + i)

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 400
    assert all(results)


# several calls of one request -----------------------------------------------------------------------------------------


def both(embed, read, between=lambda value: value):
    """A request that needs the embedder, and then the store."""
    vector = yield Step("embedder", embed)
    between(vector)
    return vector, (yield Step("store", read))


def test_one_thread_takes_a_request_through_its_steps():
    guard = Guard(2, time.monotonic)
    first, second = guard.run(soon(), both(threading.get_ident, threading.get_ident))
    assert first == second != threading.get_ident()
    assert len({guard.run(soon(), both(threading.get_ident, int))[0] for _ in range(20)}) == 1  # and again
    guard.close()


def test_a_request_without_steps_needs_no_thread():
    guard, before = Guard(2, time.monotonic), len(guard_threads())

    def known():
        return "known"
        yield

    assert guard.run(soon(), known()) == "known"
    assert len(guard_threads()) == before


def test_requests_stuck_in_the_store_leave_the_embedders_places_to_others(stuck):
    guard, before = Guard(2, time.monotonic), len(guard_threads())
    for _ in range(FAILURES_TO_OPEN):  # two are stuck, the others wait behind them
        with pytest.raises(DependencyIsSlow, match=r"store did not answer within 0.05 s \(setting deadline\)"):
            guard.run(soon(0.05), both(int, stuck))
    with pytest.raises(DependencyIsDown, match="store"):
        guard.run(soon(), both(int, int))
    assert not guard._bulkheads["store"].waiting
    for _ in range(10):
        assert guard.call("embedder", soon(), lambda: "fine") == "fine"
    assert len(guard_threads()) - before <= 4


def test_requests_stuck_in_the_embedder_leave_the_store_alone(stuck):
    guard = Guard(2, time.monotonic)
    for _ in range(4):
        with pytest.raises(DependencyIsSlow, match="embedder"):
            guard.run(soon(0.01), both(stuck, int))
    assert guard.call("store", soon(), lambda: "fine") == "fine"


def test_a_request_waits_for_a_place_at_its_next_step():
    guard, begun, release, results = Guard(1, time.monotonic), threading.Event(), threading.Event(), []
    holding = threading.Thread(target=guard.call, args=("store", soon(), lambda: begun.set() or release.wait(10)))
    holding.start()
    assert begun.wait(10)
    waiting = threading.Thread(target=lambda: results.append(guard.run(soon(), both(lambda: "v", lambda: "t"))))
    waiting.start()
    while not guard._bulkheads["store"].waiting:
        time.sleep(0)
    assert guard.call("embedder", soon(), lambda: "free") == "free"  # its only place is not held by who waits
    release.set()
    waiting.join()
    holding.join()
    assert results == [("v", "t")]
    guard.close()


def test_each_failure_counts_against_its_own_dependency():
    clock = Clock()
    guard = Guard(1, clock)

    def broken(*_):
        raise OSError("down")

    for _ in range(FAILURES_TO_OPEN):
        with pytest.raises(OSError, match="down"):
            guard.run(Deadline(5, clock), both(int, broken))
    with pytest.raises(DependencyIsDown, match="store"):
        guard.run(Deadline(5, clock), both(int, int))
    for _ in range(FAILURES_TO_OPEN + 1):
        with pytest.raises(OSError, match="down"):
            guard.run(Deadline(5, clock), both(int, int, between=broken))  # the request's own failure
    assert guard.call("embedder", Deadline(5, clock), lambda: 1) == 1


def test_a_request_that_is_slow_by_itself_blames_no_dependency(stuck):
    guard = Guard(FAILURES_TO_OPEN + 1, time.monotonic)
    for _ in range(FAILURES_TO_OPEN):
        with pytest.raises(DependencyIsSlow, match="between two calls"):
            guard.run(soon(0.05), both(int, int, between=lambda _: stuck()))
    assert guard.call("embedder", soon(), lambda: 1) == 1


def test_a_step_may_fail_and_the_request_go_on():
    def forgiving():
        try:
            yield Step("store", {}.popitem)
        except KeyError:
            return (yield Step("embedder", lambda: "instead"))

    guard = Guard(1, time.monotonic)
    assert guard.run(soon(), forgiving()) == "instead"
    guard.close()


def test_closing_ends_idle_threads_now_and_busy_ones_later():
    guard, release, before = Guard(2, time.monotonic), threading.Event(), set(guard_threads())
    at_work = threading.Thread(target=guard.call, args=("a", soon(), release.wait, 10))
    at_work.start()
    guard.call("b", soon(), int)
    mine = set(guard_threads()) - before
    guard.close()
    release.set()
    for thread in mine:
        thread.join(5)
    assert not any(thread.is_alive() for thread in mine)
    at_work.join()


def test_many_requests_at_once_all_come_through():
    """Places are taken, passed on and given back; none is lost and none is given out twice."""
    guard, busy, most, lock = Guard(3, time.monotonic), {"embedder": 0, "store": 0}, [], threading.Lock()

    def use(name, value):
        with lock:
            busy[name] += 1
            most.append(busy[name])
        with lock:
            busy[name] -= 1
        return value

    def ask(n):
        for i in range(200):
            value = n * 1000 + i
            steps = both(lambda value=value: use("embedder", value), lambda value=value: use("store", value))
            try:
                assert guard.run(soon(), steps) == (value, value)
            except DependencyIsSlow:
                refused.append(value)

    refused, before = [], set(guard_threads())
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(ask, range(6)))
    assert max(most) <= 3
    assert refused == []  # three places and three that may wait
    guard.close()
    for thread in set(guard_threads()) - before:
        thread.join(5)
    assert [lane.busy for lane in guard._bulkheads.values()] == [0, 0]


# for event loops


def calling(*calls):
    """Steps through `calls`, each of which goes to another dependency; returns their results."""
    results = []
    for n, call in enumerate(calls):
        results.append((yield Step(f"dependency {n}", call)))
    return results


async def test_an_event_loop_gets_the_result_the_error_and_the_context_as_a_thread_does():
    tenant = ContextVar("tenant", default="none")
    tenant.set("acme")
    guard = Guard(2, time.monotonic)
    assert await guard.arun(soon(), calling(lambda: 1, tenant.get)) == [1, "acme"]
    with pytest.raises(KeyError, match="missing"):
        await guard.arun(soon(), calling(lambda: {}["missing"]))
    guard.close()


async def test_steps_without_a_call_end_on_the_loop():
    guard, before = Guard(2, time.monotonic), len(guard_threads())
    assert await guard.arun(soon(), immediately("here")) == "here"
    assert guard.run(soon(), immediately("here")) == "here"
    assert len(guard_threads()) == before
    guard.close()


async def test_a_stuck_call_ends_at_the_deadline_of_an_event_loop(stuck):
    guard, begun = Guard(2, time.monotonic), time.monotonic()
    with pytest.raises(DependencyIsSlow, match="dependency 1"):
        await guard.arun(soon(0.05), calling(lambda: 1, stuck))
    assert time.monotonic() - begun < 0.5
    assert guard.is_failing("dependency 1")
    guard.close()


async def test_the_loop_goes_on_and_no_thread_waits_for_a_call(stuck):
    guard, before = Guard(64, time.monotonic), threading.active_count()
    waiting = [asyncio.ensure_future(guard.arun(soon(30), calling(stuck))) for _ in range(20)]
    ticks = 0
    for _ in range(100):
        await asyncio.sleep(0)
        ticks += 1
    assert ticks == 100
    assert threading.active_count() - before <= 20  # those that are stuck, and none that waits for them
    for task in waiting:
        task.cancel()
    assert all(
        isinstance(end, asyncio.CancelledError) for end in await asyncio.gather(*waiting, return_exceptions=True)
    )
    guard.close()


async def test_a_cancelled_caller_frees_its_slot_and_blames_nobody():
    release, guard = threading.Event(), Guard(1, time.monotonic)
    task = asyncio.ensure_future(guard.arun(soon(30), calling(lambda: release.wait(20), lambda: 1)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    release.set()
    assert await guard.arun(soon(), calling(lambda: "free again")) == ["free again"]
    assert not guard.is_failing("dependency 0")
    guard.close()


def test_a_loop_that_was_closed_meanwhile_does_not_end_the_thread(stuck):
    guard, release = Guard(1, time.monotonic), threading.Event()

    async def leave():
        asyncio.ensure_future(guard.arun(soon(30), calling(lambda: release.wait(20))))
        await asyncio.sleep(0)

    asyncio.run(leave())
    release.set()
    assert guard.call("dependency 0", soon(), lambda: "fine") == "fine"
    guard.close()


async def test_threads_and_loops_share_slots_and_breaker():
    guard = Guard(2, time.monotonic)
    for _ in range(FAILURES_TO_OPEN):
        with pytest.raises(ZeroDivisionError):
            await guard.arun(soon(), calling(lambda: 1 / 0))
    with pytest.raises(DependencyIsDown):
        guard.call("dependency 0", soon(), lambda: 1)
    guard.close()


async def test_a_burst_on_an_event_loop_waits_in_line_instead_of_being_refused():
    guard, gate = Guard(2, time.monotonic), threading.Semaphore(0)

    def one_by_one():
        gate.acquire(timeout=20)
        gate.release()
        return 1

    waiting = [asyncio.ensure_future(guard.arun(soon(20), calling(one_by_one))) for _ in range(50)]
    await asyncio.sleep(0)
    gate.release()
    assert await asyncio.gather(*waiting) == [[1]] * 50
    guard.close()


async def test_a_line_that_is_too_long_blames_a_dependency_only_if_it_answers_nobody(stuck):
    guard, gate, entered = Guard(1, time.monotonic), threading.Event(), threading.Event()
    slow = asyncio.ensure_future(guard.arun(soon(20), calling(lambda: entered.set() or gate.wait(20))))
    while not entered.is_set():
        await asyncio.sleep(0)
    with pytest.raises(DependencyIsSlow):
        await guard.arun(soon(0.02), calling(int))
    assert guard.is_failing("dependency 0")
    gate.set()
    await slow
    assert not guard.is_failing("dependency 0")

    turns = threading.Semaphore(0)
    first, second = (asyncio.ensure_future(guard.arun(soon(20), calling(turns.acquire))) for _ in range(2))
    await asyncio.sleep(0)
    late = asyncio.ensure_future(guard.arun(soon(0.2), calling(int)))
    await asyncio.sleep(0)
    turns.release()
    await first
    with pytest.raises(DependencyIsSlow):
        await late
    assert not guard.is_failing("dependency 0")
    turns.release()
    await second
    guard.close()
