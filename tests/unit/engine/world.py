"""Arms, an embedder and requests for the engine's tests."""

import re

import numpy as np

from shared_core.settings import Settings
from shared_core.values import Arm, Message, Outcome, Request

ARMS = (Arm("small", 0.1), Arm("large", 1.0, uses_examples=False))
FULL = Settings(relevance_quantile=0.0, explore=1.0)


class Words:
    """Bag-of-words vectors: texts that share words are near, deterministically and without a model."""

    tag = "words-256"

    def embed(self, texts):
        rows = np.zeros((len(texts), 256), np.float32)
        for row, text in zip(rows, texts, strict=True):
            row[0] = 0.1
            for word in re.findall(r"\w+", text.lower()):
                row[1 + sum(word.encode()) % 255] += 1
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def ask(text, scope="default", **more):
    return Request((Message("user", text),), text, scope=scope, task="t", **more)


def answered_by_large(engine, text, answer, **more):
    """One request that the reference answers, recorded; returns its decision."""
    for n in range(200):
        decision = engine.decide(ask(text, **more), f"{text}-{n}")
        if decision.arm == "large":
            engine.record(decision, Outcome(answer, writer="big"))
            engine.maintain()
            return decision
    raise AssertionError("the reference was never chosen")
