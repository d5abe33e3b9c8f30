"""Examples in LlamaIndex's own engines, over a real OpenAI client whose server on loopback shows what was asked."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from llama_index.core.instrumentation import get_dispatcher
from llama_index.llms.openai_like import OpenAILike

from iccache_llamaindex.events import ICCacheEventHandler
from iccache_llamaindex.postprocessor import ICCachePostprocessor
from tests.embedding import Words
from tests.integration.llamaindex_engines.engines import PATIENT, SHOWN, TASK
from tests.openai_server import OpenAIServer, Reply, openai_server


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with openai_server(lambda asked: Reply("Press the red button.")) as server:
        yield server


@pytest.fixture
def llm(server) -> OpenAILike:
    return OpenAILike(
        model="big",
        api_base=server.url,
        api_key="none",
        is_chat_model=True,
        is_function_calling_model=True,
        context_window=16_000,
        max_retries=0,
    )


@pytest.fixture
def make(tmp_path) -> Iterator:
    """Postprocessors over one pool that holds one example."""
    made = []

    def make(store=None, *, pairs=(SHOWN,), scope="default", **arguments) -> ICCachePostprocessor:
        if "engine" not in arguments:
            arguments = {"embedder": Words(), "settings": PATIENT} | arguments
            store = store or f"sqlite:///{tmp_path}/pool.db"
        examples = ICCachePostprocessor(store, **arguments)
        made.append(examples)
        examples.engine.warm(scope)
        if pairs:
            examples.engine.add_examples(list(pairs), scope=scope, task=TASK)
        return examples

    yield make
    for examples in made:
        examples.close()


@pytest.fixture
def handler(make) -> Iterator[ICCacheEventHandler]:
    """A handler on the root dispatcher, over an empty pool."""
    examples = make(pairs=())
    handler = ICCacheEventHandler(engine=examples.engine)
    root = get_dispatcher()
    root.add_event_handler(handler)
    yield handler
    root.event_handlers.remove(handler)
