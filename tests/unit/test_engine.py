"""The whole way of a request: what is looked up, decided, recorded, learned, forgotten, and what happens in trouble."""

import asyncio
import os
import re
import threading
import time

import numpy as np
import pytest

from shared_core.adapters.threads import off_loop
from shared_core.engine import Engine
from shared_core.errors import EmbedderDiffers, ConfigurationError
from shared_core.manager.local import LIMIT_EVERY
from shared_core.settings import Settings
from shared_core.store import open_store
from shared_core.values import Arm, Message, Outcome, Request

ARMS = (Arm("small", 0.1), Arm("large", 1.0, uses_examples=False))
FULL = Settings(relevance_quantile=0.0, explore=1.0)


class Words:
    """Bag-of-words vectors: texts that share words are near, deterministically and without a model."""

    tag = "words-256"

    def embed(self, texts):
        rows = np.zeros((len(texts), 256), np.float32)
        for row, text in zip(rows, texts, strict=True):
            row[0] = 0.1
            for word in re.findall(r"\w+", text.lower()):
                row[1 + sum(word.encode()) % 255] += 1
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def ask(text, scope="default", **more):
    return Request((Message("user", text),), text, scope=scope, task="t", **more)


@pytest.fixture
def build():
    engines = []

    def make(**wanted):
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
        engines.append(engine)
        engine.warm("default")
        return engine

    yield make
    for engine in engines:
        engine.close()


def answered_by_large(engine, text, answer, **more):
    """One request that the reference answers, recorded; returns its decision."""
    for n in range(200):
        decision = engine.decide(ask(text, **more), f"{text}-{n}")
        if decision.arm == "large":
            engine.record(decision, Outcome(answer, writer="big"))
            engine.maintain()
            return decision
    raise AssertionError("the reference was never chosen")


def test_an_answer_of_the_reference_becomes_an_example_of_the_next_request(build):
    engine = build()
    answered_by_large(engine, "heat the kitchen", "climate kitchen")
    decision = engine.decide(ask("heat the bathroom"), "next")
    assert [e.answer for e in decision.given] == ["climate kitchen"]
    assert decision.arm == "small"  # explore=1.0 sends every request with examples to the unknown arm
    assert [m.text for m in decision.insertion.turns] == ["heat the kitchen", "climate kitchen"]
    assert decision.provenance()["examples"][0]["similarity"] > 0.5


def test_another_arms_answer_is_admitted_only_once_it_is_trusted(build):
    engine = build(reward=None, settings=Settings(relevance_quantile=0.0, explore=1.0))
    engine.add_examples([("heat the kitchen", "climate kitchen")], scope="default", task="t")
    answered = engine.decide(ask("heat the kitchen"), "a")
    engine.record(answered, Outcome("climate kitchen", writer="big"))
    engine.feedback(answered.id, 1.0)  # somebody judges, so exploration may begin
    engine.maintain()
    decision = engine.decide(ask("heat the bathroom now"), "b")
    assert decision.arm == "small"
    engine.record(decision, Outcome("climate bathroom", writer="tiny"))
    engine.maintain()
    known = lambda: {e.query for e in engine.decide(ask("heat the bathroom now"), "c").selection.for_arm("small")}
    assert known() == {"heat the kitchen"}
    assert engine.counters.value("refused", reason="untrusted") == 1
    engine.feedback(decision.id, 0.9)
    engine.maintain()
    assert known() == {"heat the kitchen", "heat the bathroom now"}


@pytest.mark.parametrize("score", [7, -0.1, float("nan"), "good", ZeroDivisionError()])
def test_an_answer_that_the_reward_function_cannot_score_is_kept_without_a_score(build, score, caplog):
    def reward(request, answer):
        if isinstance(score, Exception):
            raise score
        return score

    engine = build(reward=reward)
    decision = engine.decide(ask("heat the kitchen"), "a")
    engine.record(decision, Outcome("climate kitchen", writer="big"))
    assert (engine.counters["admitted"], engine.counters["reward.failed"]) == (1, 1)
    assert "reward function" in caplog.text
    assert engine.maintain().learned.consumed == 0
    assert engine.feedback(decision.id, 1.0)


def test_a_reward_function_that_would_have_to_be_awaited_is_refused(build):
    async def reward(request, answer):
        return 1.0

    with pytest.raises(ConfigurationError, match="coroutine"):
        build(reward=reward)


