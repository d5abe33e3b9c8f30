"""`ICCacheChatModel` over real `ChatOpenAI` arms, whose server on loopback shows what reaches it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from langchain_openai import ChatOpenAI

from iccache_langchain import ICCacheChatModel
from shared_core.settings import Settings
from shared_core.store import open_store
from tests.embedding import Words
from tests.integration.langchain_chat_model.calls import EXAMPLES, naming
from tests.openai_server import OpenAIServer, openai_server


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with openai_server(naming) as server:
        yield server


@pytest.fixture
def store():
    return open_store("memory://", settings=Settings())


@pytest.fixture
def build(server, store):
    made = []

    def make(**wanted):
        arms = {
            name: ChatOpenAI(base_url=server.url, api_key="none", model=name, max_retries=0, stream_usage=True)
            for name in ("small", "large")
        }
        arguments = {
            "arms": arms,
            "reference": "large",
            "costs": {"small": 0.1},
            "store": store,
            "embedder": Words(),
            "reward": lambda request, answer: 1.0,
            "background": False,
            "relevance_quantile": 0.0,
            "explore": 1.0,
            "deadline": 20.0,
        }
        made.append(ICCacheChatModel(**(arguments | wanted)))
        return made[-1]

    yield make
    for model in made:
        model.close()


@pytest.fixture
def helped(build):
    """A router whose pool has examples; with `explore` 1 the small model answers whatever they concern."""
    model = build(task="t")
    model.add_examples(EXAMPLES)
    return model
