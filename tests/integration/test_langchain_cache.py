"""`ICCache` behind real `ChatOpenAI` models, whose server on loopback counts what reaches it."""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Annotated, TypedDict

import numpy as np
import pytest
from blockbuster import blockbuster_ctx
from langchain_core.callbacks import get_usage_metadata_callback
from langchain_core.globals import get_llm_cache, set_llm_cache
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import ChatGeneration, ChatResult, Generation
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda
from langchain_openai import ChatOpenAI, OpenAI
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from pydantic import BaseModel

from iccache_langchain import ICCacheChatModel
from iccache_langchain.cache import ICCache
from iccache_langchain.messages import normalised
from shared_core.adapters import Context, build_request, iccache_context
from shared_core.errors import ConfigurationError, DependencyIsSlow, NotFromICCache
from shared_core.settings import Settings
from shared_core.store.sqlite import SqliteStore
from tests.servers import RedisServer
from tests.openai_server import OpenAIServer, Refused, Reply, obliging, openai_server


# A busy machine must not make a test miss the deadline. What the deadline does is tested with a store that hangs.
PATIENT = Settings(deadline=20)


class Weather(BaseModel):
    """The weather in a city."""

    city: str


def forecast(city: str) -> str:
    """Forecast of a city."""
    return city


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with openai_server() as server:  # an address of its own: langchain-openai keeps async clients by address
        yield server


@pytest.fixture
def url(tmp_path) -> str:
    return f"sqlite:///{tmp_path}/pool.db"


@pytest.fixture
def cache(url) -> Iterator[ICCache]:
    cache = ICCache(url, settings=PATIENT)
    yield cache
    cache.close()


def model(server, cache, name="big", **kwargs) -> ChatOpenAI:
    return ChatOpenAI(model=name, base_url=server.url, api_key="none", max_retries=0, cache=cache, **kwargs)


@pytest.fixture
def llm(server, cache) -> ChatOpenAI:
    return model(server, cache)


def provenance(message: AIMessage) -> dict:
    return message.response_metadata["iccache"]


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


class TestScopes:
    def test_contexts_do_not_mix(self, llm, server):
        for scope in ("anna", "ben", "anna"):
            with iccache_context(scope=scope):
                llm.invoke("my balance?")
        assert server.count() == 2
        llm.invoke("my balance?")
        assert server.count() == 3

    def test_batch_threads_keep_the_scope(self, llm, server):
        with iccache_context(scope="anna"):
            llm.batch(["a", "b", "c"])
            llm.batch(["a", "b", "c"])
        assert server.count() == 3
        llm.batch(["a", "b", "c"])
        assert server.count() == 6

    async def test_tasks_keep_their_scope(self, llm, server):
        async def ask(scope):
            with iccache_context(scope=scope):
                return [provenance(await llm.ainvoke("my balance?"))["tier"] for _ in range(2)]

        assert await asyncio.gather(*map(ask, ["anna", "ben"])) == [["model", "exact"]] * 2
        assert server.count() == 2

    def test_the_configurable_of_a_chain_names_the_scope(self, llm, server):
        chain = RunnableLambda(lambda text: text) | llm
        for scope in ("anna", "ben", "ben"):
            chain.invoke("hi", config={"configurable": {"iccache_scope": scope}})
        assert server.count() == 2

    def test_two_caches_of_one_file_with_scopes_of_their_own(self, server, url):
        caches = [ICCache(url, scope=scope, settings=PATIENT) for scope in ("anna", "ben", "anna")]
        for cache in caches:
            model(server, cache).invoke("hi")
        for cache in caches:
            cache.close()
        assert server.count() == 2

    def test_strict_scope_leaves_nameless_calls_alone(self, server, url):
        cache = ICCache(url, strict_scope=True, settings=PATIENT)
        llm = model(server, cache)
        for _ in range(2):
            llm.invoke("hi")
        assert server.count() == 2
        with iccache_context(scope="anna"):
            for _ in range(2):
                llm.invoke("hi")
        assert server.count() == 3
        cache.close()

    def test_no_store_keeps_nothing(self, llm, server):
        for _ in range(2):
            with iccache_context(no_store=True):
                llm.invoke("a secret")
        llm.invoke("a secret")
        assert server.count() == 3

    def test_clear_keeps_to_the_scope_in_force(self, llm, server, cache):
        for scope in ("anna", "ben"):
            with iccache_context(scope=scope):
                llm.invoke("hi")
        with iccache_context(scope="anna"):
            cache.clear()
            llm.invoke("hi")
        with iccache_context(scope="ben"):
            llm.invoke("hi")
        assert server.count() == 3

    async def test_clear_without_a_scope_clears_everything(self, llm, server, cache):
        for _ in range(2):
            with iccache_context(scope="anna"):
                llm.invoke("hi")
            await cache.aclear()
        assert server.count() == 2

    def test_clear_does_not_leave_what_waits_to_be_stored(self, server, url):
        def slow(texts):
            released.wait(30)
            return words(texts)

        released = threading.Event()
        cache = ICCache(url, embedder=slow, settings=Settings(deadline=20, drain=0.1))
        model(server, cache).invoke("hi")
        with pytest.raises(DependencyIsSlow):
            cache.clear()
        released.set()
        assert cache.engine.flush(20)
        cache.clear()
        assert cache.counters["admitted"] == 1
        assert cache.engine.clear() == 0, "no example is left to be cleared"
        cache.close()


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