def test_a_rewarded_answer_of_another_arm_is_admitted_at_once(build):
    engine = build(reward=lambda request, answer: 1.0 if "good" in answer else 0.0)
    engine.add_examples([("alpha beta", "x")], scope="default", task="t")
    for text, answer in (("alpha gamma", "good"), ("alpha delta", "bad")):
        decision = engine.decide(ask(text), text)
        assert decision.arm == "small"
        engine.record(decision, Outcome(answer))
    engine.maintain()
    found = {e.query for e in engine.decide(ask("alpha"), "d").selection.for_arm("small")}
    assert found == {"alpha beta", "alpha gamma"}


@pytest.mark.parametrize(
    ("request_", "outcome", "reason"),
    [
        (ask("a b", store=False), Outcome("x"), "no_store"),
        (ask("a b"), Outcome("x", finished=False), "unfinished"),
        (ask("a b"), Outcome("x", tool_calls=True), "tool_calls"),
        (ask("a b"), Outcome("  "), "empty_answer"),
        (
            Request((Message("user", "a"), Message("assistant", "b"), Message("user", "c")), "c", task="t"),
            Outcome("x"),
            "history",
        ),
    ],
)
def test_what_may_not_be_an_example_is_refused_by_name(build, request_, outcome, reason):
    engine = build()
    engine.record(engine.decide(request_, "d"), outcome)
    engine.maintain()
    assert engine.counters.value("refused", reason=reason) == 1
    assert engine.decide(ask("a b c"), "e").selection.for_arm("small") == ()


def test_a_cut_answer_is_scored_and_not_kept(build):
    engine = build(reward=lambda request, answer: 0.0)
    decision = engine.decide(ask("alpha"), "d")
    engine.record(decision, Outcome("and so on and", finished=False))
    assert engine.maintain().learned.consumed == 1
    assert engine.counters.value("refused", reason="unfinished") == 1


def test_the_same_query_is_kept_once_and_a_poor_answer_is_replaced(build):
    engine = build(reward=lambda request, answer: 0.0 if answer == "wrong" else 1.0)
    answered_by_large(engine, "heat the kitchen", "wrong")
    decision = engine.decide(ask("heat the kitchen"), "again")
    engine.record(decision, Outcome("right", writer="big"))
    engine.maintain()
    (example,) = engine.decide(ask("heat the kitchen"), "c").selection.for_arm("small")
    assert example.answer == "right"
    engine.record(engine.decide(ask("heat the kitchen"), "e"), Outcome("other"))
    assert engine.counters["known"] == 1


def test_the_pool_keeps_to_its_limit_and_the_oldest_leave(build):
    now = [1000.0]

    def clock():
        now[0] += 1
        return now[0]

    engine = build(settings=FULL.model_copy(update={"max_pool": 3}), clock=clock)
    for n in range(5):
        engine.add_examples([(f"word{n} alpha", str(n))], scope="default", task="t")
    found = {e.answer for e in engine.decide(ask("alpha"), "d").selection.for_arm("small")}
    assert found == {"2", "3", "4"}


def test_every_scope_keeps_to_the_limit_however_traffic_is_mixed(build):
    engine = build(settings=FULL.model_copy(update={"max_pool": 10}))
    for n in range(3 * LIMIT_EVERY):
        for scope in ("a", "b"):
            decision = engine.decide(ask(f"word{n} alpha", scope=scope), f"{scope}{n}")
            engine.record(decision, Outcome("x", writer="big"))
    counts = {scope: engine._components().store.count(scope) for scope in ("a", "b")}
    assert all(10 <= count < 10 + LIMIT_EVERY for count in counts.values()), counts


def test_a_text_is_redacted_once(build):
    engine = build(redact=lambda text: text.replace("secret", "secret secret"))
    decision = engine.decide(ask("the secret of alpha"), "a")
    engine.record(decision, Outcome("b", writer="big"))
    engine.maintain()
    found = engine.decide(ask("the secret of alpha"), "b").selection.for_arm("small")
    assert [(e.query, round(e.similarity, 3)) for e in found] == [("the secret secret of alpha", 1.0)]


