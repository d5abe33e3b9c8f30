"""One stored thing is damaged at random; then everything is used.

No call fails, no learner raises or stands still for more than two rounds, nothing is endless, no constructor raises
anything but our own errors, and no scope sees another's text. Seeded: a case is named by its number.
"""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

from shared_core.engine import Engine
from shared_core.errors import ICCacheError
from shared_core.settings import Settings
from shared_core.values import Arm, Message, Outcome, Request
from tests.embedding import Words
from tests.faults.wrecks import FileWrecks, ServerWrecks
from tests.stores.redis_backend import RedisBackend

SCOPES = ("acme", "globex")
TOPICS = ("lights in the kitchen", "heat of the bath", "music in the hall", "the garden door", "an alarm at noon")
ROUNDS = 3  # of learning in which new ratings must have been learned
SHORT, LONG = 30, 500


def marker(scope: str) -> str:
    return f"secretof{scope}"


def question(scope: str, topic: str) -> Request:
    text = f"please set {topic} {marker(scope)}"
    return Request((Message("user", text),), text, scope=scope, task="t")


def engine_on(url: str) -> Engine:
    return Engine(
        store=url,
        arms=[Arm("small", 0.1), Arm("large", 1.0)],
        reference="large",
        embedder=Words(),
        settings=Settings(relevance_quantile=0.0, explore=1.0, deadline=10.0),
        background=False,
    )


def use(engine: Engine, round_number: int) -> Counter[str]:
    """Ask, record and rate in every scope; returns what happened."""
    seen: Counter[str] = Counter()
    for scope in SCOPES:
        engine.warm(scope)
        for topic in TOPICS[:3]:
            request = question(scope, topic)
            hit = engine.lookup(request)
            decision = engine.decide(request)
            shown = "\n".join(message.text for message in decision.insertion.turns)
            for text in (shown, hit.answer.payload.decode("utf-8", "replace") if hit else ""):
                assert not any(marker(other) in text for other in SCOPES if other != scope), "a text of another scope"
            seen["fallback" if decision.fallback else "shown" if decision.given else "bare"] += 1
            seen["hit" if hit else "miss"] += 1
            payload = f'"answer {round_number} {marker(scope)}"'.encode()
            outcome = Outcome(f"{topic} is set {marker(scope)}", writer=decision.arm, payload=payload)
            engine.submit_record(decision, outcome)
            engine.observe(request, outcome, admit=True)
            engine.submit_feedback(decision.id, 1.0 if topic == TOPICS[0] else 0.4)
    assert engine.flush(20), "what was recorded is lost"
    return seen


def fill(url: str) -> None:
    """A pool with all there is: examples, exact and waiting answers, decisions, ratings, what was learned."""
    engine = engine_on(url)
    for scope in SCOPES:
        pairs = [(question(scope, topic).query, f"{topic} is set {marker(scope)}") for topic in TOPICS]
        engine.add_examples(pairs, scope=scope, task="t", writer="large")
    for round_number in range(3):
        use(engine, round_number)
        engine.maintain()
    use(engine, 3)
    engine.close()


def live_with(url: str) -> Counter[str]:
    """Open a damaged pool and use it; what went wrong begins with an exclamation mark."""
    try:
        engine = engine_on(url)
    except ICCacheError as error:
        return Counter([f"refused: {type(error).__name__}"])
    except Exception as error:
        return Counter([f"! constructor: {type(error).__name__}: {error}"])
    outcome: Counter[str] = Counter()
    idle = 0
    try:
        for round_number in range(ROUNDS + 2):
            outcome += use(engine, round_number)
            try:
                learned = engine.maintain().learned
                idle = 0 if learned.published and learned.consumed else idle + 1
            except Exception as error:
                idle += 1
                outcome[f"learner raised {type(error).__name__}"] += 1
                if idle == ROUNDS:
                    outcome[f"! learner: {type(error).__name__}: {error}"] += 1
            if idle == ROUNDS:
                outcome["! learner stands still"] += 1
        if engine.counters["store.unreadable"]:
            outcome["unreadable"] += 1
    except Exception as error:
        outcome[f"! call: {type(error).__name__}: {error}"] += 1
    finally:
        engine.close()
    return outcome


def fuzz(wrecks: FileWrecks | ServerWrecks, cases: range) -> tuple[Counter[str], list[str]]:
    """The cases' outcomes, and what went wrong, each with its case."""
    fill(wrecks.url)
    wrecks.keep()
    outcomes: Counter[str] = Counter()
    wrong = []
    for case in cases:
        wrecks.restore()
        what = wrecks.damage(random.Random(case))
        found = live_with(wrecks.url)
        outcomes.update(found.keys())
        wrong += [f"case {case}, {what}: {problem}" for problem in found if problem.startswith("!")]
    return outcomes, wrong


@pytest.fixture
def wrecks(request: pytest.FixtureRequest, tmp_path: Path) -> FileWrecks | ServerWrecks:
    if request.param == "sqlite":
        return FileWrecks(tmp_path / "pool.db")
    backend = RedisBackend(request.getfixturevalue("redis_url"))
    return ServerWrecks(backend.url, backend.client, backend.prefix)


both_stores = pytest.mark.parametrize("wrecks", ["sqlite", "redis"], indirect=True)


@both_stores
def test_some_damages(wrecks: FileWrecks | ServerWrecks) -> None:
    outcomes, wrong = fuzz(wrecks, range(SHORT))
    assert not wrong, "\n".join(wrong)
    assert outcomes["shown"] > SHORT // 2


@pytest.mark.slow
@pytest.mark.timeout(900)
@both_stores
def test_many_damages(wrecks: FileWrecks | ServerWrecks) -> None:
    outcomes, wrong = fuzz(wrecks, range(LONG))
    print(sorted(outcomes.items()))
    assert not wrong, "\n".join(wrong)
    assert outcomes["shown"] > LONG // 2
