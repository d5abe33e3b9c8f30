"""Stored values. All are frozen. Times are seconds since the epoch, from the injected clock; texts are plain text.

A field that is added later gets a default, which stands for it in values that were stored before.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import AllowInfNan, BeforeValidator, Field, GetPydanticSchema, PlainSerializer, Strict
from pydantic_core import core_schema

Vector: TypeAlias = NDArray[np.float32]
Source: TypeAlias = Literal["traffic", "replay", "correction", "import", "synthetic"]
Tier: TypeAlias = Literal["", "exact", "model", "explored", "probe", "shadow", "fallback", "unrouted"]
Ending: TypeAlias = Literal["", "finished", "cut", "left", "failed"]

# What `store.codec` accepts in stored JSON. Python itself checks none of it.
PLACES: Final = 2**53  # versions, offsets and tokens stay below: Redis's scripts count in doubles
_LARGEST: Final = 1e30  # finite also in the single precision of a replica's columns
_ROUNDING: Final = 1e-6
Number: TypeAlias = Annotated[float, Strict(), AllowInfNan(False), Field(ge=-_LARGEST, le=_LARGEST)]
Share: TypeAlias = Annotated[float, Strict(), AllowInfNan(False), Field(ge=-_ROUNDING, le=1 + _ROUNDING)]
Count: TypeAlias = Annotated[int, Strict(), Field(ge=0, lt=2**31)]  # as wide as a replica's columns
Place: TypeAlias = Annotated[int, Strict(), Field(ge=0, lt=PLACES)]
Flag: TypeAlias = Annotated[bool, Strict()]
_Unchecked: Final = GetPydanticSchema(lambda _source, _handler: core_schema.any_schema())


@dataclass(frozen=True, slots=True)
class Average:
    """An exponential moving average that starts as a plain mean, so the initial value has no weight."""

    value: Share = 0.5
    count: Count = 0

    def update(self, x: float, rate: float = 0.1) -> Average:
        """The average after one more observation `x`; the weight of `x` is max(rate, 1 / (count + 1))."""
        weight = max(rate, 1.0 / (self.count + 1))
        return Average(self.value + weight * (x - self.value), self.count + 1)


def _as_fields(pair: object) -> object:
    if not isinstance(pair, list) or len(pair) != 2:
        raise ValueError("expected a pair of value and count")
    return {"value": pair[0], "count": pair[1]}


_Pair: TypeAlias = Annotated[
    Average, BeforeValidator(_as_fields), PlainSerializer(lambda average: (average.value, average.count))
]


@dataclass(frozen=True, slots=True)
class Statistics:
    """Learned statistics of one example. Written by the learner only.

    Attributes:
        quality: Reward of the example's own answer.
        helpfulness: Reward of answers to prompts with this example.
        offload_value: Credits for successful offloads, decayed to `offload_at` (paper §4.3: 0.9 an hour).
        offload_at: Time of the last update of `offload_value`.
        replay_gain: Moving average of G(e) (paper §4.3).
        replay_count: Number of replays.
    """

    quality: _Pair = Average()
    helpfulness: _Pair = Average()
    offload_value: Number = 0.0
    offload_at: Number = 0.0
    replay_gain: Number = 0.0
    replay_count: Count = 0


@dataclass(frozen=True, slots=True)
class Texts:
    """The texts of one example: the query that was embedded and the full answer."""

    query: str
    answer: str

    @property
    def size(self) -> int:
        """Bytes of both texts in UTF-8."""
        return len(self.query.encode()) + len(self.answer.encode())


@dataclass(frozen=True, slots=True)
class Entry:
    """An example without its texts, as a replica keeps it in memory.

    Attributes:
        id: Unique in the pool.
        size: Bytes of the plain texts (UTF-8), for eviction.
        exact_key: The exact-tier key of the same request, deleted together with the example; empty if there is none.
    """

    id: str
    scope: str
    task: str = ""
    source: Source = "traffic"
    writer: str = ""
    created_at: Number = 0.0
    size: Count = 0
    exact_key: str = ""
    statistics: Statistics = Statistics()


@dataclass(frozen=True, slots=True)
class Example:
    """A past request and its answer: entry, texts and unit vector of shape (dimension,)."""

    entry: Entry
    texts: Texts
    vector: Vector = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class WaitingAnswer:
    """An answer that becomes an example once feedback on it is good.

    Attributes:
        decision_id: The decision that it answers.
        entry: The example that it would be; `entry.created_at` is when it began to wait.
        texts: Query and answer, redacted.
        embedder: Tag of the embedder that made `vector`.
        vector: Unit embedding of the query, of shape (dimension,).
    """

    decision_id: str
    entry: Entry
    texts: Texts
    embedder: str = ""
    vector: Annotated[Vector, _Unchecked] = field(
        default_factory=lambda: np.zeros(0, np.float32), compare=False, repr=False
    )


@dataclass(frozen=True, slots=True)
class ExactAnswer:
    """A stored answer of the exact tier. `payload` is the adapter's own JSON, opaque to the core."""

    key: str
    scope: str
    payload: bytes = b""
    writer: str = ""
    decision_id: str = ""
    created_at: Number = 0.0


@dataclass(frozen=True, slots=True)
class ArmRecord:
    """One arm in a stored decision. Without a router, only its examples are known.

    Attributes:
        arm: Its name.
        mean: Expected reward.
        std: Standard deviation of `mean`.
        sample: The Thompson sample.
        score: What was compared: `sample` less `price` and `bias`.
        price: Reward that its cost was worth.
        bias: Reward that its load was worth.
        eligible: True if it passed the quality guard.
        propensity: Probability that it was chosen.
        utility: Expected usefulness of each candidate for this arm, of shape (candidates,); empty if it uses no examples.
        shown: Positions of the candidates that its prompt would hold, the most useful first.
    """

    arm: str
    mean: Number = 0.0
    std: Number = 0.0
    sample: Number = 0.0
    score: Number = 0.0
    price: Number = 0.0
    bias: Number = 0.0
    eligible: Flag = False
    propensity: Number = 0.0
    utility: tuple[Number, ...] = ()
    shown: tuple[Count, ...] = ()


