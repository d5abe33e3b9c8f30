"""Answers of untrusted arms wait in the store: any process that shares it admits them, once, and credits their ratings."""

import threading
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared_core.engine import Engine
from shared_core.settings import Settings
from shared_core.store import open_store
from shared_core.store.protocol import Write
from shared_core.values import Outcome
from tests.fakes import FakeClock
from tests.unit.engine.test_recording import LARGE, SMALL, Gate, decided, until_stored
from tests.unit.engine.world import ARMS, FULL, Words


@pytest.fixture
def clock():
    return FakeClock(1e9)


@pytest.fixture
def store(clock):
    opened = open_store("memory://", settings=FULL, clock=clock)
    yield opened
    opened.close()


@pytest.fixture
def make(build, store, clock):
    return lambda **more: build(**{"store": store, "clock": clock, "reward": None} | more)


@pytest.fixture
def elsewhere(store, clock):
    """An engine as a rating job has it: without arms and without an embedder."""
    engine = Engine(store=store, settings=FULL, background=False, clock=clock)
    yield engine
    engine.close()


def answers(store, scope="default"):
    return {texts.answer for texts in store.texts(scope, store.oldest(scope, 99)).values()}


def quality(store):
    [found] = store.statistics("default", store.oldest("default", 9)).values()
    return found.quality


def puts(store):
    return [change.id for change in store.changes(0) if change.kind == "put"]


def test_feedback_in_another_process_admits_the_answer(make, store, elsewhere):
    here = make()
    here.record(decided("a", SMALL), Outcome("fine", writer="tiny"))
    assert answers(store) == set()
    assert elsewhere.feedback("a", 0.9)
    assert answers(store) == {"fine"}
    record = store.decisions(["a"])["a"]
    assert [record.admitted_id] == store.oldest("default", 9)
    assert record.refused == "untrusted"
    here.maintain()
    assert quality(store).count == 1
    shown = here.decide(decided("a").request, "next").selection.for_arm("small")
    assert [example.answer for example in shown] == ["fine"]
    assert (here.counters["admitted"], elsewhere.counters["admitted"]) == (0, 1)


def test_a_rating_below_the_bar_leaves_it_waiting_and_is_credited_later(make, store, elsewhere):
    here = make()
    here.record(decided("a", SMALL), Outcome("fine"))
    elsewhere.feedback("a", 0.5, "strict")
    here.maintain()  # the learner has read it before there is an example
    assert answers(store) == set()
    elsewhere.feedback("a", 0.9, "kind")
    assert answers(store) == {"fine"}
    assert (quality(store).value, quality(store).count) == (0.5, 1)
    here.maintain()
    assert (quality(store).value, quality(store).count) == (pytest.approx(0.7), 2)


def test_a_repeated_rating_admits_nothing_twice(make, store, elsewhere):
    here = make()
    here.record(decided("a", SMALL), Outcome("fine"))
    assert [elsewhere.feedback("a", 1.0), here.feedback("a", 1.0), here.feedback("a", 1.0, "other")] == [1, 0, 1]
    assert len(puts(store)) == 1


def test_it_waits_no_longer_than_its_time(make, store, elsewhere, clock):
    make().record(decided("a", SMALL), Outcome("fine"))
    clock.advance(FULL.wait_ttl)
    assert elsewhere.feedback("a", 1.0)
    assert answers(store) == set()


def test_what_must_not_be_stored_does_not_wait(make, store, elsewhere):
    here, private = make(), decided("a", SMALL)
    here.record(replace(private, request=replace(private.request, store=False)), Outcome("fine"))
    here.record(decided("b", SMALL), Outcome("cut", finished=False))
    here.record(decided("c", LARGE), Outcome("large"))
    assert store.waiting(["a", "b", "c"]) == {}
    assert {name: found.refused for name, found in store.decisions(["b", "c"]).items()} == {"b": "unfinished", "c": ""}
    for name in "abc":
        elsewhere.feedback(name, 1.0)
    assert answers(store) == {"large"}


