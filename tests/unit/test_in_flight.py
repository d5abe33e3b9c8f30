"""No surface leaks a call in flight: whole, streamed, left in the middle, failed, cancelled, or unreadable for us."""

import asyncio

import pytest
from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from llama_index.core.llms import ChatMessage, ChatResponse, MockLLM

from iccache_langchain import ICCacheChatModel, ICCacheMiddleware
from iccache_llamaindex import ICCacheLLM
from tests.embedding import Words

PIECES = ("an", " answer", " in", " pieces")


class Arm(BaseChatModel):
    """Answers, fails, or never ends; remembers how many calls of its engine were in flight meanwhile."""

    how: str = "answers"
    seen: list = []
    look: object = None

    @property
    def _llm_type(self):
        return "arm"

    def _note(self):
        self.seen.append(sum(self.look().values()))
        if self.how == "fails":
            raise ConnectionError("refused")

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        self._note()
        return ChatResult(generations=[ChatGeneration(message=AIMessage("an answer"))])

    async def _agenerate(self, messages, stop=None, run_manager=None, **kwargs):
        if self.how == "never ends":
            self._note()
            await asyncio.Event().wait()
        return self._generate(messages)

    def _stream(self, messages, stop=None, run_manager=None, **kwargs):
        self._note()
        for number, piece in enumerate(PIECES):
            # what LangChain refuses to add up: the same key with values of different kinds
            mixed = {"score": number or "none"} if self.how == "cannot be merged" else {}
            yield ChatGenerationChunk(message=AIMessageChunk(piece, additional_kwargs=mixed))

    async def _astream(self, messages, stop=None, run_manager=None, **kwargs):
        for chunk in self._stream(messages):
            await asyncio.sleep(0)
            yield chunk
            if self.how == "never ends":
                await asyncio.Event().wait()


COMMON = {"reference": "large", "costs": {"small": 0.1}, "store": "memory://", "background": False}


@pytest.fixture
def build():
    made = []

    def make(small="answers", large="answers", surface=ICCacheChatModel):
        engine = lambda: made[-1].engine.in_flight.snapshot()
        arms = {name: Arm(how=how, seen=[], look=engine) for name, how in (("small", small), ("large", large))}
        made.append(surface(arms=arms, embedder=Words(), explore=1.0, relevance_quantile=0.0, reward=None, **COMMON))
        made[-1].add_examples([("heat the kitchen", "yes")])
        return made[-1], arms

    yield make
    for surface in made:
        surface.close()


def nothing_is_in_flight(surface):
    return surface.engine.in_flight.snapshot() == {}


async def test_langchain_whole_streamed_and_left(build):
    model, arms = build()
    model.invoke("heat the kitchen")
    await model.ainvoke("heat the kitchen")
    list(model.stream("heat the kitchen"))
    left = model.stream("heat the kitchen")
    next(left)
    assert sum(model.engine.in_flight.snapshot().values()) == 1
    left.close()
    aleft = model.astream("heat the kitchen")
    await anext(aleft)
    await aleft.aclose()
    assert nothing_is_in_flight(model)
    assert set(arms["small"].seen + arms["large"].seen) == {1}


async def test_langchain_failed_and_cancelled(build):
    for small, large in (("fails", "answers"), ("fails", "fails"), ("answers", "fails")):
        model, _ = build(small, large)
        for _ in range(3):
            await asyncio.gather(model.ainvoke("heat the kitchen"), return_exceptions=True)
            try:
                list(model.stream("heat the kitchen"))
            except ConnectionError:
                pass
        assert nothing_is_in_flight(model)
    model, _ = build("never ends", "never ends")

    async def read():
        return [chunk async for chunk in model.astream("heat the kitchen")]

    for call in (model.ainvoke("heat the kitchen"), read()):
        task = asyncio.ensure_future(call)
        while nothing_is_in_flight(model):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert nothing_is_in_flight(model)


async def test_an_agents_calls(build):
    middleware, arms = build("fails", "answers", ICCacheMiddleware)
    agent = create_agent(arms["large"], [], middleware=[middleware])
    asked = {"messages": [("user", "heat the kitchen")]}
    agent.invoke(asked)
    await agent.ainvoke(asked)
    assert nothing_is_in_flight(middleware)
    assert arms["large"].seen and set(arms["large"].seen) == {1}


