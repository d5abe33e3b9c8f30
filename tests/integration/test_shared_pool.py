"""Two frameworks, one pool in Redis: what one learns helps the other, within a scope and a task of the same name."""

from __future__ import annotations

import pytest
from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI
from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike

from iccache_langchain import ICCacheChatModel
from iccache_llamaindex import ICCacheLLM
from tests.embedding import Words
from tests.openai_server import openai_server


@pytest.fixture
def server():
    with openai_server(lambda asked: f"{asked.model} answers {asked.query}") as server:
        yield server


@pytest.fixture
def both(server, redis_url):
    """(ask LangChain, ask LlamaIndex): each takes a query, a scope and a task, and returns text and examples' count."""
    common = {
        "reference": "large",
        "costs": {"small": 0.1},
        "store": redis_url,
        "reward": lambda request, answer: 1.0,
        "background": False,
        "relevance_quantile": 0.0,
        "explore": 1.0,
        "deadline": 20.0,
    }
    lang = ICCacheChatModel(
        arms={n: ChatOpenAI(base_url=server.url, api_key="none", model=n, max_retries=0) for n in ("small", "large")},
        embedder=Words(),
        **common,
    )
    llama = ICCacheLLM(
        arms={
            n: OpenAILike(api_base=server.url, api_key="none", model=n, max_retries=0, is_chat_model=True)
            for n in ("small", "large")
        },
        embedder=Words(),
        **common,
    )

    def done(model, text, said):
        assert model.flush(10)
        for one in (lang, llama):
            one.engine.maintain()  # brings the other's replica up to date
        return text, len(said["examples"])

    def ask_langchain(query, **steered):
        answer = lang.invoke([HumanMessage(query)], **steered)
        return done(lang, answer.content, answer.response_metadata["iccache"])

    def ask_llamaindex(query, **steered):
        answer = llama.chat([ChatMessage(role="user", content=query)], **steered)
        return done(llama, answer.message.content, answer.additional_kwargs["iccache"])

    yield ask_langchain, ask_llamaindex
    lang.close()
    llama.close()


@pytest.mark.parametrize("first", ["langchain", "llamaindex"])
def test_an_answer_learned_in_one_framework_helps_in_the_other(both, server, first):
    learns, helped = both if first == "langchain" else both[::-1]
    steered = {"iccache_scope": "acme", "iccache_task": "home"}
    helped("zzz", iccache_scope="acme", iccache_task="other", iccache_no_store=True)  # the scope is loaded and empty
    assert learns("heat the kitchen", **steered) == ("large answers heat the kitchen", 0)
    assert helped("heat the bathroom", **steered) == ("small answers heat the bathroom", 1)
    assert server.asked[-1].turns[:2] == [("user", "heat the kitchen"), ("assistant", "large answers heat the kitchen")]
    assert helped("heat the bathroom", **steered | {"iccache_scope": "globex"})[1] == 0
    assert helped("heat the bathroom", **steered | {"iccache_task": "other"})[1] == 0


def test_without_a_name_free_text_with_the_same_system_message_is_the_same_task(both):
    ask_langchain, ask_llamaindex = both
    ask_llamaindex("zzz", iccache_task="other", iccache_no_store=True)  # loads the scope
    ask_langchain("heat the kitchen")
    assert ask_llamaindex("heat the bathroom")[1] == 1