class TestFailures:
    @pytest.mark.parametrize(
        "change",
        [
            "UPDATE exact SET answer = x'00ff'",
            "UPDATE exact SET answer = replace(CAST(answer AS TEXT), '\"schema_version\": 1', '\"schema_version\": 9')",
            "UPDATE exact SET answer = replace(CAST(answer AS TEXT), 'content', 'lc')",
            "UPDATE exact SET answer = substr(answer, 1, length(answer) - 9)",
        ],
        ids=["garbage", "later schema", "other fields", "cut"],
    )
    def test_corrupt_bytes_are_a_miss(self, llm, server, cache, tmp_path, change):
        llm.invoke("hi")
        with sqlite3.connect(tmp_path / "pool.db") as database:
            assert database.execute(change).rowcount == 1
        database.close()
        assert llm.invoke("hi").text == "Hello, this is a scripted answer."
        assert server.count() == 2
        assert cache.counters["lookup.unreadable.failed"] + cache.counters["lookup.miss"] == 2
        assert provenance(llm.invoke("hi"))["tier"] == "exact", "the new answer takes the place of what was corrupt"

    def test_a_closed_store(self, server, url):
        cache = ICCache(url, settings=Settings(deadline=20, drain=0.2))
        llm = model(server, cache)
        llm.invoke("hi")
        cache.close()
        assert llm.invoke("hi").text
        assert server.count() == 2
        assert cache.counters["lookup.failed"] == cache.counters["writer.dropped"] == 1
        with pytest.raises(Exception):
            cache.clear()

    def test_tables_that_are_gone(self, llm, server, cache, tmp_path):
        with sqlite3.connect(tmp_path / "pool.db") as database:
            database.execute("DROP TABLE exact")
        database.close()
        assert llm.invoke("hi").text
        cache.flush(5)
        assert cache.counters["lookup.failed"] == cache.counters["writer.failed"] == 1

    def test_a_redis_that_dies(self, server):
        with RedisServer() as redis:
            cache = ICCache(redis.url(), settings=PATIENT)
            llm = model(server, cache)
            llm.invoke("hi")
            assert provenance(llm.invoke("hi"))["tier"] == "exact"
            redis.kill()
            assert llm.invoke("hi").text
            assert server.count() == 2
            assert cache.counters["lookup.failed"] == 1
            cache.close()

    def test_a_store_that_hangs_holds_the_call_no_longer_than_the_deadline(self, server):
        class Hanging(SqliteStore):
            def exact(self, key):
                released.wait(30)
                return super().exact(key)

            def record(self, *parts):
                released.wait(30)
                super().record(*parts)

        released = threading.Event()
        cache = ICCache(Hanging(None, settings=PATIENT), settings=Settings(deadline=0.3))
        try:
            bare, llm = model(server, None), model(server, cache)
            bare.invoke("warm")
            began = time.monotonic()
            bare.invoke("hi")
            asked = time.monotonic()
            assert llm.invoke("hi").text
            assert time.monotonic() - asked < asked - began + 0.3 + 0.1  # one deadline, for look-up and update together
            assert cache.counters.value("lookup.failed", error="DependencyIsSlow") == 1
            released.set()
            assert cache.flush(10)
            assert provenance(llm.invoke("hi"))["tier"] == "exact", "the answer was stored when the store came back"
        finally:
            released.set()
            cache.close()

    @pytest.mark.parametrize("shared", [True, False])
    def test_a_routers_first_answer_that_is_judged_poor_is_not_served_again(self, server, url, tmp_path, shared):
        arms = {name: model(server, None, name) for name in ("small", "large")}
        router = ICCacheChatModel(
            arms=arms, reference="large", costs={"small": 0.1}, store=url, embedder=words, settings=PATIENT
        )
        own = {"engine": router.engine} if shared else {"store": f"sqlite:///{tmp_path}/other.db", "settings": PATIENT}
        cache = router.cache = ICCache(**own)
        try:
            first = router.invoke("hi")
            assert provenance(first)["arm"] == "large"
            assert provenance(router.invoke("hi"))["tier"] == "exact"
            cache.record_feedback(first, 0.0)
            assert router.flush(10)
            assert cache.flush(10)
            assert provenance(router.invoke("hi"))["tier"] == "model"
        finally:
            cache.close()
            router.close()

    def test_a_routers_answer_that_its_reward_function_finds_poor_is_not_served_again(self, server, url):
        arms = {name: model(server, None, name) for name in ("small", "large")}
        router = ICCacheChatModel(
            arms=arms,
            reference="large",
            costs={"small": 0.1},
            store=url,
            embedder=words,
            settings=PATIENT,
            reward=lambda request, answer: float(request.query == "good"),
        )
        cache = router.cache = ICCache(engine=router.engine)
        try:
            for query, tier in (("good", "exact"), ("bad", "model")):
                router.invoke(query)
                assert router.flush(10)
                assert provenance(router.invoke(query))["tier"] == tier
        finally:
            cache.close()
            router.close()

    def test_an_answer_that_json_cannot_hold_is_still_given(self, cache):
        cache.update("p", "l", [Generation(text="a", generation_info={"at": datetime(2026, 1, 1)})])
        cache.update("p", "l", [])
        assert cache.lookup("p", "l") is None
        assert cache.counters["update.unstorable.failed"] == 2
        assert cache.counters["update.failed"] == 0

    def test_arguments_that_are_no_strings_raise_nothing(self, cache):
        assert cache.lookup(None, None) is None
        cache.update(None, None, None)
        assert cache.counters["lookup.failed"] == cache.counters["update.failed"] == 1

    async def test_nothing_of_ours_blocks_the_loop(self, llm, server):
        await llm.ainvoke("warm")  # the client itself loads certificates at its first call
        with blockbuster_ctx(["iccache_langchain", "shared_core"]) as detector:
            assert detector
            await llm.ainvoke("hi")
            assert provenance(await llm.ainvoke("hi"))["tier"] == "exact"

    def test_many_threads(self, llm, server, cache):
        texts = [f"question {n % 10}" for n in range(100)]
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(llm.invoke, texts))
        assert all(answer.text for answer in answers)
        assert cache.counters["lookup.hit"] + server.count() == 100
        assert all(provenance(llm.invoke(text))["tier"] == "exact" for text in texts[:10])


