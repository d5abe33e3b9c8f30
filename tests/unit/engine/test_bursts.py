"""A request whose examples come too late goes to the cheapest arm that is good enough without them."""

import threading

import pytest

from shared_core.errors import DependencyIsBusy
from shared_core.guard import bulkhead
from shared_core.values import Outcome, Selection
from tests.unit.engine.world import FULL, Words, ask
from tests.unit.test_router import GOOD, checkpoint, unit

SHORT = FULL.model_copy(update={"deadline": 0.05})


class Stuck(Words):
    """Embeds at once what its engine is warmed with, and nothing else until the test is over."""

    one_at_a_time = True

    def __init__(self):
        self.release = threading.Event()

    def embed(self, texts):
        if list(texts) != ["warm"]:
            self.release.wait(20)
        return super().embed(texts)


@pytest.fixture
def stuck():
    embedder = Stuck()
    yield embedder
    embedder.release.set()


def test_what_is_embedded_too_late_goes_to_an_arm_that_is_good_without_examples(build, stuck):
    engine = build(embedder=stuck, settings=SHORT)
    assert engine.decide(ask("alpha"), "before").arm == "large"
    engine._components().router.adopt(checkpoint(GOOD, version=3, chosen=Selection(vector=unit(0))))
    decision = engine.decide(ask("alpha"), "late")
    assert (decision.arm, decision.fallback, decision.given) == ("small", True, ())
    provenance = decision.provenance()
    assert (provenance["tier"], provenance["propensity"], provenance["version"]) == ("fallback", 1.0, 3)
    assert provenance["reason"].startswith("fallback: DependencyIsSlow: embedder")
    assert provenance["reason"].endswith("; small is known to be good enough without examples")


def test_a_fallback_teaches_the_router_nothing(build, stuck):
    engine = build(embedder=stuck, settings=SHORT)
    engine._components().router.adopt(checkpoint(GOOD, version=3, chosen=Selection(vector=unit(0))))
    decision = engine.decide(ask("alpha"), "late")
    stuck.release.set()
    engine.record(decision, Outcome("an answer", writer="small"))
    assert engine._components().store.decisions(["late"])["late"].features == ()
    engine.maintain()
    assert engine._components().router._snapshot.rated == 0  # the log alone, which has no rating of a context


def test_a_failure_of_another_kind_still_goes_to_the_reference(build):
    class Broken(Words):
        def embed(self, texts):
            if list(texts) != ["warm"]:
                raise OSError("no such model")
            return super().embed(texts)

    engine = build(embedder=Broken())
    engine._components().router.adopt(checkpoint(GOOD, chosen=Selection(vector=unit(0))))
    decision = engine.decide(ask("alpha"))
    assert (decision.arm, decision.route.reason) == ("large", "fallback: OSError")


def test_a_refusal_for_lack_of_room_has_its_own_count_and_blames_nobody(build, stuck, monkeypatch):
    monkeypatch.setattr(bulkhead, "MOST_WAITING", 1)
    engine = build(embedder=stuck, settings=FULL.model_copy(update={"deadline": 20.0}))
    held = [threading.Thread(target=engine.decide, args=(ask(f"alpha {n}"),)) for n in range(2)]
    for thread in held:
        thread.start()
    lane = None
    while lane is None or not lane.waiting:
        lane = engine._components().guard._bulkheads.get("embedder")
    refused = engine.decide(ask("alpha"))
    assert "DependencyIsBusy" in refused.route.reason
    assert engine.counters.value("fallback", error=DependencyIsBusy.__name__) == 1
    assert not engine._components().guard.is_failing("embedder")
    stuck.release.set()
    for thread in held:
        thread.join()
    assert engine.counters["fallback"] == 1
