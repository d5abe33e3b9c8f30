"""`ICCacheChatModel` over real `ChatOpenAI` arms, whose server on loopback shows what reaches it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import TypedDict
from uuid import UUID, uuid5

import pytest
from blockbuster import blockbuster_ctx
from langchain.agents import create_agent
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler, get_usage_metadata_callback
from langchain_core.language_models.fake_chat_models import ParrotFakeChatModel
from langchain_core.globals import get_llm_cache, set_llm_cache
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_openai import ChatOpenAI, OpenAI
from langgraph.graph import END, START, StateGraph
from pydantic import BaseModel

from iccache_langchain import ICCacheChatModel, iccache_context
from shared_core.errors import ConfigurationError, NotFromICCache
from shared_core.settings import Settings
from shared_core.store import open_store
from tests.embedding import Words
from tests.openai_server import OpenAIServer, Refused, Reply, obliging, openai_server

NAMESPACE = UUID(int=7)
EXAMPLES = [("heat the kitchen", "climate kitchen"), ("heat the bathroom", "climate bathroom")]


class City(BaseModel):
    """A city."""

    name: str


def weather(city: str) -> str:
    """The weather in a city."""
    return city


def naming(asked) -> Reply:
    """Every model answers with its own name."""
    return Reply(f"{asked.model} answers")


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with openai_server(naming) as server:
        yield server


@pytest.fixture
def store():
    return open_store("memory://", settings=Settings())


@pytest.fixture
def build(server, store):
    made = []

    def make(**wanted):
        arms = {
            name: ChatOpenAI(base_url=server.url, api_key="none", model=name, max_retries=0, stream_usage=True)
            for name in ("small", "large")
        }
        arguments = {
            "arms": arms,
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
        made.append(ICCacheChatModel(**(arguments | wanted)))
        return made[-1]

    yield make
    for model in made:
        model.close()


@pytest.fixture
def helped(build):
    """A router whose pool has examples; with `explore` 1 the small model answers whatever they concern."""
    model = build(task="t")
    model.add_examples(EXAMPLES)
    return model


@pytest.fixture
def no_global_cache():
    before = get_llm_cache()
    yield
    set_llm_cache(before)


def provenance(message) -> dict:
    return message.response_metadata["iccache"]


def merged(chunks):
    whole, *rest = chunks
    for chunk in rest:
        whole += chunk
    return whole


def run(n: int) -> UUID:
    return uuid5(NAMESPACE, str(n))


# one request --------------------------------------------------------------------------------------------------


def test_the_small_model_is_shown_what_the_large_one_answered(build, server):
    model = build()
    first = model.invoke([SystemMessage("be brief"), HumanMessage("heat the kitchen")])
    assert (first.content, provenance(first)["arm"]) == ("large answers", "large")
    assert model.flush(10)
    model.engine.maintain()
    second = model.invoke([SystemMessage("be brief"), HumanMessage("heat the bathroom")])
    assert (second.content, provenance(second)["arm"]) == ("small answers", "small")
    assert len(provenance(second)["examples"]) == 1
    assert server.asked[-1].turns == [
        ("system", "be brief"),
        ("user", "heat the kitchen"),
        ("assistant", "large answers"),
        ("user", "heat the bathroom"),
    ]
    assert second.usage_metadata["input_tokens"] == 10  # the words of the examples count: the server charged for them
    assert second.response_metadata["model_name"] == "small"


def test_another_system_message_is_another_task(build):
    model = build()
    model.add_examples(EXAMPLES, system="be brief")
    asked = HumanMessage("heat the kitchen")
    assert provenance(model.invoke([SystemMessage("be brief"), asked]))["arm"] == "small"
    assert provenance(model.invoke([SystemMessage("be long"), asked]))["arm"] == "large"
    assert provenance(model.bind_tools([weather]).invoke([SystemMessage("be brief"), asked]))["arm"] == "large"


def test_a_tool_result_gets_no_examples_and_its_answer_becomes_none(helped, store):
    call = {"name": "weather", "args": {}, "id": "1", "type": "tool_call"}
    turns = [HumanMessage("heat the kitchen"), AIMessage("", tool_calls=[call]), ToolMessage("5", tool_call_id="1")]
    answer = helped.invoke(turns)
    assert provenance(answer)["examples"] == []
    assert helped.flush(10)
    assert store.count("default") == len(EXAMPLES)


def test_query_fn_condenses_a_conversation_and_its_failure_costs_no_answer(build, store):
    turns = [HumanMessage("the kitchen"), AIMessage("yes?"), HumanMessage("heat it")]
    model = build(query_fn=lambda messages: " ".join(str(m.content) for m in messages))
    model.invoke(turns)
    assert model.flush(10)
    assert store.count("default") == 1
    broken = build(query_fn=lambda messages: 1 / 0)
    assert broken.invoke(turns).content == "large answers"
    assert broken.engine.counters["bypass.query_fn_failed"] == 1


def test_a_call_that_names_its_model_is_not_routed_and_teaches_nothing(helped, store, server):
    answer = helped.invoke("heat the kitchen now", model="another")
    assert server.asked[-1].model == "another"
    assert provenance(answer)["reason"] == "the call names its own model"
    assert helped.flush(10)
    assert store.count("default") == len(EXAMPLES)


def test_an_argument_that_cannot_be_read_costs_no_answer(build, store):
    model = build(arms={"small": ParrotFakeChatModel(), "large": ParrotFakeChatModel()})
    endless: dict = {}
    endless["self"] = endless
    answer = model.invoke("heat the kitchen", extra=endless)
    assert answer.content == "heat the kitchen"
    assert provenance(answer)["tier"] == "fallback"
    assert model.engine.counters["fallback.unreadable_call"] == 1
    assert admitted(model, store) == 0


def test_several_answers_to_one_call_are_no_examples(build, store):
    model = build()
    result = model.generate([[HumanMessage("heat the kitchen")]], n=2)
    assert len(result.generations[0]) == 2
    assert model.flush(10)
    assert store.count("default") == 0
    assert model.engine.counters.value("refused", reason="unfinished") == 1


def test_defaults_go_out_with_every_call(build, server):
    model = build(temperature=0.3, stop=["END"])
    model.invoke("hello")
    assert (server.asked[-1].body["temperature"], server.asked[-1].body["stop"]) == (0.3, ["END"])
    model.invoke("hello", stop=["X"], temperature=0.9)
    assert (server.asked[-1].body["temperature"], server.asked[-1].body["stop"]) == (0.9, ["X"])


def test_a_completion_model_reads_the_conversation_as_text(build, server):
    small = OpenAI(base_url=server.url, api_key="none", model="small", max_retries=0)
    large = ChatOpenAI(base_url=server.url, api_key="none", model="large", max_retries=0)
    model = build(arms={"small": small, "large": large}, task="t")
    model.add_examples(EXAMPLES[:1])
    answer = model.invoke("heat the bathroom")
    assert (answer.content, answer.usage_metadata["output_tokens"]) == ("small answers", 2)
    assert server.asked[-1].query == "Human: heat the kitchen\nAI: climate kitchen\nHuman: heat the bathroom\nAI:"
    assert provenance(model.bind(tools=[{"type": "function"}]).invoke("heat the kitchen"))["arm"] == "large"


# sync, async, streamed, batched: one decision ---------------------------------------------------------------------


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


async def streamed_by_handler(model, asked, config):
    """LangChain streams within `ainvoke` where a handler wants tokens, and then tells the model no run id."""
    final = None
    async for event in model.astream_events(asked, config, version="v2"):
        if event["event"] == "on_chat_model_end":
            final = event["data"]["output"]
    return final


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


# streaming ----------------------------------------------------------------------------------------------------


def admitted(model, store) -> int:
    assert model.flush(10)
    return store.count("default")


def test_exactly_one_chunk_says_where_the_answer_comes_from(helped):
    chunks = list(helped.stream("heat the kitchen"))
    assert ["iccache" in chunk.response_metadata for chunk in chunks].count(True) == 1
    whole = merged(chunks)
    assert (whole.content, provenance(whole)["arm"]) == ("small answers", "small")
    assert whole.usage_metadata["output_tokens"] == 2


def test_a_stream_that_ended_by_itself_becomes_an_example(build, store):
    model = build()
    assert merged(list(model.stream("heat the kitchen"))).content == "large answers"
    assert admitted(model, store) == 1


@pytest.mark.parametrize(
    "reply",
    [Reply("half an answer", finish_reason="length"), Reply("bad words", finish_reason="content_filter")],
)
def test_a_stream_that_was_cut_short_by_the_model_becomes_none(build, store, server, reply):
    server.answer = lambda asked: reply
    model = build()
    list(model.stream("heat the kitchen"))
    assert admitted(model, store) == 0
    assert model.engine.counters.value("refused", reason="unfinished") == 1


def test_a_connection_that_breaks_is_no_end(build, store, server):
    server.answer = lambda asked: Reply(["half ", "an answer"], cut=True)
    model = build()
    with pytest.raises(Exception, match="(?i)connection"):
        list(model.stream("heat the kitchen"))
    assert admitted(model, store) == 0


def test_a_stream_whose_end_is_not_explained_becomes_none(build, store, server):
    server.answer = lambda asked: Reply("half an answer", finish_reason="")
    model = build()
    list(model.stream("heat the kitchen"))
    assert admitted(model, store) == 0


def test_a_stream_that_is_left_early_becomes_none_and_is_rated_by_its_reader_alone(build, store):
    scored = []
    model = build(reward=lambda request, answer: scored.append(answer))
    stream = model.stream("heat the kitchen")
    first = next(stream)
    stream.close()
    assert admitted(model, store) == 0
    assert scored == []  # half an answer that nobody waited for says nothing about the model
    assert provenance(first)["decision_id"] in store.decisions([provenance(first)["decision_id"]])


async def test_a_stream_that_is_cancelled_becomes_none(build, store, server):
    release = threading.Event()

    def pieces():
        yield "half "
        release.wait(20)
        yield "an answer"

    server.answer = lambda asked: Reply(pieces())
    model = build()
    heard = asyncio.Event()

    async def listen():
        async for chunk in model.astream("heat the kitchen"):
            if chunk.content:
                heard.set()

    task = asyncio.create_task(listen())
    await asyncio.wait_for(heard.wait(), 20)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    release.set()
    assert admitted(model, store) == 0


# trouble ------------------------------------------------------------------------------------------------------


def failing(*models):
    def answer(asked):
        if asked.model in models:
            raise Refused(500)
        return naming(asked)

    return answer


async def test_the_reference_answers_for_an_arm_that_fails_before_its_first_word(helped, server):
    server.answer = failing("small")
    answers = [
        helped.invoke("heat the kitchen"),
        await helped.ainvoke("heat the kitchen"),
        merged(list(helped.stream("heat the kitchen"))),
        merged([chunk async for chunk in helped.astream("heat the kitchen")]),
    ]
    for answer in answers:
        assert answer.content == "large answers"
        said = provenance(answer)
        assert (said["arm"], said["tier"], said["examples"]) == ("large", "fallback", [])
        assert "small failed" in said["reason"]
    assert server.asked[-1].turns == [("user", "heat the kitchen")]
    assert helped.engine.counters["fallback.arm_failed"] == len(answers)


async def test_a_failing_reference_is_the_callers_to_know(helped, server):
    server.answer = failing("small", "large")
    before = server.count("large")
    with pytest.raises(Exception, match="scripted refusal"):
        helped.invoke("heat the kitchen")
    with pytest.raises(Exception, match="scripted refusal"):
        await helped.ainvoke("heat the kitchen")
    with pytest.raises(Exception, match="scripted refusal"):
        list(helped.stream("nothing like it"))
    assert server.count("large") - before == 3


async def test_the_reference_is_asked_once(build, server):
    server.answer = failing("large")
    model = build()
    with pytest.raises(Exception, match="scripted refusal"):
        model.invoke("heat the kitchen")
    with pytest.raises(Exception, match="scripted refusal"):
        [chunk async for chunk in model.astream("heat the kitchen")]
    assert server.count() == 2
    assert model.engine.counters["fallback.arm_failed"] == 0


def test_no_other_model_goes_on_where_one_has_begun(helped, server):
    server.answer = lambda asked: Reply(["half ", "an answer"], cut=True)
    heard = []
    with pytest.raises(Exception, match="(?i)connection"):
        for chunk in helped.stream("heat the kitchen"):
            heard.append(chunk.content)
    assert "".join(heard) == "half an answer"
    assert server.count("large") == 0


def test_a_blocked_embedder_holds_a_call_no_longer_than_the_deadline(build):
    release = threading.Event()

    class Stuck(Words):
        def embed(self, texts):
            release.wait(10)
            return super().embed(texts)

    model = build(embedder=Stuck(), deadline=0.25)
    bare = model.arms["large"]
    bare.invoke("warm up")
    try:
        held = []
        for _ in range(3):  # the best of three: another process may have the processor
            began = time.monotonic()
            bare.invoke("heat the kitchen")
            alone = time.monotonic() - began
            answer = model.invoke("heat the kitchen")
            held.append(time.monotonic() - began - 2 * alone)
            assert (provenance(answer)["tier"], answer.content) == ("fallback", "large answers")
        assert min(held) <= 0.25 + 0.1
    finally:
        release.set()


def test_nothing_waits_for_the_reward(build):
    release, scored = threading.Event(), threading.Event()

    def judge(request, answer):
        release.wait(20)
        scored.set()
        return 1.0

    model = build(reward=judge)
    assert model.invoke("heat the kitchen").content == "large answers"
    assert not scored.is_set()
    release.set()
    assert scored.wait(20)


async def test_nothing_of_ours_blocks_the_event_loop(build, tmp_path):
    slow = threading.Event()

    def redact(text):
        time.sleep(0.001)  # the detector raises here if it runs on the loop
        slow.set()
        return text

    def condense(messages):
        time.sleep(0.001)
        return str(messages[-1].content)

    model = build(store=f"sqlite:///{tmp_path}/pool.db", redact=redact, query_fn=condense, task="t")
    await asyncio.to_thread(model.add_examples, EXAMPLES)
    for arm in model.arms.values():
        await arm.ainvoke("warm")  # the client itself loads certificates at its first call
    with blockbuster_ctx(["iccache_langchain", "shared_core"]):
        answer = await model.ainvoke("heat the kitchen")
        chunks = [chunk async for chunk in model.astream("heat the bathroom")]
        answers = await model.abatch(["heat the kitchen"] * 3)
        model.record_feedback(answer, 1.0)
    assert slow.is_set()
    assert {provenance(a)["arm"] for a in [answer, merged(chunks), *answers]} == {"small"}
    assert model.engine.counters["bypass.query_fn_failed"] == 0


# feedback -----------------------------------------------------------------------------------------------------


async def test_an_answer_is_rated_by_message_run_or_decision(helped, store):
    answers = [
        helped.invoke("heat the kitchen", {"run_id": run(1)}),
        merged(list(helped.stream("heat the kitchen", {"run_id": run(2)}))),
        await streamed_by_handler(helped, "heat the kitchen", {"run_id": run(3)}),
        await helped.ainvoke("heat the kitchen"),
    ]
    helped.record_feedback(run(1), 0.1)
    helped.record_feedback(str(run(2)), 0.2)
    helped.record_feedback(run(3), 0.3)
    helped.record_feedback(answers[3], 0.4)
    assert helped.flush(10)
    given = {f.decision_id: f.score for _, f in store.feedback(0) if f.rater == "user"}
    assert given == {provenance(a)["decision_id"]: score for a, score in zip(answers, (0.1, 0.2, 0.3, 0.4))}
    assert set(store.decisions(list(given))) == set(given)
    with pytest.raises(ConfigurationError):
        helped.record_feedback(answers[0], 7)
    with pytest.raises(NotFromICCache):
        helped.record_feedback(AIMessage("not ours"), 1.0)


# tools and structured output ----------------------------------------------------------------------------------


@pytest.fixture
def bound(build, server):
    """A router whose pool has examples for whatever is bound, since the task is named."""
    server.answer = obliging
    model = build(task="t")
    model.add_examples(EXAMPLES)
    return model


def test_tools_reach_whichever_arm_answers(bound, server):
    for asked, arm in (("heat the kitchen", "small"), ("zzz", "large")):
        bound.engine.clear("default") if arm == "large" else None
        answer = bound.bind_tools([weather], tool_choice="any").invoke(asked)
        assert provenance(answer)["arm"] == arm
        assert server.asked[-1].model == arm
        assert server.asked[-1].body["tool_choice"] == "required"
        assert [call["name"] for call in answer.tool_calls] == ["weather"]


@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
def test_structured_output_honours_the_method(bound, server, method):
    if method == "json_mode":
        server.answer = lambda asked: Reply('{"name": "Rome"}')
    chain = bound.with_structured_output(City, method=method)
    assert isinstance(chain.invoke("heat the kitchen"), City)
    sent = server.asked[-1].body
    assert server.asked[-1].model == "small"
    kinds = {"json_schema": "json_schema", "json_mode": "json_object", "function_calling": None}
    assert sent.get("response_format", {}).get("type") == kinds[method]
    assert ("tools" in sent) == (method == "function_calling")
    raw = bound.with_structured_output(City, method=method, include_raw=True).invoke("heat the kitchen")
    assert isinstance(raw["parsed"], City)
    assert provenance(raw["raw"])["arm"] == "small"


# scope --------------------------------------------------------------------------------------------------------


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


def test_what_must_not_be_stored_is_not(build, store):
    model = build()
    model.bind(iccache_no_store=True).invoke("x")
    model.invoke("x", {"configurable": {"iccache_no_store": True}})
    with iccache_context(no_store=True):
        model.invoke("x")
    assert admitted(model, store) == 0
    assert model.engine.counters.value("refused", reason="no_store") == 3
