"""`ICCacheMiddleware` in real LangGraph agents over real `ChatOpenAI` arms; the server on loopback shows the wire."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from blockbuster import blockbuster_ctx
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware, ModelFallbackMiddleware
from langchain.agents.structured_output import ProviderStrategy, ToolStrategy
from langchain_core.globals import get_llm_cache, set_llm_cache
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command, interrupt
from pydantic import BaseModel

from iccache_langchain import ICCache, ICCacheCallbackHandler, ICCacheChatModel, ICCacheMiddleware, iccache_context
from shared_core.errors import ConfigurationError
from shared_core.settings import Settings
from shared_core.store import open_store
from tests.embedding import Words
from tests.openai_server import OpenAIServer, Refused, Reply, obliging, openai_server
from tests.servers import RedisServer

EXAMPLES = [("heat the kitchen", "climate kitchen"), ("heat the bathroom", "climate bathroom")]
SHOWN = {turn for pair in EXAMPLES for turn in pair}
WAYS = ["invoke", "ainvoke", "stream", "astream"]


class City(BaseModel):
    """A city."""

    name: str


@tool
def temperature(room: str) -> str:
    """The temperature of a room."""
    return f"{room} has 5 degrees"


def answering(asked) -> Reply:
    """Measures before it heats; whatever else is asked, the model answers with its name."""
    if asked.body.get("tools") and asked.messages[-1]["role"] == "user" and "measure" in asked.query:
        return Reply("", [("temperature", {"room": "kitchen"})])
    return Reply(f"{asked.model} answers")


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with openai_server(answering) as server:
        yield server


@pytest.fixture
def store():
    return open_store("memory://", settings=Settings())


@pytest.fixture
def model(server):
    def make(name):
        return ChatOpenAI(base_url=server.url, api_key="none", model=name, max_retries=0, stream_usage=True)

    return make


@pytest.fixture
def build(model, store):
    made = []

    def make(**wanted):
        arguments = {
            "arms": {"small": model("small"), "large": None},
            "reference": "large",
            "costs": {"small": 0.1},
            "store": store,
            "embedder": Words(),
            "reward": lambda request, answer: 1.0,
            "background": False,
            "relevance_quantile": 0.0,
            "explore": 1.0,
            "deadline": 20.0,
        }
        made.append(ICCacheMiddleware(**(arguments | wanted)))
        return made[-1]

    yield make
    for middleware in made:
        middleware.close()


@pytest.fixture
def helped(build):
    """A middleware whose pool has examples; with `explore` 1 the small model answers whatever they concern."""
    middleware = build(task="t")
    middleware.add_examples(EXAMPLES)
    return middleware


@pytest.fixture
def agent(model):
    def make(*middleware, tools=(temperature,), **wanted):
        return create_agent(model("large"), list(tools), system_prompt="be brief", middleware=middleware, **wanted)

    return make


async def run(agent, way, text, config=None, **wanted) -> dict:
    """The final state of one run, called in one of the ways."""
    asked = {"messages": [("user", text)]}
    match way:
        case "invoke":
            return agent.invoke(asked, config, **wanted)
        case "ainvoke":
            return await agent.ainvoke(asked, config, **wanted)
        case "stream":
            parts = list(agent.stream(asked, config, stream_mode=["messages", "values"], **wanted))
        case "astream":
            parts = [p async for p in agent.astream(asked, config, stream_mode=["messages", "values"], **wanted)]
    tokens = [part for mode, part in parts if mode == "messages" and isinstance(part[0], AIMessage) and part[0].content]
    assert len(tokens) > 1  # the arm's words, one by one
    assert {metadata["iccache_arm"] for _, metadata in tokens} <= {"small", "large"}
    last = [part for mode, part in parts if mode == "values"][-1]
    assert tokens[-1][1]["iccache_decision_id"] == provenance(last["messages"][-1])["decision_id"]
    return last


def provenance(message) -> dict:
    return message.response_metadata["iccache"]


def said(state) -> list[str]:
    return [message.text for message in state["messages"]]


def admitted(middleware, store, scope="default") -> int:
    assert middleware.flush(10)
    return store.count(scope)


# one run ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
async def test_examples_go_on_the_wire_and_not_into_the_state(helped, agent, server, way):
    memory = InMemorySaver()
    config = {"configurable": {"thread_id": "1"}}
    talking = agent(helped, checkpointer=memory)
    state = await run(talking, way, "heat the kitchen please", config)
    assert said(state) == ["heat the kitchen please", "small answers"]
    assert server.asked[-1].turns == [
        ("system", "be brief"),
        ("user", "heat the bathroom"),
        ("assistant", "climate bathroom"),
        ("user", "heat the kitchen"),
        ("assistant", "climate kitchen"),
        ("user", "heat the kitchen please"),
    ]
    how = provenance(state["messages"][-1])
    assert (how["arm"], how["tier"], len(how["examples"])) == ("small", "model", 2)

    state = await run(talking, way, "heat the bathroom too", config)
    turns = server.asked[-1].turns
    assert [text for _, text in turns[5:]] == ["heat the kitchen please", "small answers", "heat the bathroom too"]
    assert {text for _, text in turns[1:5]} == SHOWN
    kept = [checkpoint.checkpoint["channel_values"].get("messages", []) for checkpoint in memory.list(config)]
    assert kept
    assert not SHOWN & {message.text for messages in kept for message in messages}
    assert not SHOWN & set(said(talking.get_state(config).values))


@pytest.mark.parametrize("way", WAYS)
async def test_a_tool_call_and_its_result_stay_together(helped, agent, server, store, way):
    state = await run(agent(helped), way, "measure and heat the kitchen")
    asked, calling, result, answer = state["messages"]
    assert calling.tool_calls[0]["name"] == "temperature"
    assert isinstance(result, ToolMessage)
    first, second = server.asked[-2:]
    assert (first.model, {text for _, text in first.turns[1:5]}) == ("small", SHOWN)
    assert [role for role, _ in second.turns] == ["system", "user", "assistant", "tool"]
    assert second.body["tools"][0]["function"]["name"] == "temperature"
    assert provenance(calling)["examples"] != []
    assert provenance(answer)["examples"] == []
    assert provenance(answer)["tier"] == "model"
    assert (
        helped.engine.counters.value("decided", arm="large") + helped.engine.counters.value("decided", arm="small") == 2
    )
    assert admitted(helped, store) == len(EXAMPLES)
    assert helped.engine.counters.value("refused", reason="tool_calls") == 1


async def test_what_the_large_model_answered_is_shown_to_the_small_one(build, agent, server):
    middleware = build()
    talking = agent(middleware)
    state = await run(talking, "ainvoke", "heat the kitchen")
    assert (said(state)[-1], provenance(state["messages"][-1])["arm"]) == ("large answers", "large")
    assert middleware.flush(10)
    middleware.engine.maintain()
    state = await run(talking, "astream", "heat the bathroom")
    assert said(state)[-1] == "small answers"
    assert server.asked[-1].turns[1:3] == [("user", "heat the kitchen"), ("assistant", "large answers")]
    state = await run(agent(middleware, tools=()), "ainvoke", "heat the kitchen")
    assert provenance(state["messages"][-1])["arm"] == "large"  # without the tool it is another task


async def test_a_final_answer_after_tools_is_admitted_only_if_query_fn_condenses_it(build, agent, store):
    plain = build()
    await run(agent(plain), "ainvoke", "measure the kitchen")
    assert admitted(plain, store) == 0
    assert plain.engine.counters.value("refused", reason="empty_query") == 1
    condensing = build(query_fn=lambda messages: messages[1].text)
    await run(agent(condensing), "ainvoke", "measure the kitchen")
    assert admitted(condensing, store) == 1


def test_the_papers_single_prompt_replaces_the_users_turn_on_the_wire_alone(build, agent, server):
    middleware = build(task="t", styles={"small": "paper"})
    middleware.add_examples(EXAMPLES)
    state = agent(middleware).invoke({"messages": [("user", "heat the kitchen please")]})
    assert said(state) == ["heat the kitchen please", "small answers"]
    (system, asked) = server.asked[-1].turns
    assert system == ("system", "be brief")
    assert "climate kitchen" in asked[1]
    assert asked[1].count("heat the kitchen please") == 2


# models -------------------------------------------------------------------------------------------------------


async def test_none_is_the_agents_own_model(build, agent, model, server):
    middleware = build()
    fallback = ModelFallbackMiddleware(model("spare"))
    server.answer = failing("large")
    state = await run(agent(fallback, middleware), "ainvoke", "hello")
    assert said(state)[-1] == "spare answers"
    assert provenance(state["messages"][-1])["arm"] == "large"


async def test_arms_may_all_be_named(build, agent, model, server):
    middleware = build(arms={"small": model("small"), "large": model("huge")})
    assert said(await run(agent(middleware), "ainvoke", "hello"))[-1] == "huge answers"


def test_an_agents_model_that_routes_by_itself_is_refused(build, model, store):
    middleware = build()
    router = ICCacheChatModel(
        arms={"small": model("small"), "large": model("large")}, reference="large", engine=middleware.engine
    )
    with pytest.raises(ConfigurationError, match="routes by itself"):
        create_agent(router, [], middleware=[middleware]).invoke({"messages": [("user", "hello")]})


class Setting(AgentMiddleware):
    """An outer middleware that sets parameters of the call."""

    def __init__(self, **settings):
        self.settings = settings

    def wrap_model_call(self, request, handler):
        return handler(request.override(model_settings=self.settings))


def test_settings_of_the_call_reach_the_arm_and_a_named_model_is_not_routed(helped, agent, server, store):
    state = agent(Setting(temperature=0.3), helped).invoke({"messages": [("user", "heat the kitchen")]})
    assert (server.asked[-1].model, server.asked[-1].body["temperature"]) == ("small", 0.3)
    state = agent(Setting(model="another"), helped).invoke({"messages": [("user", "heat the kitchen now")]})
    assert server.asked[-1].model == "another"
    assert provenance(state["messages"][-1])["reason"] == "the call names its own model"
    assert admitted(helped, store) == len(EXAMPLES)


@pytest.mark.parametrize("strategy", [City, ToolStrategy(City), ProviderStrategy(City)])
@pytest.mark.parametrize("way", ["invoke", "ainvoke"])
async def test_structured_answers_come_from_whichever_arm(helped, agent, server, strategy, way):
    server.answer = obliging
    state = await run(agent(helped, tools=(), response_format=strategy), way, "heat the kitchen in 'Rome'")
    assert state["structured_response"] == City(name="Rome")
    answer = next(message for message in state["messages"] if isinstance(message, AIMessage))
    assert provenance(answer)["arm"] == "small"


def test_another_response_format_is_another_task(build, agent, server, store):
    server.answer = obliging
    middleware = build()
    made = []
    for strategy in (ToolStrategy(City), ToolStrategy(City, handle_errors=str), ProviderStrategy(City), None):
        state = agent(middleware, tools=(), response_format=strategy).invoke({"messages": [("user", "heat 'Rome'")]})
        made.append(provenance(state["messages"][1])["decision_id"])
    assert middleware.flush(10)
    records = store.decisions(made)
    assert len({records[decision].task for decision in made}) == 3  # the handler of errors is none of the answer's form


# trouble ------------------------------------------------------------------------------------------------------


def failing(*models):
    def answer(asked):
        if asked.model in models:
            raise Refused(500)
        return answering(asked)

    return answer


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
        middleware.flush(20)
        assert middleware.engine.counters["writer.failed"] == 2
        middleware.close()


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


# whose run ----------------------------------------------------------------------------------------------------


@dataclass
class Tenancy:
    """An agent's own context, which names the scope."""

    iccache_scope: str


