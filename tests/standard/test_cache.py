"""LangChain's own conformance suite for caches, sync and async, on SQLite and on a real Redis."""

from collections.abc import Iterator

import pytest
from langchain_tests.integration_tests import AsyncCacheTestSuite, SyncCacheTestSuite

from iccache_langchain.cache import ICCache


@pytest.fixture(params=["sqlite", "redis"])
def empty(request, tmp_path) -> Iterator[ICCache]:
    url = f"sqlite:///{tmp_path}/pool.db" if request.param == "sqlite" else request.getfixturevalue("redis_url")
    cache = ICCache(url)
    yield cache
    cache.close()


class TestSync(SyncCacheTestSuite):
    @pytest.fixture
    def cache(self, empty: ICCache) -> ICCache:
        return empty


class TestAsync(AsyncCacheTestSuite):
    @pytest.fixture
    async def cache(self, empty: ICCache) -> ICCache:
        return empty
