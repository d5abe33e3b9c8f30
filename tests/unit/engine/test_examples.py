"""Which answers the engine admits as examples, in which scope, and which leave the pool; the exact tier beside it."""

import pytest

from shared_core.manager.local import LIMIT_EVERY
from shared_core.settings import Settings
from shared_core.values import Message, Outcome, Request
from tests.unit.engine.world import FULL, answered_by_large, ask


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


@pytest.mark.parametrize("score", [7, -0.1, float("nan"), "good", ZeroDivisionError(), SystemExit(1)])
def test_an_answer_that_the_reward_function_cannot_score_is_kept_without_a_score(build, score, caplog):
    def reward(request, answer):
        if isinstance(score, BaseException):
            raise score
        return score

    engine = build(reward=reward)
    decision = engine.decide(ask("heat the kitchen"), "a")
    engine.record(decision, Outcome("climate kitchen", writer="big"))
    name = type(score).__name__ if isinstance(score, BaseException) else "InvalidScore"
    assert (engine.counters["admitted"], engine.counters.value("reward.failed", error=name)) == (1, 1)
    assert "reward function" in caplog.text
    assert ("a score must be a number in [0, 1]; got " in caplog.text) is (name == "InvalidScore")
    assert engine.maintain().learned.consumed == 0
    assert engine.feedback(decision.id, 1.0)


def test_a_rewarded_answer_of_another_arm_is_admitted_immediately(build):
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
