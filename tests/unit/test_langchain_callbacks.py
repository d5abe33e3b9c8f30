"""`ICCacheCallbackHandler` watching real `ChatOpenAI` models, called in every way that LangChain has."""

from __future__ import annotations

import time
from collections.abc import Iterator
from uuid import UUID, uuid4

import pytest
from blockbuster import blockbuster_ctx
from langchain.agents import create_agent
from langchain_core.caches import InMemoryCache
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda
from langchain_openai import ChatOpenAI

from iccache_langchain import ICCache, ICCacheCallbackHandler, ICCacheChatModel, iccache_context
from shared_core.errors import ConfigurationError, NotFromICCache
from shared_core.settings import Settings
from shared_core.store import open_store
from tests.embedding import Words
from tests.openai_server import OpenAIServer, Refused, Reply, obliging, openai_server
from tests.servers import RedisServer

WAYS = ["invoke", "ainvoke", "stream", "astream", "events v2", "events v3", "batch", "abatch", "generate"]


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with openai_server(lambda asked: Reply(f"{asked.model} answers")) as server:
        yield server


@pytest.fixture
def store():
    return open_store("memory://", settings=Settings())


@pytest.fixture
def model(server):
    def make(name="large", **wanted):
        return ChatOpenAI(base_url=server.url, api_key="none", model=name, max_retries=0, stream_usage=True, **wanted)

    return make


@pytest.fixture
def build(store):
    made = []

    def make(**wanted):
        arguments = {"embedder": Words(), "deadline": 20.0}
        if "engine" in wanted:
            arguments = {}
        elif "store" not in wanted:
            arguments["store"] = store
        made.append(ICCacheCallbackHandler(**(arguments | wanted)))
        return made[-1]

    yield make
    for handler in made:
        handler.close()


async def call(model, way, asked, config):
    """One call, in one of LangChain's ways; returns the answer, chunks added up."""
    match way:
        case "invoke":
            return model.invoke(asked, config)
        case "ainvoke":
            return await model.ainvoke(asked, config)
        case "stream":
            return merged(list(model.stream(asked, config)))
        case "astream":
            return merged([chunk async for chunk in model.astream(asked, config)])
        case "events v2":
            events = [event async for event in model.astream_events(asked, config, version="v2")]
            return events[-1]["data"]["output"]
        case "events v3":
            return model.stream_events(asked, config, version="v3").output
        case "batch":
            return model.batch([asked], config)[0]
        case "abatch":
            return (await model.abatch([asked], config))[0]
        case "generate":
            done = model.generate([[HumanMessage(asked)]], **{k: v for k, v in config.items() if k != "configurable"})
            return done.generations[0][0].message


def merged(chunks):
    whole, *rest = chunks
    for chunk in rest:
        whole += chunk
    return whole


def admitted(handler, store, scope="default") -> int:
    assert handler.flush(10)
    return store.count(scope)


# what becomes an example ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
async def test_an_answer_becomes_an_example_in_every_way_of_calling(build, model, store, way):
    handler = build()
    answer = await call(model(), way, "heat the kitchen", {"callbacks": [handler]})
    assert answer.text == "large answers"
    assert "iccache" not in answer.response_metadata
    assert admitted(handler, store) == 1
    ((_, entry),) = handler.engine.counters.snapshot().items()
    assert entry == 1


@pytest.mark.parametrize("way", ["invoke", "ainvoke", "stream", "astream", "generate"])
async def test_the_run_id_is_the_decision(build, model, store, way):
    handler, run = build(), uuid4()
    answer = await call(model(), way, "heat the kitchen", {"callbacks": [handler], "run_id": run})
    handler.record_feedback(run, 0.9)
    handler.record_feedback(answer, 0.8, rater="message")
    assert handler.flush(10)
    assert {(f.decision_id, f.score) for _, f in store.feedback(0)} == {(run.hex, 0.9), (run.hex, 0.8)}
    assert store.decisions([run.hex])[run.hex].admitted_id
    assert store.decisions([run.hex])[run.hex].arm == "large"


def test_a_message_that_tells_no_run_is_refused(build):
    with pytest.raises(NotFromICCache, match="run id"):
        build().record_feedback(AIMessage("hello", id="resp_123"), 1.0)


