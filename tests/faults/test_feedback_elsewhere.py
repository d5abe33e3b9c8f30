"""Processes that rate the same answers admit each once, whoever is killed in between."""

from __future__ import annotations

import random
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from shared_core.engine import Engine
from shared_core.settings import Settings
from shared_core.store import open_store
from shared_core.store.protocol import Store
from tests.faults.children import hear, heard_until_the_end, running
from tests.faults.raters import ARMS, SCOPE, answer_all, rate_all

RATERS = ("one", "two", "three")
ANSWERS = 25
ROUNDS = 8
LONGEST_RATING = 0.01  # seconds, about; how far into a rating the kill falls


@pytest.fixture(params=["sqlite", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/pool.db"
    address: str = request.getfixturevalue("redis_url")
    return address


def names_of(part: str) -> list[str]:
    return [f"{part}{number:02}" for number in range(ANSWERS)]


def check_admitted_once(store: Store, names: list[str]) -> None:
    """Each answer is one example, which its decision names, and none waits any more."""
    ids = {name: record.admitted_id for name, record in store.decisions(names).items()}
    assert sorted(store.oldest(SCOPE, 10_000)) == sorted(ids.values())
    texts = store.texts(SCOPE, list(ids.values()))
    assert {name: texts[example].answer for name, example in ids.items()} == {name: f"answer {name}" for name in names}
    put = [change.id for change in store.changes(0, 10_000) if change.kind == "put"]
    assert sorted(put) == sorted(ids.values())
    assert store.waiting(names) == {}
    assert store.unreadable == 0


def test_processes_that_rate_at_the_same_time_admit_each_answer_once(url: str) -> None:
    names = names_of("a")
    answer_all(url, names)
    with ExitStack() as stack:
        lines = [stack.enter_context(running(rate_all, url, rater, " ".join(names)))[1] for rater in RATERS]
        assert [hear(line) for line in lines] == [b"ready"] * len(RATERS)
        for line in lines:
            line.send_bytes(b"go")
        said = [list(heard_until_the_end(line)) for line in lines]
    assert [heard[:-1] for heard in said] == [names] * len(RATERS)
    assert sum(int(heard[-1].removeprefix("admitted ")) for heard in said) == ANSWERS
    store = open_store(url, settings=Settings())
    check_admitted_once(store, names)
    assert len(store.feedback(0, 10_000)) == ANSWERS * len(RATERS)
    engine = Engine(store=store, arms=ARMS, reference="large", background=False)
    engine.maintain()
    engine.close()
    learned = store.statistics(SCOPE, store.oldest(SCOPE, 10_000)).values()
    assert {statistics.quality.count for statistics in learned} == {len(RATERS)}
    store.close()


def test_a_rater_that_is_killed_loses_nothing_that_it_acknowledged(url: str) -> None:
    names: list[str] = []
    for number in range(ROUNDS):
        new = names_of(f"r{number}-")
        answer_all(url, new)
        names += new
        acknowledged = rate_until_killed(url, new, random.Random(number))
        store = open_store(url, settings=Settings())
        decisions, waiting = store.decisions(new), store.waiting(new)
        admitted = {name for name in new if decisions[name].admitted_id}
        rated = {name for name, given in store.ratings(new).items() if given}
        assert set(acknowledged) <= admitted
        assert admitted == rated  # one transaction
        assert set(waiting) == set(new) - admitted
        store.close()
        with running(rate_all, url, "one", " ".join(new)) as (_, line):  # once more, by the same rater
            assert hear(line) == b"ready"
            line.send_bytes(b"go")
            assert list(heard_until_the_end(line))[-1] == f"admitted {ANSWERS - len(admitted)}"
        store = open_store(url, settings=Settings())
        check_admitted_once(store, names)
        store.close()


def rate_until_killed(url: str, names: list[str], draw: random.Random) -> list[str]:
    """Let a child rate, and kill it in the middle; what it has acknowledged."""
    with running(rate_all, url, "one", " ".join(names)) as (child, line):
        assert hear(line) == b"ready"
        line.send_bytes(b"go")
        heard = [hear(line).decode() for _ in range(draw.randint(1, ANSWERS - 5))]
        end = time.perf_counter() + draw.uniform(0.0, LONGEST_RATING)
        while time.perf_counter() < end:
            pass  # the child is somewhere within a rating when the moment has come
        child.kill()
        return [*heard, *(name for name in heard_until_the_end(line) if not name.startswith("admitted"))]