def test_a_redaction_that_takes_long_holds_no_request_beyond_the_deadline(build):
    released = threading.Event()

    def redact(text):
        assert released.wait(30)
        return text.replace("secret", "[…]")

    engine = build(redact=redact, settings=FULL.model_copy(update={"deadline": 0.05}))
    begun = time.monotonic()
    decision = engine.decide(ask("the secret of alpha"), "a")
    assert time.monotonic() - begun < 0.05 + 0.1
    assert "redact: it did not answer in time" in decision.route.reason
    released.set()
    engine.record(decision, Outcome("b", writer="big"))
    engine.maintain()
    stored = engine._components().store
    [(_, [example])] = [(scope, stored.oldest(scope, 5)) for scope in stored.scopes()]
    assert stored.texts("default", [example])[example].query == "the […] of alpha"


async def test_a_burst_is_held_no_longer_than_the_deadline(build):
    """100 at once, an embedder that takes one text at a time: those whose turn does not come in time fall back."""
    turn = threading.Lock()

    class Slow(Words):
        def embed(self, texts):
            with turn:
                time.sleep(0.02)
                return super().embed(texts)

    engine = build(embedder=Slow(), settings=FULL.model_copy(update={"deadline": 0.2}))

    async def one(n):
        begun = time.monotonic()
        decision = await off_loop(engine.decide, ask(f"alpha {n}"), str(n))
        return time.monotonic() - begun, decision

    held = await asyncio.gather(*(one(n) for n in range(100)))
    assert max(seconds for seconds, _ in held) < 0.2 + 0.1
    assert 1 <= sum(not decision.fallback for _, decision in held) < 20


def test_deleted_and_cleared_examples_are_gone_when_the_call_returns(build):
    engine = build()
    ids = engine.add_examples([("alpha beta", "1"), ("alpha gamma", "2")], scope="default", task="t")
    assert engine.delete("default", [ids[0]]) == 1
    assert [e.answer for e in engine.decide(ask("alpha"), "a").selection.for_arm("small")] == ["2"]
    assert engine.clear("default") == 1
    assert engine.decide(ask("alpha"), "b").selection.for_arm("small") == ()


def test_scopes_and_tasks_never_mix(build):
    engine = build()
    engine.warm("acme")
    engine.add_examples([("alpha", "1")], scope="acme", task="t")
    engine.add_examples([("alpha", "2")], scope="default", task="other")
    assert engine.decide(ask("alpha"), "a").selection.for_arm("small") == ()
    assert len(engine.decide(ask("alpha", scope="acme"), "b").selection.for_arm("small")) == 1


def test_the_exact_tier_serves_what_was_observed_and_forgets_what_was_judged_poor(build):
    engine = build()
    request = ask("what time is it")
    assert engine.lookup(request) is None
    engine.observe(request, Outcome("noon", writer="big", payload=b'{"a": "noon"}'), admit=True)
    hit = engine.lookup(request)
    assert hit.answer.payload == b'{"a": "noon"}'
    assert engine.lookup(ask("what time is it", scope="other")) is None
    assert engine.flush(5)
    engine.maintain()
    assert [e.answer for e in engine.decide(ask("time is it"), "d").selection.for_arm("small")] == ["noon"]
    engine.feedback(hit.decision_id, 0.0)
    assert engine.lookup(request) is None


def test_redaction_comes_before_embedding_and_storing(build):
    seen = []

    class Spy(Words):
        def embed(self, texts):
            seen.extend(texts)
            return super().embed(texts)

    engine = build(redact=lambda text: text.replace("Alice", "[name]"), embedder=Spy())
    answered_by_large(engine, "call Alice now", "calling Alice")
    engine.observe(ask("call Alice"), Outcome("x Alice", payload=b"x Alice"), admit=True)
    engine.flush(5)
    engine.maintain()
    examples = engine.decide(ask("call now"), "d").selection.for_arm("small")
    assert {e.query for e in examples} == {"call [name] now", "call [name]"}
    assert all("Alice" not in e.answer for e in examples)
    assert not any("Alice" in text for text in seen)
    assert engine.lookup(ask("call Alice")) is None  # its payload would have held the name


