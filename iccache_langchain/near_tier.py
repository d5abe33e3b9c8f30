"""A small model answers requests similar to past ones inside `lookup` (`ICCache(answer_with=…)`).

LangChain treats the result of a lookup as the large model's answer. So the answer names its writer. The model is called
by its private `_generate`, without callbacks and cache: nothing is counted or traced twice.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from numbers import Real
from typing import Final

from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult, Generation

from iccache_langchain.answers import ChatAnswers, described
from iccache_langchain.arms import ArmModel, agenerate, generate
from iccache_langchain.messages import outcome_of
from shared_core.adapters.provenance import PROVENANCE
from shared_core.adapters.routing import RoutedCall, Routing
from shared_core.adapters.threads import arrived
from shared_core.engine import Engine
from shared_core.errors import ConfigurationError, shown
from shared_core.settings import Settings
from shared_core.telemetry import Counters
from shared_core.values import Decision, Outcome, Request

THRESHOLD: Final = 0.999  # by default; docs/decisions/0020-near-tier.md has the reason
MAX_CANDIDATES: Final = 256  # the upper limit in `Settings`
_is_answering: ContextVar[bool] = ContextVar("iccache_is_answering", default=False)


class NearTier:
    """Answers requests similar to past ones with a small model.

    Args:
        engine: An engine with the small model as its only arm, and with `near_settings`.
        model: The small model.
    """

    def __init__(self, engine: Engine, model: ArmModel) -> None:
        self._engine = engine
        self._model = model

    def answer(self, request: Request, messages: Sequence[BaseMessage], began: float) -> list[Generation] | None:
        """The small model's answer if the request is similar to past ones; else, or on failure, None. Never raises.

        The deadline of the decision counts from `began`, the start of the exact lookup by `time.monotonic`.
        """
        if _needs_history(request):
            return None
        with arrived(began):
            decision = self._engine.decide(request)
        if not self._is_near(decision):
            return None
        with self._answering():
            return _generations(
                self._call(decision).run(lambda d: generate(self._model, messages, d.insertion, None, None))
            )
        return None

    async def aanswer(self, request: Request, messages: Sequence[BaseMessage], began: float) -> list[Generation] | None:
        """`answer` with the model's own async client."""
        if _needs_history(request):
            return None
        with arrived(began):
            decision = await self._engine.adecide(request)
        if not self._is_near(decision):
            return None
        with self._answering():
            ask = self._call(decision).arun
            return _generations(await ask(lambda d: agenerate(self._model, messages, d.insertion, None, None)))
        return None

    def _is_near(self, decision: Decision) -> bool:
        """True if examples were found, and the pool is large enough to estimate the similarity quantile.

        In a smaller pool, its first examples would answer every later request.
        """
        is_near = bool(decision.given) and decision.selection.considered >= self._engine.settings.candidates
        self._engine.counters.count("near.found" if is_near else "near.none")
        return is_near

    def _call(self, decision: Decision) -> RoutedCall[ChatResult, ChatGenerationChunk]:
        # The decision is stored for feedback. `store=False` keeps the answer out of the pool, which would otherwise
        # trust it as the answer of the engine's only arm.
        unstored = replace(decision, request=replace(decision.request, store=False))
        answers = NearAnswers({decision.arm: self._model}, {}, self._engine.counters)
        return RoutedCall(Routing(self._engine, decision.arm), unstored, answers)

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """Mark that the small model is answering; count its failures and suppress them."""
        token = _is_answering.set(True)
        try:
            yield
        except Exception as error:  # noqa: BLE001 - fail open, counted
            self._engine.failed("near", error)
        finally:
            _is_answering.reset(token)


@dataclass(frozen=True, slots=True)
class NearAnswers(ChatAnswers):
    """Accepts only a complete text without tool calls in place of the large model's answer.

    Attributes:
        counters: Counts ``near.answered`` and ``near.unfinished``.
    """

    counters: Counters

    def finished(self, decision: Decision, answer: ChatResult) -> tuple[ChatResult, Outcome | None]:
        """The accepted answer with its provenance; no generations if it is not accepted."""
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
    """`settings` with `threshold` as the relevance quantile, and with enough candidates to estimate it.

    The q quantile needs 1 / (1 - q) pairs, and n examples make n (n - 1) / 2 pairs: 46 examples for q = 0.999. Stage 1
    looks at that many candidates, so their number shows whether the pool is large enough.

    Raises:
        ConfigurationError: The threshold is not within [0, 1].
    """
    if not (isinstance(threshold, Real) and 0.0 <= threshold <= 1.0):
        raise ConfigurationError(
            f"threshold must be within [0, 1], because it is a share of the pool's random pairs; got {shown(threshold)}"
        )
    pairs = 1.0 / max(1.0 - threshold, 2.0 / MAX_CANDIDATES**2)
    needed = math.ceil((1.0 + math.sqrt(1.0 + 8.0 * pairs)) / 2.0)
    candidates = min(MAX_CANDIDATES, max(settings.candidates, needed))
    return settings.model_copy(update={"relevance_quantile": threshold, "candidates": candidates})


def is_answering() -> bool:
    """True while a small model answers inside a lookup; calls that it makes bypass the cache."""
    return _is_answering.get()


def _needs_history(request: Request) -> bool:
    """True for a follow-up turn, whose query alone is not the whole question."""
    return request.has_history and not request.condensed


def _generations(result: ChatResult) -> list[Generation] | None:
    """The accepted answer. An unmarked answer could not be read, and does not replace the large model's."""
    return [g for g in result.generations if PROVENANCE in g.message.response_metadata] or None
