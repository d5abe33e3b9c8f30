"""`ICCache` behind real `ChatOpenAI` models, whose server on loopback counts what reaches it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from langchain_openai import ChatOpenAI

from iccache_langchain.cache import ICCache
from tests.integration.langchain_cache.calls import PATIENT, model
from tests.openai_server import OpenAIServer, openai_server


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with openai_server() as server:  # an address of its own: langchain-openai keeps async clients by address
        yield server


@pytest.fixture
def url(tmp_path) -> str:
    return f"sqlite:///{tmp_path}/pool.db"


@pytest.fixture
def cache(url) -> Iterator[ICCache]:
    cache = ICCache(url, settings=PATIENT)
    yield cache
    cache.close()


@pytest.fixture
def llm(server, cache) -> ChatOpenAI:
    return model(server, cache)
