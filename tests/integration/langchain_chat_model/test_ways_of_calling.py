"""Sync, async, streamed or batched: `ICCacheChatModel` decides alike and counts once."""

from __future__ import annotations

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler, get_usage_metadata_callback
from langchain_core.globals import get_llm_cache, set_llm_cache
from langchain_core.prompts import ChatPromptTemplate

from iccache_langchain import iccache_context
from tests.integration.langchain_chat_model.calls import EXAMPLES, merged, provenance, run, streamed_by_handler


@pytest.fixture
def no_global_cache():
    before = get_llm_cache()
    yield
    set_llm_cache(before)


async def test_every_way_of_calling_decides_alike(build):
    model = build(task="t", explore=0.5)
    model.add_examples(EXAMPLES)
    seen: dict[str, list] = {}

    def note(way, answers):
        keys = ("arm", "propensity", "explored", "examples", "scores", "decision_id")
        seen[way] = [{key: provenance(answer)[key] for key in keys} for answer in answers]

    asked = "heat the kitchen"
    configs = [{"run_id": run(n)} for n in range(12)]
    chain = ChatPromptTemplate.from_messages([("human", "{x}")]) | model
    note("invoke", [model.invoke(asked, c) for c in configs])
    note("ainvoke", [await model.ainvoke(asked, c) for c in configs])
    note("stream", [merged(list(model.stream(asked, c))) for c in configs])
    note("astream", [merged([chunk async for chunk in model.astream(asked, c)]) for c in configs])
    note("batch", model.batch([asked] * len(configs), configs))
    note("abatch", await model.abatch([asked] * len(configs), configs))
    note("events", [model.stream_events(asked, c, version="v3").output for c in configs])
    note("handlers", [await streamed_by_handler(model, asked, c) for c in configs])
    assert {d["arm"] for d in seen["invoke"]} == {"small", "large"}
    for way, decisions in seen.items():
        assert decisions == seen["invoke"], way
    assert provenance(chain.invoke({"x": asked}))["arm"] in {"small", "large"}


def test_one_run_one_count_of_tokens(helped):
    class Starts(BaseCallbackHandler):
        names: list = []

        def on_chat_model_start(self, serialized, messages, **kwargs):
            self.names.append(kwargs["run_id"])

    with get_usage_metadata_callback() as usage:
        helped.invoke("heat the kitchen", {"callbacks": [Starts()]})
        list(helped.stream("heat the kitchen", {"callbacks": [Starts()]}))
    assert len(Starts.names) == 2
    assert usage.usage_metadata["small"]["output_tokens"] == 4
    assert set(usage.usage_metadata) == {"small"}


def test_a_global_cache_serves_repeats_and_nothing_recurses(helped, server, no_global_cache):
    set_llm_cache(InMemoryCache())
    first, second = helped.invoke("heat the kitchen"), helped.invoke("heat the kitchen")
    assert server.count() == 1
    assert provenance(first)["decision_id"] == provenance(second)["decision_id"]
    with iccache_context(scope="acme"):
        helped.invoke("heat the kitchen")
    assert server.count() == 2
