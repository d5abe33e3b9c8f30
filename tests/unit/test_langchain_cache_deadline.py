"""The exact lookup and the decision of the near tier share one deadline."""

import threading
import time
from types import SimpleNamespace

import pytest
from langchain_core.language_models import FakeListChatModel
from langchain_core.load import dumps
from langchain_core.messages import HumanMessage

from iccache_langchain import ICCache
from shared_core.settings import Settings

DEADLINE = 4.0
GRAIN = 1.0  # what a busy machine may add


class Clock:
    """Monotonic seconds, of which a test may let some pass at once."""

    def __init__(self):
        self.skipped = 0.0

    def __call__(self):
        return time.monotonic() + self.skipped


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    for module in ("shared_core.engine", "iccache_langchain.cache"):
        monkeypatch.setattr(f"{module}.time", SimpleNamespace(monotonic=clock, time=time.time))
    return clock


@pytest.fixture
def cache(clock):
    """A cache whose store takes nearly the whole deadline, and whose embedder then hangs."""
    release = threading.Event()

    def embed(texts):
        if "hello there" in texts:
            release.wait(20)
        return [[1.0, 0.0] for _ in texts]

    small = FakeListChatModel(responses=["small"])
    cache = ICCache("memory://", embedder=embed, answer_with=small, settings=Settings(deadline=DEADLINE))
    store = cache.engine._components().store
    quick = store.exact

    def slow(key):
        clock.skipped += 0.95 * DEADLINE
        return quick(key)

    store.exact = slow
    yield cache
    release.set()
    cache.close()


async def test_a_slow_store_and_an_embedder_that_hangs_take_one_deadline_together(cache, clock):
    call = dumps([HumanMessage("hello there")]), FakeListChatModel(responses=["large"])._get_llm_string()
    begun = clock()
    assert cache.lookup(*call) is None
    assert clock() - begun < DEADLINE + GRAIN
    begun = clock()
    assert await cache.alookup(*call) is None
    assert clock() - begun < DEADLINE + GRAIN
    assert cache.counters["lookup.miss"] == cache.counters["near.none"] == 2
    assert cache.counters.value("fallback", error="DependencyIsSlow") == 2
