"""`ICCacheLLM` over real `OpenAILike` arms, whose server on loopback shows what reaches it."""

from __future__ import annotations

import asyncio
import copy
import gc
import json
import pickle
import threading
import time
from collections.abc import Iterator
from uuid import UUID

import pytest
from blockbuster import blockbuster_ctx
from llama_index.core import Document, SummaryIndex
from llama_index.core import Settings as LlamaSettings
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events.llm import (
    LLMChatEndEvent,
    LLMChatStartEvent,
    LLMCompletionEndEvent,
    LLMCompletionStartEvent,
)
from llama_index.core.llms import ChatMessage, ImageBlock, MockLLM, TextBlock
from llama_index.core.prompts import PromptTemplate
from llama_index.core.response_synthesizers import get_response_synthesizer
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from llama_index_instrumentation import get_dispatcher
from pydantic import BaseModel

from iccache_llamaindex import ICCacheLLM, ICCacheRouteEvent, iccache_context
from shared_core.adapters import routing
from shared_core.errors import ConfigurationError, NotFromICCache
from shared_core.settings import Settings
from shared_core.store import open_store
from tests.embedding import Words
from tests.openai_server import OpenAIServer, Refused, Reply, obliging, openai_server

KEY = "sk-very-secret"
EXAMPLES = [("heat the kitchen", "climate kitchen"), ("heat the bathroom", "climate bathroom")]
WAYS = ("chat", "achat", "stream_chat", "astream_chat", "complete", "acomplete", "stream_complete", "astream_complete")


class City(BaseModel):
    """A city."""

    name: str


def weather(city: str) -> str:
    """The weather in a city."""
    return f"rain in {city}"


def population(city: str) -> str:
    """How many people live in a city."""
    return f"many in {city}"


def user(text: str) -> ChatMessage:
    return ChatMessage(role="user", content=text)


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
def arm(server):
    def make(name, **wanted):
        given = {
            "model": name,
            "api_base": server.url,
            "api_key": KEY,
            "is_chat_model": True,
            "is_function_calling_model": True,
            "context_window": 8000,
            "max_retries": 0,
        }
        return OpenAILike(**(given | wanted))

    return make


