"""What LlamaIndex's models answer, read and marked: `Answers` for whole answers and for streams."""

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
    """Reads the answers to one call, and sends `ICCacheRouteEvent` for each.

    Attributes:
        arm: Gives an arm by its name.
    """

    arm: Callable[[str], LLM]

    def finished(self, decision: Decision, answer: R) -> tuple[R, Outcome | None]:
        """The answer marked, and how it ended."""
        provenance = announce(decision)
        return marked(answer, provenance), self.with_writer(decision, outcome_of(answer))

    def has_begun(self, piece: R) -> bool:
        """True if there is something to read in this piece, or a tool to call."""
        return has_content(piece)

    def transcript(self, decision: Decision) -> LLMTranscript[R]:
        """For the pieces of the decision's arm."""
        return LLMTranscript(self, decision)

    def with_writer(self, decision: Decision, outcome: Outcome) -> Outcome:
        """The outcome with the arm's model as its writer, where the answer does not name one."""
        return outcome if outcome.writer else replace(outcome, writer=model_name(self.arm(decision.arm)))


class LLMTranscript(Generic[R]):
    """The pieces of one answer."""

    def __init__(self, answers: LLMAnswers[R], decision: Decision) -> None:
        self._answers: LLMAnswers[R] = answers
        self._decision = decision
        self._provenance = decision.provenance()
        self._last: R | None = None
        self._info = ResponseInfo()

    def take(self, piece: R) -> R:
        """The piece to pass on. Each is marked, because each holds the answer so far and is read for itself."""
        self._last = piece
        self._info = self._info.then(ResponseInfo.of(piece))
        return marked(piece, self._provenance)

    def outcome(self, *, ended: bool) -> Outcome | None:
        """How the answer ended; None if nothing was said.

        A connection that is cut looks like the end of a stream. So an arm must say why it stopped.
        """
        announce(self._decision)
        if self._last is None:
            return None
        outcome = outcome_of(self._last, self._info)
        has_ended = ended and self._info.reason is not None
        outcome = replace(outcome, finished=outcome.finished and has_ended, broken_off=not ended)
        return self._answers.with_writer(self._decision, outcome)


def announce(decision: Decision) -> dict[str, object]:
    """Send the event of an answer; returns how it came about."""
    provenance = decision.provenance()
    dispatcher.event(ICCacheRouteEvent(provenance=provenance))
    return provenance
