"""Records, ratings, scores and redaction off the request path: in which order, and what waits for what."""

import threading

import pytest

from shared_core.settings import Settings
from shared_core.store import open_store
from shared_core.values import Decision, Outcome, Route, Selection
from tests.unit.engine.world import FULL, Words, ask

LARGE, SMALL = Route("large"), Route("small")


def decided(name, route=LARGE, vector=True):
    text = f"question {name}"
    selection = Selection(vector=Words().embed([text])[0] if vector else None)
    return Decision(name, ask(text), route, selection, created_at=1e9)


class Gate:
    """A user's function that does not return before it is opened."""

    def __init__(self, answer):
        self.entered, self.opened, self._answer = threading.Event(), threading.Event(), answer

    def __call__(self, *args):
        self.entered.set()
        assert self.opened.wait(20)
        return self._answer(*args)


@pytest.fixture
def store():
    opened = open_store("memory://", settings=FULL, clock=lambda: 1e9)
    yield opened
    opened.close()


@pytest.fixture
def make(build, store):
    return lambda **more: build(**{"store": store, "clock": lambda: 1e9} | more)


def log(store):
    return [(rating.decision_id, rating.rater, rating.score) for _, rating in store.feedback(0)]


def until_stored(engine, store, *ids):
    """Wait until the writer has done what was submitted before, whatever the other lanes do."""
    passed = threading.Event()
    engine.submit(passed.set)
    assert passed.wait(5)
    return set(store.decisions(ids))


def test_a_slow_reward_delays_neither_records_nor_users_ratings(make, store):
    reward = Gate(lambda request, answer: 1.0)
    engine = make(reward=reward)
    names = [f"d{n}" for n in range(12)]
    for name in names:
        engine.submit_record(decided(name), Outcome(f"answer {name}", writer="big"))
    for name in names:
        engine.submit_feedback(name, 0.75)
    assert until_stored(engine, store, *names) == set(names)
    assert log(store) == [(name, "user", 0.75) for name in names]
    assert store.count("default") == 12
    assert not engine.flush(0.01)
    reward.opened.set()
    assert engine.flush(10)
    assert sorted(log(store)[12:]) == sorted((name, "reward", 1.0) for name in names)


def test_a_reward_that_hangs_leaves_the_other_threads(make, store):
    hanging = threading.Event()

    def reward(request, answer):
        if "hang" in answer:
            assert hanging.wait(20)
        return 0.9

    engine = make(reward=reward, settings=FULL.model_copy(update={"score_threads": 2}))
    engine.submit_record(decided("a"), Outcome("hang"))
    engine.submit_record(decided("b"), Outcome("fine"))
    engine.submit_record(decided("c"), Outcome("fine"))
    assert not engine.flush(0.2)
    assert {name for name, _, _ in log(store)} == {"b", "c"}
    hanging.set()
    assert engine.flush(10)
    assert len(log(store)) == 3


def test_a_coroutine_function_scores(make, store):
    async def reward(request, answer):
        return 0.25 if answer == "poor" else 1.0

    engine = make(reward=reward)
    engine.submit_record(decided("a"), Outcome("poor"))
    engine.submit_record(decided("b"), Outcome("fine"))
    assert engine.flush(10)
    assert sorted(log(store)) == [("a", "reward", 0.25), ("b", "reward", 1.0)]
    engine.record(decided("c"), Outcome("fine"))
    assert log(store)[2:] == [("c", "reward", 1.0)]


def test_an_answer_is_stored_before_its_score_is_asked_for(make, store):
    known = []

    def reward(request, answer):
        known.append(set(store.decisions(["a"])))
        return 1.0

    engine = make(reward=reward)
    engine.submit_record(decided("a"), Outcome("fine"))
    assert engine.flush(10)
    assert known == [{"a"}]


def test_a_redaction_that_hangs_delays_no_record_and_no_rating(make, store):
    redact = Gate(lambda text: text.replace("Alice", "[name]"))
    engine = make(redact=redact, reward=lambda request, answer: 1.0)
    engine.submit_record(decided("a"), Outcome("call Alice", writer="big"))
    engine.submit_feedback("a", 0.9)
    assert redact.entered.wait(5)
    assert until_stored(engine, store, "a") == {"a"}
    assert log(store) == [("a", "user", 0.9)]
    assert store.count("default") == 0
    redact.opened.set()
    assert engine.flush(10)
    [example] = store.oldest("default", 5)
    assert store.texts("default", [example])[example].answer == "call [name]"
    assert store.decisions(["a"])["a"].admitted_id == example
    assert log(store)[1:] == [("a", "reward", 1.0)]


