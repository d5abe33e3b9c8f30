"""The middleware beside feedback, a chat model, a callback handler and the exact cache."""

from __future__ import annotations

import pytest
from langchain_core.globals import get_llm_cache, set_llm_cache

from iccache_langchain import ICCache, ICCacheCallbackHandler, ICCacheChatModel
from tests.integration.langchain_agent.runs import WAYS, admitted, provenance, run


async def test_an_answer_in_the_state_is_rated(helped, agent, store):
    state = await run(agent(helped), "ainvoke", "heat the kitchen")
    helped.record_feedback(state["messages"][-1], 0.3)
    assert helped.flush(10)
    ((_, feedback),) = [entry for entry in store.feedback(0) if entry[1].rater == "user"]
    assert feedback.decision_id == provenance(state["messages"][-1])["decision_id"]
    assert feedback.score == 0.3
    assert len(store.decisions([feedback.decision_id])[feedback.decision_id].example_ids) == 2


async def test_an_agent_and_a_chain_share_one_engine(helped, agent, model):
    router = ICCacheChatModel(
        arms={"small": model("small"), "large": model("large")}, reference="large", engine=helped.engine, task="t"
    )
    assert provenance(await router.ainvoke("heat the kitchen"))["arm"] == "small"
    assert provenance((await run(agent(helped), "ainvoke", "heat the kitchen"))["messages"][-1])["arm"] == "small"


@pytest.mark.parametrize("way", WAYS)
async def test_a_callback_handler_leaves_the_middlewares_answers_alone(build, agent, store, way):
    middleware = build()
    handler = ICCacheCallbackHandler(engine=middleware.engine, task="other")
    await run(agent(middleware), way, "heat the kitchen", {"callbacks": [handler]})
    assert admitted(middleware, store) == 1
    assert middleware.engine.counters["admitted"] == 1


@pytest.fixture
def cache(store):
    before = get_llm_cache()
    cache = ICCache(store)
    set_llm_cache(cache)
    yield cache
    set_llm_cache(before)
    cache.close()


def test_what_the_exact_cache_served_keeps_its_own_mark(build, agent, server, cache):
    middleware = build()
    talking = agent(middleware)
    asked = {"messages": [("user", "hello")]}
    first = talking.invoke(asked)["messages"][-1]
    assert provenance(first)["arm"] == "large"
    assert cache.engine.flush(10)
    second = talking.invoke(asked)["messages"][-1]
    assert server.count() == 1
    assert provenance(second)["tier"] == "exact"
