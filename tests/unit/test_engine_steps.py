"""Threads and event loops run a request the same way, and one deadline bounds every part that hangs."""

import asyncio
import threading
import time
from contextlib import contextmanager

import pytest

from shared_core.errors import DependencyIsSlow
from shared_core.engine import Engine
from shared_core.guard import Step, immediately
from shared_core.router import Router
from shared_core.settings import Settings
from shared_core.values import Arm, Message, Outcome, Request, Route
from tests.unit.engine.world import ARMS, FULL, Words, ask

QUICK = Settings(relevance_quantile=0.0, explore=1.0, deadline=0.1)


@contextmanager
def engine_of(**wanted):
    arguments = {
        "store": "memory://",
        "arms": ARMS,
        "reference": "large",
        "embedder": Words(),
        "settings": FULL,
        "reward": lambda request, answer: 1.0,
        "background": False,
    }
    engine = Engine(**(arguments | wanted))
    engine.warm("default")
    try:
        yield engine
    finally:
        engine.close()


def decided(decision):
    """All of a decision but its time."""
    return decision.arm, decision.provenance(), decision.insertion, decision.selection, decision.request


async def test_a_thread_and_a_loop_decide_the_same():
    with engine_of(redact=lambda text: text.replace("Ann", "NAME")) as engine:
        pairs = [(f"heat room {n} for Ann", f"climate {n}") for n in range(30)]
        engine.add_examples(pairs, scope="default", task="t")
        requests = [ask(f"heat room {n} now, Ann") for n in range(30)] + [ask(" "), ask("x", examples_allowed=False)]
        for number, request in enumerate(requests):
            on_a_thread = engine.decide(request, str(number))
            assert decided(await engine.adecide(request, str(number))) == decided(on_a_thread)
            selected = engine.select(request, str(number), arm="some-model")
            assert decided(await engine.aselect(request, str(number), arm="some-model")) == decided(selected)
        assert any(engine.decide(request, str(n)).given for n, request in enumerate(requests))


async def test_what_a_loop_observes_a_thread_looks_up_and_the_other_way_round():
    with engine_of() as engine:
        first = await engine.aobserve(ask("a"), Outcome("A", payload=b"A"), admit=False)
        second = engine.observe(ask("b"), Outcome("B", payload=b"B"), admit=False)
        assert first != second
        assert engine.lookup(ask("a")).answer.payload == b"A"
        assert (await engine.alookup(ask("b"))).answer.payload == b"B"
        assert await engine.alookup(ask("c")) is None
        assert engine.counters["lookup.hit"] == 2
        assert engine.counters["lookup.miss"] == 1


async def test_a_hundred_decisions_on_one_loop_need_no_thread_each():
    with engine_of() as engine:
        await engine.adecide(ask("first"))
        before = threading.active_count()
        decisions = await asyncio.gather(*(engine.adecide(ask(f"alpha {n}"), str(n)) for n in range(100)))
        assert len({decision.id for decision in decisions}) == 100
        assert threading.active_count() - before <= engine.settings.workers


class HangingRouter(Router):
    """Hangs where a remote router would: in its own step, or between two steps of other parts."""

    def __init__(self, hang, *, in_a_step):
        self._hang, self._in_a_step = hang, in_a_step

    def route(self, request, selection, decision_id):
        if self._in_a_step:
            yield Step("router", self._hang)
        else:
            self._hang()
        return Route("small")

    def without_examples(self, request):
        return Route("large")

    def adopt(self, checkpoint): ...


class HangingPool:
    """A pool whose search hangs, in a step or between two."""

    def __init__(self, hang, *, in_a_step):
        self._hang, self._in_a_step = hang, in_a_step

    def candidates(self, scope, task, vector, k):
        if self._in_a_step:
            yield Step("pool", self._hang)
        else:
            self._hang()

    def similarity_quantile(self, scope, task, q):
        return immediately(-1.0)


@pytest.fixture
def hang():
    release = threading.Event()
    yield lambda: release.wait(20)
    release.set()


