"""The record of a decision holds what a later learner needs, and never a text."""

import numpy as np
import pytest

from shared_core.settings import Settings
from shared_core.store.codec import encode_decision
from shared_core.values import Outcome
from tests.unit.engine.world import ARMS, FULL, Words, ask

EXAMPLES = [("climate kitchen heat", "first"), ("climate bathroom cool", "second"), ("lamp on", "third")]
ANSWERED = Outcome(
    "secret answer",
    writer="m",
    prompt_tokens=20,
    completion_tokens=5,
    cached_tokens=8,
    seconds=1.25,
    first_token=0.5,
    payload=b"{}",
)


def recorded(engine, identity, outcome=ANSWERED, **more):
    """The decision about one request, and what is stored of it."""
    decision = engine.decide(ask("climate of the kitchen, 21.5 degrees?", **more), identity)
    engine.record(decision, outcome)
    return decision, stored(engine, identity)


def stored(engine, identity):
    return engine._components().store.decisions([identity]).get(identity)


@pytest.fixture
def engine(build):
    engine = build()
    engine.add_examples(EXAMPLES, scope="default", task="t")
    return engine


def test_what_was_known_when_the_arm_was_chosen(engine):
    decision, record = recorded(engine, "d1")
    assert (record.tier, record.features_name) == ("explored", "summary-projection-1")
    assert len(record.candidates) == len(record.similarity) == 3
    assert list(record.similarity) == sorted(record.similarity, reverse=True)
    assert record.threshold == pytest.approx(decision.selection.threshold, abs=1e-5)
    small, large = record.arms
    assert (small.arm, large.arm) == ("small", "large")
    assert len(small.utility) == 3
    shown = [record.candidates[position] for position in small.shown]
    assert shown == [example.id for example in decision.selection.for_arm("small")] != []
    assert (large.utility, large.shown) == ((), ())  # it uses no examples
    for arm, score in zip(record.arms, decision.route.scores, strict=True):
        assert [arm.mean, arm.std, arm.sample, arm.score] == pytest.approx(
            [score.mean, score.std, score.sample, score.score], abs=1e-5
        )
        assert arm.price == pytest.approx(FULL.cost_weight * score.cost, abs=2e-5)
        assert arm.eligible is score.eligible
    assert small.propensity + large.propensity == pytest.approx(1.0, abs=1e-9)
    assert next(a for a in record.arms if a.arm == record.arm).propensity == pytest.approx(record.propensity)
    assert record.surface == {
        "characters": 37,
        "bytes": 37,
        "words": 6,
        "lines": 1,
        "digits": 3,
        "numbers": 1,
        "capitals": 0,
        "questions": 1,
        "brackets": 0,
        "quotes": 0,
        "turns": 1,
        "conversation": 37,
    }


def test_the_vector_is_kept_in_half_precision(engine):
    decision, record = recorded(engine, "d1")
    assert record.vector.dtype == np.float16
    assert record.vector.astype(np.float32) @ decision.selection.vector == pytest.approx(1.0, abs=1e-3)


def test_how_the_call_ended(engine):
    _, record = recorded(engine, "d1")
    assert (record.prompt_tokens, record.completion_tokens, record.cached_tokens) == (20, 5, 8)
    assert (record.seconds, record.first_token, record.ended, record.error) == (1.25, 0.5, "finished", "")
    assert record.money == next(arm.cost for arm in ARMS if arm.name == record.arm)
    assert record.example_tokens > 0
    endings = [
        (Outcome("x", finished=False), "cut"),
        (Outcome("x", finished=False, broken_off=True), "left"),
        (Outcome("", finished=False, error="TimeoutError"), "failed"),
    ]
    for number, (outcome, ending) in enumerate(endings):
        _, record = recorded(engine, f"e{number}", outcome)
        assert (record.ended, record.error) == (ending, outcome.error)


def test_a_call_without_an_answer_has_a_record(engine):
    decision = engine.decide(ask("climate"), "d1")
    engine.submit_decision(decision, Outcome("", finished=False, broken_off=True, error="OSError", seconds=2.0))
    assert engine.flush(5)
    record = stored(engine, "d1")
    assert (record.ended, record.error, record.seconds) == ("failed", "OSError", 2.0)
    engine.submit_decision(engine.select(ask("climate"), "d2", arm="any"))
    assert engine.flush(5)
    record = stored(engine, "d2")
    assert (record.ended, record.tier, [arm.arm for arm in record.arms]) == ("", "unrouted", ["any"])
    assert len(record.arms[0].utility) == 3


def test_no_text_is_in_it(engine):
    _, record = recorded(engine, "d1")
    data = encode_decision(record)
    for text in ("climate", "kitchen", "degrees", "secret answer", "bathroom", "21.5"):
        assert text.encode() not in data


def test_a_setting_keeps_no_vectors(build):
    engine = build(settings=Settings(relevance_quantile=0.0, log_vectors=False))
    engine.add_examples(EXAMPLES, scope="default", task="t")
    assert recorded(engine, "d1")[1].vector is None
    engine.submit_decision(engine.select(ask("climate"), "d2"))
    assert engine.flush(5)
    assert stored(engine, "d2").vector is None


def test_a_request_that_is_not_stored_leaves_no_record(engine):
    request = ask("climate", store=False)
    engine.record(engine.decide(request, "d1"), ANSWERED)
    engine.submit_decision(engine.select(request, "d2"))
    engine.observe(ask("climate"), ANSWERED, admit=False)
    hit = engine.lookup(request)
    assert hit is not None
    observed = engine.observe(request, ANSWERED, admit=True)
    assert engine.flush(5)
    for identity in ("d1", "d2", hit.decision_id, observed):
        assert stored(engine, identity) is None


def test_an_exact_hit_has_a_record_of_its_own(engine):
    engine.observe(ask("climate"), ANSWERED, admit=False)
    hit = engine.lookup(ask("climate"))
    assert engine.flush(5)
    record = stored(engine, hit.decision_id)
    assert (record.tier, record.arm, record.vector, record.money) == ("exact", "exact", None, 0.0)


class Failing(Words):
    """An embedder that fails on one query, as the test says."""

    def __init__(self, fail):
        self.fail = fail

    def embed(self, texts):
        return self.fail(texts) if any("climate" in text for text in texts) else super().embed(texts)


def test_a_fallback_says_so(build):
    def fail(texts):
        raise OSError("down")

    engine = build(embedder=Failing(fail))
    engine.submit_decision(engine.decide(ask("climate"), "d1"))
    assert engine.flush(5)
    record = stored(engine, "d1")
    assert (record.tier, record.arms, record.vector, record.candidates) == ("fallback", (), None, ())


def test_a_vector_that_is_not_finite_is_left_out_of_the_log(build):
    engine = build(embedder=Failing(lambda texts: np.full((len(texts), 256), np.nan, np.float32)))
    engine.submit_decision(engine.select(ask("climate"), "d1"))
    assert engine.flush(5)
    assert stored(engine, "d1").vector is None


def test_maintenance_trims_the_log(build):
    engine = build(settings=Settings(relevance_quantile=0.0, log_records=2))
    for number in range(5):
        recorded(engine, f"d{number}")
    engine.maintain()
    assert [stored(engine, f"d{number}") is not None for number in range(5)].count(True) == 2
