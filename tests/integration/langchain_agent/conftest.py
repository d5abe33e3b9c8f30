"""`ICCacheMiddleware` in real LangGraph agents over real `ChatOpenAI` arms; the server on loopback shows the wire."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from langchain.agents import create_agent
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

from iccache_langchain import ICCacheMiddleware
from shared_core.settings import Settings
from shared_core.store import open_store
from tests.embedding import Words
from tests.integration.langchain_agent.runs import EXAMPLES, answering
from tests.openai_server import OpenAIServer, openai_server


@tool
def temperature(room: str) -> str:
    """The temperature of a room."""
    return f"{room} has 5 degrees"


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with openai_server(answering) as server:
        yield server


@pytest.fixture
def store():
    return open_store("memory://", settings=Settings())


@pytest.fixture
def model(server):
    def make(name):
        return ChatOpenAI(base_url=server.url, api_key="none", model=name, max_retries=0, stream_usage=True)

    return make


@pytest.fixture
def build(model, store):
    made = []

    def make(**wanted):
        arguments = {
            "arms": {"small": model("small"), "large": None},
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
        made.append(ICCacheMiddleware(**(arguments | wanted)))
        return made[-1]

    yield make
    for middleware in made:
        middleware.close()


@pytest.fixture
def helped(build):
    """A middleware whose pool has examples; with `explore` 1 the small model answers whatever they concern."""
    middleware = build(task="t")
    middleware.add_examples(EXAMPLES)
    return middleware


@pytest.fixture
def agent(model):
    def make(*middleware, tools=(temperature,), **wanted):
        return create_agent(model("large"), list(tools), system_prompt="be brief", middleware=middleware, **wanted)

    return make