def test_with_no_answers_kept_none_is_prepared(make, store, elsewhere):
    seen = []
    engine = make(settings=FULL.model_copy(update={"wait_answers": 0}), redact=lambda text: seen.append(text) or text)
    engine.record(decided("a", SMALL), Outcome("fine"))
    elsewhere.feedback("a", 1.0)
    assert (store.waiting(["a"]), answers(store), seen) == ({}, set(), [])
    assert engine.counters.value("refused", reason="untrusted") == 1


# redaction -------------------------------------------------------------------------------------------------------------


def test_redaction_comes_before_waiting(make, tmp_path, clock):
    path = tmp_path / "pool.db"
    engine = make(store=f"sqlite:///{path}", redact=lambda text: text.replace("Alice", "[name]"))
    engine.submit_record(decided("a", SMALL, vector=False), Outcome("call Alice"))
    assert engine.flush(10)
    stored = engine._components().store
    assert stored.waiting(["a"])["a"].texts.answer == "call [name]"
    assert b"Alice" not in b"".join(file.read_bytes() for file in tmp_path.iterdir())
    rater = Engine(store=f"sqlite:///{path}", settings=FULL, background=False, clock=clock)
    rater.feedback("a", 1.0)
    rater.close()
    assert answers(stored) == {"call [name]"}


def test_a_redaction_that_fails_leaves_nothing_waiting_and_the_answer_is_scored(make, store):
    def redact(text):
        raise ValueError("no")

    engine = make(redact=redact, reward=lambda request, answer: 1.0)
    engine.submit_record(decided("a", SMALL), Outcome("call Alice"))
    assert not engine.flush(10)
    assert store.waiting(["a"]) == {}
    assert [rating.rater for _, rating in store.feedback(0)] == ["reward"]
    assert engine.counters.value("prepare.failed", error="RedactionFailed") == 1


@pytest.mark.parametrize("learned", [False, True], ids=["learned after", "learned before"])
@pytest.mark.parametrize("arm", [SMALL, LARGE], ids=["waiting", "reference"])
def test_a_rating_that_comes_during_redaction_counts_for_the_late_example(make, store, arm, learned):
    redact = Gate(lambda text: text)
    engine = make(redact=redact)
    engine.submit_record(decided("a", arm), Outcome("fine"))
    engine.submit_feedback("a", 0.9)
    assert redact.entered.wait(5)
    assert until_stored(engine, store, "a") == {"a"}
    if learned:
        engine._components().learner.run_until_drained()
    redact.opened.set()
    assert engine.flush(10)
    assert answers(store) == {"fine"}
    engine.maintain()
    assert (quality(store).value, quality(store).count) == (0.9, 1)


# at the same time ------------------------------------------------------------------------------------------------------


def meanwhile(monkeypatch, engine, action):
    """Let `action` happen in another process between what `engine` reads and what it writes next."""
    manager, write = engine._components().manager, engine._components().store.write
    monkeypatch.setattr(manager, "_store", Delayed(manager._store, write, action))


class Delayed:
    """A store whose next write comes after something else."""

    def __init__(self, store, write, action):
        self._store, self._write, self._action = store, write, action

    def __getattr__(self, name):
        return getattr(self._store, name)

    def write(self, batch):
        action, self._action = self._action, None
        if action:
            action()
        return self._write(batch)


def test_two_that_rate_at_the_same_time_admit_one_example(make, store, elsewhere, monkeypatch):
    here = make()
    here.record(decided("a", SMALL), Outcome("fine"))
    meanwhile(monkeypatch, here, lambda: elsewhere.feedback("a", 0.9, "there"))
    assert here.feedback("a", 0.8, "here")
    assert len(puts(store)) == 1
    assert (here.counters["admitted"], elsewhere.counters["admitted"]) == (0, 1)
    assert [rating.rater for _, rating in store.feedback(0)] == ["there", "here"]
    here.maintain()
    assert quality(store).count == 2


def test_a_rating_that_comes_before_the_answer_is_stored(make, store, elsewhere):
    assert elsewhere.feedback("a", 0.9)
    make().record(decided("a", SMALL), Outcome("fine"))
    assert answers(store) == {"fine"}