@pytest.mark.parametrize("way", WAYS)
async def test_the_scope_of_a_run_in_every_form(build, agent, store, way):
    middleware = build(scope="own")

    async def scope_of(talking, *args, **wanted):
        store.clear()
        await run(talking, way, "hello", *args, **wanted)
        assert middleware.flush(10)
        (scope,) = store.scopes()
        return scope

    named = {"configurable": {"iccache_scope": "a"}}
    assert await scope_of(agent(middleware)) == "own"
    assert await scope_of(agent(middleware), named) == "a"
    assert await scope_of(agent(middleware, context_schema=Tenancy), context=Tenancy("b")) == "b"
    assert await scope_of(agent(middleware, context_schema=dict), context={"iccache_scope": "c"}) == "c"
    assert await scope_of(agent(middleware, context_schema=Tenancy), named, context=Tenancy("b")) == "a"
    with iccache_context(scope="d"):
        assert await scope_of(agent(middleware)) == "d"
        assert await scope_of(agent(middleware), named) == "a"


@pytest.mark.parametrize("way", WAYS)
async def test_a_tenant_never_sees_what_another_was_answered(build, agent, server, way):
    middleware = build(task="t")
    middleware.add_examples([("heat the kitchen", "secret")], scope="acme")
    middleware.engine.warm("globex")
    talking = agent(middleware)
    state = await run(talking, way, "heat the kitchen", {"configurable": {"iccache_scope": "globex"}})
    assert provenance(state["messages"][-1])["examples"] == []
    assert "secret" not in str([asked.turns for asked in server.asked])
    state = await run(talking, way, "heat the kitchen", {"configurable": {"iccache_scope": "acme"}})
    assert len(provenance(state["messages"][-1])["examples"]) == 1


async def test_strict_wants_the_run_itself_to_name_its_scope(build, agent):
    talking = agent(build(strict_scope=True))
    with iccache_context(scope="a"):
        for way in ("invoke", "astream"):
            with pytest.raises(ConfigurationError, match="iccache_scope"):
                await run(talking, way, "hello")
    state = await run(talking, "astream", "hello", {"configurable": {"iccache_scope": "a"}})
    assert said(state)[-1] == "large answers"


async def test_what_must_not_be_stored_is_not(build, agent, store):
    middleware = build()
    await run(agent(middleware), "ainvoke", "hello", {"configurable": {"iccache_no_store": True}})
    with iccache_context(no_store=True):
        await run(agent(middleware), "ainvoke", "hello")
    assert admitted(middleware, store) == 0
    assert middleware.engine.counters.value("refused", reason="no_store") == 2


# beside the other surfaces --------------------------------------------------------------------------------------


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
