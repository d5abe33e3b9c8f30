"""`iccache feedback` rates one answer from outside, and says what became of the example."""

import json
import time
from dataclasses import replace
from uuid import UUID

import pytest

from shared_core.engine import Engine
from shared_core.settings import Settings
from shared_core.store import open_store
from shared_core.store.protocol import Admission, Write
from shared_core.values import Outcome
from tests.unit.engine.test_recording import LARGE, SMALL, decided
from tests.unit.engine.world import ARMS, Words
from tests.unit.test_cli import call, refused

WAITS, REFERENCE, CUT, OLD = (f"{number:032x}" for number in range(4))
DAY = 86_400.0


@pytest.fixture
def url(tmp_path, monkeypatch):
    """A pool with an answer that waits, one of the reference, one that was cut off, and one that waited for long."""
    monkeypatch.chdir(tmp_path)
    return filled(f"sqlite:///{tmp_path}/pool.db")


def filled(url):
    now = [time.time() - 3 * DAY]
    engine = Engine(store=url, arms=ARMS, reference="large", embedder=Words(), background=False, clock=lambda: now[0])
    asked = {OLD: SMALL, WAITS: SMALL, REFERENCE: LARGE, CUT: SMALL}
    for name, route in asked.items():
        decision = replace(decided(name, route), created_at=now[0])
        decision = replace(decision, request=replace(decision.request, scope="acme"))
        engine.record(decision, Outcome(f"answer {name}", finished=name != CUT))
        now[0] = time.time()
    engine.close()
    return url


@pytest.fixture
def rate(monkeypatch, capsys, url):
    """Call `iccache feedback`; returns what it says."""

    def rate(decision, score, *more):
        assert call(monkeypatch, "feedback", decision, score, "--store", url, *more) == 0
        return capsys.readouterr().out

    return rate


@pytest.fixture
def store(url):
    opened = open_store(url, settings=Settings())
    yield opened
    opened.close()


def test_a_good_rating_makes_an_example_of_an_answer_that_waits(rate, store):
    assert rate(WAITS, 1) == "stored; the router learns from it (1 by user)\nthe answer is an example now\n"
    admitted = store.decisions([WAITS])[WAITS].admitted_id
    assert store.texts("acme", [admitted])[admitted].answer == f"answer {WAITS}"
    [(_, rating)] = store.feedback(0)
    assert (rating.decision_id, rating.rater, rating.score) == (WAITS, "user", 1.0)


def test_the_run_id_of_a_call_will_do(rate, store):
    rate(UUID(WAITS), 1, "--scope", "acme", "--rater", "night job")
    assert [(given.decision_id, given.rater) for _, given in store.feedback(0)] == [(WAITS, "night job")]


def test_a_rating_below_the_bar_leaves_it_waiting(rate, store):
    assert "waits on for a rating of at least 0.8" in rate(WAITS, 0.5)
    assert set(store.waiting([WAITS])) == {WAITS}
    assert "an example now" in rate(WAITS, 0.8, "--rater", "another")


def test_a_rater_counts_once(rate, store):
    rate(WAITS, 1)
    said = rate(WAITS, 0)
    assert "not counted again: user has rated this answer before; if you are another rater, name --rater" in said
    assert len(store.feedback(0)) == 1
    assert "an example already" in rate(WAITS, 1, "--rater", "another")


@pytest.mark.parametrize(("decision", "line"), [(REFERENCE, "an example already"), (CUT, "")])
def test_an_answer_that_does_not_wait_is_rated_all_the_same(rate, store, decision, line):
    said = rate(decision, 0.9).splitlines()
    assert said[0].startswith("stored; the router learns from it")
    assert line in said[-1]
    assert len(said) == 1 + bool(line)
    assert len(store.feedback(0)) == 1


def test_of_an_expired_answer_the_router_still_learns(rate, store):
    said = rate(OLD, 0.9)
    assert "stored; the router learns from it" in said
    assert "the example is gone: the answer waited for 2 days" in said
    assert "raise the setting wait_ttl" in said
    assert len(store.feedback(0)) == 1
    assert len(rate(OLD, 0.1, "--rater", "b").splitlines()) == 1  # a poor one would have made no example anyway


def test_one_that_newer_answers_drove_out(rate, store):
    store.write([Write(admission=Admission(WAITS, "acme", None, claims=True))])
    assert "newer answers took its place" in rate(WAITS, 1)


def test_a_question_that_the_pool_answers(rate, store, url):
    engine = Engine(store=url, arms=ARMS, reference="large", embedder=Words(), background=False)
    engine.add_examples([(f"question {WAITS}", "right")], scope="acme", task="t")
    engine.close()
    assert "the pool has a good answer to the same question" in rate(WAITS, 1)
    assert store.waiting([WAITS]) == {}


def test_json(rate):
    assert json.loads(rate(WAITS, 0.9, "--json", "--rater", "me")) == {
        "decision": WAITS,
        "scope": "acme",
        "rater": "me",
        "score": 0.9,
        "counted": True,
        "example": "added",
    }
    assert json.loads(rate(OLD, 0.9, "--json"))["example"] == "expired"
    assert json.loads(rate(CUT, 0.9, "--json"))["example"] == "none"


@pytest.mark.parametrize("score", ["1.2", "-1", "nan", "inf"])
def test_a_score_outside_of_its_range(monkeypatch, capsys, url, store, score):
    line = refused(monkeypatch, capsys, "feedback", WAITS, score, "--store", url)
    assert f"SCORE is {score}; give a number from 0 (useless) to 1 (right)" in line
    assert list(store.feedback(0)) == []


def test_what_is_no_number(monkeypatch, capsys, url):
    assert "See iccache feedback --help" in refused(monkeypatch, capsys, "feedback", WAITS, "good", "--store", url)
    assert "--rater is empty" in refused(monkeypatch, capsys, "feedback", WAITS, 1, "--store", url, "--rater", " ")


def test_an_unknown_decision(monkeypatch, capsys, url, store):
    line = refused(monkeypatch, capsys, "feedback", "a secret answer", 1, "--store", url)
    assert f"{url} holds no decision with this id; the id stands in the answer's metadata" in line
    assert "kept for 7 days (the setting decision_ttl)" in line
    assert "secret" not in line
    assert list(store.feedback(0)) == []


def test_another_scopes_decision_is_as_unknown(monkeypatch, capsys, url, store):
    line = refused(monkeypatch, capsys, "feedback", WAITS, 1, "--store", url, "--scope", "other")
    assert "holds no decision with this id of the scope 'other'" in line
    assert list(store.feedback(0)) == []
    assert set(store.waiting([WAITS])) == {WAITS}


def test_a_store_that_is_not_there(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert "does not exist" in refused(monkeypatch, capsys, "feedback", WAITS, 1, "--store", "sqlite:///iccache.bd")
    assert list(tmp_path.iterdir()) == []


def test_the_bar_is_that_of_the_settings(rate, store, monkeypatch):
    monkeypatch.setenv("ICCACHE_TRUST_FEEDBACK", "0.6")
    assert "an example now" in rate(WAITS, 0.7)


def test_on_redis(monkeypatch, capsys, redis_url):
    assert call(monkeypatch, "feedback", WAITS, 1, "--store", filled(redis_url)) == 0
    assert "an example now" in capsys.readouterr().out
