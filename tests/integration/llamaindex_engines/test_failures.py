"""What fails or hangs beneath the postprocessor costs no answer."""

from __future__ import annotations

import asyncio
import threading

import pytest
from blockbuster import blockbuster_ctx

from iccache_llamaindex.postprocessor import ICCachePostprocessor
from iccache_llamaindex.prompts import few_shot_prompt
from shared_core.settings import Settings
from tests.embedding import Words
from tests.integration.llamaindex_engines.engines import (
    DOCUMENTS,
    PATIENT,
    QUESTION,
    SHOWN,
    _aask,
    ask,
    prompt,
    query_engine,
    sources,
)
from tests.servers import RedisServer


class Hanging(Words):
    def __init__(self) -> None:
        self.free = threading.Event()

    def embed(self, texts):
        self.free.wait(30)
        return super().embed(texts)


class TestTrouble:
    @pytest.mark.parametrize("how", ["sync", "async"])
    def test_a_hanging_embedder_costs_one_deadline(self, llm, server, how):
        embedder = Hanging()
        examples = ICCachePostprocessor("memory://", embedder=embedder, settings=Settings(deadline=0.05))
        response = ask(query_engine(llm, examples), QUESTION, how)
        assert str(response) == "Press the red button."
        assert sources(response) == sorted(DOCUMENTS)
        assert examples.counters.value("fallback", error="DependencyIsSlow") == 1
        embedder.free.set()
        examples.close()

    @pytest.mark.parametrize("how", ["sync", "async"])
    def test_a_redis_that_dies_costs_the_examples_and_not_the_answer(self, llm, make, how):
        with RedisServer() as redis:
            examples = make(redis.url(socket_timeout="0.2"), settings=PATIENT.model_copy(update={"deadline": 0.5}))
            engine = query_engine(llm, examples)
            redis.kill()
            for _ in range(6):
                assert str(ask(engine, QUESTION, how)) == "Press the red button."
            assert examples.counters["fallback"] > 0

    def test_what_is_broken_in_our_own_code_reaches_nobody(self, llm, make, monkeypatch):
        examples = make()
        monkeypatch.setattr("iccache_llamaindex.postprocessor.as_text", lambda examples: 1 / 0)
        response = query_engine(llm, examples).query(QUESTION)
        assert sources(response) == sorted(DOCUMENTS)
        assert examples.counters.value("postprocess.failed", error="ZeroDivisionError") == 1

    async def test_nothing_blocks_the_event_loop(self, llm, server, make, handler):
        examples = make(engine=handler.engine, show="turns")
        engine = query_engine(llm, examples, text_qa_template=few_shot_prompt(examples=examples))
        streaming = query_engine(llm, examples, text_qa_template=few_shot_prompt(examples=examples), streaming=True)
        await engine.aquery(QUESTION)  # LlamaIndex and openai read files when they are first used
        await _aask(streaming, QUESTION, "astream")
        with blockbuster_ctx(scanned_modules=["iccache_llamaindex", "shared_core"]):
            await engine.aquery(QUESTION)
            await _aask(streaming, QUESTION, "astream")
        assert "press STOP twice" in prompt(server)

    async def test_a_prompt_alone_does_not_choose_on_the_loop(self, llm, server, make):
        examples = make(show="turns")
        template = few_shot_prompt("Q: {query_str}", examples=examples)
        await llm.apredict(template, query_str=QUESTION)
        assert server.asked[-1].turns == [("user", f"Q: {QUESTION}")]
        assert examples.counters["bypass.event_loop"] >= 1
        await asyncio.to_thread(llm.predict, template, query_str=QUESTION)
        assert server.asked[-1].turns == [("user", SHOWN[0]), ("assistant", SHOWN[1]), ("user", f"Q: {QUESTION}")]
