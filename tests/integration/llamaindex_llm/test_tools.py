"""Tools, agents and structured output through `ICCacheLLM`."""

from __future__ import annotations

import asyncio

import pytest
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool

from iccache_llamaindex import iccache_context
from tests.integration.llamaindex_llm.calls import EXAMPLES, City, admitted, provenance, user
from tests.openai_server import Reply, obliging


def weather(city: str) -> str:
    """The weather in a city."""
    return f"rain in {city}"


def population(city: str) -> str:
    """How many people live in a city."""
    return f"many in {city}"


@pytest.fixture
def bound(build, server):
    """A router whose pool has examples for whatever is bound, since the task is named."""
    server.answer = obliging
    model = build(task="t")
    model.add_examples(EXAMPLES)
    return model


async def test_tools_reach_whichever_arm_answers(bound, server):
    tools = [FunctionTool.from_defaults(weather), FunctionTool.from_defaults(population)]
    for asked, name in (("heat the kitchen", "small"), ("zzz", "large")):
        bound.engine.clear("default") if name == "large" else None
        responses = [
            bound.chat_with_tools(tools, asked, tool_required=True),
            await bound.achat_with_tools(tools, asked, tool_required=True),
            list(bound.stream_chat_with_tools(tools, asked, tool_required=True))[-1],
            [p async for p in await bound.astream_chat_with_tools(tools, asked, tool_required=True)][-1],
        ]
        for response in responses:
            assert provenance(response)["arm"] == name
            assert [call.tool_name for call in bound.get_tool_calls_from_response(response)] == ["weather"]
        assert server.asked[-1].body["tool_choice"] == "required"
        assert len(server.asked[-1].body["tools"]) == 2
    assert bound.flush(10)
    assert bound.engine.counters.value("refused", reason="tool_calls") == 8


async def test_predict_and_call(bound):
    tool = FunctionTool.from_defaults(weather)
    assert str(bound.predict_and_call([tool], "heat the kitchen in 'Rome'")) == "rain in Rome"
    assert str(await bound.apredict_and_call([tool], "heat the kitchen in 'Rome'")) == "rain in Rome"


@pytest.mark.parametrize("streaming", [False, True])
async def test_a_function_agent_with_two_tools(build, server, store, streaming):
    def script(asked):
        done = sum(m["role"] == "tool" for m in asked.messages)
        steps = [Reply("", [("weather", {"city": "Rome"})]), Reply("", [("population", {"city": "Rome"})])]
        return steps[done] if done < 2 else Reply(f"{asked.model}: rain and many")

    server.answer = script
    model = build()
    agent = FunctionAgent(tools=[weather, population], llm=model, streaming=streaming, system_prompt="be brief")
    with iccache_context(scope="acme"):
        assert str(await agent.run("tell me of Rome")) == "large: rain and many"
    assert [t for r, t in server.asked[-1].turns if r == "tool"] == ["rain in Rome", "many in Rome"]
    assert admitted(model, store, "acme") == 0  # what follows tool results is no answer to the question alone


def test_a_function_agent_from_synchronous_code(build, server):
    server.answer = lambda asked: (
        Reply("done") if asked.messages[-1]["role"] == "tool" else Reply("", [("weather", {"city": "Rome"})])
    )
    agent = FunctionAgent(tools=[weather, population], llm=build())

    async def main():
        return await agent.run("tell me of Rome")

    assert str(asyncio.run(main())) == "done"


async def test_structured_output(bound, server):
    prompt = PromptTemplate("heat the kitchen in {city}")
    structured = bound.as_structured_llm(City)
    found = [
        bound.structured_predict(City, prompt, city="'Rome'"),
        await bound.astructured_predict(City, prompt, city="'Rome'"),
        structured.chat([user("heat the kitchen in 'Rome'")]).raw,
        (await structured.achat([user("heat the kitchen in 'Rome'")])).raw,
        structured.complete("heat the kitchen in 'Rome'").raw,
        list(bound.stream_structured_predict(City, prompt, city="'Rome'"))[-1],
        [p async for p in await bound.astream_structured_predict(City, prompt, city="'Rome'")][-1],
    ]
    assert {one.name for one in found} == {"Rome"}
    assert {asked.model for asked in server.asked} == {"small"}
    assert all(
        asked.body["tool_choice"] == "required" for asked in server.asked[:5]
    )  # LlamaIndex's streams let it choose


def test_without_tools_in_every_arm_structured_output_goes_through_the_prompt(build, arm, server):
    server.answer = lambda asked: '{"name": "Rome"}'
    arms = {"small": arm("small", is_function_calling_model=False), "large": arm("large")}
    model = build(arms=arms)
    assert not model.metadata.is_function_calling_model
    assert model.structured_predict(City, PromptTemplate("where?")).name == "Rome"
    assert "tools" not in server.asked[-1].body
