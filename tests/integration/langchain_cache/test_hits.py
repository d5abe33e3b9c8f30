"""When `ICCache` answers, what it keeps apart, and what a hit costs."""

from __future__ import annotations

from typing import Annotated, TypedDict

import pytest
from langchain_core.callbacks import get_usage_metadata_callback
from langchain_core.globals import get_llm_cache, set_llm_cache
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_openai import OpenAI
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from pydantic import BaseModel

from iccache_langchain.cache import ICCache
from tests.integration.langchain_cache.calls import PATIENT, model, provenance


class Weather(BaseModel):
    """The weather in a city."""

    city: str


def forecast(city: str) -> str:
    """Forecast of a city."""
    return city


class TestWhenItAnswers:
    def test_a_repeated_invoke(self, llm, server):
        first, second = llm.invoke("hi"), llm.invoke("hi")
        assert server.count() == 1
        assert second.text == first.text == "Hello, this is a scripted answer."
        assert [provenance(m)["tier"] for m in (first, second)] == ["model", "exact"]
        assert provenance(second)["writer"] == "big"

    async def test_a_repeated_ainvoke(self, llm, server):
        await llm.ainvoke("hi")
        assert provenance(await llm.ainvoke("hi"))["tier"] == "exact"
        assert server.count() == 1

    async def test_sync_and_async_share_their_answers(self, llm, server):
        await llm.ainvoke("hi")
        assert provenance(llm.invoke("hi"))["tier"] == "exact"

    def test_a_batch(self, llm, server):
        llm.batch(["a", "b"])
        assert [provenance(m)["tier"] for m in llm.batch(["a", "b", "c"])] == ["exact", "exact", "model"]
        assert server.count() == 3

    async def test_an_abatch(self, llm, server):
        await llm.abatch(["a", "b"])
        assert [provenance(m)["tier"] for m in await llm.abatch(["b", "c"])] == ["exact", "model"]

    def test_a_stream_asks_no_cache(self, llm, server):
        llm.invoke("hi")
        assert "".join(chunk.text for chunk in llm.stream("hi")) == "Hello, this is a scripted answer."
        assert server.count() == 2

    def test_a_chain_untouched_behind_the_global_cache(self, server, cache):
        prompt = ChatPromptTemplate.from_messages([("system", "Be brief."), ("human", "{question}")])
        chain = prompt | model(server, None) | StrOutputParser()
        before = get_llm_cache()
        set_llm_cache(cache)
        try:
            answers = [chain.invoke({"question": "why?"}) for _ in range(3)]
        finally:
            set_llm_cache(before)
        assert len(set(answers)) == server.count() == 1

    def test_a_completion_model(self, server, cache):
        llm = OpenAI(model="old", base_url=server.url, api_key="none", max_retries=0, cache=cache)
        assert llm.invoke("Once upon") == llm.invoke("Once upon")
        assert server.count() == 1
        llm.invoke("Once upon ")  # white space is part of what is continued
        assert server.count() == 2

    def test_several_answers_at_once(self, llm, server):
        first = llm.generate([[HumanMessage("hi")]], n=3)
        second = llm.generate([[HumanMessage("hi")]], n=3)
        assert len(second.generations[0]) == len(first.generations[0]) == 3
        assert [g.text for g in second.generations[0]] == [g.text for g in first.generations[0]]


