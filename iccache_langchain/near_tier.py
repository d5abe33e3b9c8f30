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
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult, Generation

from iccache_langchain.answers import ChatAnswers, described
from iccache_langchain.arms import ArmModel, agenerate, generate
from iccache_langchain.messages import outcome_of
from shared_core.adapters.provenance import PROVENANCE
from shared_core.adapters.routing import RoutedCall, Routing
from shared_core.engine import Engine
from shared_core.errors import ConfigurationError
from shared_core.settings import Settings
from shared_core.telemetry import Counters
from shared_core.values import Decision, Outcome, Request

MAX_CANDIDATES: Final = 256  # candidates that `Settings` allows
_is_answering: ContextVar[bool] = ContextVar("iccache_is_answering", default=False)


class NearTier:
    """Answers requests that are near to past ones with a small model.

    Args:
        engine: Its one arm is the small model; its settings are `near_settings`.
        model: The small model.
    """

    def __init__(self, engine: Engine, model: ArmModel) -> None:
        self._engine = engine
        self._model = model

    def answer(self, request: Request, messages: Sequence[BaseMessage]) -> list[Generation] | None:
        """The small model's answer if the request is near to past ones; None if not, or if it failed. Never raises."""
        if _needs_history(request):
            return None
        decision = self._engine.decide(request)
        if not self._is_near(decision):
            return None
        with self._answering():
            return _generations(
                self._call(decision).run(lambda d: generate(self._model, messages, d.insertion, None, None))
            )
        return None

    async def aanswer(self, request: Request, messages: Sequence[BaseMessage]) -> list[Generation] | None:
        """`answer`, with the model's own async client."""
        if _needs_history(request):
            return None
        decision = await self._engine.adecide(request)
        if not self._is_near(decision):
            return None
        with self._answering():
            ask = self._call(decision).arun
            return _generations(await ask(lambda d: agenerate(self._model, messages, d.insertion, None, None)))
        return None

    def _is_near(self, decision: Decision) -> bool:
        """True if examples were found in a pool large enough to say what a usual distance is.

        In a smaller one, its first examples would answer everything after them.
        """
        is_near = bool(decision.given) and decision.selection.considered >= self._engine.settings.candidates
        self._engine.counters.count("near.found" if is_near else "near.none")
        return is_near

    def _call(self, decision: Decision) -> RoutedCall[ChatResult, ChatGenerationChunk]:
        # The decision is kept for feedback. `store=False` keeps the answer out of the pool, into which its standing
        # as the engine's only arm would let it.
        unstored = replace(decision, request=replace(decision.request, store=False))
        answers = NearAnswers({decision.arm: self._model}, {}, self._engine.counters)
        return RoutedCall(Routing(self._engine, decision.arm), unstored, answers)

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """The model answers inside; its failures are counted, and end here."""
        token = _is_answering.set(True)
        try:
            yield
        except Exception as error:  # noqa: BLE001 - fail open, counted
            self._engine.failed("near", error)
        finally:
            _is_answering.reset(token)


@dataclass(frozen=True, slots=True)
class NearAnswers(ChatAnswers):
    """Accepts an answer that may stand in for the large model's: text, which the model ended by itself.

    Attributes:
        counters: Gets ``near.answered`` and ``near.unfinished``.
    """

    counters: Counters

    def finished(self, decision: Decision, answer: ChatResult) -> tuple[ChatResult, Outcome | None]:
        """The accepted answer, marked; without generations if it is not accepted."""
        reply = described(answer.generations[0], answer.llm_output)
        outcome = outcome_of(reply)
        if not outcome.finished or outcome.tool_calls or not outcome.answer.strip():
            self.counters.count("near.unfinished")
            return ChatResult(generations=[]), None
        self.counters.count("near.answered")
        provenance = decision.provenance() | {"tier": "near", "writer": decision.arm}
        metadata = reply.response_metadata | {PROVENANCE: provenance}
        message = reply.model_copy(update={"id": None, "response_metadata": metadata})
        return ChatResult(generations=[ChatGeneration(message=message)]), outcome


def near_settings(settings: Settings, threshold: float) -> Settings:
    """`settings` with `threshold` as the quantile of relevance, and as many candidates as it takes to estimate it.

    The q quantile needs 1 / (1 - q) pairs, and n examples make n (n - 1) / 2 of them: 46 examples for q = 0.999. As
    stage 1 looks at so many candidates, it also tells whether there are so many.

    Raises:
        ConfigurationError: The threshold is not within [0, 1].
    """
    if not 0.0 <= threshold <= 1.0:
        raise ConfigurationError(
            f"threshold is a share of the pool's random pairs, so within [0, 1]; got {threshold!r}"
        )
    pairs = 1.0 / max(1.0 - threshold, 2.0 / MAX_CANDIDATES**2)
    needed = math.ceil((1.0 + math.sqrt(1.0 + 8.0 * pairs)) / 2.0)
    candidates = min(MAX_CANDIDATES, max(settings.candidates, needed))
    return settings.model_copy(update={"relevance_quantile": threshold, "candidates": candidates})


def is_answering() -> bool:
    """True while a small model answers inside a lookup: what it calls in turn is none of the cache's business."""
    return _is_answering.get()


def _needs_history(request: Request) -> bool:
    """True for a turn of a longer conversation, whose query alone does not say what is asked."""
    return request.has_history and not request.condensed


def _generations(result: ChatResult) -> list[Generation] | None:
    return list(result.generations) or None
