"""One surface of the tree that PYTHONPATH names, called in blocks: the child process of `benchmarks.turns`.

It must run on trees of several ages, so it builds surfaces by their public constructors only. Each line of standard
input asks for a block of calls; each line of standard output holds the seconds of its calls and the CPU seconds.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time

import numpy as np
from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from llama_index.core.llms import ChatMessage, MockLLM
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

from iccache_langchain import ICCache, ICCacheChatModel, ICCacheExampleSelector
from iccache_langchain.middleware import ICCacheMiddleware
from iccache_llamaindex import ICCacheLLM, ICCachePostprocessor
from shared_core.values import Message, Request

PAIRS = [(f"heat room {n} of floor {n % 37} to {n % 11} degrees", f"climate set {n}") for n in range(2000)]
LLM_STRING = "[('_type', 'quick')]---[('stop', None)]"


class Words:
    """Embeds by counting words: what is measured is IC-Cache, not a model."""

    tag = "words-256"

    def embed(self, texts):
        rows = np.zeros((len(texts), 256), np.float32)
        for row, text in zip(rows, texts, strict=True):
            row[0] = 0.1
            for word in re.findall(r"\w+", text.lower()):
                row[1 + sum(word.encode()) % 255] += 1
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


class Quick(BaseChatModel):
    """A chat model that answers without delay."""

    model_name: str = "quick"

    @property
    def _llm_type(self):
        return "quick"

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        return ChatResult(generations=[ChatGeneration(message=AIMessage("an answer"))])

    async def _agenerate(self, messages, stop=None, run_manager=None, **kwargs):
        return self._generate(messages)


COMMON = {"store": "memory://", "embedder": Words(), "deadline": 20.0}
ROUTING = COMMON | {"background": False, "reference": "large", "costs": {"small": 0.1}}


def _ask(n):
    return f"heat room {n} of floor {n % 31} please"


def _request(n):
    return Request((Message("user", _ask(n)),), _ask(n), task="t")


def _chat_model():
    model = ICCacheChatModel(arms={"small": Quick(), "large": Quick()}, **ROUTING)
    model.add_examples(PAIRS)
    return model


def decide():
    engine = _chat_model().engine
    engine.add_examples(PAIRS, scope="default", task="t")
    if hasattr(engine, "adecide"):
        return lambda n: engine.decide(_request(n)), lambda n: engine.adecide(_request(n))
    from shared_core.adapters.offloop import off_loop  # how trees without adecide decide for event loops

    return lambda n: engine.decide(_request(n)), lambda n: off_loop(engine.decide, _request(n))


def chat_model():
    model = _chat_model()
    return lambda n: model.invoke(_ask(n)), lambda n: model.ainvoke(_ask(n))


def chat_model_streamed():
    model = _chat_model()

    async def astream(n):
        return [chunk async for chunk in model.astream(_ask(n))]

    return lambda n: list(model.stream(_ask(n))), astream


def middleware():
    routed = ICCacheMiddleware(arms={"small": Quick(), "large": Quick()}, **ROUTING)
    routed.add_examples(PAIRS)
    agent = create_agent(Quick(), [], middleware=[routed])

    def state(n):
        return {"messages": [HumanMessage(_ask(n))]}

    return lambda n: agent.invoke(state(n)), lambda n: agent.ainvoke(state(n))


def cache_miss():
    cache = ICCache("memory://")
    return lambda n: cache.lookup(_ask(n), LLM_STRING), lambda n: cache.alookup(_ask(n), LLM_STRING)


def example_selector():
    selector = ICCacheExampleSelector(**COMMON)
    selector.add_examples([{"input": query, "output": answer} for query, answer in PAIRS])
    return (
        lambda n: selector.select_examples({"input": _ask(n)}),
        lambda n: selector.aselect_examples({"input": _ask(n)}),
    )


def llm():
    routed = ICCacheLLM(arms={"small": MockLLM(), "large": MockLLM()}, **ROUTING)
    routed.add_examples(PAIRS)

    def turn(n):
        return [ChatMessage(role="user", content=_ask(n))]

    return lambda n: routed.chat(turn(n)), lambda n: routed.achat(turn(n))


def postprocessor():
    engine = ICCacheExampleSelector(**COMMON).engine
    engine.add_examples(PAIRS, scope="default", task="t")
    shown = ICCachePostprocessor(engine=engine, task="t")
    nodes = [NodeWithScore(node=TextNode(text="a document"), score=0.5)]
    return (
        lambda n: shown.postprocess_nodes(list(nodes), QueryBundle(_ask(n))),
        lambda n: shown.apostprocess_nodes(list(nodes), QueryBundle(_ask(n))),
    )


CASES = {
    "decide": decide,
    "ICCacheChatModel": chat_model,
    "ICCacheChatModel, streamed": chat_model_streamed,
    "ICCacheMiddleware": middleware,
    "ICCache, miss": cache_miss,
    "ICCacheExampleSelector": example_selector,
    "ICCacheLLM": llm,
    "ICCachePostprocessor": postprocessor,
}


def serve(case: str, colour: str) -> None:
    """Build the surface of `case`; then, for each line of input, make so many calls and print what they took."""
    call, acall = CASES[case]()
    at = 0

    def block(size):
        took = []
        for n in range(at, at + size):
            began = time.perf_counter()
            call(n)
            took.append(time.perf_counter() - began)
        return took

    async def ablock(size):
        took = []
        for n in range(at, at + size):
            began = time.perf_counter()
            await acall(n)
            took.append(time.perf_counter() - began)
        return took

    with asyncio.Runner() as runner:  # one event loop for all blocks
        for line in sys.stdin:
            size = int(line)
            began = time.process_time()
            took = block(size) if colour == "sync" else runner.run(ablock(size))
            print("BLOCK" + json.dumps([took, time.process_time() - began]), flush=True)
            at += size


if __name__ == "__main__":
    serve(*sys.argv[1:])
