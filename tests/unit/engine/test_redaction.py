"""The engine redacts a text once, before it is embedded and stored."""

import threading
import time

from shared_core.values import Outcome
from tests.unit.engine.world import FULL, Words, answered_by_large, ask


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
    assert "DependencyIsSlow: redact did not answer within" in decision.route.reason
    released.set()
    engine.record(decision, Outcome("b", writer="big"))
    engine.maintain()
    stored = engine._components().store
    [(_, [example])] = [(scope, stored.oldest(scope, 5)) for scope in stored.scopes()]
    assert stored.texts("default", [example])[example].query == "the […] of alpha"


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
    assert not engine.flush(5)
    assert engine.counters.value("prepare.failed", error="RedactionFailed") == 1