class TestFeedback:
    @pytest.mark.parametrize("rated", ["the first answer", "the hit", "its id"])
    def test_a_poor_answer_is_not_served_again(self, llm, server, cache, rated):
        first, hit = llm.invoke("hi"), llm.invoke("hi")
        cache.record_feedback(
            {"the first answer": first, "the hit": hit}.get(rated, provenance(hit)["decision_id"]), 0.0
        )
        assert cache.engine.flush()
        assert provenance(llm.invoke("hi"))["tier"] == "model"
        assert server.count() == 2

    def test_a_good_answer_stays(self, llm, server, cache):
        cache.record_feedback(llm.invoke("hi"), 1.0)
        assert cache.engine.flush()
        llm.invoke("hi")
        assert server.count() == 1

    def test_a_score_or_message_that_makes_no_sense_is_refused(self, llm, cache):
        with pytest.raises(ConfigurationError):
            cache.record_feedback(llm.invoke("hi"), 7)
        with pytest.raises(NotFromICCache):
            cache.record_feedback(AIMessage("from elsewhere"), 1.0)


TOPICS = {
    "boil two eggs in hot water": "boil --count 2",
    "paint the garden fence green": "paint fence --colour green",
    "book a table at the harbour restaurant": "book harbour",
    "translate the letter into polish": "translate --to pl",
}


