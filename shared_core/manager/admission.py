"""Which answers may become examples: an ordered list of rules over one candidate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from shared_core.values import Outcome, Request

POOR: Final = 0.5  # below this an answer is wrong: its exact answer leaves, its example may be replaced


@dataclass(frozen=True, slots=True)
class Candidate:
    """An answer that may become an example.

    Attributes:
        request: What was asked.
        outcome: What was answered.
        is_trusted: True if its writer may write examples: the reference, or another whom the adapter vouches for.
        score: Explicit reward in [0, 1]; None if nobody gave one.
        trust: Score from which an untrusted writer's answer is trusted, else the small model would learn its mistakes.
    """

    request: Request
    outcome: Outcome
    is_trusted: bool
    score: float | None
    trust: float


class Rule(NamedTuple):
    """One reason against an example, with the name under which it is counted."""

    name: str
    refuses: Callable[[Candidate], bool]


def refusal(candidate: Candidate, rules: Sequence[Rule]) -> str:
    """Name of the first rule that refuses the candidate; empty if none does."""
    return next((rule.name for rule in rules if rule.refuses(candidate)), "")


def _has_no_query(candidate: Candidate) -> bool:
    return not candidate.request.query.strip()


def _has_no_answer(candidate: Candidate) -> bool:
    return not candidate.outcome.answer.strip()


def _shows_more_than_text(candidate: Candidate) -> bool:
    """A user turn holds an image or the like: the query alone does not say what was asked."""
    request = candidate.request
    return any(m.role == "user" and not m.is_text for m in request.messages) and not request.condensed


def _is_not_unicode(candidate: Candidate) -> bool:
    """Half a surrogate pair, which streams cut by characters leave behind and no store takes."""
    try:
        (candidate.request.query + candidate.outcome.answer).encode()
    except UnicodeEncodeError:
        return True
    return False


def _depends_on_history(candidate: Candidate) -> bool:
    return candidate.request.has_history and not candidate.request.condensed


def _is_untrusted(candidate: Candidate) -> bool:
    return not candidate.is_trusted and (candidate.score is None or candidate.score < candidate.trust)


UNTRUSTED: Final = "untrusted"
RULES: Final = (
    Rule("no_store", lambda candidate: not candidate.request.store),
    Rule("unfinished", lambda candidate: not candidate.outcome.finished),
    Rule("tool_calls", lambda candidate: candidate.outcome.tool_calls),
    Rule("empty_query", _has_no_query),
    Rule("empty_answer", _has_no_answer),
    Rule("not_text", _shows_more_than_text),
    Rule("not_unicode", _is_not_unicode),
    Rule("history", _depends_on_history),
    Rule(UNTRUSTED, _is_untrusted),  # last: good feedback may still admit what nothing else stands against
)
"""What stands against an example, the cheapest and most certain first."""