async def test_llamaindex_whole_streamed_and_left():
    llm = ICCacheLLM(arms={"small": MockLLM(), "large": MockLLM()}, embedder=Words(), **COMMON)
    llm.complete("heat the kitchen")
    await llm.acomplete("heat the kitchen")
    list(llm.stream_complete("heat the kitchen"))
    left = llm.stream_complete("heat the kitchen please")
    next(left)
    assert sum(llm.engine.in_flight.snapshot().values()) == 1
    left.close()
    aleft = await llm.astream_complete("heat the kitchen please")
    await anext(aleft)
    await aleft.aclose()
    unread = llm.stream_complete("heat the kitchen")
    del unread
    assert nothing_is_in_flight(llm)
    assert llm.counters.timings()["arm.seconds{arm=large}"].count >= 5
    llm.close()


async def test_langchain_chunks_that_cannot_be_merged(build):
    model, arms = build("cannot be merged", "cannot be merged")
    for stream in (arms["large"].stream, model.stream):
        pieces = []
        with pytest.raises(TypeError, match="different type"):  # LangChain's own, once all pieces are out
            for chunk in stream("heat the kitchen"):
                pieces.append(chunk.text)
        assert "".join(pieces) == "".join(PIECES)
    assert [chunk.text for chunk in model._stream([])] == list(PIECES)
    assert [chunk.text async for chunk in model._astream([])] == list(PIECES)
    assert nothing_is_in_flight(model)
    assert model.counters.value("answer.failed", error="TypeError") == 3
    assert model.counters["arm.failed"] == 0
    assert arm_calls(model) == 3


def arm_calls(surface):
    """How many calls of arms have ended."""
    timings = surface.counters.timings()
    return sum(timing.count for name, timing in timings.items() if name.startswith("arm.seconds"))


class Raw:
    """A provider's answer that cannot be read."""

    @property
    def choices(self):
        raise RuntimeError("the response has been closed")


class UnreadableLLM(MockLLM):
    def chat(self, messages, **kwargs):
        return ChatResponse(message=ChatMessage(role="assistant", content="an answer"), raw=Raw())

    async def achat(self, messages, **kwargs):
        return self.chat(messages)

    def stream_chat(self, messages, **kwargs):
        text = ""
        for piece in PIECES:
            text += piece
            yield ChatResponse(message=ChatMessage(role="assistant", content=text), delta=piece, raw=Raw())

    async def astream_chat(self, messages, **kwargs):
        async def pieces():
            for piece in self.stream_chat(messages):
                yield piece

        return pieces()


async def test_llamaindex_responses_that_cannot_be_read():
    llm = ICCacheLLM(arms={"small": UnreadableLLM(), "large": UnreadableLLM()}, embedder=Words(), **COMMON)
    asked = [ChatMessage(role="user", content="heat the kitchen")]
    assert [piece.delta for piece in llm.stream_chat(asked)] == list(PIECES)
    assert [piece.delta async for piece in await llm.astream_chat(asked)] == list(PIECES)
    assert llm.chat(asked).message.content == "an answer"
    assert (await llm.achat(asked)).message.content == "an answer"
    assert nothing_is_in_flight(llm)
    assert llm.counters.value("answer.failed", error="RuntimeError") == 4
    assert llm.counters["arm.failed"] == 0
    assert arm_calls(llm) == 4
    llm.close()


async def test_an_agents_answers_that_cannot_be_read(build, monkeypatch):
    def unreadable(*args, **kwargs):
        raise RuntimeError("no reason for stopping")

    monkeypatch.setattr("iccache_langchain.middleware.outcome_of", unreadable)
    middleware, arms = build(surface=ICCacheMiddleware)
    agent = create_agent(arms["large"], [], middleware=[middleware])
    asked = {"messages": [("user", "heat the kitchen")]}
    for answered in (agent.invoke(asked), await agent.ainvoke(asked)):
        assert answered["messages"][-1].text == "an answer"
    assert nothing_is_in_flight(middleware)
    assert middleware.counters.value("answer.failed", error="RuntimeError") == 2
    assert middleware.counters["arm.failed"] == 0
    assert arm_calls(middleware) == 2