def words(texts):
    """Texts that share words are similar, others are not."""
    vectors = np.zeros((len(texts), 512))
    for row, text in zip(vectors, texts, strict=True):
        for word in text.lower().split():
            row[int(hashlib.sha256(word.encode()).hexdigest(), 16) % 512] += 1
    return vectors


class Pool:
    """A cache whose pool the large model has filled, and whose small model repeats how many turns it was shown."""

    def __init__(self, server, url, small=None, task=None):
        self.server = server
        server.answer = self.answer
        small = small or model(server, None, "small")
        settings = Settings(deadline=20, candidates=1, refresh=3600)
        self.cache = ICCache(url, embedder=words, answer_with=small, threshold=0.8, task=task, settings=settings)
        self.cache.engine.warm("default")
        self.llm = model(server, self.cache)
        for question in TOPICS:
            self.llm.invoke(question)
            self.settle()

    def answer(self, asked):
        if asked.body.get("tools") or asked.body.get("response_format") or asked.body.get("n"):
            return obliging(asked)
        if asked.model == "small":
            return Reply(f"small, shown {len(asked.turns) - 1} turns")
        return Reply(TOPICS.get(asked.query, "large"))

    def examples(self):
        """Ids of the examples, that of the eggs last."""
        engine = self.cache.engine
        decisions = [engine.decide(build_request(normalised([HumanMessage(q)]), context=Context())) for q in TOPICS]
        return [decision.given[0].id for decision in reversed(decisions)]

    def settle(self):
        assert self.cache.engine.flush()
        self.cache.engine.maintain()


NEAR = "boil three eggs in hot water"


@pytest.fixture
def pool(server, url):
    pool = Pool(server, url)
    yield pool
    pool.cache.close()


class TestExamples:
    def admitted(self, server, url, ask, **kwargs):
        cache = ICCache(url, embedder=words, settings=PATIENT, **kwargs)
        ask(cache)
        assert cache.engine.flush()
        counters = cache.counters
        cache.close()
        return counters["admitted"]

    def test_plain_answers_become_examples(self, server, url):
        assert self.admitted(server, url, lambda cache: model(server, cache).invoke("hi")) == 1

    def test_none_without_an_embedder(self, llm, cache):
        llm.invoke("hi")
        assert cache.engine.flush()
        assert cache.counters.snapshot() == {"lookup.miss": 1}

    def test_only_the_references_with_a_reference_named(self, server, url):
        def ask(cache):
            model(server, cache, "other").invoke("hi")
            model(server, cache, "big").invoke("ho", model="other")
            model(server, cache, "other").invoke("hu", model="big")

        assert self.admitted(server, url, ask, reference="big") == 1

    def test_not_the_small_models_own(self, server, url):
        small = model(server, None, "small")
        ask = lambda cache: model(server, cache, "small").invoke("hi")
        assert self.admitted(server, url, ask, answer_with=small) == 0

    @pytest.mark.parametrize(
        "kwargs",
        [
            {"stop": ["x"]},
            {"n": 2},
            {"response_format": {"type": "json_object"}},
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}], "tool_choice": "none"},
            {"logit_bias": {}},
        ],
        ids=lambda kwargs: next(iter(kwargs)),
    )
    def test_no_answer_that_is_bound_to_a_form(self, server, url, kwargs):
        assert self.admitted(server, url, lambda cache: model(server, cache).invoke("hi", **kwargs)) == 0

    def test_no_completion(self, server, url):
        def ask(cache):
            OpenAI(model="old", base_url=server.url, api_key="none", max_retries=0, cache=cache).invoke("Once upon")

        assert self.admitted(server, url, ask) == 0

    def test_no_answer_that_was_cut(self, server, url):
        server.answer = lambda _: Reply("and then", finish_reason="length")
        assert self.admitted(server, url, lambda cache: model(server, cache).invoke("hi")) == 0

    def test_a_later_turn_only_if_the_query_condenses_it(self, server, url, tmp_path):
        turns = [HumanMessage("Weather in Ulm?"), AIMessage("Sun."), HumanMessage("And tomorrow?")]
        ask = lambda cache: model(server, cache).invoke(turns)
        assert self.admitted(server, url, ask) == 0
        condense = lambda messages: " ".join(m.text for m in messages if m.type == "human")
        assert self.admitted(server, f"sqlite:///{tmp_path}/other.db", ask, query_fn=condense) == 1

    def test_redaction_keeps_what_it_changes_out_of_the_exact_tier(self, server, url, tmp_path):
        redact = lambda text: text.replace("4711", "[number]")
        ask = lambda cache: [model(server, cache).invoke("my account is 4711") for _ in range(2)]
        assert self.admitted(server, url, ask, redact=redact) == 1
        assert server.count() == 2
        assert b"4711" not in (tmp_path / "pool.db").read_bytes()

    def test_the_chat_models_pool_is_the_same(self, server, url):
        cache = ICCache(url, embedder=words, settings=PATIENT)
        messages = [SystemMessage("Be brief."), HumanMessage("boil two eggs in hot water")]
        for question in TOPICS:
            model(server, cache).invoke([messages[0], HumanMessage(question)])
        assert cache.engine.flush()
        cache.close()
        router = ICCacheChatModel(
            arms={"small": model(server, None, "small"), "large": model(server, None, "big")},
            reference="large",
            costs={"small": 0.1},
            store=url,
            embedder=words,
            settings=Settings(deadline=20, relevance_quantile=1.0),
            background=False,
        )
        router.engine.warm("default")
        decision = router.engine.decide(build_request(normalised([messages[0], HumanMessage(NEAR)]), context=Context()))
        assert [e.query for e in decision.selection.for_arm("small")] == ["boil two eggs in hot water"]
        router.engine.close()