async def test_a_chat_model_shows_what_the_handler_kept(model, server, build):
    arms = {"small": model("small"), "large": model("large")}
    router = ICCacheChatModel(
        arms=arms,
        reference="large",
        costs={"small": 0.1},
        store="memory://",
        embedder=Words(),
        background=False,
        reward=lambda request, answer: 1.0,
        relevance_quantile=0.0,
        explore=1.0,
        deadline=20.0,
    )
    handler = build(engine=router.engine)
    asked = [SystemMessage("be brief"), HumanMessage("heat the kitchen")]
    list(model("large", temperature=0.3, max_tokens=50).stream(asked, {"callbacks": [handler]}))
    assert handler.flush(10)
    router.engine.maintain()
    router.engine.warm("default")
    answer = router.invoke([SystemMessage("be brief"), HumanMessage("heat the hall")])
    assert answer.response_metadata["iccache"]["arm"] == "small"
    assert server.asked[-1].turns[1:3] == [("user", "heat the kitchen"), ("assistant", "large answers")]
    handler.close()
    assert router.invoke("still open").text
    router.close()


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (Reply("half an answer", finish_reason="length"), "unfinished"),
        (Reply("bad words", finish_reason="content_filter"), "unfinished"),
        (Reply("half an answer", finish_reason=""), "unfinished"),
        (Reply(""), "empty_answer"),
        (Reply("", [("weather", {})]), "tool_calls"),
    ],
)
@pytest.mark.parametrize("way", ["invoke", "stream", "astream"])
async def test_what_did_not_end_as_one_text_becomes_none(build, model, server, store, reply, why, way):
    server.answer = lambda asked: reply
    handler = build()
    await call(model(), way, "heat the kitchen", {"callbacks": [handler]})
    assert admitted(handler, store) == 0
    assert handler.engine.counters.value("refused", reason=why) == 1


def test_of_several_answers_none_becomes_one(build, model, store):
    handler = build()
    model(n=2).invoke("heat the kitchen", {"callbacks": [handler]})
    assert admitted(handler, store) == 0
    assert handler.engine.counters.value("refused", reason="unfinished") == 1


def test_calls_that_fail_or_are_left_early_leave_nothing_behind(build, model, server, store):
    handler = build()
    stream = model().stream("heat the kitchen", {"callbacks": [handler]})
    next(stream)
    stream.close()
    server.answer = lambda asked: Reply(["half ", "an answer"], cut=True)
    with pytest.raises(Exception, match="(?i)connection"):
        list(model().stream("heat the kitchen", {"callbacks": [handler]}))

    def refuse(asked):
        raise Refused(500)

    server.answer = refuse
    with pytest.raises(Exception, match="scripted refusal"):
        model().invoke("heat the kitchen", {"callbacks": [handler]})
    assert admitted(handler, store) == 0
    assert not handler._pending


def test_a_later_turn_becomes_one_only_if_query_fn_condenses_it(build, model, store):
    turns = [HumanMessage("the kitchen"), AIMessage("yes?"), HumanMessage("heat it")]
    plain = build()
    model().invoke(turns, {"callbacks": [plain]})
    assert admitted(plain, store) == 0
    condensing = build(query_fn=lambda messages: " ".join(message.text for message in messages))
    model().invoke(turns, {"callbacks": [condensing]})
    assert admitted(condensing, store) == 1
    broken = build(query_fn=lambda messages: 1 / 0)
    model().invoke(turns, {"callbacks": [broken]})
    assert admitted(broken, store) == 1
    assert broken.engine.counters.value("bypass.query_fn_failed", error="ZeroDivisionError") == 1


# whose answers --------------------------------------------------------------------------------------------------


def test_with_a_reference_other_models_answers_wait_for_good_feedback(build, model, store):
    handler = build(reference="large")
    good, poor = uuid4(), uuid4()
    model("small").invoke("heat the kitchen", {"callbacks": [handler], "run_id": good})
    model("small").invoke("heat the hall", {"callbacks": [handler], "run_id": poor})
    assert admitted(handler, store) == 0
    model("large").invoke("heat the bathroom", {"callbacks": [handler]})
    assert admitted(handler, store) == 1
    handler.record_feedback(poor, 0.3)
    handler.record_feedback(good, 0.9)
    assert admitted(handler, store) == 2


def test_a_model_without_a_name_is_not_trusted(build, store):
    answer = AIMessage("hello", response_metadata={"finish_reason": "stop"})
    unnamed = GenericFakeChatModel(messages=iter([answer]))
    handler = build()
    unnamed.invoke("heat the kitchen", {"callbacks": [handler], "metadata": {"ls_model_name": None}})
    assert admitted(handler, store) == 0
    assert handler.engine.counters.value("refused", reason="untrusted") == 1


async def test_other_surfaces_answers_are_left_to_them(build, model, store):
    handler = build(task="handler")
    router = ICCacheChatModel(
        arms={"small": model("small"), "large": model("large")},
        reference="large",
        costs={"small": 0.1},
        engine=None,
        store="memory://",
        embedder=Words(),
        background=False,
        deadline=20.0,
    )
    for way in WAYS:
        await call(router, way, "heat the kitchen", {"callbacks": [handler]})
    cache = ICCache("memory://", embedder=Words())
    for _ in range(2):  # a miss that the cache keeps, then a hit
        model(cache=cache).invoke("heat the kitchen", {"callbacks": [handler]})
    assert cache.counters["lookup.hit"] == 1
    assert admitted(handler, store) == 0
    assert not handler._pending
    cache.close()
    router.close()


def test_what_a_foreign_cache_serves_again_is_known(build, model, store):
    handler = build()
    cached = model(cache=InMemoryCache())
    for _ in range(2):
        cached.invoke("heat the kitchen", {"callbacks": [handler]})
    assert admitted(handler, store) == 1
    assert (handler.engine.counters["admitted"], handler.engine.counters["known"]) == (1, 1)