def test_redaction_that_fails_lets_the_request_through_and_stores_nothing(build):
    def broken(text):
        raise ValueError("no")

    engine = build(redact=broken)
    decision = engine.decide(ask("call Alice"), "d")
    assert decision.fallback
    assert decision.arm == "large"
    engine.submit_record(decision, Outcome("calling Alice"))
    engine.flush(5)
    assert engine.counters["writer.failed"] == 1


def test_an_embedder_that_never_worked_does_not_own_the_pool(build, tmp_path):
    class Mistyped(Words):
        tag = "no-such-model"

        def embed(self, texts):
            raise OSError("no such model")

    url = f"sqlite:///{tmp_path}/pool.db"
    engine = Engine(store=url, arms=ARMS, reference="large", embedder=Mistyped(), settings=FULL, background=False)
    with pytest.raises(OSError, match="no such model"):
        engine.add_examples([("alpha", "1")], scope="default", task="t")
    engine.close()
    build(store=url).add_examples([("alpha", "1")], scope="default", task="t")


def test_learning_hands_over_to_a_small_model_that_is_as_good(build):
    settings = Settings(relevance_quantile=0.0, explore=0.3, quality_target=0.8)
    engine = build(settings=settings)
    engine.add_examples([("alpha beta", "1")], scope="default", task="t")
    arms = []
    for n in range(120):
        decision = engine.decide(ask(f"alpha {n + 100}"), f"d{n}")
        arms.append(decision.arm)
        engine.record(decision, Outcome("fine", writer="m"))
        engine.maintain()
    assert arms[:30].count("small") < 20
    assert arms[-30:].count("small") > 25


def test_learning_leaves_a_small_model_that_is_worse(build):
    settings = Settings(relevance_quantile=0.0, explore=0.2)
    engine = build(settings=settings, reward=lambda request, answer: float(answer == "large"))
    engine.add_examples([("alpha beta", "1")], scope="default", task="t")
    arms = []
    for n in range(120):
        decision = engine.decide(ask(f"alpha {n}"), f"d{n}")
        arms.append(decision.arm)
        engine.record(decision, Outcome(decision.arm))
        engine.maintain()
    assert "small" in arms
    assert arms[-40:].count("small") <= 4


def test_a_restart_decides_as_before(build, tmp_path):
    url = f"sqlite:///{tmp_path}/pool.db"

    def decisions():
        engine = build(store=url)
        return [engine.decide(ask(f"alpha {n}"), f"d{n}").provenance() for n in range(20)]

    engine = build(store=url)
    engine.add_examples([("alpha beta", "1"), ("alpha gamma", "2")], scope="default", task="t")
    for n in range(15):
        engine.record(engine.decide(ask(f"alpha {n} x"), f"x{n}"), Outcome("fine"))
    engine.maintain()
    engine.close()
    assert decisions() == decisions()


def test_another_embedder_than_the_pools_is_refused_and_both_are_named(build, tmp_path):
    class Other(Words):
        tag = "other-model"

    url = f"sqlite:///{tmp_path}/pool.db"
    build(store=url).add_examples([("alpha", "1")], scope="default", task="t")
    with pytest.raises(EmbedderDiffers, match=r"words-256.*other-model"):
        build(store=url, embedder=Other())


def test_misuse_is_refused_at_construction(build):
    with pytest.raises(ConfigurationError, match="reference"):
        build(reference="huge")
    with pytest.raises(ConfigurationError, match="share a name"):
        build(arms=(ARMS[0], ARMS[0]))
    with pytest.raises(ConfigurationError, match=r"\[0, 1\]"):
        build().feedback("x", 5)


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


def test_what_a_person_must_mend_is_said_once(build, caplog):
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


def in_a_child(work):
    """What `work` returns in a forked child, as text."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, str(work()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    said = os.read(reader, 1000).decode()
    os.waitpid(child, 0)
    return said


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_works_on_redis_with_threads_and_connections_of_its_own(build, redis_url):
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
def test_a_forked_child_on_sqlite_falls_back_and_says_what_to_do(build, tmp_path):
    engine = build(store=f"sqlite:///{tmp_path}/pool.db", background=True)
    engine.add_examples([("alpha beta", "1")], scope="default", task="t")
    said = in_a_child(lambda: engine.decide(ask("alpha"), "d").route)
    assert "arm='large'" in said
    assert "create the engine in the child" in said
    assert engine.decide(ask("alpha"), "e").selection.for_arm("small")
