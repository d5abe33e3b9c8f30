"""The engine learns which arm is good enough, and decides after a restart as before."""

from shared_core.settings import Settings
from shared_core.values import Outcome
from tests.unit.engine.world import ask


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
