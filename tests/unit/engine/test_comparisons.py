"""Two answers that are compared: the log keeps the pair, and nothing takes it for a rating of one answer."""

import pytest

from shared_core.errors import ConfigurationError
from shared_core.records import Feedback
from shared_core.settings import Settings
from shared_core.store import open_store
from shared_core.values import Outcome
from tests.fakes import FakeClock
from tests.unit.engine.test_recording import LARGE, SMALL, decided


@pytest.fixture
def store():
    opened = open_store("memory://", settings=Settings(), clock=FakeClock(1e9))
    yield opened
    opened.close()


@pytest.fixture
def engine(build, store):
    engine = build(store=store, reward=None, clock=FakeClock(1e9))
    engine.record(decided("a", SMALL), Outcome("fine", writer="tiny"))
    engine.record(decided("b", LARGE), Outcome("better", writer="big"))
    return engine


def test_a_pair_is_logged_once_a_rater_in_whatever_order(engine, store):
    assert engine.prefer("b", "a", "judge")
    assert not engine.prefer("b", "a", "judge")
    assert not engine.prefer("a", "b", "judge")
    assert engine.prefer("b", "a", "user")
    found = [(pair.decision_id, pair.than, pair.rater, pair.score) for _, pair in store.feedback(0)]
    assert found == [("b", "a", "judge", 1.0), ("b", "a", "user", 1.0)]


def test_being_better_admits_no_waiting_answer_and_rates_none(engine, store):
    assert store.waiting(["a"])
    engine.prefer("a", "b")
    assert store.waiting(["a"])
    assert store.ratings(["a", "b"]) == {}
    engine.maintain()
    [statistics] = store.statistics("default", store.oldest("default", 9)).values()
    assert statistics.quality.count == 0


def test_a_pair_and_a_rating_of_the_same_rater_both_count(engine):
    assert engine.prefer("b", "a")
    assert engine.feedback("b", 1.0)
    assert engine.feedback("a", 0.0)


def test_the_round_says_who_skipped_it_and_any_engine_shows_it(build, engine, store):
    engine.prefer("b", "a")
    engine.feedback("b", 1.0)
    engine.maintain()
    [report] = build(store=store, reward=None).rounds()
    assert report.consumed == 2
    assert {part.part: (part.folded + sum(part.skipped.values()), part.skipped["pair"]) for part in report.parts} == {
        "router": (2, 1),
        "statistics": (2, 1),
    }


def test_being_worse_retracts_no_exact_answer(engine):
    request = decided("c").request
    name = engine.observe(request, Outcome("noon", writer="big", payload=b'"noon"'), admit=False)
    assert engine.lookup(request)
    recorder = engine._components().recorder
    assert recorder.rate(Feedback(name, "judge", 0.0, 1e9, than="b"))
    assert engine.lookup(request)
    assert recorder.rate(Feedback(name, "judge", 0.0, 1e9))
    assert not engine.lookup(request)


@pytest.mark.parametrize(
    ("better", "worse", "rater"),
    [("b", "", "user"), ("", "a", "user"), ("b", "b", "user"), ("b", None, "user"), ("b", "a", "")],
)
def test_what_compares_no_two_answers_is_refused_and_not_logged(engine, store, better, worse, rater):
    with pytest.raises(ConfigurationError, match="two different decisions|rater is"):
        engine.prefer(better, worse, rater)
    assert store.feedback(0) == []
