"""Examples in chat engines, agents and workflows."""

from __future__ import annotations

import asyncio

import pytest
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.chat_engine import CondensePlusContextChatEngine, ContextChatEngine
from llama_index.core.chat_engine.context import DEFAULT_CONTEXT_TEMPLATE
from llama_index.core.tools import RetrieverTool
from llama_index.core.workflow import Event, StartEvent, StopEvent, Workflow, step

from iccache_llamaindex.prompts import few_shot_prompt
from iccache_llamaindex.workflow import Prepared, with_examples
from shared_core.errors import ConfigurationError
from tests.integration.llamaindex_engines.engines import (
    DOCUMENTS,
    QUESTION,
    SHOWN,
    WAYS,
    chat_engine,
    held,
    retriever,
    sources,
    statistics,
)
from tests.openai_server import Reply


async def chat(engine, message, how):
    match how:
        case "sync":
            return await asyncio.to_thread(engine.chat, message)
        case "async":
            return await engine.achat(message)
        case "stream":
            response = await asyncio.to_thread(engine.stream_chat, message)
            await asyncio.to_thread(lambda: "".join(response.response_gen))
            return response
        case _:
            response = await engine.astream_chat(message)
            assert "".join([piece async for piece in response.async_response_gen()])
            return response


PLACED = "Context:\n{context_str}\nBefore:\n{few_shot_examples}\n"


class TestChatEngines:
    @pytest.mark.parametrize("how", WAYS)
    @pytest.mark.parametrize("show", ["nodes", "turns"])
    @pytest.mark.parametrize("kind", [ContextChatEngine, CondensePlusContextChatEngine])
    async def test_every_turn_shows_examples_and_names_documents_only(self, llm, server, make, how, show, kind):
        server.answer = lambda asked: Reply(QUESTION if "Standalone question" in asked.query else "Press it.")
        name = "context_template" if kind is ContextChatEngine else "context_prompt"
        arguments = {name: few_shot_prompt(PLACED)} if show == "turns" else {}
        engine = chat_engine(kind, llm, make(show=show), **arguments)
        for message in (QUESTION, "and how do I start it again, the pump"):
            response = await chat(engine, message, how)
            assert server.asked[-1].query == message
            system = server.asked[-1].turns[0]
            assert system[0] == "system"
            assert system[1].count("<past_answer>\npress STOP twice\n</past_answer>") == 1
            assert sources(response) == sorted(DOCUMENTS)

    def test_an_untouched_template_has_no_place(self, make):
        with pytest.raises(ConfigurationError, match="query_str"):
            few_shot_prompt(DEFAULT_CONTEXT_TEMPLATE)


class TestAgent:
    async def test_a_retriever_tool_brings_examples_to_an_agent(self, llm, server, make):
        def answer(asked):
            if asked.messages[-1]["role"] == "tool":
                return Reply("Done.")
            return Reply("", [("manual", {"input": QUESTION})])

        server.answer = answer
        examples = make()
        tool = RetrieverTool.from_defaults(retriever(), [examples], name="manual", description="The manual.")
        agent = FunctionAgent(tools=[tool], llm=llm, streaming=False)
        assert str(await agent.run("start the pump")) == "Done."
        (result,) = [m["content"] for m in server.asked[-1].messages if m["role"] == "tool"]
        assert "press STOP twice" in result
        assert all(text in result for text in DOCUMENTS)


class AskEvent(Event):
    prepared: Prepared


class Answering(Workflow):
    def __init__(self, llm, examples, **arguments):
        super().__init__(**arguments)
        self.llm, self.examples = llm, examples

    @step
    async def prepare(self, event: StartEvent) -> AskEvent:
        return AskEvent(prepared=await with_examples(self.examples.engine, event.question, scope=event.scope))

    @step
    async def ask(self, event: AskEvent) -> StopEvent:
        response = await self.llm.achat(event.prepared.messages)
        event.prepared.answered(response, reference="big")
        return StopEvent(result=event.prepared.decision_id)


class TestWorkflow:
    async def test_examples_travel_from_step_to_step_and_the_answer_is_kept(self, llm, server, make):
        examples = make(scope="acme")
        decision_id = await Answering(llm, examples).run(question=QUESTION, scope="acme")
        assert server.asked[-1].turns == [("user", SHOWN[0]), ("assistant", SHOWN[1]), ("user", QUESTION)]
        examples.engine.submit_feedback(decision_id, 1.0)
        assert examples.engine.flush(20)
        examples.engine.maintain()
        assert held(examples, "acme") == {SHOWN[0]: SHOWN[1], QUESTION: "Press the red button."}
        assert statistics(examples, SHOWN[0], "acme").helpfulness.count == 1

    async def test_scopes_hold(self, llm, server, make):
        await Answering(llm, make(scope="acme")).run(question=QUESTION, scope="other")
        assert server.asked[-1].turns == [("user", QUESTION)]
