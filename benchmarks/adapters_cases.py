"""What benchmarks/adapters.py compares: each surface of both adapters, and the same call without it.

A longer prompt takes a client longer, and a framework takes time for every plug-in. So each surface is compared with a
call whose prompt holds as many examples of the same length, and which has a plug-in that does nothing in place of the
surface. The call without any plug-in is measured as well.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from shared_core.engine import Engine
from shared_core.records import Vector
from shared_core.settings import Settings
from shared_core.values import Arm, Outcome, Request

DIMENSION = 384
POOL = 1_000
SCOPE = "bench"
TASK = "bench"
SYSTEM = "Answer the question."
ANSWER = "An answer of a usual length, as a model might have given it to this question. " * 5
SHOWN = 5  # examples that a request finds
PAST = "what is known about number 7"
EXAMPLES = SHOWN * len(ANSWER)  # bytes of the answers alone


@dataclass(frozen=True)
class Case:
    """One way of calling the model.

    Attributes:
        base: Name of the same call without IC-Cache; its own or none if it is one.
        inside: The engine's own part of the call; None where there is none.
        engine: Whose writer works beside the calls; None where there is none.
        shows: Bytes of the examples that the prompt must hold; 0 for none.
    """

    name: str
    base: str
    call: Callable[[str], Any]
    acall: Callable[[str], Awaitable[Any]]
    inside: Callable[[str], object] | None = None
    engine: Engine | None = None
    shows: int = 0


class Known:
    """An embedder of random unit vectors, the same for the same text, made before they are asked for."""

    tag = "benchmark-random"

    def __init__(self, texts: list[str]) -> None:
        rows = np.random.default_rng(0).standard_normal((len(texts), DIMENSION)).astype(np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        self._vectors = dict(zip(texts, rows, strict=True))
        self._other = rows[0]

    def embed(self, texts: list[str]) -> Vector:
        return np.stack([self._vectors.get(text, self._other) for text in texts])


def engine(url: str, queries: list[str], arms: bool = True) -> Engine:
    """An engine over `POOL` examples; every request finds five, and goes to the small arm."""
    past = [f"what is known about number {n}" for n in range(POOL)]
    built = Engine(
        store=url,
        arms=[Arm("small", 0.1), Arm("large", 1.0, uses_examples=False)] if arms else (),
        reference="large" if arms else None,
        embedder=Known(past + queries),
        settings=Settings(relevance_quantile=0.0, explore=1.0),
        reward=lambda *_: None,  # a reward that never has an opinion: the small arm stays to be explored
    )
    built.add_examples([(text, ANSWER) for text in past], scope=SCOPE, task=TASK)
    built.warm(SCOPE)
    return built


def request(query: str) -> Request:
    """What the adapters make of the call with this query."""
    from shared_core.adapters.context import Context
    from shared_core.adapters.requests import build_request
    from shared_core.values import Message

    return build_request([Message("system", SYSTEM), Message("user", query)], context=Context(SCOPE, TASK))


@contextmanager
def langchain(base_url: str, store: Callable[[], str], queries: list[str]) -> Iterator[list[Case]]:
    """`ICCacheChatModel`, `ICCache`, the middleware and the example selector, beside LangChain's own fallbacks."""
    from langchain.agents import create_agent
    from langchain.agents.middleware import AgentMiddleware
    from langchain_core.caches import InMemoryCache
    from langchain_core.example_selectors import BaseExampleSelector
    from langchain_core.prompts import ChatPromptTemplate, FewShotChatMessagePromptTemplate
    from langchain_openai import ChatOpenAI

    from iccache_langchain import ICCache, ICCacheChatModel, ICCacheExampleSelector, ICCacheMiddleware

    class Nothing(AgentMiddleware):
        """A stand-in for a middleware."""

        def wrap_model_call(self, request: Any, handler: Any) -> Any:
            return handler(request)

        async def awrap_model_call(self, request: Any, handler: Any) -> Any:
            return await handler(request)

    class Same(BaseExampleSelector):
        """A stand-in for a selector: always the same examples."""

        def add_example(self, example: dict[str, str]) -> None:
            raise NotImplementedError

        def select_examples(self, input_variables: dict[str, str]) -> list[dict]:
            return past

    def model(**more: Any) -> ChatOpenAI:
        return ChatOpenAI(**{"base_url": base_url, "api_key": "none", "model": "zero", "cache": False, **more})

    given = [("user", PAST), ("assistant", ANSWER)] * SHOWN

    def asks(name: str, base: str, runnable: Any, turns: list[tuple[str, str]] = [], **more: Any) -> Case:  # noqa: B006
        def whole(query: str) -> list[tuple[str, str]]:
            return [("system", SYSTEM), *turns, ("user", query)]

        return Case(name, base, lambda q: runnable.invoke(whole(q)), lambda q: runnable.ainvoke(whole(q)), **more)

    def runs(name: str, base: str, agent: Any, turns: list[tuple[str, str]] = [], **more: Any) -> Case:  # noqa: B006
        def state(query: str) -> dict[str, Any]:
            return {"messages": [*turns, ("user", query)]}

        return Case(name, base, lambda q: agent.invoke(state(q)), lambda q: agent.ainvoke(state(q)), **more)

    def fills(name: str, base: str, chain: Any, **more: Any) -> Case:
        return Case(name, base, lambda q: chain.invoke({"input": q}), lambda q: chain.ainvoke({"input": q}), **more)

    routed, cached, shown, acting = (engine(store(), queries) for _ in range(4))
    whole = Outcome("An answer.", writer="zero", payload=b"{}")
    cache = ICCache(engine=cached, scope=SCOPE, task=TASK)
    selector = ICCacheExampleSelector(engine=shown, input_key="input", scope=SCOPE, task=TASK)
    each_turn = ChatPromptTemplate.from_messages([("user", "{input}"), ("assistant", "{output}")])
    past = [{"input": PAST, "output": ANSWER}] * SHOWN
    fixed = FewShotChatMessagePromptTemplate(examples=past, example_prompt=each_turn)

    def chosen_by(selector: BaseExampleSelector) -> FewShotChatMessagePromptTemplate:
        return FewShotChatMessagePromptTemplate(
            example_selector=selector, example_prompt=each_turn, input_variables=["input"]
        )

    def prompt(shots: FewShotChatMessagePromptTemplate) -> ChatPromptTemplate:
        return ChatPromptTemplate.from_messages([("system", SYSTEM), shots, ("user", "{input}")])

    arms = {"small": model(), "large": model()}
    middleware = ICCacheMiddleware(arms=arms, reference="large", engine=acting, scope=SCOPE, task=TASK)

    def through_cache(query: str) -> None:
        asked = request(query)
        cached.lookup(asked)
        cached.observe(asked, whole, admit=True)

    yield [
        asks("ChatOpenAI", "", model()),
        asks("ChatOpenAI, five examples", "ChatOpenAI", model(), given),
        asks("ChatOpenAI.with_fallbacks (LangChain's own)", "ChatOpenAI", model().with_fallbacks([model()])),
        asks(
            "ICCacheChatModel",
            "ChatOpenAI, five examples",
            ICCacheChatModel(arms=arms, reference="large", engine=routed, scope=SCOPE, task=TASK),
            inside=lambda q: routed.decide(request(q)),
            engine=routed,
            shows=EXAMPLES,
        ),
        asks("LangChain's InMemoryCache, a miss", "ChatOpenAI", model(cache=InMemoryCache())),
        asks(
            "ICCache, a miss",
            "LangChain's InMemoryCache, a miss",
            model(cache=cache),
            inside=through_cache,
            engine=cached,
        ),
        fills("fixed few-shot prompt | ChatOpenAI", "", prompt(fixed) | model()),
        fills(
            "prompt with a selector of the same five | ChatOpenAI",
            "fixed few-shot prompt | ChatOpenAI",
            prompt(chosen_by(Same())) | model(),
        ),
        fills(
            "prompt with ICCacheExampleSelector | ChatOpenAI",
            "prompt with a selector of the same five | ChatOpenAI",
            prompt(chosen_by(selector)) | model(),
            inside=lambda q: shown.select(request(q)),
            engine=shown,
            shows=EXAMPLES,
        ),
        runs("create_agent, five examples", "", create_agent(model(), system_prompt=SYSTEM), given),
        runs(
            "create_agent with a middleware that does nothing",
            "create_agent, five examples",
            create_agent(model(), system_prompt=SYSTEM, middleware=[Nothing()]),
            given,
        ),
        runs(
            "create_agent with ICCacheMiddleware",
            "create_agent with a middleware that does nothing",
            create_agent(model(), system_prompt=SYSTEM, middleware=[middleware]),
            inside=lambda q: acting.decide(request(q)),
            engine=acting,
            shows=EXAMPLES,
        ),
    ]
    for each in (routed, cached, shown, acting):
        each.close()