@pytest.fixture
def build(arm, store):
    made = []

    def make(**wanted):
        arguments = {
            "arms": {name: arm(name) for name in ("small", "large")},
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
        made.append(ICCacheLLM(**(arguments | wanted)))
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
def heard():
    """The events of the test, by class name."""
    seen: list = []

    class Ear(BaseEventHandler):
        @classmethod
        def class_name(cls):
            return "Ear"

        def handle(self, event, **kwargs):
            seen.append(event)

    root, ear = get_dispatcher(), Ear()
    root.add_event_handler(ear)
    yield seen
    root.event_handlers.remove(ear)


@pytest.fixture
def no_global_settings():
    before = LlamaSettings._llm, LlamaSettings._callback_manager
    yield
    LlamaSettings._llm, LlamaSettings._callback_manager = before


async def ask(model, way, text, **kwargs):
    """The last response of any of the eight calls."""
    given = [user(text)] if "chat" in way else text
    result = getattr(model, way)(given, **kwargs)
    if way.startswith("a"):
        result = await result
    if hasattr(result, "__aiter__"):
        return [piece async for piece in result][-1]
    return list(result)[-1] if hasattr(result, "__next__") else result


def provenance(response) -> dict:
    return response.additional_kwargs["iccache"]


def text(response) -> str:
    return response.text if hasattr(response, "text") else response.message.content


def queries(store, scope="default") -> set[str]:
    return {texts.query for texts in store.texts(scope, store.oldest(scope, 100)).values()}


def admitted(model, store, scope="default") -> int:
    assert model.flush(10)
    return store.count(scope)


# one request --------------------------------------------------------------------------------------------------


def test_the_small_model_is_shown_what_the_large_one_answered(build, server):
    model = build()
    brief = ChatMessage(role="system", content="be brief")
    first = model.chat([brief, user("heat the kitchen")])
    assert (text(first), provenance(first)["arm"]) == ("large answers", "large")
    assert model.flush(10)
    model.engine.maintain()
    second = model.chat([brief, user("heat the bathroom")])
    assert (text(second), provenance(second)["arm"]) == ("small answers", "small")
    assert len(provenance(second)["examples"]) == 1
    assert server.asked[-1].turns == [
        ("system", "be brief"),
        ("user", "heat the kitchen"),
        ("assistant", "large answers"),
        ("user", "heat the bathroom"),
    ]
    assert second.raw.usage.prompt_tokens == 10  # the words of the examples count: the server charged for them
    assert "iccache" not in str(second.raw)


@pytest.mark.parametrize("way", WAYS)
async def test_every_call_is_routed_shown_examples_recorded_and_explained(helped, server, heard, store, way):
    response = await ask(helped, way, "heat the kitchen now")
    assert (text(response), provenance(response)["arm"]) == ("small answers", "small")
    assert len(server.asked[-1].turns) == 2 * len(provenance(response)["examples"]) + 1
    assert server.asked[-1].query == "heat the kitchen now"
    assert helped.flush(10)
    (record,) = store.decisions([provenance(response)["decision_id"]]).values()
    assert (record.arm, record.completion_tokens) == ("small", 0 if "stream" in way else 2)
    told = [event.provenance for event in heard if isinstance(event, ICCacheRouteEvent)]
    assert told == [provenance(response)]


@pytest.mark.parametrize("way", WAYS)
async def test_a_clean_answer_of_the_reference_becomes_an_example(build, store, server, way):
    model = build()
    assert text(await ask(model, way, "heat the kitchen")) == "large answers"
    assert server.asked[-1].turns == [("user", "heat the kitchen")]
    assert admitted(model, store) == 1


async def test_every_way_of_calling_decides_alike(build, monkeypatch):
    model = build(task="t", explore=0.5)
    model.add_examples(EXAMPLES)
    seen = {}
    for way in WAYS:
        ids = iter(UUID(int=n) for n in range(12))
        monkeypatch.setattr(routing, "uuid4", lambda ids=ids: next(ids))
        seen[way] = [provenance(await ask(model, way, "heat the kitchen")) for _ in range(12)]
    assert {said["arm"] for said in seen["chat"]} == {"small", "large"}
    for way, said in seen.items():
        assert said == seen["chat"], way


def test_query_fn_condenses_a_conversation_and_its_failure_costs_no_answer(build, store):
    turns = [user("the kitchen"), ChatMessage(role="assistant", content="yes?"), user("heat it")]
    model = build(query_fn=lambda messages: " ".join(m.content for m in messages))
    model.chat(turns)
    assert admitted(model, store) == 1
    broken = build(query_fn=lambda messages: 1 / 0)
    assert text(broken.chat(turns)) == "large answers"
    assert broken.engine.counters["bypass.query_fn_failed"] == 1


def test_a_later_turn_and_a_picture_become_no_example(build, store):
    model = build()
    model.chat([user("the kitchen"), ChatMessage(role="assistant", content="yes?"), user("heat it")])
    picture = ImageBlock(url="http://127.0.0.1/cat.png")
    asked = build(arms={"small": MockLLM(), "large": MockLLM()})
    asked.chat([ChatMessage(role="user", blocks=[TextBlock(text="what is this?"), picture])])
    assert admitted(model, store) == admitted(asked, store) == 0
    assert model.engine.counters.value("refused", reason="history") == 1
    assert asked.engine.counters.value("refused", reason="not_text") == 1


def test_a_call_that_names_its_model_is_not_routed_and_teaches_nothing(helped, store, server):
    answer = helped.chat([user("heat the kitchen now")], model="another")
    assert server.asked[-1].model == "another"
    assert provenance(answer)["reason"] == "the call names its own model"
    assert admitted(helped, store) == len(EXAMPLES)


def test_what_binds_an_answer_is_another_task(build, server):
    model = build()
    model.add_examples(EXAMPLES)
    asked = [user("heat the kitchen")]
    assert provenance(model.chat(asked, temperature=0.5))["arm"] == "small"
    assert provenance(model.chat(asked, stop=["END"]))["arm"] == "large"
    assert server.asked[-1].body["stop"] == ["END"]
    assert "iccache_scope" not in str(server.asked[-1].body)


def test_several_answers_to_one_call_are_no_examples(build, store):
    model = build()
    model.chat([user("heat the kitchen")], n=2)
    assert admitted(model, store) == 0
    assert model.engine.counters.value("refused", reason="unfinished") == 1


def test_a_completion_model_reads_the_conversation_as_text(build, arm, server):
    small = arm("small", is_chat_model=False, is_function_calling_model=False)
    model = build(arms={"small": small, "large": arm("large")}, task="t")
    model.add_examples(EXAMPLES[:1])
    for answer in (model.chat([user("heat the bathroom")]), model.complete("heat the bathroom")):
        assert (text(answer), provenance(answer)["arm"]) == ("small answers", "small")
        assert server.asked[-1].path == "completions"
        assert server.asked[-1].query == (
            "user: heat the kitchen\nassistant: climate kitchen\nuser: heat the bathroom\nassistant: "
        )
    assert not model.metadata.is_function_calling_model


def test_the_papers_prompt_is_a_completion(build, server, store):
    model = build(task="t", styles={"small": "paper"})
    model.add_examples(EXAMPLES)
    answer = model.complete("heat the kitchen now")
    assert len(server.asked[-1].turns) == 1
    assert "<past_answer>\nclimate kitchen" in server.asked[-1].query
    assert provenance(answer)["arm"] == "small"


def test_a_prompt_in_a_models_own_form_gets_no_examples(helped, store, server):
    answer = helped.complete("<|user|>heat the kitchen now", formatted=True)
    assert provenance(answer)["examples"] == []
    assert server.asked[-1].query == "<|user|>heat the kitchen now"
    assert admitted(helped, store) == len(EXAMPLES)


# the question of a query engine -------------------------------------------------------------------------------


def nodes(*texts):
    return [NodeWithScore(node=TextNode(text=text), score=1.0) for text in texts]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("mode", ["compact", "tree_summarize", "simple_summarize"])
async def test_a_query_engines_question_is_the_query_not_its_documents(build, store, mode, streaming):
    model = build()
    synthesizer = get_response_synthesizer(llm=model, response_mode=mode, streaming=streaming)
    str(synthesizer.synthesize("how warm is it?", nodes("the kitchen has 30 degrees")))
    await synthesizer.asynthesize("how cold is it?", nodes("the cellar has 3 degrees")) if not streaming else None
    assert model.flush(10)
    wanted = {"how warm is it?"} if streaming else {"how warm is it?", "how cold is it?"}
    assert queries(store) == wanted


def test_a_question_does_not_outlive_its_query(build, store):
    model = build()
    get_response_synthesizer(llm=model, response_mode="compact").synthesize("warm?", nodes("30 degrees"))
    model.chat([user("is it warm? and other things")])
    assert model.flush(10)
    assert queries(store) == {"warm?", "is it warm? and other things"}


# streaming ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["stream_chat", "stream_complete"])
def test_every_piece_holds_the_answer_so_far_and_says_where_it_comes_from(helped, way):
    given = [user("heat the kitchen")] if "chat" in way else "heat the kitchen"
    pieces = list(getattr(helped, way)(given))
    assert "".join(piece.delta or "" for piece in pieces) == text(pieces[-1]) == "small answers"
    assert [provenance(piece) for piece in pieces] == [provenance(pieces[0])] * len(pieces)


@pytest.mark.parametrize(
    "reply",
    [
        Reply("half an answer", finish_reason="length"),
        Reply("bad words", finish_reason="content_filter"),
        Reply("half an answer", finish_reason=""),
    ],
)
@pytest.mark.parametrize("way", ["stream_chat", "astream_chat", "stream_complete", "astream_complete"])
async def test_a_stream_that_did_not_end_by_itself_becomes_no_example(build, store, server, reply, way):
    server.answer = lambda asked: reply
    model = build()
    await ask(model, way, "heat the kitchen")
    assert admitted(model, store) == 0
    assert model.engine.counters.value("refused", reason="unfinished") == 1


async def test_a_connection_that_breaks_is_no_end_and_no_other_model_goes_on(helped, store, server):
    server.answer = lambda asked: Reply(["half ", "an answer"], cut=True)
    heard = []
    with pytest.raises(Exception, match="(?i)connection|incomplete|peer"):
        for piece in helped.stream_chat([user("heat the kitchen now")]):
            heard.append(piece.delta)
    with pytest.raises(Exception, match="(?i)connection|incomplete|peer"):
        async for piece in await helped.astream_complete("heat the kitchen now"):
            heard.append(piece.delta)
    assert "".join(heard) == "half an answer" * 2
    assert server.count("large") == 0
    assert admitted(helped, store) == len(EXAMPLES)


async def test_a_stream_that_is_left_early_is_broken_off(build, store):
    scored = []
    model = build(reward=lambda request, answer: scored.append(answer))
    stream = model.stream_chat([user("heat the kitchen")])
    first = next(stream)
    stream.close()
    lost = model.stream_complete("heat the bathroom")
    next(lost)
    del lost
    gc.collect()
    later = await model.astream_chat([user("heat the cellar")])
    await anext(later)
    await later.aclose()
    assert admitted(model, store) == 0
    assert model.engine.counters.value("refused", reason="unfinished") == 3
    assert scored == []  # half an answer that nobody waited for says nothing about the model
    assert provenance(first)["decision_id"] in store.decisions([provenance(first)["decision_id"]])


async def test_a_stream_that_is_cancelled_becomes_none(build, store, server):
    release, heard = threading.Event(), asyncio.Event()

    def pieces():
        yield "half "
        release.wait(20)
        yield "an answer"

    server.answer = lambda asked: Reply(pieces())
    model = build()

    async def listen():
        async for piece in await model.astream_chat([user("heat the kitchen")]):
            if piece.delta:
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


@pytest.mark.parametrize("way", WAYS)
async def test_the_reference_answers_for_an_arm_that_fails_before_its_first_word(helped, server, way):
    server.answer = failing("small")
    answer = await ask(helped, way, "heat the kitchen now")
    said = provenance(answer)
    assert (text(answer), said["arm"], said["tier"], said["examples"]) == ("large answers", "large", "fallback", [])
    assert "small failed" in said["reason"]
    assert server.asked[-1].turns == [("user", "heat the kitchen now")]
    assert helped.engine.counters["fallback.arm_failed"] == 1


@pytest.mark.parametrize("way", WAYS)
async def test_a_failing_reference_is_the_callers_to_know_and_asked_once(helped, server, way):
    server.answer = failing("small", "large")
    with pytest.raises(Exception, match="scripted refusal"):
        await ask(helped, way, "heat the kitchen now")
    assert (server.count("small"), server.count("large")) == (1, 1)


@pytest.mark.parametrize("way", ["chat", "achat", "stream_chat", "astream_chat"])
async def test_a_blocked_embedder_holds_a_call_no_longer_than_the_deadline(build, way):
    release = threading.Event()
    release.set()

    class Stuck(Words):
        def embed(self, texts):
            release.wait(10)
            return super().embed(texts)

    model = build(embedder=Stuck(), deadline=0.25)
    bare = model.arms["large"]
    await ask(bare, way, "warm up")
    await ask(model, way, "warm up")
    release.clear()
    try:
        held = []
        for _ in range(3):  # the best of three: another process may have the processor
            began = time.monotonic()
            await ask(bare, way, "heat the kitchen")
            alone = time.monotonic() - began
            answer = await ask(model, way, "heat the kitchen")
            held.append(time.monotonic() - began - 2 * alone)
            assert (provenance(answer)["tier"], text(answer)) == ("fallback", "large answers")
        assert min(held) <= 0.25 + 0.1
    finally:
        release.set()


async def test_a_dead_store_fails_no_call(build, server):
    from tests.servers import RedisServer

    with RedisServer() as redis:
        model = build(store=redis.url(), task="t", deadline=0.25)
        model.add_examples(EXAMPLES)
        redis.kill()
        for way in WAYS:
            answer = await ask(model, way, "heat the kitchen now")
            assert text(answer) in {"small answers", "large answers"}
            assert provenance(answer)["examples"] == []  # their texts stand in the store
        assert model.engine.counters["fallback"] > 0


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
    for one in model.arms.values():
        await one.achat([user("warm")])  # the client itself loads certificates at its first call
    with blockbuster_ctx(["iccache_llamaindex", "shared_core"]):
        answers = [await ask(model, way, "heat the kitchen now") for way in WAYS if way.startswith("a")]
        model.record_feedback(answers[0], 1.0)
    assert slow.is_set()
    assert {provenance(a)["arm"] for a in answers} == {"small"}
    assert model.engine.counters["bypass.query_fn_failed"] == 0


# events and tokens --------------------------------------------------------------------------------------------


async def test_one_pair_of_events_and_one_count_of_tokens_a_call(helped, heard, server):
    counter = TokenCountingHandler()
    helped.callback_manager = CallbackManager([counter])
    for way in WAYS:
        heard.clear()
        await ask(helped, way, "heat the kitchen now")
        starts = [e for e in heard if isinstance(e, LLMChatStartEvent | LLMCompletionStartEvent)]
        ends = [e for e in heard if isinstance(e, LLMChatEndEvent | LLMCompletionEndEvent)]
        assert (len(starts), len(ends)) == (1, 1), way
        assert starts[0].model_dict["model_name" if "model_name" in starts[0].model_dict else "model"] == "small"
        assert "climate" in str(starts[0].messages)  # what was sent, examples and all
    assert len(counter.llm_token_counts) == len(WAYS)
    read = sum(len(t.split()) for _, t in server.asked[0].turns)
    assert counter.llm_token_counts[0].prompt_token_count == read  # as the server counted them
    assert counter.llm_token_counts[0].completion_token_count == 2


def test_the_users_arms_are_left_as_they_are(build, arm):
    given = {name: arm(name) for name in ("small", "large")}
    managers = {name: one.callback_manager for name, one in given.items()}
    model = build(arms=given)
    model.callback_manager = CallbackManager([TokenCountingHandler()])
    model.chat([user("x")])
    assert {name: one.callback_manager for name, one in given.items()} == managers


def test_an_arm_with_callbacks_of_its_own_is_refused_by_name(build, arm):
    manager = CallbackManager([TokenCountingHandler()])
    arms = {"small": arm("small", callback_manager=manager), "large": arm("large")}
    with pytest.raises(ConfigurationError, match="'small' has its own"):
        build(arms=arms)
    assert build(arms=arms, callback_manager=manager)


async def test_settings_llm_and_its_callback_manager(build, server, no_global_settings):
    counter = TokenCountingHandler()
    model = build(task="t")
    model.add_examples(EXAMPLES)
    LlamaSettings.llm = model
    LlamaSettings.callback_manager = CallbackManager([counter])
    engine = SummaryIndex.from_documents([Document(text="the kitchen has 30 degrees")]).as_query_engine()
    assert str(engine.query("heat the kitchen now")) == "small answers"
    assert str(await engine.aquery("heat the kitchen now")) == "small answers"
    assert str(SimpleChatEngine.from_defaults().chat("heat the kitchen")) == "small answers"
    assert len(counter.llm_token_counts) == server.count() == 3
    assert ("assistant", "climate kitchen") in server.asked[0].turns


# tools and structured output ----------------------------------------------------------------------------------


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


# scope --------------------------------------------------------------------------------------------------------


async def test_the_scope_of_a_call_in_every_form(build, store):
    model = build(scope="own")

    async def each(way, llm=model, **kwargs):
        store.clear()
        await ask(llm, way, "x", **kwargs)
        assert model.flush(10)
        return set(store.scopes())

    for way in WAYS:
        assert await each(way, iccache_scope="a") == {"a"}, way
        assert await each(way, model.bind(iccache_scope="a")) == {"a"}, way
        assert await each(way, model.bind(iccache_scope="b"), iccache_scope="a") == {"a"}, way
        with iccache_context(scope="a"):
            assert await each(way) == {"a"}, way
            assert await each(way, model.bind(iccache_scope="b")) == {"b"}, way
        assert await each(way) == {"own"}, way
    with iccache_context(scope="a"):
        lazily = model.stream_chat([user("x")]), await model.astream_complete("x")
    store.clear()
    with iccache_context(scope="b"):
        list(lazily[0])
        [piece async for piece in lazily[1]]
    assert model.flush(10)
    assert set(store.scopes()) == {"a"}


async def test_a_bound_llm_in_engines_and_agents(build, store, server):
    model = build(strict_scope=True).bind(iccache_scope="acme")
    engine = SummaryIndex.from_documents([Document(text="30 degrees")]).as_query_engine(llm=model, streaming=True)
    assert str(engine.query("how warm?")) == "large answers"
    server.answer = obliging
    assert model.as_structured_llm(City).chat([user("in 'Rome'")]).raw.name == "Rome"
    assert model.flush(10)
    assert (set(store.scopes()), queries(store, "acme")) == ({"acme"}, {"how warm?"})
    with pytest.raises(ConfigurationError, match="got scope"):
        model.bind(scope="acme")


async def test_two_tenants_never_see_each_others_examples(build, server):
    model = build(task="t")
    for tenant in ("acme", "globex"):
        model.add_examples([("heat the kitchen", f"secret of {tenant}")], scope=tenant)
        model.engine.warm(tenant)
    for tenant, other in (("acme", "globex"), ("globex", "acme")):
        for way in WAYS:
            answer = await ask(model, way, "heat the kitchen now", iccache_scope=tenant)
            assert len(provenance(answer)["examples"]) == 1
            assert f"secret of {tenant}" in str(server.asked[-1].turns)
            assert f"secret of {other}" not in str(server.asked[-1].turns)
    assert provenance(model.chat([user("heat the kitchen")]))["examples"] == []


async def test_strict_wants_every_call_to_name_its_scope(build):
    model = build(strict_scope=True)
    with pytest.raises(ConfigurationError, match="iccache_scope"):
        model.chat([user("x")])
    with iccache_context(scope="a"):
        assert text(model.chat([user("x")])) == "large answers"
        for way in ("stream_chat", "astream_chat", "stream_complete", "astream_complete"):
            with pytest.raises(ConfigurationError, match="iccache_scope"):
                await ask(model, way, "x")
    assert text(await ask(model, "stream_chat", "x", iccache_scope="a")) == "large answers"
    with pytest.raises(ConfigurationError, match="None"):
        model.chat([user("x")], iccache_scope=None)


def test_what_must_not_be_stored_is_not(build, store):
    model = build()
    model.chat([user("x")], iccache_no_store=True)
    model.bind(iccache_no_store=True).complete("x")
    with iccache_context(no_store=True):
        model.chat([user("x")])
    assert admitted(model, store) == 0
    assert model.engine.counters.value("refused", reason="no_store") == 3


# feedback, copies, serialised forms ---------------------------------------------------------------------------


async def test_an_answer_is_rated_by_response_or_decision(helped, store):
    answers = [await ask(helped, way, "heat the kitchen now") for way in ("chat", "acomplete", "stream_chat")]
    for answer, score in zip(answers[:2], (0.1, 0.2)):
        helped.record_feedback(answer, score)
    helped.record_feedback(provenance(answers[2])["decision_id"], 0.3)
    assert helped.flush(10)
    given = {f.decision_id: f.score for _, f in store.feedback(0) if f.rater == "user"}
    assert given == {provenance(a)["decision_id"]: score for a, score in zip(answers, (0.1, 0.2, 0.3))}
    with pytest.raises(ConfigurationError):
        helped.record_feedback(answers[0], 7)
    with pytest.raises(NotFromICCache, match="ICCacheRouteEvent"):
        helped.record_feedback(MockLLM().chat([user("x")]), 1.0)


async def test_no_key_leaves_in_any_form(helped, heard, caplog):
    for way in WAYS:
        await ask(helped, way, "heat the kitchen now")
    structured = helped.as_structured_llm(City)
    forms = [
        helped.to_dict(),
        helped.to_json(),
        helped.model_dump(),
        helped.model_dump_json(),
        helped.dict(),
        repr(helped),
        str(helped),
        structured.to_dict(),
        repr(structured),
        helped.metadata.model_dump(),
        helped.bind(iccache_scope="a").to_dict(),
        [event.model_dict for event in heard if hasattr(event, "model_dict")],
        [event.model_dump() for event in heard if isinstance(event, ICCacheRouteEvent)],
        caplog.text,
    ]
    assert helped.arms["small"].to_dict()["api_key"] == KEY  # there is something to leak
    assert KEY not in str(forms)
    assert helped.to_dict()["class_name"] == ICCacheLLM.class_name() == "ICCacheLLM"


def test_from_dict_takes_the_arms_again(build, arm, store):
    data = json.loads(build(scope="a", task="t", system_prompt="be brief").to_json())
    with pytest.raises(ConfigurationError, match="arms are not serialised"):
        ICCacheLLM.from_dict(data)
    arms = {name: arm(name) for name in ("small", "large")}
    again = ICCacheLLM.from_dict(data, arms=arms, costs={"small": 0.1}, store=store, embedder=Words())
    assert (again.scope, again.task, again.system_prompt, again.reference) == ("a", "t", "be brief", "large")
    again.close()


def test_copies_share_the_pool_and_do_not_close_it(helped, store):
    for one in (copy.copy(helped), copy.deepcopy(helped), helped.model_copy(deep=True), helped.bind()):
        one.close()
        assert provenance(one.chat([user("heat the kitchen now")]))["arm"] == "small"
        assert one.engine is helped.engine
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(helped)


# construction -------------------------------------------------------------------------------------------------


def test_metadata_is_what_holds_for_every_arm(build, arm):
    arms = {"small": arm("small", context_window=4000, max_tokens=256), "large": arm("large", max_tokens=1024)}
    metadata = build(arms=arms).metadata
    assert (metadata.context_window, metadata.num_output, metadata.model_name) == (4000, 1024, "iccache")
    assert metadata.is_chat_model and metadata.is_function_calling_model
    assert not build(
        arms=arms | {"third": MockLLM()}, costs={"small": 0.1, "third": 0.1}
    ).metadata.is_function_calling_model


@pytest.mark.parametrize(
    ("wanted", "match"),
    [
        ({"arms": {"large": MockLLM()}}, "at least two arms"),
        ({"arms": {"small": "gpt", "large": MockLLM()}}, "'small' is a str"),
        ({"reference": "big"}, "'big' is not one of the arms"),
        ({"costs": {}}, "costs is missing 'small'"),
        ({"max_example": 3}, "did you mean max_examples"),
        ({"max_examples": -1}, "max_examples"),
        ({"scope": "a", "strict_scope": True}, "no effect with strict_scope"),
        ({"rate_limiter": object()}, "each arm limits its own rate"),
        ({"completion_to_prompt": str}, "each arm formats prompts"),
        ({"arms": {"small": MockLLM(system_prompt="x"), "large": MockLLM()}}, "differ in system_prompt"),
    ],
)
def test_what_contradicts_itself_is_refused(build, wanted, match):
    with pytest.raises(ConfigurationError, match=match):
        build(**wanted)


def test_a_system_prompt_of_all_arms_is_the_routers(build, arm, server):
    arms = {name: arm(name, system_prompt="be brief") for name in ("small", "large")}
    build(arms=arms).predict(PromptTemplate("heat the kitchen"))
    assert server.asked[-1].turns == [("system", "be brief"), ("user", "heat the kitchen")]
