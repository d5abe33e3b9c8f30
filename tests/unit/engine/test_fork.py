"""Engines in a forked child."""

import logging
import os
import signal
import threading

import pytest

from shared_core.telemetry import RepeatFilter
from shared_core.values import Outcome
from tests.unit.engine.world import ask


def in_a_child(work):
    """What `work` returns in a forked child, as text."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(10)  # ends a child that hangs
        try:
            os.write(writer, str(work()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    said = os.read(reader, 1000).decode()
    os.waitpid(child, 0)
    return said


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_works_on_redis_with_its_own_threads_and_connections(build, redis_url):
    engine = build(store=redis_url, background=True)
    engine.add_examples([("alpha beta", "1")], scope="default", task="t")

    def child():
        engine.warm("default")
        decision = engine.decide(ask("alpha"), "d")
        engine.submit_record(decision, Outcome("child"))
        return len(decision.given), engine.flush(10), decision.fallback

    assert in_a_child(child) == "(1, True, False)"
    assert engine.decide(ask("alpha"), "e").selection.for_arm("small")  # the parent goes on


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_on_sqlite_falls_back_and_logs_what_to_do(build, tmp_path, caplog):
    engine = build(store=f"sqlite:///{tmp_path}/pool.db", background=True)
    engine.add_examples([("alpha beta", "1")], scope="default", task="t")

    def child():
        route = engine.decide(ask("alpha"), "d").route
        return route.arm, route.reason, "create the engine in the child" in caplog.text

    assert in_a_child(child) == "('large', 'fallback: StoreIsUnusable', True)"
    assert engine.decide(ask("alpha"), "e").selection.for_arm("small")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_has_no_part_in_the_running_calls_of_its_parent(build):
    engine = build(store="memory://")
    decision = engine.decide(ask("alpha"), "d")
    engine.started(decision)

    def child():
        seen = [dict(engine.in_flight.snapshot())]
        engine.ended(decision, Outcome("the parent's stream, dropped here"))
        engine.started(decision)
        seen.append(dict(engine.in_flight.snapshot()))
        engine.ended(decision, Outcome("its own"))
        return [*seen, dict(engine.in_flight.snapshot())]

    assert in_a_child(child) == str([{}, {decision.arm: 1}, {}])
    assert engine.in_flight.snapshot() == {decision.arm: 1}
    engine.ended(decision, Outcome("fine"))
    assert engine.in_flight.snapshot() == {}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_does_not_wait_for_locks_that_threads_of_its_parent_hold(build):
    engine, quiet = build(store="memory://"), RepeatFilter()
    locked, release = threading.Event(), threading.Event()

    def hold():
        with engine.counters._lock, engine.in_flight._lock, quiet._lock:
            locked.set()
            release.wait(20)

    def child():
        engine.counters.count("x")
        engine.in_flight.started("small")
        warning = logging.LogRecord("iccache.x", logging.WARNING, __file__, 1, "down", (), None)
        return engine.counters["x"], engine.in_flight["small"], quiet.filter(warning)

    holder = threading.Thread(target=hold)
    holder.start()
    assert locked.wait(20)
    try:
        assert in_a_child(child) == "(1, 1, True)"
    finally:
        release.set()
        holder.join()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_flush_in_a_child_that_stores_nothing_is_false(build):
    engine = build(store="memory://", background=True)

    def child():
        engine.submit_record(engine.decide(ask("alpha"), "d"), Outcome("lost"))
        return engine.flush(1), engine.counters.value("flush.failed", error="StoreIsUnusable")

    assert in_a_child(child) == "(False, 1)"
    assert engine.flush(5)
