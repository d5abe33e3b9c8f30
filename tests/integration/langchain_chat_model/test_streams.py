"""Streams of `ICCacheChatModel`: which of them become examples, and who says where they come from."""

from __future__ import annotations

import asyncio
import threading

import pytest

from tests.integration.langchain_chat_model.calls import admitted, merged, provenance
from tests.openai_server import Reply


def test_exactly_one_chunk_says_where_the_answer_comes_from(helped):
    chunks = list(helped.stream("heat the kitchen"))
    assert ["iccache" in chunk.response_metadata for chunk in chunks].count(True) == 1
    whole = merged(chunks)
    assert (whole.content, provenance(whole)["arm"]) == ("small answers", "small")
    assert whole.usage_metadata["output_tokens"] == 2


def test_a_stream_that_ended_by_itself_becomes_an_example(build, store):
    model = build()
    assert merged(list(model.stream("heat the kitchen"))).content == "large answers"
    assert admitted(model, store) == 1


@pytest.mark.parametrize(
    "reply",
    [Reply("half an answer", finish_reason="length"), Reply("bad words", finish_reason="content_filter")],
)
def test_a_stream_that_was_cut_short_by_the_model_becomes_none(build, store, server, reply):
    server.answer = lambda asked: reply
    model = build()
    list(model.stream("heat the kitchen"))
    assert admitted(model, store) == 0
    assert model.engine.counters.value("refused", reason="unfinished") == 1


def test_a_lost_connection_is_not_the_end_of_an_answer(build, store, server):
    server.answer = lambda asked: Reply(["half ", "an answer"], cut=True)
    model = build()
    with pytest.raises(Exception, match="(?i)connection"):
        list(model.stream("heat the kitchen"))
    assert admitted(model, store) == 0


def test_a_stream_whose_end_is_not_explained_becomes_none(build, store, server):
    server.answer = lambda asked: Reply("half an answer", finish_reason="")
    model = build()
    list(model.stream("heat the kitchen"))
    assert admitted(model, store) == 0


def test_a_stream_that_is_left_early_becomes_none_and_is_rated_by_its_reader_alone(build, store):
    scored = []
    model = build(reward=lambda request, answer: scored.append(answer))
    stream = model.stream("heat the kitchen")
    first = next(stream)
    stream.close()
    assert admitted(model, store) == 0
    assert scored == []  # half an answer that nobody waited for says nothing about the model
    assert provenance(first)["decision_id"] in store.decisions([provenance(first)["decision_id"]])


async def test_a_stream_that_is_cancelled_becomes_none(build, store, server):
    release = threading.Event()

    def pieces():
        yield "half "
        release.wait(20)
        yield "an answer"

    server.answer = lambda asked: Reply(pieces())
    model = build()
    heard = asyncio.Event()

    async def listen():
        async for chunk in model.astream("heat the kitchen"):
            if chunk.content:
                heard.set()

    task = asyncio.create_task(listen())
    await asyncio.wait_for(heard.wait(), 20)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    release.set()
    assert admitted(model, store) == 0