@dataclass(frozen=True, slots=True)
class DecisionRecord:
    """The stored form of a decision, from which learners learn: ids and numbers, never messages.

    Attributes:
        arm: The arm that answered; ``"exact"`` for an exact hit.
        features: The arm's context vector, for the router's learner.
        example_ids: The examples in the prompt.
        propensity: Probability that the arm was chosen.
        explored: True if the exploration share chose it.
        version: Version of the router's checkpoint; 0 before the first.
        exact_key: The exact answer that the decision stored or served.
        admitted_id: The example that the answer became.
        prompt_tokens: As the provider counted them; 0 if unknown.
        completion_tokens: As the provider counted them; 0 if unknown.
        cached_tokens: Prompt tokens that the provider read from its cache; 0 if unknown.
        example_tokens: Estimated tokens of the examples in the prompt.
        tier: How the request was answered; ``"unrouted"`` if IC-Cache did not choose the model.
        probe_of: The decision whose arm this call was compared with.
        features_name: Version of `features`.
        candidates: Ids of the candidates of stage 1, the most similar first.
        similarity: Their cosines, of shape (candidates,).
        threshold: The required similarity.
        arms: Every arm.
        examples_propensity: Probability that the arm was shown this number of examples.
        surface: Counts of the request's text and turns.
        seconds: From the start of the arm's call to the end of its answer; 0 if unknown.
        first_token: Seconds to the first content; 0 if it was not streamed.
        money: Cost of the call, in the unit of the arms' costs.
        ended: How the answer ended: ``"cut"`` at a limit, ``"left"`` by its reader; empty if unknown.
        error: Type of the exception if the call failed.
        tool_calls: True if the answer calls tools.
        refused: Rule of admission that refused the answer when it was stored; after ``"untrusted"``, it waited for
            feedback. Empty if none did.
        vector: The request's unit embedding of shape (dimension,), in half precision; None if it is not kept.
    """

    id: str
    scope: str
    task: str = ""
    arm: str = ""
    features: tuple[Number, ...] = ()
    example_ids: tuple[str, ...] = ()
    propensity: Number = 1.0
    explored: Flag = False
    version: Place = 0
    created_at: Number = 0.0
    exact_key: str = ""
    admitted_id: str = ""
    prompt_tokens: Count = 0
    completion_tokens: Count = 0
    cached_tokens: Count = 0
    example_tokens: Count = 0
    tier: Tier = ""
    probe_of: str = ""
    features_name: str = ""
    candidates: tuple[str, ...] = ()
    similarity: tuple[Number, ...] = ()
    threshold: Number = -1.0
    arms: tuple[ArmRecord, ...] = ()
    examples_propensity: Number = 1.0
    surface: dict[str, Count] = field(default_factory=dict)
    seconds: Number = 0.0
    first_token: Number = 0.0
    money: Number = 0.0
    ended: Ending = ""
    error: str = ""
    tool_calls: Flag = False
    refused: str = ""
    vector: Annotated[NDArray[np.float16] | None, _Unchecked] = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Feedback:
    """One rating of one answer, or one comparison of two.

    Attributes:
        decision_id: The decision of the answer; of a pair, that of the first answer.
        rater: Who rates. Only the first rating counts per answer, or pair, and rater.
        score: In [0, 1]. Of a pair: 1.0 if the first answer is better, 0.5 if both are equal.
        at: When it was given.
        than: The decision of the second answer; empty for a rating of one answer.
        arm: The arm of the first answer, if one decision stands for both; else empty.
        than_arm: The arm of the second answer, likewise.
    """

    decision_id: str
    rater: str
    score: Number
    at: Number
    than: str = ""
    arm: str = ""
    than_arm: str = ""

    @property
    def subject(self) -> str:
        """What is rated: the decision's id, or of a pair both answers in an order that does not depend on them."""
        if not self.than:
            return self.decision_id
        return json.dumps(sorted([[self.decision_id, self.arm], [self.than, self.than_arm]]))


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What was published of one part of the learner.

    Attributes:
        version: Number of the publication that wrote it; 0 before the first.
        offset: The part has learned the feedback log up to here.
        arrays: Arrays of any plain NumPy type.
        meta: A small JSON.
    """

    version: int = 0
    offset: int = 0
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict, compare=False)
    meta: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PartRound:
    """What one round did to one part.

    Attributes:
        part: Its name.
        folded: Entries of the log that it learned from.
        skipped: Entries that it did not learn from, by the reason.
        before: Version of its checkpoint before the round.
        after: Version after it.
        seconds: Time that the part itself took.
        aside: Why it was put aside: the name of an error, or another short reason; empty if it was not.
    """

    part: str
    folded: Place = 0
    skipped: dict[str, Place] = field(default_factory=dict)
    before: Place = 0
    after: Place = 0
    seconds: Number = 0.0
    aside: str = ""


@dataclass(frozen=True, slots=True)
class LearnRound:
    """What one round of learning did.

    Attributes:
        version: Number of its publication.
        at: When it was published.
        consumed: Entries of the log that no round had learned before.
        orphans: Those of them whose decision is unknown or expired.
        unusable: Those of them whose score is not in [0, 1].
        parts: What it did to each part.
    """

    version: Place
    at: Number
    consumed: Place = 0
    orphans: Place = 0
    unusable: Place = 0
    parts: tuple[PartRound, ...] = ()
