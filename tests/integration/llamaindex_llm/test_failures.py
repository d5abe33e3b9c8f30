"""What fails, hangs or blocks beneath `ICCacheLLM` costs no answer."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
from blockbuster import blockbuster_ctx

from tests.embedding import Words
from tests.integration.llamaindex_llm.calls import EXAMPLES, WAYS, ask, naming, provenance, text, user
from tests.openai_server import Refused


def failing(*models):
    def answer(asked):
        if asked.model in models:
            raise Refused(500)
        return naming(asked)

    return answer


@pytest.mark.parametrize("way", WAYS)
async def test_the_reference_answers_for_an_arm_that_fails_before_its_first_word(helped, server, way):
    server.answer = failing("small")
    answer = await ask(helped, way, "heat the kitchen now")
    said = provenance(answer)
    assert (text(answer), said["arm"], said["tier"], said["examples"]) == ("large answers", "large", "fallback", [])
    assert "small failed" in said["reason"]
    assert server.asked[-1].turns == [("user", "heat the kitchen now")]
    assert helped.engine.counters["fallback.arm_failed"] == 1


@pytest.mark.parametrize("way", WAYS)
async def test_a_failing_reference_raises_after_one_call(helped, server, way):
    server.answer = failing("small", "large")
    with pytest.raises(Exception, match="scripted refusal"):
        await ask(helped, way, "heat the kitchen now")
    assert (server.count("small"), server.count("large")) == (1, 1)


@pytest.mark.parametrize("way", ["chat", "achat", "stream_chat", "astream_chat"])
async def test_a_blocked_embedder_holds_a_call_no_longer_than_the_deadline(build, way):
    release = threading.Event()
    release.set()

    class Stuck(Words):
        def embed(self, texts):
            release.wait(10)
            return super().embed(texts)

    model = build(embedder=Stuck(), deadline=0.25)
    bare = model.arms["large"]
    await ask(bare, way, "warm up")
    await ask(model, way, "warm up")
    release.clear()
    try:
        held = []
        for _ in range(3):  # the best of three: another process may have the processor
            began = time.monotonic()
            await ask(bare, way, "heat the kitchen")
            alone = time.monotonic() - began
            answer = await ask(model, way, "heat the kitchen")
            held.append(time.monotonic() - began - 2 * alone)
            assert (provenance(answer)["tier"], text(answer)) == ("fallback", "large answers")
        assert min(held) <= 0.25 + 0.1
    finally:
        release.set()


async def test_a_dead_store_fails_no_call(build, server):
    from tests.servers import RedisServer

    with RedisServer() as redis:
        model = build(store=redis.url(), task="t", deadline=0.25)
        model.add_examples(EXAMPLES)
        redis.kill()
        for way in WAYS:
            answer = await ask(model, way, "heat the kitchen now")
            assert text(answer) in {"small answers", "large answers"}
            assert provenance(answer)["examples"] == []  # their texts stand in the store
        assert model.engine.counters["fallback"] > 0


async def test_nothing_of_ours_blocks_the_event_loop(build, tmp_path):
    slow = threading.Event()

    def redact(text):
        time.sleep(0.001)  # the detector raises here if it runs on the loop
        slow.set()
        return text

    def condense(messages):
        time.sleep(0.001)
        return str(messages[-1].content)

    model = build(store=f"sqlite:///{tmp_path}/pool.db", redact=redact, query_fn=condense, task="t")
    await asyncio.to_thread(model.add_examples, EXAMPLES)
    for one in model.arms.values():
        await one.achat([user("warm")])  # the client itself loads certificates at its first call
    with blockbuster_ctx(["iccache_llamaindex", "shared_core"]):
        answers = [await ask(model, way, "heat the kitchen now") for way in WAYS if way.startswith("a")]
        model.record_feedback(answers[0], 1.0)
    assert slow.is_set()
    assert {provenance(a)["arm"] for a in answers} == {"small"}
    assert model.engine.counters["bypass.query_fn_failed"] == 0
