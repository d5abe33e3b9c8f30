"""`ICCacheChatModel` over real `ChatOpenAI` arms, whose server on loopback shows what reaches it."""

from __future__ import annotations

import pytest
from langchain_openai import ChatOpenAI

from iccache_langchain import ICCacheChatModel
from tests.integration.langchain_chat_model.calls import EXAMPLES, naming
from tests.integration.routers import building, helped_by, serving, store


__all__ = ["store"]

server = serving(naming)
helped = helped_by(EXAMPLES)


@pytest.fixture
def build(server, store):
    def arm(name):
        return ChatOpenAI(base_url=server.url, api_key="none", model=name, max_retries=0, stream_usage=True)

    with building(ICCacheChatModel, store, lambda: {name: arm(name) for name in ("small", "large")}) as make:
        yield make
