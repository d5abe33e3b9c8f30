"""How `ICCache` is constructed, alone or over a shared engine."""

from __future__ import annotations

import pytest
from langchain_core.language_models import FakeListChatModel

from iccache_langchain.cache import ICCache
from shared_core.errors import ConfigurationError
from tests.integration.langchain_cache.calls import model, provenance
from tests.integration.langchain_cache.filled import words


class TestMisuse:
    @pytest.mark.parametrize(
        "kwargs",
        [
            {},
            {"store": "nosuch://x"},
            {"store": "memory://", "embedder": words, "answer_with": "gpt"},
            {
                "store": "memory://",
                "embedder": words,
                "answer_with": FakeListChatModel(responses=["a"]),
                "threshold": 7,
            },
        ],
    )
    def test_is_refused_at_construction(self, kwargs):
        with pytest.raises(ConfigurationError):
            ICCache(**kwargs)

    def test_a_shared_engine_brings_its_own(self, cache, url):
        with pytest.raises(ConfigurationError):
            ICCache(url, engine=cache.engine)

    def test_a_shared_engine_stays_open(self, cache, server):
        second = ICCache(engine=cache.engine)
        model(server, second).invoke("hi")
        second.close()
        assert provenance(model(server, cache).invoke("hi"))["tier"] == "exact"