@contextmanager
def llamaindex(base_url: str, store: Callable[[], str], queries: list[str]) -> Iterator[list[Case]]:
    """`ICCacheLLM` and a query engine with `ICCachePostprocessor`."""
    os.environ.setdefault("OPENAI_API_KEY", "none")
    from llama_index.core.llms import ChatMessage
    from llama_index.core.postprocessor.types import BaseNodePostprocessor
    from llama_index.core.query_engine import RetrieverQueryEngine
    from llama_index.core.retrievers import BaseRetriever
    from llama_index.core.schema import NodeWithScore, TextNode
    from llama_index.llms.openai_like import OpenAILike

    from iccache_llamaindex import ICCacheLLM, ICCachePostprocessor
    from shared_core.prompt import as_text
    from shared_core.values import ScoredExample

    class Fixed(BaseRetriever):
        """Always the same nodes, to exclude the retriever from the measurement."""

        def __init__(self, texts: list[str]) -> None:
            self._texts = texts
            super().__init__()

        def _retrieve(self, query_bundle: object) -> list[NodeWithScore]:
            return [NodeWithScore(node=TextNode(text=text), score=1.0) for text in self._texts]

    class Nothing(BaseNodePostprocessor):
        """A stand-in for a postprocessor."""

        def _postprocess_nodes(self, nodes: list[NodeWithScore], query_bundle: object = None) -> list[NodeWithScore]:
            return nodes

    def model() -> OpenAILike:
        return OpenAILike(model="zero", api_base=base_url, api_key="none", is_chat_model=True, context_window=32_000)

    def turns(query: str, examples: int) -> list[ChatMessage]:
        past = [ChatMessage(role="user", content=PAST), ChatMessage(role="assistant", content=ANSWER)]
        asked = ChatMessage(role="user", content=query)
        return [ChatMessage(role="system", content=SYSTEM), *past * examples, asked]

    def chats(name: str, base: str, llm: Any, examples: int = 0, **more: Any) -> Case:
        return Case(name, base, lambda q: llm.chat(turns(q, examples)), lambda q: llm.achat(turns(q, examples)), **more)

    def queries_of(name: str, base: str, texts: list[str], processors: list[Any], **more: Any) -> Case:
        asked = RetrieverQueryEngine.from_args(Fixed(texts), llm=model(), node_postprocessors=processors)
        return Case(name, base, asked.query, asked.aquery, **more)

    two = ["A document.", as_text([ScoredExample("", 1.0, 1.0, PAST, ANSWER)] * SHOWN)]
    routed, shown = engine(store(), queries), engine(store(), queries)
    yield [
        chats("OpenAILike", "", model()),
        chats("OpenAILike, five examples", "OpenAILike", model(), SHOWN),
        chats(
            "ICCacheLLM",
            "OpenAILike, five examples",
            ICCacheLLM(
                arms={"small": model(), "large": model()}, reference="large", engine=routed, scope=SCOPE, task=TASK
            ),
            inside=lambda q: routed.decide(request(q)),
            engine=routed,
            shows=EXAMPLES,
        ),
        queries_of("RetrieverQueryEngine, two nodes", "", two, []),
        queries_of(
            "RetrieverQueryEngine, two nodes, with a postprocessor that does nothing",
            "RetrieverQueryEngine, two nodes",
            two,
            [Nothing()],
        ),
        queries_of(
            "RetrieverQueryEngine, one node, with ICCachePostprocessor",
            "RetrieverQueryEngine, two nodes, with a postprocessor that does nothing",
            ["A document."],
            [ICCachePostprocessor(engine=shown, scope=SCOPE, task=TASK)],
            inside=lambda q: shown.select(request(q)),
            engine=shown,
            shows=EXAMPLES,
        ),
    ]
    routed.close()
    shown.close()
