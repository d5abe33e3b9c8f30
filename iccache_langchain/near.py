"""A small model that answers, inside `lookup`, what is near to past requests (`ICCache(answer_with=…)`).

LangChain takes what a lookup returns for the large model's own answer. So the answer says who wrote it. The model is
asked through its own `_generate`, which no callback and no cache stands before: nothing is counted or traced twice.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Final

from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult, Generation

from iccache_langchain.arms import ArmModel, agenerate, generate
from iccache_langchain.messages import insert, outcome_of
from iccache_langchain.streams import described
from shared_core.adapters.endings import PROVENANCE
from shared_core.engine import Engine
from shared_core.errors import SettingIsWrong
from shared_core.settings import Settings
from shared_core.values import Decision, Request

MOST: Final = 256  # candidates that `Settings` allows
_is_answering: ContextVar[bool] = ContextVar("iccache_is_answering", default=False)


class NearTier:
    """Finds the requests that a small model may answer.

    Args:
        engine: Its one arm is the small model; its settings are `near_settings`.
        model: The small model.
    """

    def __init__(self, engine: Engine, model: ArmModel) -> None:
        self._engine = engine
        self._model = model

    def seek(self, request: Request, messages: Sequence[BaseMessage]) -> NearRequest | None:
        """The request with its examples, if it is near to past ones.

        A turn of a longer conversation is not: its query alone does not say what is asked. Nor is anything near in a
        pool too small to say what a usual distance is, else its first examples would answer everything after them.
        """
        if request.has_history and not request.condensed:
            return None
        decision = self._engine.decide(request)
        is_near = decision.given and decision.selection.considered >= self._engine.settings.candidates
        self._engine.counters.add("near.found" if is_near else "near.none")
        return NearRequest(self._engine, self._model, decision, messages) if is_near else None


@dataclass(frozen=True, slots=True)
class NearRequest:
    """A request that the small model is to answer, with the examples chosen for it."""

    engine: Engine
    model: ArmModel
    decision: Decision
    messages: Sequence[BaseMessage]

    def answer(self) -> list[Generation] | None:
        """The small model's answer, or None if it failed or did not end by itself. Never raises."""
        try:
            with _answering():
                return self._accept(generate(self.model, self._shown(), None, None))
        except Exception as error:  # noqa: BLE001 - fail open, counted
            self._failed(error)
            return None

    async def aanswer(self) -> list[Generation] | None:
        """`answer`, with the model's own async client."""
        try:
            with _answering():
                return self._accept(await agenerate(self.model, self._shown(), None, None))
        except Exception as error:  # noqa: BLE001 - fail open, counted
            self._failed(error)
            return None

    def _shown(self) -> list[BaseMessage]:
        return insert(self.messages, self.decision.insertion)

    def _accept(self, result: ChatResult) -> list[Generation] | None:
        reply = described(result.generations[0], result.llm_output)
        outcome = outcome_of(reply)
        if not outcome.finished or outcome.tool_calls or not outcome.answer.strip():
            self.engine.counters.add("near.unfinished")
            return None
        # The decision is kept for feedback. `store=False` keeps the answer out of the pool, into which its standing
        # as the engine's only arm would let it.
        request = replace(self.decision.request, store=False)
        self.engine.submit_record(replace(self.decision, request=request), outcome)
        self.engine.counters.add("near.answered")
        provenance = self.decision.provenance() | {"tier": "near", "writer": self.decision.arm}
        metadata = reply.response_metadata | {PROVENANCE: provenance}
        return [ChatGeneration(message=reply.model_copy(update={"id": None, "response_metadata": metadata}))]

    def _failed(self, error: Exception) -> None:
        self.engine.counters.add("near.failed")
        self.engine.counters.add(f"near.failed.{type(error).__name__}")


def near_settings(settings: Settings, threshold: float) -> Settings:
    """`settings` with `threshold` as the quantile of relevance, and as many candidates as it takes to estimate it.

    The q quantile needs 1 / (1 - q) pairs, and n examples make n (n - 1) / 2 of them: 46 examples for q = 0.999. As
    stage 1 looks at so many candidates, it also tells whether there are so many.

    Raises:
        SettingIsWrong: The threshold is not within [0, 1].
    """
    if not 0.0 <= threshold <= 1.0:
        raise SettingIsWrong(f"threshold is a share of the pool's random pairs, so within [0, 1]; got {threshold!r}")
    pairs = 1.0 / max(1.0 - threshold, 2.0 / MOST**2)
    needed = math.ceil((1.0 + math.sqrt(1.0 + 8.0 * pairs)) / 2.0)
    candidates = min(MOST, max(settings.candidates, needed))
    return settings.model_copy(update={"relevance_quantile": threshold, "candidates": candidates})


def is_answering() -> bool:
    """True while a small model answers inside a lookup: what it calls in turn is none of the cache's business."""
    return _is_answering.get()


@contextmanager
def _answering() -> Iterator[None]:
    token = _is_answering.set(True)
    try:
        yield
    finally:
        _is_answering.reset(token)