def test_bound_calls_are_tasks_of_their_own(build, model, server, store):
    server.answer = obliging
    handler, runs = build(), [uuid4() for _ in range(4)]

    def weather(city: str) -> str:
        """The weather in a city."""
        return city

    plain = model()
    for bound, run in zip(
        [plain, plain.bind_tools([weather], tool_choice="none"), plain.bind(stop=["x"]), model(temperature=0.5)], runs
    ):
        bound.invoke("heat the kitchen", {"callbacks": [handler], "run_id": run})
    assert handler.flush(10)
    first, tools, stop, warm = (store.decisions([run.hex])[run.hex].task for run in runs)
    assert len({first, tools, stop}) == 3
    assert warm == first


# whose call -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["invoke", "ainvoke", "stream", "astream"])
async def test_the_scope_of_a_call_in_every_form(build, model, store, way):
    handler = build(scope="own")

    async def scope_of(runnable, asked, **config):
        store.clear()
        await call(runnable, way, asked, {"callbacks": [handler], **config})
        assert handler.flush(10)
        (scope,) = store.scopes()
        return scope

    chain = ChatPromptTemplate.from_messages([("human", "{x}")]) | model()
    node = RunnableLambda(lambda asked: model().invoke(asked))
    agent = create_agent(model(), [])
    named = {"configurable": {"iccache_scope": "b"}}
    assert await scope_of(model(), "hello") == "own"
    assert await scope_of(model(), "hello", metadata={"iccache_scope": "a"}) == "a"
    assert await scope_of(chain, {"x": "hello"}, metadata={"iccache_scope": "a"}) == "a"
    if way in ("invoke", "ainvoke"):
        assert await scope_of(node, "hello", **named) == "b"
        assert await scope_of(agent, {"messages": [("user", "hello")]}, **named) == "b"
    with iccache_context(scope="c"):
        assert await scope_of(model(), "hello") == "c"
        assert await scope_of(model(), "hello", metadata={"iccache_scope": "a"}) == "a"


async def test_strict_keeps_nothing_of_a_call_that_names_no_scope(build, model, store):
    handler = build(strict_scope=True)
    assert model().invoke("hello", {"callbacks": [handler]}).text == "large answers"
    assert model().invoke("hello", {"callbacks": [handler], "metadata": {"iccache_scope": ""}}).text
    assert handler.flush(10)
    assert store.scopes() == []
    assert handler.engine.counters.value("observe.failed", error="ConfigurationError") == 2
    await model().ainvoke("hello", {"callbacks": [handler], "metadata": {"iccache_scope": "a"}})
    assert admitted(handler, store, "a") == 1


def test_what_must_not_be_stored_is_not(build, model, store):
    handler = build()
    model().invoke("hello", {"callbacks": [handler], "metadata": {"iccache_no_store": True}})
    with iccache_context(no_store=True):
        model().invoke("hello", {"callbacks": [handler]})
    assert admitted(handler, store) == 0
    assert handler.engine.counters.value("refused", reason="no_store") == 2


# trouble --------------------------------------------------------------------------------------------------------


async def test_a_dead_store_never_fails_the_call(build, model):
    with RedisServer() as server:
        handler = build(store=server.url(), drain=0.1)
        server.kill()
        for way in ("invoke", "astream"):
            assert (await call(model(), way, "hello", {"callbacks": [handler]})).text == "large answers"
        assert not handler.flush(0.1)
        assert handler.engine.counters["writer.retried"] >= 1
        handler.close()
        assert handler.engine.counters["writer.dropped"] == 2


def test_a_call_without_a_reported_end_is_forgotten(build):
    handler = build()
    for n in range(1030):
        handler.on_chat_model_start({}, [[HumanMessage("hello")]], run_id=UUID(int=n))
    assert len(handler._pending) == 1024
    assert handler.engine.counters["observe.never_ended"] == 6


async def test_nothing_of_ours_blocks_the_event_loop(build, model, tmp_path):
    def slowly(messages):
        time.sleep(0.001)  # the detector raises here if it runs on the loop
        return messages[-1].text

    handler = build(
        store=f"sqlite:///{tmp_path}/pool.db", query_fn=slowly, redact=lambda text: slowly([AIMessage(text)])
    )
    watched, config = model(), {"callbacks": [handler]}
    await watched.ainvoke("warm")  # the client itself loads certificates at its first call
    with blockbuster_ctx(["iccache_langchain", "shared_core"]):
        await watched.ainvoke("heat the kitchen", config)
        _ = [chunk async for chunk in watched.astream("heat the hall", config)]
    assert handler.flush(10)
    assert handler.engine.counters["admitted"] == 2
    assert handler.engine.counters["bypass.query_fn_failed"] == 0


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        ({"referenc": "x"}, "ICCacheCallbackHandler takes no referenc"),
        ({"strict_scope": True, "scope": "a"}, "strict_scope"),
    ],
)
def test_misuse_is_refused_when_it_is_built(build, wanted, says):
    with pytest.raises(ConfigurationError, match=says):
        build(**wanted)
