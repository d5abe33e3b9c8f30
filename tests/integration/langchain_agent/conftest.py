"""`ICCacheMiddleware` in real LangGraph agents over real `ChatOpenAI` arms; the server on loopback shows the wire."""

from __future__ import annotations

import pytest
from langchain.agents import create_agent
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

from iccache_langchain import ICCacheMiddleware
from tests.integration.langchain_agent.runs import EXAMPLES, answering
from tests.integration.routers import building, helped_by, serving, store

__all__ = ["store"]


@tool
def temperature(room: str) -> str:
    """The temperature of a room."""
    return f"{room} has 5 degrees"


server = serving(answering)
helped = helped_by(EXAMPLES)


@pytest.fixture
def model(server):
    def make(name):
        return ChatOpenAI(base_url=server.url, api_key="none", model=name, max_retries=0, stream_usage=True)

    return make


@pytest.fixture
def build(model, store):
    with building(ICCacheMiddleware, store, lambda: {"small": model("small"), "large": None}) as make:
        yield make


@pytest.fixture
def agent(model):
    def make(*middleware, tools=(temperature,), **wanted):
        return create_agent(model("large"), list(tools), system_prompt="be brief", middleware=middleware, **wanted)

    return make
