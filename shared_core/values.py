"""The values of the request path. All are frozen and independent of frameworks, stores and models.

Similarity is a cosine in [-1, 1]; quality, utility and reward are in [0, 1]. Times are seconds since the epoch, from
the injected clock. Texts are plain text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from shared_core.records import ExactAnswer, Vector
from shared_core.text import canonical_text, digest

Clock: TypeAlias = Callable[[], float]
Role: TypeAlias = Literal["system", "user", "assistant", "tool"]
Style: TypeAlias = Literal["chat", "paper"]

DEFAULT_SCOPE: Final = "default"
EXACT: Final = "exact"  # the arm of decisions that served a stored answer
UNROUTED: Final = "unrouted"  # the arm of decisions that choose examples but no model


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation, normalised.

    Attributes:
        role: The speaker.
        text: The plain text of the turn.
        extra: Canonical JSON of what else identifies the turn (tool calls, images, speaker name), or any other text
            that distinguishes it; empty for plain text. It never holds message ids, token usage or response metadata.
    """

    role: Role
    text: str
    extra: str = ""

    @property
    def is_text(self) -> bool:
        """True if the turn holds only text, and maybe the speaker's name."""
        if not self.extra:
            return True
        try:
            return set(json.loads(self.extra)) <= {"name"}
        except (ValueError, TypeError, RecursionError):  # not JSON
            return False