async def test_a_router_that_hangs_has_the_deadline_of_everything_else(hang):
    for in_a_step in (True, False):
        with engine_of(settings=QUICK) as engine:
            engine._components().router = HangingRouter(hang, in_a_step=in_a_step)
            await in_time_at_the_reference(engine, ask("alpha"))
            await in_time_at_the_reference(engine, ask(" "))  # what is not embedded is routed, too


def test_the_linear_router_needs_no_thread_for_a_request_that_is_not_embedded():
    with engine_of() as engine:
        before = threading.active_count()
        assert not engine.decide(ask(" ")).fallback
        assert threading.active_count() == before


async def test_a_pool_that_hangs_has_the_deadline_of_everything_else(hang):
    for in_a_step in (True, False):
        with engine_of(settings=QUICK) as engine:
            engine._components().selector._pool = HangingPool(hang, in_a_step=in_a_step)
            await in_time_at_the_reference(engine, ask("alpha"))


async def in_time_at_the_reference(engine, request):
    for decide in (lambda: asyncio.to_thread(engine.decide, request), lambda: engine.adecide(request)):
        begun = time.monotonic()
        decision = await decide()
        assert time.monotonic() - begun < 5 * QUICK.deadline
        assert (decision.arm, decision.fallback) == ("large", True)
        assert "DependencyIsSlow" in decision.route.reason


async def test_a_remote_router_that_is_down_is_spared_by_its_own_breaker():
    class Down(HangingRouter):
        def __init__(self):
            super().__init__(lambda: 1 / 0, in_a_step=True)

    with engine_of() as engine:
        engine._components().router = Down()
        reasons = [(await engine.adecide(ask(f"alpha {n}"))).route.reason for n in range(8)]
        assert "ZeroDivisionError" in reasons[0]
        assert "DependencyIsDown: router" in reasons[-1]
        engine.add_examples([("alpha", "beta")], scope="default", task="t")
        assert (await engine.aselect(ask("alpha"))).given  # embedder and store are not blamed


async def test_cancelled_decisions_leave_the_engine_free(hang):
    class Stuck(Words):
        def embed(self, texts):
            if "stuck" in texts[0]:
                hang()
            return super().embed(texts)

    with engine_of(embedder=Stuck(), settings=Settings(deadline=5.0, workers=2)) as engine:
        task = asyncio.ensure_future(engine.adecide(ask("stuck")))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not (await engine.adecide(ask("free"))).fallback


def test_each_arm_has_examples_within_its_own_budget():
    arms = (Arm("tiny", 0.1, example_tokens=30), Arm("small", 0.2), Arm("none", 0.3, example_tokens=0), ARMS[1])
    with engine_of(arms=arms) as engine:
        engine.add_examples([("alpha", "a" * 20), ("alpha beta", "b" * 2000)], scope="default", task="t")
        selection = engine.decide(ask("alpha"), "d").selection
        assert [e.query for e in selection.for_arm("tiny")] == ["alpha"]
        assert [e.query for e in selection.for_arm("small")] == ["alpha", "alpha beta"]
        assert selection.for_arm("none") == selection.for_arm("large") == ()


def test_calls_in_flight_are_counted_from_the_start_to_the_end():
    with engine_of() as engine:
        decision = engine.decide(Request((Message("user", "x"),), "x"))
        engine.started(decision)
        engine.started(decision)
        assert engine.in_flight.snapshot() == {decision.arm: 2}
        engine.paused(decision)
        assert engine.in_flight.snapshot() == {decision.arm: 1}
        engine.started(decision)
        engine.ended(decision, Outcome("", finished=False, error="TimeoutError"))
        engine.ended(decision, Outcome("fine"))
        assert engine.in_flight.snapshot() == {}


def test_a_router_that_raises_in_doubt_costs_no_user_an_answer(monkeypatch):
    with engine_of() as engine:

        def too_late(*_):
            raise DependencyIsSlow("embedder did not answer")
            yield

        def raises(*_):
            raise RuntimeError("boom")

        monkeypatch.setattr(engine._components().selector, "select", too_late)
        monkeypatch.setattr(engine._components().router, "without_examples", raises)
        decision = engine.decide(ask("heat the kitchen"), "x")
        assert (decision.arm, decision.fallback) == ("large", True)