def test_answers_that_wait_are_embedded_in_one_batch(make, store):
    calls = []

    class Spy(Words):
        def embed(self, texts):
            calls.append(list(texts))
            return super().embed(texts)

    redact = Gate(lambda text: text)
    engine = make(redact=redact, embedder=Spy(), reward=None)
    calls.clear()
    for n in range(6):
        engine.submit_record(decided(f"d{n}", vector=False), Outcome(f"answer {n}", writer="big"))
    redact.opened.set()
    assert engine.flush(10)
    assert store.count("default") == 6
    assert len(calls) < 6
    assert sorted(text for call in calls for text in call) == [f"question d{n}" for n in range(6)]


def test_a_redaction_that_fails_for_one_answer_costs_that_example_only(make, store):
    def redact(text):
        if "bad" in text:
            raise ValueError("no")
        return text

    engine = make(redact=redact, reward=None)
    for answer in ("good", "bad", "fine"):
        engine.submit_record(decided(answer), Outcome(answer, writer="big"))
    assert not engine.flush(10)
    assert set(store.decisions(["good", "bad", "fine"])) == {"good", "bad", "fine"}
    assert store.count("default") == 2
    assert engine.counters.value("prepare.failed", error="RedactionFailed") == 1


def test_a_good_score_admits_the_answer_of_another_arm_and_a_poor_one_does_not(make, store):
    engine = make(reward=lambda request, answer: 1.0 if answer == "good" else 0.0)
    engine.submit_record(decided("a", SMALL), Outcome("good"))
    engine.submit_record(decided("b", SMALL), Outcome("bad"))
    assert engine.flush(10)
    [example] = store.oldest("default", 5)
    assert store.texts("default", [example])[example].answer == "good"
    assert store.decisions(["a"])["a"].admitted_id == example
    assert engine.counters["admitted"] == 1


def test_the_same_question_twice_in_one_batch_is_one_example(make, store):
    engine = make(reward=None)
    passed, held = threading.Event(), threading.Event()
    engine.submit(lambda: (passed.set(), held.wait(20)))
    assert passed.wait(5)
    for answer in ("first", "second"):
        engine.submit_record(decided("same"), Outcome(answer, writer="big"))
    held.set()
    assert engine.flush(10)
    [example] = store.oldest("default", 5)
    assert store.texts("default", [example])[example].answer == "first"
    assert (engine.counters["admitted"], engine.counters["known"]) == (1, 1)


def test_a_link_to_an_exact_answer_outlives_a_late_example(make, store):
    redact = Gate(lambda text: text)
    engine = make(redact=redact, reward=None)
    engine.submit_record(decided("router"), Outcome("noon", writer="big"))
    assert redact.entered.wait(5)
    observed = Decision("cache", ask("question router"), LARGE, created_at=1e9)
    engine.submit(engine._components().exact.link, "router", observed)
    redact.opened.set()
    assert engine.flush(10)
    record = store.decisions(["router"])["router"]
    assert record.admitted_id
    assert record.exact_key == observed.request.exact_key


def test_a_store_that_refuses_for_a_while_loses_nothing_and_keeps_the_order(make, store, monkeypatch):
    engine, write, refused = make(reward=lambda request, answer: 1.0), store.write, threading.Event()

    def full(batch):
        refused.set()
        raise OSError("the disk is full")

    monkeypatch.setattr(store, "write", full)
    for n in range(40):
        engine.submit_record(decided(f"d{n}"), Outcome(f"answer {n}", writer="big"))
        engine.submit_feedback(f"d{n}", 0.5)
    assert refused.wait(5)
    assert not engine.flush(0.05)
    monkeypatch.setattr(store, "write", write)
    assert engine.flush(10)
    assert set(store.decisions([f"d{n}" for n in range(40)])) == {f"d{n}" for n in range(40)}
    assert [name for name, rater, _ in log(store) if rater == "user"] == [f"d{n}" for n in range(40)]
    assert sum(rater == "reward" for _, rater, _ in log(store)) == 40
    assert engine.counters["admitted"] == store.count("default") == 40
    assert engine.counters["writer.failed"] == engine.counters["writer.dropped"] == 0


def test_close_scores_nothing_any_more(make, store):
    asked, reward = [], Gate(lambda request, answer: asked.append(answer))
    engine = make(reward=reward, settings=Settings(drain=0.05, score_threads=1))
    for name in "abc":
        engine.submit_record(decided(name), Outcome(name))
    assert reward.entered.wait(5)
    engine.close()
    reward.opened.set()
    for lane in [engine._components().recorder._scoring]:
        lane._threads[0].join(5)
    assert asked == ["a"]
    assert engine.counters["scoring.dropped"] == 3