@dataclass(frozen=True, slots=True)
class Request:
    """A user's request, in the form that every part of IC-Cache uses.

    Attributes:
        messages: The whole conversation.
        query: The text that is embedded and compared; an empty query gets no examples.
        scope: The tenant. Part of every key and a hard partition of every index; never part of a text.
        task: The kind of answer expected; partitions a scope.
        fingerprint: Canonical text of what else identifies the call: model parameters, tools, response format.
        store: False keeps the request and its answer out of every store.
        condensed: True if `query` covers the earlier turns as well, so a later turn may become an example.
        examples_allowed: False if examples must not be added, e.g. if the last turn is a tool result.
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
        """SHA-256 of scope, conversation (in the form of `canonical_text`) and fingerprint."""
        turns = [[m.role, canonical_text(m.text), m.extra] for m in self.messages]
        return digest([self.scope, turns, self.fingerprint])

    @property
    def has_history(self) -> bool:
        """True if the conversation holds an earlier user or assistant turn."""
        return sum(m.role != "system" for m in self.messages) > 1


@dataclass(frozen=True, slots=True)
class ScoredExample:
    """An example that was chosen for a request."""

    id: str
    similarity: float
    utility: float
    query: str
    answer: str


@dataclass(frozen=True, slots=True, eq=False)
class Considered:
    """The candidates among which a selection chose, for the log; the most similar first.

    Attributes:
        ids: Ids of the k candidates.
        similarity: Cosines of shape (k,).
        arms: The arms that use examples.
        utility: Utilities of shape (arms, k).
    """

    ids: tuple[str, ...]
    similarity: NDArray[np.float32] = field(repr=False)
    arms: tuple[str, ...]
    utility: NDArray[np.float32] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Selection:
    """The examples chosen for a request, and how they were chosen.

    Attributes:
        by_arm: For each arm that uses examples, at most `max_examples` within its budget, the most useful first.
        considered: Number of candidates from stage 1.
        threshold: The required similarity.
        vector: The request's unit embedding of shape (dimension,), or None if it was not embedded.
        candidates: The candidates themselves, or None if there was no search.
    """

    by_arm: Mapping[str, tuple[ScoredExample, ...]] = field(default_factory=dict)
    considered: int = 0
    threshold: float = -1.0
    vector: Vector | None = field(default=None, compare=False, repr=False)
    candidates: Considered | None = field(default=None, compare=False, repr=False)

    def for_arm(self, arm: str) -> tuple[ScoredExample, ...]:
        """The examples for one arm; empty for an arm without examples."""
        return self.by_arm.get(arm, ())


@dataclass(frozen=True, slots=True)
class Arm:
    """A candidate model.

    Attributes:
        name: Its name in decisions, costs and posteriors.
        cost: Relative cost of one request, at least 0; 1.0 for the reference arm by convention.
        uses_examples: True if it gets examples. The paper's large model answers without.
        style: How its examples are rendered.
        example_tokens: Budget of all its examples together, in estimated tokens; None for the engine's setting.
    """

    name: str
    cost: float
    uses_examples: bool = True
    style: Style = "chat"
    example_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class ArmScore:
    """The evaluation of one arm in one decision.

    Attributes:
        arm: Its name.
        mean: Posterior mean of its reward.
        std: Posterior standard deviation of its reward.
        sample: Thompson sample.
        cost: Its relative cost.
        eligible: True if it passed the quality guard.
        score: What was compared: the sample less what the cost is worth.
        propensity: Probability in [0, 1] that it was chosen, exploration included.
    """

    arm: str
    mean: float
    std: float
    sample: float
    cost: float
    eligible: bool
    score: float
    propensity: float = 0.0


@dataclass(frozen=True, slots=True)
class Route:
    """Which arm answers, and why.

    Attributes:
        arm: The chosen arm.
        scores: The evaluation of every arm.
        propensity: Probability in (0, 1] that this arm was chosen, exploration included.
        explored: True if the exploration share chose it, regardless of the guard.
        reason: One sentence.
        features: The chosen arm's context vector, for the learner; empty on a fallback.
        version: The checkpoint version of the posterior.
        features_name: Version of `features`; empty without them.
    """

    arm: str
    scores: tuple[ArmScore, ...] = ()
    propensity: float = 1.0
    explored: bool = False
    reason: str = ""
    features: tuple[float, ...] = ()
    version: int = 0
    features_name: str = ""


@dataclass(frozen=True, slots=True)
class Insertion:
    """Where the examples go in the caller's list of messages.

    Attributes:
        index: Position in the original conversation before which `turns` are inserted.
        turns: User and assistant turns, rendered and fenced.
        rewrite: New text of the last user turn (the paper's single prompt); None keeps it.
        examples: The examples in `turns` or `rewrite`, the most useful first.
    """

    index: int = 0
    turns: tuple[Message, ...] = ()
    rewrite: str | None = None
    examples: tuple[ScoredExample, ...] = ()


@dataclass(frozen=True, slots=True)
class Decision:
    """The decision about one request, which `provenance` explains."""

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
        """The examples in the chosen arm's prompt; may be empty."""
        return self.insertion.examples

    def provenance(self) -> dict[str, object]:
        """The content of ``response_metadata["iccache"]``: plain JSON values, no texts."""
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
        finished: True only if the answer is complete (not truncated, filtered, cancelled or failed).
        broken_off: True if the caller stopped reading or the connection broke. The reward function does not see such an
            answer, because it says nothing about the model.
        tool_calls: True if the answer calls tools.
        writer: Name of the model that wrote it.
        payload: The adapter's JSON of the whole response for the exact tier; None keeps it out of that tier.
        prompt_tokens: As the provider counted them; 0 if unknown.
        completion_tokens: As the provider counted them; 0 if unknown.
        cached_tokens: Prompt tokens that the provider read from its cache; 0 if unknown.
        seconds: From the start of the arm's call to the end of its answer; 0 if not measured.
        first_token: Seconds from the start of the call to the first content; None if not streamed.
        error: Type of the exception if the call failed; else empty.
    """

    answer: str
    finished: bool = True
    broken_off: bool = False
    tool_calls: bool = False
    writer: str = ""
    payload: bytes | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    seconds: float = 0.0
    first_token: float | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Hit:
    """An answer served from the exact tier; `decision_id` takes feedback like any other decision."""

    decision_id: str
    answer: ExactAnswer
