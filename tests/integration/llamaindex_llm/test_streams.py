"""Streams of `ICCacheLLM`: what each piece holds, and which streams become examples."""

from __future__ import annotations

import asyncio
import gc
import threading

import pytest

from tests.integration.llamaindex_llm.calls import EXAMPLES, admitted, ask, provenance, text, user
from tests.openai_server import Reply


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


async def test_a_lost_connection_is_not_the_end_and_no_other_model_goes_on(helped, store, server):
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
