"""What blocks or fails beneath the engine fails no request."""

import asyncio
import threading
import time

import pytest

from shared_core.adapters.threads import off_loop
from shared_core.engine import Engine
from shared_core.store import open_store
from shared_core.values import Outcome
from tests.unit.engine.world import ARMS, FULL, Words, ask


async def test_a_burst_is_held_no_longer_than_the_deadline(build):
    """100 at once, an embedder that takes one text at a time: those whose turn does not come in time fall back."""
    turn = threading.Lock()

    class Slow(Words):
        def embed(self, texts):
            with turn:
                time.sleep(0.02 * len(texts))
                return super().embed(texts)

    engine = build(embedder=Slow(), settings=FULL.model_copy(update={"deadline": 0.2}))

    async def one(n):
        begun = time.monotonic()
        decision = await off_loop(engine.decide, ask(f"alpha {n}"), str(n))
        return time.monotonic() - begun, decision

    held = await asyncio.gather(*(one(n) for n in range(100)))
    assert max(seconds for seconds, _ in held) < 0.2 + 0.1
    assert 1 <= sum(not decision.fallback for _, decision in held) < 20


# trouble ------------------------------------------------------------------------------------------------------


def test_a_blocked_embedder_costs_one_deadline_and_a_bounded_number_of_threads(build):
    release = threading.Event()

    class Stuck(Words):
        def embed(self, texts):
            release.wait(30)
            return super().embed(texts)

    settings = FULL.model_copy(update={"deadline": 0.1})
    engine = Engine(
        store="memory://", arms=ARMS, reference="large", embedder=Stuck(), settings=settings, background=False
    )
    before = threading.active_count()
    try:
        for n in range(50):
            begun = time.monotonic()
            decision = engine.decide(ask("alpha"), f"d{n}")
            assert time.monotonic() - begun < 0.2
            assert decision.arm == "large"
            assert decision.fallback
        assert threading.active_count() - before <= engine.settings.workers
        assert engine.counters["fallback"] == 50
        assert engine.counters.value("fallback", error="DependencyIsSlow") >= 1
        assert engine.counters.value("fallback", error="DependencyIsDown") >= 1
    finally:
        release.set()
        engine.close()


def test_a_permanent_error_is_logged_once(build, caplog):
    store = open_store("memory://", settings=FULL)
    engine = build(store=store)
    store.close()
    for _ in range(3):
        engine.lookup(ask("alpha"))
    [warning] = [record for record in caplog.records if record.levelname == "WARNING"]
    assert "open it again" in warning.getMessage()


def test_a_failing_store_fails_nothing_on_the_request_path(build):
    store = open_store("memory://", settings=FULL)
    engine = build(store=store)
    store.close()
    assert engine.lookup(ask("alpha")) is None
    assert engine.decide(ask("alpha"), "d").arm == "large"
    engine.observe(ask("alpha"), Outcome("x", payload=b"x"), admit=True)
    engine.submit_record(engine.decide(ask("alpha"), "e"), Outcome("x"))
    engine.flush(5)
    assert engine.counters["lookup.failed"] == 1
    assert engine.counters["writer.failed"] == 3  # the exact answer, which waited for nothing after that, among them
    with pytest.raises(Exception):  # asked directly, the failure is loud
        engine.record(engine.decide(ask("alpha"), "f"), Outcome("x"))


def test_feedback_reaches_an_exact_answer_whose_example_could_not_be_made(build):
    class Fragile(Words):
        is_down = False

        def embed(self, texts):
            if self.is_down:
                raise OSError("no embedder")
            return super().embed(texts)

    embedder = Fragile()
    engine = build(embedder=embedder)
    embedder.is_down = True
    decision_id = engine.observe(ask("alpha"), Outcome("x", writer="big", payload=b"x"), admit=True)
    assert not engine.flush(5)
    assert engine.counters.value("prepare.failed", error="OSError") == 1
    assert engine.lookup(ask("alpha")) is not None
    engine.feedback(decision_id, 0.0)
    assert engine.lookup(ask("alpha")) is None


def test_a_cold_scope_falls_back_once_and_is_loaded_meanwhile(build, tmp_path):
    url = f"sqlite:///{tmp_path}/pool.db"
    build(store=url).add_examples([("alpha", "1")], scope="default", task="t")
    engine = Engine(store=url, arms=ARMS, reference="large", embedder=Words(), settings=FULL, background=False)
    try:
        first = engine.decide(ask("alpha"), "a")
        assert first.fallback
        assert "ScopeIsCold" in first.route.reason
        engine.warm("default")
        assert len(engine.decide(ask("alpha"), "b").selection.for_arm("small")) == 1
    finally:
        engine.close()


def test_an_empty_query_goes_plain(build):
    engine = build()
    engine.add_examples([("alpha", "1")], scope="default", task="t")
    assert engine.decide(ask(""), "d").given == ()
    assert engine.counters["bypass.empty_query"] == 1
