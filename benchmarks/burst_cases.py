"""One model of the tree that PYTHONPATH names, asked many things at once: the child process of `benchmarks.burst`.

It must run on trees of several ages, so it uses public constructors only. Each line of standard input is a JSON object
with ``way`` ("abatch" or "batch"), ``calls`` and ``at_once`` (0: all); each line of standard output holds how many of
them were decided and not a fallback, the seconds, and the names of the fallbacks' errors with their counts.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections import Counter

import numpy as np
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, ChatResult

from iccache_langchain import ICCacheChatModel

PAIRS = [(f"heat room {n} of floor {n % 37} to {n % 11} degrees", f"climate set {n}") for n in range(500)]
QUICK_SECONDS = 0.0001


class Quick:
    """An embedder that takes a tenth of a millisecond a call."""

    tag = "quick-64"

    def embed(self, texts):
        ends = time.perf_counter() + QUICK_SECONDS
        rows = np.array([np.random.default_rng(sum(text.encode())).standard_normal(64) for text in texts])
        while time.perf_counter() < ends:
            pass
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


class Silent(BaseChatModel):
    """A chat model that answers without delay."""

    model_name: str = "silent"

    @property
    def _llm_type(self):
        return "silent"

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        return ChatResult(generations=[ChatGeneration(message=AIMessage("an answer"))])

    async def _agenerate(self, messages, stop=None, run_manager=None, **kwargs):
        return self._generate(messages)


def good(request, answer):
    """1 for every answer that is not empty."""
    return float(bool(request.query and answer))


def model_of(kind: str, folder: str) -> ICCacheChatModel:
    """A routing model with its default embedder, or with the quick one."""
    arguments = {} if kind == "minilm" else {"embedder": Quick()}
    model = ICCacheChatModel(
        arms={"small": Silent(), "large": Silent()},
        reference="large",
        costs={"small": 0.1},
        store=f"sqlite:///{folder}/{kind}.db",
        reward=good,
        **arguments,
    )
    model.add_examples(PAIRS)
    for n in range(20):
        model.invoke(f"please heat room {n}")
    return model


def asked(model: ICCacheChatModel, way: str, questions: list[str], at_once: int) -> dict[str, object]:
    """What came of questions that were asked at once."""
    config = {"max_concurrency": at_once or len(questions)}
    begun = time.perf_counter()
    if way == "batch":
        answers = model.batch(questions, config)
    else:
        answers = asyncio.run(model.abatch(questions, config if at_once else None))
    seconds = time.perf_counter() - begun
    found = [answer.response_metadata["iccache"] for answer in answers]
    fallbacks = [each["reason"].split(": ")[1] for each in found if each["tier"] == "fallback"]
    return {"decided": len(found) - len(fallbacks), "seconds": seconds, "fallbacks": Counter(fallbacks)}


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="iccache-burst-") as folder:
        model, count = model_of(sys.argv[1], folder), 0
        for line in sys.stdin:
            wanted = json.loads(line)
            questions = [f"please heat room {n} of floor {n % 31}" for n in range(count, count + wanted["calls"])]
            count += wanted["calls"]
            found = asked(model, wanted["way"], questions, wanted["at_once"])
            if wanted.get("flush", True):
                model.flush(60)
            print("FOUND" + json.dumps(found), flush=True)
        model.close()


if __name__ == "__main__":
    main()
