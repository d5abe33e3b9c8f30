"""What fails, hangs or blocks beneath the middleware costs no run."""

from __future__ import annotations

import asyncio
import time

import pytest
from blockbuster import blockbuster_ctx
from langchain.agents.middleware import AgentMiddleware
from langchain_core.messages import AIMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command, interrupt

from tests.integration.langchain_agent.runs import EXAMPLES, WAYS, admitted, failing, provenance, run, said
from tests.openai_server import Reply
from tests.servers import RedisServer


@pytest.mark.parametrize("way", WAYS)
async def test_the_reference_answers_for_an_arm_that_fails(helped, agent, server, way):
    server.answer = failing("small")
    state = await run(agent(helped), way, "heat the kitchen")
    how = provenance(state["messages"][-1])
    assert said(state) == ["heat the kitchen", "large answers"]
    assert (how["arm"], how["tier"], how["examples"]) == ("large", "fallback", [])
    assert [asked.model for asked in server.asked] == ["small", "large"]
    assert server.asked[-1].turns == [("system", "be brief"), ("user", "heat the kitchen")]
    assert helped.engine.counters["fallback.arm_failed"] == 1


@pytest.mark.parametrize("way", ["invoke", "ainvoke"])
async def test_a_failing_reference_raises_after_one_call(build, agent, server, way):
    server.answer = failing("large")
    with pytest.raises(Exception, match="scripted refusal"):
        await run(agent(build()), way, "hello")
    assert server.count() == 1


class Asking(AgentMiddleware):
    """An inner middleware that wants a person's consent before a model is called."""

    def wrap_model_call(self, request, handler):
        interrupt("may I?")
        return handler(request)

    async def awrap_model_call(self, request, handler):
        interrupt("may I?")
        return await handler(request)


@pytest.mark.parametrize("way", ["invoke", "ainvoke"])
async def test_an_interrupt_is_not_a_failure(helped, agent, server, way):
    config = {"configurable": {"thread_id": "1"}}
    asking = agent(helped, Asking(), checkpointer=InMemorySaver())
    state = await run(asking, way, "heat the kitchen", config)
    assert state["__interrupt__"][0].value == "may I?"
    assert server.count() == 0
    assert helped.engine.counters["fallback.arm_failed"] == 0
    go_on = Command(resume="yes")
    state = asking.invoke(go_on, config) if way == "invoke" else await asking.ainvoke(go_on, config)
    assert said(state) == ["heat the kitchen", "small answers"]


def test_a_stream_whose_end_is_not_explained_teaches_nothing(build, agent, server, store):
    server.answer = lambda asked: Reply("half an answer", finish_reason="")
    middleware = build()
    list(agent(middleware).stream({"messages": [("user", "hello")]}, stream_mode="messages"))
    assert admitted(middleware, store) == 0
    assert middleware.engine.counters.value("refused", reason="unfinished") == 1


@pytest.mark.parametrize("way", ["invoke", "astream"])
async def test_a_dead_store_never_fails_the_run(build, agent, way):
    with RedisServer() as server:
        middleware = build(store=server.url(), task="t", deadline=0.25, drain=0.1)
        middleware.add_examples(EXAMPLES)
        server.kill()
        state = await run(agent(middleware), way, "measure and heat the kitchen")
        answers = [message for message in state["messages"] if isinstance(message, AIMessage)]
        assert [answer.text for answer in answers] == ["", f"{provenance(answers[-1])['arm']} answers"]
        assert not middleware.flush(0.1)
        assert middleware.engine.counters["writer.retried"] >= 1
        middleware.close()
        assert middleware.engine.counters["writer.dropped"] == 2


async def test_nothing_of_ours_blocks_the_event_loop(build, agent, tmp_path):
    def redact(text):
        time.sleep(0.001)  # the detector raises here if it runs on the loop
        return text

    middleware = build(store=f"sqlite:///{tmp_path}/pool.db", redact=redact, task="t")
    await asyncio.to_thread(middleware.add_examples, EXAMPLES)
    talking = agent(middleware)
    await talking.ainvoke({"messages": [("user", "warm")]})  # the client itself loads certificates at its first call
    with blockbuster_ctx(["iccache_langchain", "shared_core"]):
        first = await run(talking, "ainvoke", "measure and heat the kitchen")
        second = await run(talking, "astream", "heat the bathroom")
        middleware.record_feedback(second["messages"][-1], 1.0)
    assert provenance(first["messages"][1])["arm"] == provenance(second["messages"][-1])["arm"] == "small"