class TestWhatIsKeptApart:
    @pytest.mark.parametrize(
        "kwargs",
        [
            {"temperature": 0.5},
            {"stop": ["x"]},
            {"n": 2},
            {"max_tokens": 5},
            {"model": "other"},
            {"response_format": {"type": "json_object"}},
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]},
        ],
        ids=lambda kwargs: next(iter(kwargs)),
    )
    def test_other_parameters(self, llm, server, kwargs):
        llm.invoke("hi")
        llm.invoke("hi", **kwargs)
        assert server.count() == 2
        llm.invoke("hi", **kwargs)
        assert server.count() == 2, "the same parameters again are identical"

    def test_other_models_of_one_cache(self, server, cache, llm):
        llm.invoke("hi")
        model(server, cache, "small").invoke("hi")
        model(server, cache, temperature=0.1).invoke("hi")
        assert server.count() == 3

    def test_other_system_messages_roles_and_names(self, llm, server):
        llm.invoke("hi")
        llm.invoke([SystemMessage("Be brief."), HumanMessage("hi")])
        llm.invoke([SystemMessage("hi")])
        llm.invoke([HumanMessage("hi", name="bob")])
        llm.invoke("Hi")
        assert server.count() == 5

    def test_images(self, llm, server):
        def seen(data):
            picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
            return [HumanMessage([{"type": "text", "text": "What is it?"}, picture])]

        llm.invoke(seen("AAAA"))
        llm.invoke(seen("BBBB"))
        llm.invoke(seen("AAAA"))
        assert server.count() == 2

    def test_tools_and_structured_output(self, llm, server):
        plain, tools, shaped = llm, llm.bind_tools([forecast]), llm.with_structured_output(Weather)
        for _ in range(2):
            assert not plain.invoke("Weather in 'Ulm'?").tool_calls
            [call] = tools.invoke("Weather in 'Ulm'?").tool_calls
            assert (call["name"], call["args"]) == ("forecast", {"city": "Ulm"})
            assert shaped.invoke("Weather in 'Ulm'?") == Weather(city="Ulm")
        assert server.count() == 3

    def test_structured_output_by_tools_and_with_the_raw_answer(self, llm, server):
        shaped = llm.with_structured_output(Weather, method="function_calling", include_raw=True)
        first, second = shaped.invoke("Weather in 'Ulm'?"), shaped.invoke("Weather in 'Ulm'?")
        assert first["parsed"] == second["parsed"] == Weather(city="Ulm")
        assert server.count() == 1

    def test_a_tool_result_is_part_of_the_conversation(self, llm, server):
        def after(result):
            call = {"id": "1", "name": "forecast", "args": {"city": "Ulm"}}
            return [HumanMessage("Weather?"), AIMessage("", tool_calls=[call]), ToolMessage(result, tool_call_id="1")]

        llm.invoke(after("sun"))
        llm.invoke(after("rain"))
        llm.invoke(after("sun"))
        assert server.count() == 2

    def test_an_object_known_by_its_address_is_never_repeated(self, llm, server, cache):
        for _ in range(2):
            with pytest.raises(TypeError):  # the object cannot be sent; the cache saw it first
                llm.invoke("hi", user=object())
        assert cache.counters["lookup.not_repeatable"] == 2


class State(TypedDict):
    messages: Annotated[list[AnyMessage], add_messages]


def conversation(llm):
    graph = StateGraph(State)
    graph.add_node("model", lambda state: {"messages": [llm.invoke(state["messages"])]})
    graph.add_edge(START, "model")
    graph.add_edge("model", END)
    return graph.compile(checkpointer=InMemorySaver())


class TestConversations:
    def test_hits_add_messages_and_the_next_turn_hits_again(self, llm, server):
        graph = conversation(llm)
        for thread in ("cold", "warm"):
            config = {"configurable": {"thread_id": thread}}
            graph.invoke({"messages": [HumanMessage("first")]}, config)
            state = graph.invoke({"messages": [HumanMessage("second")]}, config)
            assert [m.type for m in state["messages"]] == ["human", "ai", "human", "ai"]
            assert len({m.id for m in state["messages"]}) == 4
        assert server.count() == 2, "what a hit adds to its message is no part of the next turn's key"
        assert provenance(state["messages"][3])["tier"] == "exact"

    def test_a_repeated_question_within_one_thread(self, llm, server):
        config = {"configurable": {"thread_id": "t"}}
        graph = conversation(llm)
        graph.invoke({"messages": [HumanMessage("hi")]}, config)
        hit = llm.invoke("hi")
        state = graph.invoke({"messages": [hit, HumanMessage("hi")]}, config)
        assert len(state["messages"]) == 5

    def test_the_id_of_a_hit_is_its_own_runs(self, llm):
        first, second, third = (llm.invoke("hi") for _ in range(3))
        assert first.id != second.id
        assert provenance(second)["decision_id"] != provenance(third)["decision_id"]


class TestTokens:
    def test_a_hit_costs_none(self, llm):
        with get_usage_metadata_callback() as usage:
            llm.invoke("hi there")
        paid = usage.usage_metadata["big"]
        assert paid["total_tokens"] > 0
        with get_usage_metadata_callback() as usage:
            hit = llm.invoke("hi there")
        assert usage.usage_metadata["big"]["total_tokens"] == 0
        assert "token_usage" not in hit.response_metadata
        assert provenance(hit)["usage"]["total_tokens"] == paid["total_tokens"]


class TestCopies:
    def test_a_caller_cannot_change_what_others_get(self, llm):
        llm.invoke("hi")
        first = llm.invoke("hi")
        first.content = "changed"
        first.response_metadata["iccache"].clear()
        first.additional_kwargs["x"] = 1
        second = llm.invoke("hi")
        assert second.text == "Hello, this is a scripted answer."
        assert provenance(second)["tier"] == "exact"
        assert "x" not in second.additional_kwargs

    def test_two_instances_share_one_file(self, server, url):
        one, two = (ICCache(url, settings=PATIENT) for _ in range(2))
        model(server, one).invoke("hi")
        assert provenance(model(server, two).invoke("hi"))["tier"] == "exact"
        one.close()
        two.close()

    def test_an_answer_outlives_its_process(self, server, url):
        for _ in range(2):
            cache = ICCache(url, settings=PATIENT)
            model(server, cache).invoke("hi")
            cache.close()
        assert server.count() == 1
