"""`ICCacheLLM` over real `OpenAILike` arms, whose server on loopback shows what reaches it."""

from __future__ import annotations

import pytest
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.llms.openai_like import OpenAILike
from llama_index_instrumentation import get_dispatcher

from iccache_llamaindex import ICCacheLLM
from tests.integration.llamaindex_llm.calls import EXAMPLES, KEY, naming
from tests.integration.routers import building, helped_by, serving, store


__all__ = ["store"]

server = serving(naming)
helped = helped_by(EXAMPLES)


@pytest.fixture
def arm(server):
    def make(name, **wanted):
        given = {
            "model": name,
            "api_base": server.url,
            "api_key": KEY,
            "is_chat_model": True,
            "is_function_calling_model": True,
            "context_window": 8000,
            "max_retries": 0,
        }
        return OpenAILike(**(given | wanted))

    return make


@pytest.fixture
def build(arm, store):
    with building(ICCacheLLM, store, lambda: {name: arm(name) for name in ("small", "large")}) as make:
        yield make


@pytest.fixture
def heard():
    """The events of the test, by class name."""
    seen: list = []

    class Ear(BaseEventHandler):
        @classmethod
        def class_name(cls):
            return "Ear"

        def handle(self, event, **kwargs):
            seen.append(event)

    root, ear = get_dispatcher(), Ear()
    root.add_event_handler(ear)
    yield seen
    root.event_handlers.remove(ear)
