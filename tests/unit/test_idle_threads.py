"""Threads for an event loop's calls end when they have nothing to do; the end of a program and of an engine is bounded."""

import asyncio
import contextvars
import threading
import time
from concurrent.futures import wait

import pytest

from shared_core import lanes
from shared_core.adapters.executor import IdleThreads
from shared_core.background import Periodic
from shared_core.engine import Engine
from shared_core.lanes import Job, Lanes
from shared_core.settings import Settings
from shared_core.telemetry import Counters

NAME = "iccache-idle-test"


def alive():
    return sum(thread.name == NAME for thread in threading.enumerate())


def gone():
    end = time.monotonic() + 10
    while alive() and time.monotonic() < end:
        threading.Event().wait(0.005)
    return not alive()


def test_idle_threads_end_and_new_ones_start():
    threads = IdleThreads(8, 0.02, NAME)
    for _ in range(3):
        barrier = threading.Barrier(8)
        futures = [threads.submit(barrier.wait, 10) for _ in range(8)]  # only eight at once get over it
        assert sorted(future.result(10) for future in futures) == list(range(8))
        assert gone()


@pytest.mark.parametrize("calls", [1, 9, 200])
def test_every_call_ends_on_few_threads(calls):
    threads = IdleThreads(4, 0.05, NAME)
    most = []

    def call(number):
        most.append(alive())
        return number

    futures = [threads.submit(call, number) for number in range(calls)]
    assert [future.result(10) for future in futures] == list(range(calls))
    assert max(most) <= 4
    assert gone()


def test_one_thread_is_used_again_and_again():
    threads = IdleThreads(8, 5.0, NAME)
    idents = set()
    for _ in range(50):
        idents.add(threads.submit(threading.get_ident).result(10))
        threading.Event().wait(0.001)
    assert len(idents) <= 2  # a second one starts if the first is not back at its place yet


def test_errors_reach_the_caller_and_cancelled_calls_are_not_made():
    threads = IdleThreads(1, 0.02, NAME)
    blocked, made = threading.Event(), []
    first = threads.submit(blocked.wait, 10)
    second = threads.submit(made.append, "never")
    assert second.cancel()
    blocked.set()
    wait([first])
    with pytest.raises(ZeroDivisionError):
        threads.submit(lambda: 1 / 0).result(10)
    with pytest.raises(SystemExit):
        threads.submit(exit).result(10)
    assert made == []
    assert gone()


async def test_an_event_loop_uses_them():
    threads, variable = IdleThreads(2, 0.02, NAME), contextvars.ContextVar("v", default=0)
    variable.set(7)
    context = contextvars.copy_context()
    loop = asyncio.get_running_loop()
    assert await loop.run_in_executor(threads, context.run, variable.get) == 7


# the end --------------------------------------------------------------------------------------------------------------

DRAIN, ROOM = 0.4, 0.35


def hung(release):
    made = Lanes(Counters(), drain=DRAIN)
    lane = made.add("writer", "records")
    lane.submit(Job(lane, lambda _: release.wait(20) and None, None))
    return made


@pytest.mark.parametrize("number", [1, 2, 6])
def test_a_program_waits_for_all_its_engines_at_once(number, monkeypatch):
    release = threading.Event()
    monkeypatch.setattr(lanes, "_open", type(lanes._open)())
    opened = [hung(release) for _ in range(number)]
    end = lanes._End()
    started = time.monotonic()
    end.flush_all()
    end.close_all()
    assert DRAIN <= time.monotonic() - started < DRAIN + ROOM
    release.set()
    assert all(made._is_closed for made in opened)


def test_a_healthy_engine_loses_nothing_to_one_that_hangs(monkeypatch):
    release, stored = threading.Event(), []
    monkeypatch.setattr(lanes, "_open", type(lanes._open)())
    opened = [hung(release)]
    opened.append(Lanes(Counters(), drain=DRAIN))
    lane = opened[-1].add("writer", "records")
    lane.submit(Job(lane, stored.extend, "stored"))
    end = lanes._End()
    end.flush_all()
    end.close_all()
    release.set()
    assert stored == ["stored"]


@pytest.mark.parametrize("loops", [1, 3])
def test_an_engine_with_hung_loops_closes_within_its_drain(loops):
    engine = Engine(store="memory://", settings=Settings(drain=DRAIN), background=False)
    release, begun = threading.Event(), threading.Semaphore(0)

    def hang():
        begun.release()
        release.wait(20)

    engine._local._loops = tuple(Periodic(f"hung{n}", 0.001, hang, Counters()) for n in range(loops))
    for _ in range(loops):
        begun.acquire(timeout=10)
    started = time.monotonic()
    engine.close()
    assert time.monotonic() - started < DRAIN + ROOM
    release.set()
