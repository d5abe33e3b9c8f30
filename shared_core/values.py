"""What travels on the request path. All are frozen; none knows a framework, a store or a model.

Similarity is a cosine in [-1, 1]; quality, utility and reward lie in [0, 1]. Times are seconds since the epoch,
as the injected clock gives them. Texts are plain text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from shared_core.records import ExactAnswer, Vector
from shared_core.text import digest, same_text

Clock: TypeAlias = Callable[[], float]
Role: TypeAlias = Literal["system", "user", "assistant", "tool"]
Style: TypeAlias = Literal["chat", "paper"]

DEFAULT_SCOPE: Final = "default"
EXACT: Final = "exact"  # the arm of decisions that served a stored answer
UNROUTED: Final = "unrouted"  # the arm of decisions that choose examples and no model


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation, normalised.

    Attributes:
        role: Who speaks.
        text: The plain text of the turn.
        extra: Canonical JSON of whatever else identifies the turn (tool calls, images, speaker name), or a mark that
            no turn of a conversation has; empty for plain text. Message ids, token usage and response metadata never
            enter it.
    """

    role: Role
    text: str
    extra: str = ""

    @property
    def is_text(self) -> bool:
        """True if the turn holds nothing but its text; who speaks does not count."""
        if not self.extra:
            return True
        try:
            return set(json.loads(self.extra)) <= {"name"}
        except (ValueError, TypeError, RecursionError):  # a mark may be any text
            return False


@dataclass(frozen=True, slots=True)
class Request:
    """What the user asked, as every part of IC-Cache sees it.

    Attributes:
        messages: The whole conversation.
        query: The text that is embedded and compared; empty means that the request bypasses.
        scope: Whose request it is. A part of every key and a hard partition of every index, never text.
        task: What kind of answer is expected; partitions a scope.
        fingerprint: Canonical text of what else identifies the call: model parameters, tools, response format.
        store: False keeps the request and its answer out of every store.
        condensed: True if `query` stands for the earlier turns as well, so that a later turn may be admitted.
        examples_allowed: False where examples must not be added (the last turn is a tool result, say).
    """

    messages: tuple[Message, ...]
    query: str
    scope: str = DEFAULT_SCOPE
    task: str = ""
    fingerprint: str = ""
    store: bool = True
    condensed: bool = False
    examples_allowed: bool = True

    @property
    def exact_key(self) -> str:
        """SHA-256 of scope, conversation (as `same_text` has it, case kept) and fingerprint."""
        turns = [[m.role, same_text(m.text), m.extra] for m in self.messages]
        return digest([self.scope, turns, self.fingerprint])

    @property
    def has_history(self) -> bool:
        """True if the conversation holds an earlier user or assistant turn."""
        return sum(m.role != "system" for m in self.messages) > 1


@dataclass(frozen=True, slots=True)
class ScoredExample:
    """An example as it was chosen for one request."""

    id: str
    similarity: float
    utility: float
    query: str
    answer: str


@dataclass(frozen=True, slots=True)
class Selection:
    """The examples chosen for one request, and how they were chosen.

    Attributes:
        by_arm: For each arm that is shown examples at most `max_examples`, the most useful first, within its budget.
        considered: How many candidates stage 1 returned.
        threshold: The similarity that a candidate needed.
        vector: The request's unit embedding of shape (dimension,), or None if it was not embedded.
    """

    by_arm: Mapping[str, tuple[ScoredExample, ...]] = field(default_factory=dict)
    considered: int = 0
    threshold: float = -1.0
    vector: Vector | None = field(default=None, compare=False, repr=False)

    def for_arm(self, arm: str) -> tuple[ScoredExample, ...]:
        """The examples for one arm; empty for an arm that is shown none."""
        return self.by_arm.get(arm, ())


