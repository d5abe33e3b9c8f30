"""Engines over three documents, and what they answer and ask."""

from __future__ import annotations

import asyncio

from llama_index.core import VectorStoreIndex
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import TextNode

from shared_core.adapters.requests import default_task
from shared_core.settings import Settings

# A busy machine must not make a test miss the deadline. What the deadline does is tested with what hangs.
PATIENT = Settings(deadline=20, relevance_quantile=0.0)


TASK = default_task(())
QUESTION = "how do I start the pump"
DOCUMENTS = ["The pump has a red button.", "The fan is green.", "The pump makes noise."]
SHOWN = ("how do I stop the pump", "press STOP twice")


def retriever(texts=DOCUMENTS):
    index = VectorStoreIndex(
        [TextNode(id_=f"doc{n}", text=text) for n, text in enumerate(texts)], embed_model=MockEmbedding(8)
    )
    return index.as_retriever(similarity_top_k=len(texts) or 1)


def query_engine(llm, examples, texts=DOCUMENTS, **arguments):
    return RetrieverQueryEngine.from_args(
        retriever(texts), llm=llm, node_postprocessors=[examples] if examples else [], **arguments
    )


def ask(engine, question, how):
    """The answer in one of four ways; what is streamed is read to its end."""
    if how == "sync":
        return engine.query(question)
    if how == "stream":
        response = engine.query(question)
        assert "".join(response.response_gen)
        return response
    return asyncio.run(_aask(engine, question, how))


async def _aask(engine, question, how):
    response = await engine.aquery(question)
    if how == "astream":
        assert "".join([piece async for piece in response.async_response_gen()])
    return response


def sources(response):
    return sorted(node.node.get_content() for node in response.source_nodes)


def prompt(server, n=-1) -> str:
    return "\n".join(text for _, text in server.asked[n].turns)


WAYS = ["sync", "async", "stream", "astream"]


def chat_engine(kind, llm, examples, **arguments):
    return kind.from_defaults(retriever=retriever(), llm=llm, node_postprocessors=[examples], **arguments)


def held(examples, scope="default") -> dict[str, str]:
    """The pool's examples: query → answer."""
    store = examples.engine._components().store
    return {t.query: t.answer for t in store.texts(scope, store.oldest(scope, 100)).values()}


def statistics(examples, query, scope="default"):
    from shared_core.manager.examples import example_id

    (row,) = examples.engine._components().store.rows(scope, [example_id(scope, TASK, query)])
    return row.entry.statistics
