"""Near answers: the small model answers with examples what is near to what the large one answered."""

from __future__ import annotations

import pytest
from langchain_core.callbacks import get_usage_metadata_callback
from langchain_core.globals import get_llm_cache, set_llm_cache
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import RunnableLambda

from shared_core.adapters.context import iccache_context
from tests.integration.langchain_cache.calls import model, provenance
from tests.integration.langchain_cache.filled import NEAR, Pool
from tests.openai_server import Refused, Reply


@pytest.fixture
def pool(server, url):
    pool = Pool(server, url)
    yield pool
    pool.cache.close()


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