@dataclass(frozen=True, slots=True)
class Arm:
    """A candidate model.

    Attributes:
        name: How decisions, costs and posteriors name it.
        cost: Relative cost of one request, 1.0 for the reference arm by convention; at least 0.
        uses_examples: Whether it is shown examples. The paper's large model answers without.
        style: How examples are rendered for it.
        example_tokens: Estimated tokens of all its examples together; None for the engine's own setting.
    """

    name: str
    cost: float
    uses_examples: bool = True
    style: Style = "chat"
    example_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class ArmScore:
    """How one arm stood in one decision: posterior mean and standard deviation of its reward, the Thompson sample,
    its cost, whether the quality guard let it in, and the score that was compared."""

    arm: str
    mean: float
    std: float
    sample: float
    cost: float
    eligible: bool
    score: float


@dataclass(frozen=True, slots=True)
class Route:
    """Which arm answers, and why.

    Attributes:
        arm: The chosen arm.
        scores: Every arm's standing.
        propensity: Probability in (0, 1] that this arm was chosen, exploration included.
        explored: True if the exploration share chose it, guard aside.
        reason: One sentence.
        features: The chosen arm's context vector, what the learner needs; empty on a fallback.
        version: The checkpoint version whose posterior was used.
    """

    arm: str
    scores: tuple[ArmScore, ...] = ()
    propensity: float = 1.0
    explored: bool = False
    reason: str = ""
    features: tuple[float, ...] = ()
    version: int = 0


@dataclass(frozen=True, slots=True)
class Insertion:
    """Where the examples go in the caller's own list of messages.

    Attributes:
        index: Position in the original conversation before which `turns` are inserted.
        turns: User and assistant turns, rendered and fenced.
        rewrite: New text of the last user turn (the paper's single prompt), or None to leave it.
        examples: What is shown by either, the most useful first.
    """

    index: int = 0
    turns: tuple[Message, ...] = ()
    rewrite: str | None = None
    examples: tuple[ScoredExample, ...] = ()


@dataclass(frozen=True, slots=True)
class Decision:
    """Everything that was decided for one request. It explains itself: see `provenance`."""

    id: str
    request: Request
    route: Route
    selection: Selection = Selection()
    insertion: Insertion = Insertion()
    fallback: bool = False
    created_at: float = 0.0

    @property
    def arm(self) -> str:
        """Name of the arm that answers."""
        return self.route.arm

    @property
    def given(self) -> tuple[ScoredExample, ...]:
        """The examples that the chosen arm is shown; empty where it is shown none."""
        return self.insertion.examples

    def provenance(self) -> dict[str, object]:
        """What the user sees as ``response_metadata["iccache"]``: plain JSON values, no texts."""
        return {
            "decision_id": self.id,
            "tier": "fallback" if self.fallback else "model",
            "arm": self.arm,
            "reason": self.route.reason,
            "explored": self.route.explored,
            "propensity": round(self.route.propensity, 6),
            "version": self.route.version,
            "examples": [
                {"id": e.id, "similarity": round(e.similarity, 4), "utility": round(e.utility, 4)} for e in self.given
            ],
            "scores": {
                s.arm: {
                    "mean": round(s.mean, 4),
                    "std": round(s.std, 4),
                    "sample": round(s.sample, 4),
                    "cost": s.cost,
                    "eligible": s.eligible,
                    "score": round(s.score, 4),
                }
                for s in self.route.scores
            },
        }


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the model's call ended.

    Attributes:
        answer: The full text.
        finished: True only if the model ended by itself (not cut, filtered, cancelled or failed).
        broken_off: True if the caller left or the connection broke. Then half an answer says nothing about the model,
            and the reward function does not see it.
        tool_calls: True if the answer calls tools.
        writer: Name of the model that wrote it.
        payload: The adapter's JSON of the whole response for the exact tier; None keeps it out of that tier.
        prompt_tokens: As the model counted them; 0 if it did not say.
        completion_tokens: As the model counted them; 0 if it did not say.
        seconds: From asking the arm to the end of its answer; 0 if nobody measured it.
        first_token: Seconds from asking to the first piece that said something; None where nothing was streamed.
        error: Type of the exception with which the call failed; empty if it did not.
    """

    answer: str
    finished: bool = True
    broken_off: bool = False
    tool_calls: bool = False
    writer: str = ""
    payload: bytes | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    first_token: float | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Hit:
    """An answer served from the exact tier; `decision_id` takes feedback like any other decision."""

    decision_id: str
    answer: ExactAnswer
