"""With `strict_scope`, a call without a scope is refused with the ways that its own surface offers, and no others."""

import pytest
from langchain_core.language_models.fake_chat_models import ParrotFakeChatModel
from llama_index.core.llms import MockLLM

from iccache_langchain import ICCacheChatModel, ICCacheExampleSelector
from iccache_llamaindex import ICCacheLLM
from shared_core.errors import ConfigurationError
from tests.embedding import Words

ROUTED = {"reference": "large", "costs": {"small": 0.1}, "background": False}
STRICT = {"store": "memory://", "embedder": Words(), "strict_scope": True}


@pytest.fixture
def build():
    made = []

    def make(kind, **arguments):
        made.append(kind(**STRICT, **arguments))
        return made[-1]

    yield make
    for surface in made:
        surface.engine.close()


def refused(call, *arguments):
    with pytest.raises(ConfigurationError, match="this call has no scope, and strict_scope is set") as caught:
        call(*arguments)
    return str(caught.value)


def test_langchains_chat_model(build):
    arms = {"small": ParrotFakeChatModel(), "large": ParrotFakeChatModel()}
    said = refused(build(ICCacheChatModel, arms=arms, **ROUTED).invoke, "x")
    for way in (
        "iccache_scope=… with the call",
        ".bind(iccache_scope=…)",
        "'configurable'",
        "iccache_context(scope=…)",
    ):
        assert way in said


def test_llamaindexs_llm(build):
    llm = build(ICCacheLLM, arms={"small": MockLLM(), "large": MockLLM()}, **ROUTED)
    said = refused(llm.complete, "x")
    for way in ("iccache_scope=… with the call", ".bind(iccache_scope=…)", "iccache_context(scope=…)"):
        assert way in said
    assert "configurable" not in said and "LangChain" not in said
    said = refused(llm.add_examples, [("a", "b")])
    assert "pass scope=…, or use iccache_context(scope=…)" in said and "bind" not in said


def test_a_selector_gets_no_arguments(build):
    selector = build(ICCacheExampleSelector)
    said = refused(selector.add_example, {"input": "a", "output": "b"})
    assert "iccache_context(scope=…)" in said and "bind" not in said
