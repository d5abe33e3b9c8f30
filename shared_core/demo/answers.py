"""What a `Model` answers, read for `RoutedCall`."""

from __future__ import annotations

from dataclasses import dataclass

from typing_extensions import override

from shared_core.adapters.attempt import WholeAnswers
from shared_core.adapters.provenance import is_clean
from shared_core.inference import Completion
from shared_core.values import Decision, Outcome


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model answered, and the decision to ask it."""

    decision: Decision
    completion: Completion

    @property
    def text(self) -> str:
        """The only answer, or the first."""
        return self.completion.texts[0]


class CompletionAnswers(WholeAnswers[Answer]):
    """Reads the answers to one call of `Model.complete`."""

    @override
    def finished(self, decision: Decision, answer: Answer) -> tuple[Answer, Outcome | None]:
        return answer, outcome_of(answer.completion)


def outcome_of(completion: Completion) -> Outcome:
    """How a call ended that gave one answer."""
    return Outcome(
        completion.texts[0],
        finished=is_clean(completion.finish_reasons[0].lower() or None),
        prompt_tokens=completion.prompt_tokens,
        completion_tokens=completion.completion_tokens,
    )
