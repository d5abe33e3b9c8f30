"""Reads and marks the answers of LlamaIndex models, whole or streamed: the `Answers` of this adapter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Generic

from llama_index.core.llms import LLM
from llama_index_instrumentation import get_dispatcher

from iccache_llamaindex.arms import model_name
from iccache_llamaindex.messages import R, ResponseInfo, has_content, marked, outcome_of
from iccache_llamaindex.route_event import ICCacheRouteEvent
from shared_core.values import Decision, Outcome

dispatcher = get_dispatcher(__name__)


@dataclass(frozen=True, slots=True)
class LLMAnswers(Generic[R]):
    """Reads the answers to one call, and sends an `ICCacheRouteEvent` for each.

    Attributes:
        arm: Returns the arm of a name.
    """

    arm: Callable[[str], LLM]

    def finished(self, decision: Decision, answer: R) -> tuple[R, Outcome | None]:
        """The answer with its provenance, and how the call ended."""
        provenance = announce(decision)
        outcome = outcome_of(answer)
        return marked(answer, provenance), replace(outcome, writer=outcome.writer or self.model(decision))

    def has_begun(self, piece: R) -> bool:
        """True if this piece holds text or a tool call."""
        return has_content(piece)

    def transcript(self, decision: Decision) -> LLMTranscript[R]:
        """Collects the pieces that the decision's arm streams."""
        return LLMTranscript(self, decision)

    def model(self, decision: Decision) -> str:
        """The model of the decision's arm: the writer of an answer that names no model."""
        return model_name(self.arm(decision.arm))


class LLMTranscript(Generic[R]):
    """The pieces of one answer."""

    def __init__(self, answers: LLMAnswers[R], decision: Decision) -> None:
        self._answers: LLMAnswers[R] = answers
        self._decision = decision
        self._provenance = decision.provenance()
        self._last: R | None = None
        self._info = ResponseInfo()

    def take(self, piece: R) -> R:
        """The piece to pass on. Every piece is marked: each holds the answer so far and may be read alone."""
        self._last = piece
        self._info = self._info.merge(ResponseInfo.of(piece))
        return marked(piece, self._provenance)

    def outcome(self, *, ended: bool) -> Outcome | None:
        """How the answer ended; None if the arm sent nothing.

        A lost connection looks like the end of a stream, so only an answer with a finish reason counts as finished.
        """
        announce(self._decision)
        if self._last is None:
            return None
        outcome = outcome_of(self._last, self._info)
        has_ended = ended and self._info.reason is not None
        writer = outcome.writer or self._answers.model(self._decision)
        return replace(outcome, finished=outcome.finished and has_ended, broken_off=not ended, writer=writer)


def announce(decision: Decision) -> dict[str, object]:
    """Send the `ICCacheRouteEvent` of an answer; returns its provenance."""
    provenance = decision.provenance()
    dispatcher.event(ICCacheRouteEvent(provenance=provenance))
    return provenance
