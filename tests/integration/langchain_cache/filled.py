"""A pool that the large model has filled, for the tests of examples and of near answers."""

from __future__ import annotations

import hashlib

import numpy as np
from langchain_core.messages import HumanMessage

from iccache_langchain.cache import ICCache
from iccache_langchain.messages import normalised
from shared_core.adapters.context import Context
from shared_core.adapters.requests import build_request
from shared_core.settings import Settings
from tests.integration.langchain_cache.calls import model
from tests.openai_server import Reply, obliging

TOPICS = {
    "boil two eggs in hot water": "boil --count 2",
    "paint the garden fence green": "paint fence --colour green",
    "book a table at the harbour restaurant": "book harbour",
    "translate the letter into polish": "translate --to pl",
}


def words(texts):
    """Texts that share words are similar, others are not."""
    vectors = np.zeros((len(texts), 512))
    for row, text in zip(vectors, texts, strict=True):
        for word in text.lower().split():
            row[int(hashlib.sha256(word.encode()).hexdigest(), 16) % 512] += 1
    return vectors


class Pool:
    """A cache whose pool the large model has filled, and whose small model repeats how many turns it was shown."""

    def __init__(self, server, url, small=None, task=None):
        self.server = server
        server.answer = self.answer
        small = small or model(server, None, "small")
        settings = Settings(deadline=20, candidates=1, refresh=3600)
        self.cache = ICCache(url, embedder=words, answer_with=small, threshold=0.8, task=task, settings=settings)
        self.cache.engine.warm("default")
        self.llm = model(server, self.cache)
        for question in TOPICS:
            self.llm.invoke(question)
            self.settle()

    def answer(self, asked):
        if asked.body.get("tools") or asked.body.get("response_format") or asked.body.get("n"):
            return obliging(asked)
        if asked.model == "small":
            return Reply(f"small, shown {len(asked.turns) - 1} turns")
        return Reply(TOPICS.get(asked.query, "large"))

    def examples(self):
        """Ids of the examples, that of the eggs last."""
        engine = self.cache.engine
        decisions = [engine.decide(build_request(normalised([HumanMessage(q)]), context=Context())) for q in TOPICS]
        return [decision.given[0].id for decision in reversed(decisions)]

    def settle(self):
        assert self.cache.engine.flush()
        self.cache.engine.maintain()


NEAR = "boil three eggs in hot water"
