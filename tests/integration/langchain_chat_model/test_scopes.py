"""Whose call it is: every form in which a call to `ICCacheChatModel` names its scope."""

from __future__ import annotations

from typing import TypedDict

import pytest
from langchain.agents import create_agent
from langchain_core.messages import HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langgraph.graph import END, START, StateGraph

from iccache_langchain import iccache_context
from shared_core.errors import ConfigurationError
from tests.integration.langchain_chat_model.calls import City, admitted, provenance, weather


def scopes(model, store) -> set[str]:
    assert model.flush(10)
    return set(store.scopes())


async def test_the_scope_of_a_call_in_every_form(build, store):
    model = build(scope="own")
    named = {"configurable": {"iccache_scope": "a"}}
    prompt = ChatPromptTemplate.from_messages([("human", "{x}")]) | model

    async def each(way, call):
        store.clear()
        result = call()
        if hasattr(result, "__await__"):
            await result
        elif hasattr(result, "__aiter__"):
            [chunk async for chunk in result]
        elif hasattr(result, "__next__"):
            list(result)
        assert scopes(model, store) == {"a"}, way

    await each("bind", lambda: model.bind(iccache_scope="a").invoke("x"))
    await each("kwarg", lambda: model.invoke("x", iccache_scope="a"))
    await each("configurable", lambda: model.invoke("x", named))
    await each("with_config", lambda: model.with_config(named).invoke("x"))
    await each("ainvoke", lambda: model.ainvoke("x", named))
    await each("stream", lambda: model.stream("x", named))
    await each("astream", lambda: model.astream("x", named))
    await each("events v3", lambda: iter(list(model.stream_events("x", named, version="v3"))))
    await each("events v2", lambda: model.astream_events("x", named, version="v2"))
    await each("batch", lambda: model.batch(["x", "y"], named))
    await each("abatch", lambda: model.abatch(["x", "y"], named))
    await each("chain", lambda: prompt.invoke({"x": "x"}, named))
    await each("chain stream", lambda: prompt.stream({"x": "x"}, named))
    await each("tools", lambda: model.bind_tools([weather]).invoke("x", named))
    for way, of_a in (("bind", model.bind(iccache_scope="a")), ("config", model.with_config(named))):
        await each(f"{way}, then tools", lambda of_a=of_a: of_a.bind_tools([weather]).invoke("x"))
        await each(f"{way}, then tools, streamed", lambda of_a=of_a: of_a.bind_tools([weather]).astream("x"))
        await each(f"{way}, then a schema", lambda of_a=of_a: of_a.with_structured_output(City, method="json_mode", include_raw=True).invoke("x"))  # fmt: skip
        await each(f"{way}, then an agent", lambda of_a=of_a: create_agent(of_a, [weather]).invoke({"messages": [("user", "x")]}))  # fmt: skip
        await each(f"{way}, then bind, retry and tools", lambda of_a=of_a: of_a.bind(temperature=0.1).bind_tools([weather]).with_retry().invoke("x"))  # fmt: skip
        await each(f"{way}, then examples", lambda of_a=of_a: of_a.add_examples([("q", "a")]))
    await each("bind over configurable", lambda: model.bind(iccache_scope="a").invoke("x", {"configurable": {"iccache_scope": "b"}}))  # fmt: skip
    with iccache_context(scope="a"):
        await each("context", lambda: model.invoke("x"))
        await each("context ainvoke", lambda: model.ainvoke("x"))
        await each("context batch", lambda: model.batch(["x", "y"]))
        await each("context abatch", lambda: model.abatch(["x", "y"]))
        await each("context chain", lambda: prompt.invoke({"x": "x"}))
        await each("context generate", lambda: model.generate([[HumanMessage("x")]]))
        lazily = [model.stream("x"), model.astream("x")]
    with iccache_context(scope="b"):
        for stream in lazily:
            await each("stream made in another context", lambda stream=stream: stream)
        await each("configurable over context", lambda: model.invoke("x", named))
    store.clear()
    model.invoke("x")
    assert scopes(model, store) == {"own"}


