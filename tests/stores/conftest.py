"""One `store` fixture over all stores, with a clock that tests move."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

from shared_core.settings import Settings
from shared_core.store.protocol import Store
from tests.fakes import FakeClock
from tests.stores.backends import Backend, MemoryBackend, SqliteBackend

EXACT_TTL = 100.0
DECISION_TTL = 1000.0

# How long an example takes says how busy the machine is, not whether a store is right.
hypothesis.settings.register_profile("stores", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("stores")

OpenStore = Callable[..., Store]

# for tests of what is left when a store is closed, and of what is found damaged: memory holds nothing outside itself
durable_stores = pytest.mark.parametrize("backend", ["sqlite", "redis"], indirect=True)


@pytest.fixture
def settings() -> Settings:
    return Settings(exact_ttl=EXACT_TTL, decision_ttl=DECISION_TTL)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(params=["memory", "sqlite", "redis"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    if request.param == "memory":
        return MemoryBackend()
    if request.param == "sqlite":
        return SqliteBackend(tmp_path / "iccache.db")
    from tests.stores.redis_backend import RedisBackend

    return RedisBackend(request.getfixturevalue("redis_url"))


@pytest.fixture
def open_backend(backend: Backend, settings: Settings, clock: FakeClock) -> Iterator[OpenStore]:
    """Opens stores on the backend; all are closed after the test."""
    opened: list[Store] = []

    def open_one(feed_length: int = 10_000) -> Store:
        opened.append(backend.open(settings, clock, feed_length))
        return opened[-1]

    yield open_one
    for store in opened:
        store.close()


@pytest.fixture
def store(open_backend: OpenStore) -> Store:
    return open_backend()
