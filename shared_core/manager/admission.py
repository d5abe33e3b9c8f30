"""Which answers may become examples: an ordered list of rules over one candidate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from shared_core.values import Outcome, Request

POOR_SCORE: Final = 0.5  # an answer below this is wrong: its exact answer is deleted, its example may be replaced


@dataclass(frozen=True, slots=True)
class Candidate:
    """An answer that may become an example.

    Attributes:
        request: The request.
        outcome: The answer.
        is_trusted: True if its writer may write examples: the reference, or a model that the adapter trusts.
    """

    request: Request
    outcome: Outcome
    is_trusted: bool


class Rule(NamedTuple):
    """A reason to refuse an example, with the name under which it is counted."""

    name: str
    refuses: Callable[[Candidate], bool]


def refusal(candidate: Candidate, rules: Sequence[Rule]) -> str:
    """Name of the first rule that refuses the candidate; empty if no rule does."""
    return next((rule.name for rule in rules if rule.refuses(candidate)), "")


def _has_no_query(candidate: Candidate) -> bool:
    return not candidate.request.query.strip()


def _has_no_answer(candidate: Candidate) -> bool:
    return not candidate.outcome.answer.strip()


def _shows_more_than_text(candidate: Candidate) -> bool:
    """A user turn holds an image or other content, so the query alone is not the whole question."""
    request = candidate.request
    return any(m.role == "user" and not m.is_text for m in request.messages) and not request.condensed


def _is_not_unicode(candidate: Candidate) -> bool:
    """The text holds half a surrogate pair, which stores cannot encode; streams split by characters leave these."""
    try:
        (candidate.request.query + candidate.outcome.answer).encode()
    except UnicodeEncodeError:
        return True
    return False


def _depends_on_history(candidate: Candidate) -> bool:
    return candidate.request.has_history and not candidate.request.condensed


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
    # Last: an answer that no other rule refuses waits for good feedback. Else the small model would learn its mistakes.
    Rule(UNTRUSTED, lambda candidate: not candidate.is_trusted),
)
"""The rules of admission, the cheapest and most certain first."""
