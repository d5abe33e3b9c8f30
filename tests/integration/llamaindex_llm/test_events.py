"""Events, tokens and callbacks of `ICCacheLLM` and of its arms."""

from __future__ import annotations

import pytest
from llama_index.core import Document, SummaryIndex
from llama_index.core import Settings as LlamaSettings
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.instrumentation.events.llm import (
    LLMChatEndEvent,
    LLMChatStartEvent,
    LLMCompletionEndEvent,
    LLMCompletionStartEvent,
)

from shared_core.errors import ConfigurationError
from tests.integration.llamaindex_llm.calls import EXAMPLES, WAYS, ask, user


@pytest.fixture
def no_global_settings():
    before = LlamaSettings._llm, LlamaSettings._callback_manager
    yield
    LlamaSettings._llm, LlamaSettings._callback_manager = before


async def test_one_pair_of_events_and_one_count_of_tokens_a_call(helped, heard, server):
    counter = TokenCountingHandler()
    helped.callback_manager = CallbackManager([counter])
    for way in WAYS:
        heard.clear()
        await ask(helped, way, "heat the kitchen now")
        starts = [e for e in heard if isinstance(e, LLMChatStartEvent | LLMCompletionStartEvent)]
        ends = [e for e in heard if isinstance(e, LLMChatEndEvent | LLMCompletionEndEvent)]
        assert (len(starts), len(ends)) == (1, 1), way
        assert starts[0].model_dict["model_name" if "model_name" in starts[0].model_dict else "model"] == "small"
        assert "climate" in str(starts[0].messages)  # what was sent, examples and all
    assert len(counter.llm_token_counts) == len(WAYS)
    read = sum(len(t.split()) for _, t in server.asked[0].turns)
    assert counter.llm_token_counts[0].prompt_token_count == read  # as the server counted them
    assert counter.llm_token_counts[0].completion_token_count == 2


def test_the_users_arms_are_left_as_they_are(build, arm):
    given = {name: arm(name) for name in ("small", "large")}
    managers = {name: one.callback_manager for name, one in given.items()}
    model = build(arms=given)
    model.callback_manager = CallbackManager([TokenCountingHandler()])
    model.chat([user("x")])
    assert {name: one.callback_manager for name, one in given.items()} == managers


def test_an_arm_with_its_own_callbacks_is_refused_by_name(build, arm):
    manager = CallbackManager([TokenCountingHandler()])
    arms = {"small": arm("small", callback_manager=manager), "large": arm("large")}
    with pytest.raises(ConfigurationError, match="'small' has its own"):
        build(arms=arms)
    assert build(arms=arms, callback_manager=manager)


async def test_settings_llm_and_its_callback_manager(build, server, no_global_settings):
    counter = TokenCountingHandler()
    model = build(task="t")
    model.add_examples(EXAMPLES)
    LlamaSettings.llm = model
    LlamaSettings.callback_manager = CallbackManager([counter])
    engine = SummaryIndex.from_documents([Document(text="the kitchen has 30 degrees")]).as_query_engine()
    assert str(engine.query("heat the kitchen now")) == "small answers"
    assert str(await engine.aquery("heat the kitchen now")) == "small answers"
    assert str(SimpleChatEngine.from_defaults().chat("heat the kitchen")) == "small answers"
    assert len(counter.llm_token_counts) == server.count() == 3
    assert ("assistant", "climate kitchen") in server.asked[0].turns