def test_a_rating_that_is_stored_while_the_answer_is(make, store, elsewhere, monkeypatch):
    """The rater looked before the answer was there, and the answer's process before the rating was."""
    here = make()
    meanwhile(monkeypatch, elsewhere, lambda: here.record(decided("a", SMALL), Outcome("fine")))
    assert elsewhere.feedback("a", 0.9)
    assert answers(store) == {"fine"}


def test_a_store_that_fails_at_the_second_look_is_asked_again(make, store, elsewhere, monkeypatch):
    engine, ratings, calls = make(), store.ratings, []
    elsewhere.feedback("a", 0.9)

    def away(ids):
        calls.append(list(ids))
        if len(calls) < 3:
            raise ConnectionError("away")
        return ratings(ids)

    monkeypatch.setattr(store, "ratings", away)
    engine.submit_record(decided("a", SMALL), Outcome("fine"))
    assert engine.flush(10)
    assert answers(store) == {"fine"}
    assert engine.counters.value("refused", reason="untrusted") == 1  # the answer itself was stored once
    assert engine.counters["writer.retried"] == 1


def test_answer_and_rating_in_one_batch(make, store):
    engine = make()
    passed, held = threading.Event(), threading.Event()
    engine.submit(lambda: (passed.set(), held.wait(20)))
    assert passed.wait(5)
    engine.submit_record(decided("a", SMALL), Outcome("fine"))
    engine.submit_feedback("a", 0.9)
    engine.submit_feedback("b", 0.9)
    engine.submit_record(decided("b", SMALL), Outcome("right"))
    held.set()
    assert engine.flush(10)
    assert answers(store) == {"fine", "right"}
    assert store.waiting(["a", "b"]) == {}
    engine.maintain()
    assert {found.quality.count for found in store.statistics("default", store.oldest("default", 9)).values()} == {1}


def test_a_question_that_the_pool_answers_by_then(make, store, elsewhere):
    engine = make()
    engine.record(decided("same", SMALL), Outcome("by the small one"))
    engine.record(decided("same", LARGE), Outcome("by the reference"))
    elsewhere.feedback("same", 1.0)
    assert answers(store) == {"by the reference"}
    assert store.waiting(["same"]) == {}
    assert elsewhere.counters["known"] == 1


def test_a_vector_of_another_embedder_enters_no_pool(make, store, elsewhere):
    engine = make()
    engine.record(decided("a", SMALL), Outcome("fine"))
    store.write([Write(waiting=replace(store.waiting(["a"])["a"], embedder="another"))])
    engine.record(decided("b", LARGE), Outcome("large"))
    assert elsewhere.feedback("a", 1.0)
    assert answers(store) == {"large"}
    assert store.waiting(["a"]) == {}


# any order -------------------------------------------------------------------------------------------------------------

NAMES = "abc"
STEPS = st.tuples(st.integers(0, 1), st.sampled_from(["answer", "good", "poor", "learn"]), st.sampled_from(NAMES))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(STEPS, max_size=14))
def test_each_well_rated_answer_is_admitted_once_whatever_the_order(steps):
    """Two processes answer, rate and learn. Each name is another scope, too."""
    store = open_store("memory://", settings=Settings(), clock=lambda: 1e9)
    engines = [
        Engine(store=store, arms=ARMS, reference="large", embedder=Words(), background=False, clock=lambda: 1e9)
        for _ in range(2)
    ]
    done: dict[str, set[str]] = {name: set() for name in NAMES}
    for number, (which, what, name) in enumerate(steps):
        engine = engines[which]
        if what == "answer" and what not in done[name]:
            decision = decided(name, SMALL)
            engine.record(replace(decision, request=replace(decision.request, scope=name)), Outcome(name))
        elif what == "learn":
            engine._components().learner.run_until_drained()
        elif what != "answer":
            engine.feedback(name, 1.0 if what == "good" else 0.1, f"rater {number}")
        done[name].add(what)
    admitted = {name for name in NAMES if {"answer", "good"} <= done[name]}
    assert set(store.scopes()) == admitted
    assert all(answers(store, name) == {name} for name in admitted)
    assert len(puts(store)) == sum(engine.counters["admitted"] for engine in engines) == len(admitted)
    assert set(store.waiting(list(NAMES))) == {name for name in NAMES if "answer" in done[name]} - admitted
    for engine in engines:
        engine.close()
    store.close()
