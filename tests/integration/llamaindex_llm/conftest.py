"""`ICCacheLLM` over real `OpenAILike` arms, whose server on loopback shows what reaches it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.llms.openai_like import OpenAILike
from llama_index_instrumentation import get_dispatcher

from iccache_llamaindex import ICCacheLLM
from shared_core.settings import Settings
from shared_core.store import open_store
from tests.embedding import Words
from tests.integration.llamaindex_llm.calls import EXAMPLES, KEY, naming
from tests.openai_server import OpenAIServer, openai_server


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with openai_server(naming) as server:
        yield server


@pytest.fixture
def store():
    return open_store("memory://", settings=Settings())


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
    made = []

    def make(**wanted):
        arguments = {
            "arms": {name: arm(name) for name in ("small", "large")},
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
        made.append(ICCacheLLM(**(arguments | wanted)))
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
