"""Nothing acknowledged is lost, and nothing is there in part, whoever is killed in the middle of a write."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from shared_core.settings import Settings
from shared_core.store import open_store
from shared_core.store.protocol import Store
from tests.faults.children import (
    SCOPE,
    decision_of,
    example_of,
    hear,
    heard_until_the_end,
    name_of,
    payload_of,
    running,
    write_until_killed,
)
from tests.servers import RedisServer

ROUNDS = 20
MOST_WRITES = 40  # acknowledged before the kill; drawn again for each round
LONGEST_WRITE = 0.003  # seconds, about; how far into the writes after those the kill falls, drawn likewise


@pytest.fixture
def durable_server() -> Iterator[RedisServer]:
    with RedisServer(appendonly="yes", appendfsync="always") as server:
        yield server


def acknowledged_before_the_kill(url: str, round_number: int, kill: Callable[[], None] | None) -> list[str]:
    """Let a child write, kill it (or what `kill` kills) after a random number of writes; everything that it said."""
    draw = random.Random(round_number)
    enough, moment = draw.randint(1, MOST_WRITES), draw.uniform(0.0, LONGEST_WRITE)
    with running(write_until_killed, url, str(round_number)) as (child, line):
        names = [hear(line).decode() for _ in range(enough)]
        end = time.perf_counter() + moment
        while time.perf_counter() < end:
            pass  # the child writes on, and is somewhere within a write when the moment has come
        (kill or child.kill)()
        names += heard_until_the_end(line)
        return names


def check_whole(store: Store, names: list[str], round_number: int) -> None:
    """Every acknowledged name is stored, and every stored example has all its parts, as written."""
    held = store.oldest(SCOPE, 100_000)
    assert set(names) <= set(held)
    assert store.count(SCOPE) == len(held)
    texts = store.texts(SCOPE, held)
    rows = {row.entry.id: row for row in store.rows(SCOPE, held)}
    decisions = store.decisions([f"decision-{name}" for name in held])
    fed = [change.id for change in store.changes(0, 100_000)]
    for name in held:
        expected = example_of(name)
        assert texts[name] == expected.texts
        assert rows[name].entry.exact_key == expected.entry.exact_key
        np.testing.assert_array_equal(rows[name].vector, expected.vector)
        assert decisions[f"decision-{name}"].features == decision_of(name).features
        answer = store.exact(f"key-{name}")
        assert answer is not None
        assert answer.payload == payload_of(name)
        assert fed.count(name) == 1
    unwritten = name_of(round_number, sum(name.startswith(f"r{round_number}-") for name in held))
    assert store.decisions([f"decision-{unwritten}"]) == {}
    assert store.exact(f"key-{unwritten}") is None
    assert store.unreadable == 0


def test_sqlite_writer_killed(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/iccache.db"
    names: list[str] = []
    for round_number in range(ROUNDS):
        names += acknowledged_before_the_kill(url, round_number, None)
        store = open_store(url, settings=Settings())
        check_whole(store, names, round_number)
        store.close()
    assert len(names) >= ROUNDS


def test_redis_writer_killed(redis_url: str) -> None:
    names: list[str] = []
    for round_number in range(ROUNDS):
        names += acknowledged_before_the_kill(redis_url, round_number, None)
        store = open_store(redis_url, settings=Settings())
        check_whole(store, names, round_number)
        store.close()
    assert len(names) >= ROUNDS


def test_redis_server_killed(durable_server: RedisServer) -> None:
    url = durable_server.url("kept")
    names: list[str] = []
    for round_number in range(ROUNDS):
        names += acknowledged_before_the_kill(url, round_number, durable_server.kill)
        durable_server.start()
        store = open_store(url, settings=Settings())
        check_whole(store, names, round_number)
        store.close()
    assert len(names) >= ROUNDS
