"""Vectors, rows and a replica for the pool's tests."""

from __future__ import annotations

import time
from contextlib import contextmanager

import numpy as np

from shared_core.guard.deadline import Deadline
from shared_core.guard.threads import Guard
from shared_core.pool.replica import Replica
from shared_core.settings import Settings
from shared_core.store import open_store
from shared_core.store.protocol import Row
from shared_core.telemetry import Counters
from shared_core.records import Average, Entry, Example, Statistics, Texts
from tests.fakes import FakeClock
from tests.steps import result


def units(count: int, dimension: int = 16, seed: int = 0, clusters: int = 0) -> np.ndarray:
    """Random unit vectors, around `clusters` centres if that is not 0."""
    generator = np.random.default_rng(seed)
    vectors = generator.standard_normal((count, dimension), dtype=np.float32)
    if clusters:
        centres = np.random.default_rng(99).standard_normal((clusters, dimension), dtype=np.float32)
        vectors = centres[generator.integers(0, clusters, count)] + 0.7 * vectors
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def example(
    id: str,
    vector: np.ndarray,
    scope: str = "s",
    task: str = "t",
    quality: float = 0.5,
    helpfulness: float = 0.5,
    answer: str = "",
) -> Example:
    texts = Texts(f"query {id}", answer or f"answer {id}")
    statistics = Statistics(Average(quality, 1), Average(helpfulness, 1))
    return Example(Entry(id, scope, task, "traffic", "large", 1.0, texts.size, "", statistics), texts, vector)


def row(id: str, vector: np.ndarray, **more: object) -> Row:
    whole = example(id, vector, **more)
    return Row(whole.entry, whole.vector)


def nearest(vectors: dict[str, np.ndarray], query: np.ndarray, k: int) -> list[tuple[str, float]]:
    """What an exact search must return: ids and cosines, by brute force."""
    scored = [(i, float(v @ query)) for i, v in vectors.items()]
    return sorted(scored, key=lambda pair: -pair[1])[:k]


def soon(seconds: float = 5.0) -> Deadline:
    return Deadline(seconds, time.monotonic)


class SpiedStore:
    """A store whose calls of `texts` are counted, and whose reads may be interrupted by a function."""

    def __init__(self, store) -> None:
        self._store = store
        self.texts_read: list[list[str]] = []
        self.before: dict[str, object] = {}

    def __getattr__(self, name):
        function = getattr(self._store, name)

        def called(*args, **kwargs):
            interruption = self.before.pop(name, None)
            if interruption:
                interruption()
            return function(*args, **kwargs)

        return called if callable(function) else function

    def texts(self, scope, ids):
        self.texts_read.append(list(ids))
        found = self._store.texts(scope, ids)
        interruption = self.before.pop("texts returns", None)
        if interruption:
            interruption()
        return found


class World:
    """A store in memory and a replica of it."""

    def __init__(self, store=None) -> None:
        self.clock = FakeClock(1000.0)
        self.store = SpiedStore(store or open_store("memory://", settings=Settings()))
        self.guard = Guard(2, time.monotonic)
        self.counters = Counters()
        self.replica = Replica(self.store, Settings(), self.counters, self.clock)

    def put(self, *examples: Example) -> None:
        self.store.put(examples)
        self.replica.refresh()

    def texts(self, ids: list[str], seconds: float = 5.0) -> dict[str, Texts]:
        return self.guard.run(soon(seconds), self.replica.texts("s", ids))

    def ids(self, query: np.ndarray, scope: str = "s", task: str = "t", k: int = 16) -> list[str]:
        return list(result(self.replica.candidates(scope, task, query, k)).ids)


@contextmanager
def world(store=None):
    made = World(store)
    try:
        yield made
    finally:
        made.replica.close()
        made.guard.close()
