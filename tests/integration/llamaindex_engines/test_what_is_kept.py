"""Which answers of the engines become examples."""

from __future__ import annotations

import threading

import pytest
from llama_index.core.chat_engine import CondensePlusContextChatEngine, ContextChatEngine
from llama_index.core.instrumentation import get_dispatcher

from iccache_llamaindex.events import ICCacheFeedbackEvent
from iccache_llamaindex.llm import ICCacheLLM
from iccache_llamaindex.prompts import few_shot_prompt
from shared_core.adapters.context import iccache_context
from shared_core.errors import ConfigurationError
from tests.embedding import Words
from tests.integration.llamaindex_engines.engines import (
    PATIENT,
    QUESTION,
    SHOWN,
    WAYS,
    ask,
    chat_engine,
    held,
    query_engine,
    statistics,
)
from tests.openai_server import Refused, Reply


class TestWhatIsKept:
    @pytest.mark.parametrize("how", WAYS)
    def test_a_clean_answer_becomes_an_example_of_its_question(self, llm, server, handler, how):
        response = ask(query_engine(llm, None, streaming="stream" in how), QUESTION, how)
        assert handler.flush(20)
        assert held(handler) == {QUESTION: "Press the red button."}
        told = response.metadata["iccache"]
        assert told["decision_id"]
        assert handler.counters["observe.failed"] == 0

    @pytest.mark.parametrize("how", WAYS)
    @pytest.mark.parametrize("show", ["nodes", "turns"])
    def test_feedback_reaches_the_examples_that_were_shown(self, llm, server, make, handler, how, show):
        examples = make(engine=handler.engine, show=show)
        template = few_shot_prompt() if show == "turns" else None
        response = ask(query_engine(llm, examples, streaming="stream" in how, text_qa_template=template), QUESTION, how)
        (given,) = response.metadata["iccache"]["examples"]
        handler.record_feedback(response, 1.0)
        assert handler.flush(20)
        handler.engine.maintain()
        assert statistics(handler, SHOWN[0]).helpfulness.count == 1
        assert statistics(handler, QUESTION).quality.count == 1
        assert given["similarity"] > 0

    def test_feedback_by_event(self, llm, handler):
        response = query_engine(llm, None).query(QUESTION)
        get_dispatcher().event(ICCacheFeedbackEvent(decision_id=response.metadata["iccache"]["decision_id"], score=1.0))
        get_dispatcher().event(ICCacheFeedbackEvent(decision_id="the answer's text", score=1.0))
        with pytest.raises(ConfigurationError, match="32 hex digits"):
            handler.record_feedback("the answer's text", 1.0)
        assert handler.flush(20)
        handler.engine.maintain()
        assert statistics(handler, QUESTION).quality.count == 1
        assert handler.counters.value("observe.failed", error="ConfigurationError") == 1

    @pytest.mark.parametrize(
        "reply", [Reply("half", finish_reason="length"), Reply(""), Reply("x", finish_reason="content_filter")]
    )
    @pytest.mark.parametrize("how", ["sync", "async"])
    def test_an_incomplete_answer_does_not_become_an_example(self, llm, server, handler, reply, how):
        server.answer = lambda asked: reply
        ask(query_engine(llm, None), QUESTION, how)
        assert handler.flush(20)
        assert held(handler) == {}

    def test_an_empty_response_is_not_an_answer(self, llm, handler):
        for streaming in (False, True):
            response = query_engine(llm, None, [], streaming=streaming).query(QUESTION)
            assert "Empty Response" in (str(response) if not streaming else "".join(response.response_gen))
            assert "iccache" not in (response.metadata or {})
        assert handler.flush(20)
        assert held(handler) == {}

    def test_an_incomplete_stream_does_not_become_an_example(self, llm, server, handler):
        response = query_engine(llm, None, streaming=True).query(QUESTION)
        next(response.response_gen)
        response.response_gen.close()
        server.answer = lambda asked: Reply("Press the", cut=True)
        with pytest.raises(Exception, match=r"(?i)incomplete|peer|closed|connection"):
            "".join(query_engine(llm, None, streaming=True).query(QUESTION).response_gen)
        server.answer = lambda asked: Reply("Press the", finish_reason="")  # ended, and did not say why
        assert "".join(query_engine(llm, None, streaming=True).query(QUESTION).response_gen)
        assert handler.flush(20)
        assert held(handler) == {}

    def test_a_failed_model_is_the_users_to_see(self, llm, server, make, handler):
        def refuse(asked):
            raise Refused(500)

        server.answer = refuse
        examples = make(engine=handler.engine)
        with pytest.raises(Exception, match="scripted refusal"):
            query_engine(llm, examples).query(QUESTION)
        assert handler.flush(20)
        assert held(handler) == dict([SHOWN])

    def test_only_the_references_answers_become_examples_by_themselves(self, llm, handler):
        handler.reference = "huge"
        response = query_engine(llm, None).query(QUESTION)
        assert handler.flush(20)
        assert held(handler) == {}
        handler.record_feedback(response, 0.9)
        assert handler.flush(20)
        assert held(handler) == {QUESTION: "Press the red button."}

    def test_scope_and_no_store(self, llm, handler):
        engine = query_engine(llm, None)
        with iccache_context(scope="acme"):
            engine.query(QUESTION)
        with iccache_context(no_store=True):
            engine.query(QUESTION)
        assert handler.flush(20)
        assert held(handler, "acme") == {QUESTION: "Press the red button."}
        assert held(handler) == {}

    def test_what_was_chosen_for_one_tenant_is_not_kept_with_the_answer_to_another(self, llm, make, handler):
        examples = make(engine=handler.engine, scope="acme")
        with iccache_context(scope="acme"):
            examples.postprocess_nodes([], query_str=QUESTION)
        with iccache_context(scope="other"):
            response = query_engine(llm, None).query(QUESTION)
        assert handler.flush(20)
        assert held(handler, "other") == {QUESTION: "Press the red button."}
        assert held(handler, "acme") == dict([SHOWN])
        assert response.metadata["iccache"]["examples"] == []

    def test_what_was_chosen_for_one_query_is_not_kept_with_the_next(self, llm, make, handler):
        examples = make(engine=handler.engine, pairs=())
        query_engine(llm, examples).query(QUESTION)
        query_engine(llm, None).query("what colour is the fan")
        assert handler.flush(20)
        assert set(held(handler)) == {QUESTION, "what colour is the fan"}

    def test_a_stream_belongs_to_its_callers_scope(self, llm, handler):
        with iccache_context(scope="acme"):
            response = query_engine(llm, None, streaming=True).query(QUESTION)
        with iccache_context(scope="other"):
            threading.Thread(target=lambda: "".join(response.response_gen)).run()
        assert handler.flush(20)
        assert held(handler, "acme") == {QUESTION: "Press the red button."}

    async def test_a_later_turn_is_kept_only_as_the_engine_condensed_it(self, llm, server, make, handler):
        examples = make(engine=handler.engine, pairs=())
        server.answer = lambda asked: Reply("how do I oil the fan" if "Standalone" in asked.query else "Press it.")
        for kind in (ContextChatEngine, CondensePlusContextChatEngine):
            engine = chat_engine(kind, llm, examples)
            for message in (f"{kind.__name__} first", "and how do I oil it"):
                await engine.achat(message)
                assert handler.last_decision_id()
        assert handler.flush(20)
        assert set(held(handler)) == {
            "ContextChatEngine first",
            "CondensePlusContextChatEngine first",
            "how do I oil the fan",
        }

    def test_an_answer_of_iccache_llm_is_kept_once_and_under_the_question(self, llm, server, make, handler):
        small = llm.model_copy(update={"model": "small"})
        routing = ICCacheLLM(
            arms={"small": small, "big": llm}, reference="big", costs={"small": 0.1}, store="memory://",
            embedder=Words(), settings=PATIENT, background=False,
        )  # fmt: skip
        for streaming in (False, True):
            response = query_engine(routing, None, streaming=streaming).query(QUESTION)
            assert str(response) == "Press the red button."
            assert routing.flush(20)
            assert handler.flush(20)
            assert response.metadata["iccache"]["arm"] == "big"
        assert held(handler) == {}
        assert held(routing) == {QUESTION: "Press the red button."}
        routing.close()