async def test_scopes_in_langgraph_nodes(build, store):
    model = build()

    class State(TypedDict):
        said: str

    async def node(state: State) -> State:
        return {"said": (await model.ainvoke(state["said"])).content}

    def plain(state: State) -> State:
        with iccache_context(scope="inside"):
            return {"said": model.invoke(state["said"]).content}

    def graph(action):
        return StateGraph(State).add_node("n", action).add_edge(START, "n").add_edge("n", END).compile()

    await graph(node).ainvoke({"said": "x"}, {"configurable": {"iccache_scope": "a"}})
    assert scopes(model, store) == {"a"}
    with iccache_context(scope="b"):
        await graph(node).ainvoke({"said": "x"})
    graph(plain).invoke({"said": "x"})
    assert scopes(model, store) == {"a", "b", "inside"}
    store.clear()

    def whole(state: State) -> State:
        return {"said": model.generate([[HumanMessage(state["said"])]]).generations[0][0].text}

    graph(whole).invoke({"said": "x"}, {"configurable": {"iccache_scope": "d"}})
    assert scopes(model, store) == {"d"}
    store.clear()
    async for _ in graph(node).astream({"said": "x"}, {"configurable": {"iccache_scope": "c"}}, stream_mode="messages"):
        pass
    assert scopes(model, store) == {"c"}


def test_a_scope_never_sees_the_examples_of_another(build, server):
    model = build(task="t")
    model.add_examples([("heat the kitchen", "secret")], scope="acme")
    with iccache_context(scope="globex"):
        model.engine.warm("globex")
        assert provenance(model.invoke("heat the kitchen"))["examples"] == []
    assert "secret" not in str([asked.turns for asked in server.asked])
    assert len(provenance(model.invoke("heat the kitchen", iccache_scope="acme"))["examples"]) == 1


async def test_strict_wants_every_call_to_name_its_scope(build):
    model = build(strict_scope=True)
    with pytest.raises(ConfigurationError, match="iccache_scope"):
        model.invoke("x")
    with iccache_context(scope="a"):
        assert model.invoke("x").content == "large answers"
        with pytest.raises(ConfigurationError, match="iccache_scope"):
            list(model.stream("x"))
        with pytest.raises(ConfigurationError, match="iccache_scope"):
            list((model | StrOutputParser()).stream("x"))
        with pytest.raises(ConfigurationError, match="iccache_scope"):
            [chunk async for chunk in model.astream("x")]
    assert list(model.bind(iccache_scope="a").stream("x"))
    assert list(model.stream("x", {"configurable": {"iccache_scope": "a"}}))
    with pytest.raises(ConfigurationError, match="None"):
        model.invoke("x", iccache_scope=None)


def test_a_misspelt_key_of_a_call_is_refused_and_asks_no_model(build, server):
    model = build()
    with pytest.raises(ConfigurationError, match="did you mean iccache_scope"):
        model.invoke("x", {"configurable": {"iccache_scop": "acme"}})
    with pytest.raises(ConfigurationError, match="did you mean iccache_no_store"):
        list(model.stream("x", {"configurable": {"iccache_scope": "acme", "iccache_nostore": True}}))
    with pytest.raises(ConfigurationError, match="did you mean iccache_scope"):
        model.bind(iccache_scop="acme").invoke("x")
    assert not server.asked


def test_what_must_not_be_stored_is_not(build, store):
    model = build()
    model.bind(iccache_no_store=True).invoke("x")
    model.invoke("x", {"configurable": {"iccache_no_store": True}})
    with iccache_context(no_store=True):
        model.invoke("x")
    assert admitted(model, store) == 0
    assert model.engine.counters.value("refused", reason="no_store") == 3