class TestNearAnswers:
    def test_a_near_request_goes_to_the_small_model_with_examples(self, pool):
        message = pool.llm.invoke(NEAR)
        assert message.text == "small, shown 2 turns"
        asked = pool.server.asked[-1]
        assert asked.model == "small"
        assert asked.turns == [
            ("user", "boil two eggs in hot water"),
            ("assistant", "boil --count 2"),
            ("user", NEAR),
        ]
        marked = provenance(message)
        assert (marked["tier"], marked["arm"], marked["writer"], len(marked["examples"])) == (
            "near",
            "small",
            "small",
            1,
        )
        assert message.response_metadata["model_name"] == "small"

    async def test_async_gives_the_same(self, pool):
        assert (await pool.llm.ainvoke(NEAR)).text == "small, shown 2 turns"

    def test_a_far_request_goes_to_the_large_one(self, pool):
        assert provenance(pool.llm.invoke("how tall is mount everest"))["tier"] == "model"

    def test_an_identical_request_still_gets_the_stored_answer(self, pool):
        assert provenance(pool.llm.invoke("boil two eggs in hot water"))["tier"] == "exact"

    def test_its_answers_are_neither_stored_nor_examples(self, pool):
        admitted = pool.cache.counters["admitted"]
        for _ in range(2):
            assert provenance(pool.llm.invoke(NEAR))["tier"] == "near"
        pool.settle()
        assert pool.cache.counters["admitted"] == admitted
        assert pool.cache.counters["near.answered"] == 2

    def test_tokens_are_counted_once_and_under_the_small_models_name(self, pool):
        with get_usage_metadata_callback() as usage:
            message = pool.llm.invoke(NEAR)
        assert set(usage.usage_metadata) == {"small"}
        assert usage.usage_metadata["small"]["total_tokens"] == message.usage_metadata["total_tokens"] > 0

    async def test_nothing_of_the_inner_call_leaks_into_the_events(self, pool):
        chain = RunnableLambda(lambda text: text) | pool.llm
        events = [e["event"] async for e in chain.astream_events(NEAR, version="v2")]
        assert events.count("on_chat_model_start") == 1

    def test_the_global_cache_does_not_recurse(self, pool):
        before = get_llm_cache()
        set_llm_cache(pool.cache)
        try:
            asked = pool.server.count()
            assert model(pool.server, None).invoke(NEAR).text == "small, shown 2 turns"
        finally:
            set_llm_cache(before)
        assert pool.server.count() == asked + 1

    async def test_a_small_model_that_calls_another_does_not_recurse(self, server, url):
        class Forwarding(FakeListChatModel):
            def _generate(self, messages, *args, **kwargs):
                reply = inner.invoke(messages[-1:])
                return ChatResult(generations=[ChatGeneration(message=reply)])

            async def _agenerate(self, messages, *args, **kwargs):
                reply = await inner.ainvoke(messages[-1:])
                return ChatResult(generations=[ChatGeneration(message=reply)])

        pool = Pool(server, url, small=Forwarding(responses=[]))
        inner = model(server, pool.cache, "small")
        asked = server.count()
        assert pool.llm.invoke(NEAR).text == "small, shown 0 turns"
        assert (await pool.llm.ainvoke(NEAR)).text == "small, shown 0 turns"
        assert server.count() == asked + 2, "nothing was looked up or kept on the way"
        pool.cache.close()

    @pytest.mark.parametrize(
        "kwargs",
        [
            {"stop": ["x"]},
            {"n": 2},
            {"response_format": {"type": "json_object"}},
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]},
        ],
        ids=lambda kwargs: next(iter(kwargs)),
    )
    def test_calls_bound_to_a_form_are_never_near(self, server, url, kwargs):
        pool = Pool(server, url, task="kitchen")  # a named task is one task, whatever form the answer takes
        assert provenance(pool.llm.invoke(NEAR, **kwargs))["tier"] == "model"
        assert provenance(pool.llm.invoke(NEAR))["tier"] == "near"
        pool.cache.close()

    def test_images_histories_and_other_tasks_are_never_near(self, pool):
        picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
        for messages in (
            [HumanMessage([{"type": "text", "text": NEAR}, picture])],
            [HumanMessage("hello"), AIMessage("hello"), HumanMessage(NEAR)],
            [SystemMessage("Answer in verse."), HumanMessage(NEAR)],
        ):
            assert provenance(pool.llm.invoke(messages))["tier"] == "model"
        assert pool.server.count("small") == 0

    def test_another_scope_is_never_near(self, pool):
        pool.cache.engine.warm("ben")
        with iccache_context(scope="ben"):
            assert provenance(pool.llm.invoke(NEAR))["tier"] == "model"

    @pytest.mark.parametrize("trouble", ["refused", "cut short", "empty"])
    def test_the_large_model_answers_where_the_small_one_cannot(self, pool, trouble):
        def answer(asked):
            if asked.model != "small":
                return Reply("large")
            if trouble == "refused":
                raise Refused
            return Reply("sm", finish_reason="length") if trouble == "cut short" else Reply("")

        pool.server.answer = answer
        assert pool.llm.invoke(NEAR).text == "large"
        assert pool.cache.counters["near.failed"] + pool.cache.counters["near.unfinished"] == 1

    def test_an_answer_that_cannot_be_read_does_not_stand_in_for_the_large_models(self, pool, monkeypatch):
        def unreadable(message):
            raise TypeError("no text")

        monkeypatch.setattr("iccache_langchain.near_tier.outcome_of", unreadable)
        assert provenance(pool.llm.invoke(NEAR))["tier"] == "model"
        assert pool.server.count("small") == 1
        assert pool.cache.counters.value("answer.failed", error="TypeError") == 1

    def test_too_few_examples_cannot_say_what_is_near(self, pool):
        assert pool.cache.engine.delete("default", pool.examples()[:1]) == 1
        pool.settle()
        assert provenance(pool.llm.invoke(NEAR))["tier"] == "model"
        pool.settle()
        assert provenance(pool.llm.invoke(NEAR.replace("three", "four")))["tier"] == "near", "the pool has grown again"

    def test_its_answers_can_be_rated(self, pool):
        message = pool.llm.invoke(NEAR)
        pool.cache.record_feedback(message, 0.9)
        pool.settle()
        assert pool.cache.counters["writer.failed"] == 0


class TestMisuse:
    @pytest.mark.parametrize(
        "kwargs",
        [
            {},
            {"store": "nosuch://x"},
            {"store": "memory://", "embedder": words, "answer_with": "gpt"},
            {
                "store": "memory://",
                "embedder": words,
                "answer_with": FakeListChatModel(responses=["a"]),
                "threshold": 7,
            },
        ],
    )
    def test_is_refused_at_construction(self, kwargs):
        with pytest.raises(ConfigurationError):
            ICCache(**kwargs)

    def test_a_shared_engine_brings_its_own(self, cache, url):
        with pytest.raises(ConfigurationError):
            ICCache(url, engine=cache.engine)

    def test_a_shared_engine_stays_open(self, cache, server):
        second = ICCache(engine=cache.engine)
        model(server, second).invoke("hi")
        second.close()
        assert provenance(model(server, cache).invoke("hi"))["tier"] == "exact"
