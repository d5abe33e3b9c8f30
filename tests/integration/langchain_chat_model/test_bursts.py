"""Many calls at once: their texts share embed calls, and nobody falls back."""

from __future__ import annotations

import threading

from langchain_core.language_models import FakeListChatModel

from tests.embedding import Words
from tests.integration.langchain_chat_model.calls import EXAMPLES, provenance


class Gathering(Words):
    """Holds the first text of a burst until `crowd()` says that the others wait behind it."""

    one_at_a_time = True

    def __init__(self):
        self.calls: list[int] = []
        self.crowd = lambda: True

    def embed(self, texts):
        moment = threading.Event()
        while not self.crowd():
            moment.wait(0.001)
        self.crowd = lambda: True
        self.calls.append(len(texts))
        return super().embed(texts)


def burst_of(build, waiting):
    embedder = Gathering()
    arms = {name: FakeListChatModel(responses=["climate set"]) for name in ("small", "large")}
    model = build(arms=arms, embedder=embedder)
    model.add_examples(EXAMPLES)
    model.invoke("heat the kitchen")
    embedder.calls.clear()
    lane = model.engine._components().guard._bulkheads["embedder"]
    embedder.crowd = lambda: len(lane.waiting) >= waiting
    return model, embedder


def check(model, embedder, answers, most_calls):
    assert {provenance(answer)["tier"] for answer in answers} == {"model"}
    assert {provenance(answer)["arm"] for answer in answers} == {"small"}
    assert sum(embedder.calls) == 100
    assert len(embedder.calls) <= most_calls
    assert model.counters["fallback"] == 0


async def test_a_hundred_at_once_on_an_event_loop(build):
    model, embedder = burst_of(build, 99)
    answers = await model.abatch([f"heat room {n}" for n in range(100)])
    check(model, embedder, answers, 1 + -(-99 // 16))
    shown = [example["id"] for example in provenance(answers[7])["examples"]]
    assert shown == [example["id"] for example in provenance(model.invoke("heat room 7"))["examples"]]


def test_thirty_two_threads_at_once(build):
    model, embedder = burst_of(build, 31)
    answers = model.batch([f"heat room {n}" for n in range(100)], {"max_concurrency": 32})
    check(model, embedder, answers, 99)
    assert max(embedder.calls) == 16
