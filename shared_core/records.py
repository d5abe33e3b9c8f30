"""What persists. All are frozen; times are seconds since the epoch, as the injected clock gives them; texts are plain text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Vector: TypeAlias = NDArray[np.float32]
Source: TypeAlias = Literal["traffic", "replay", "correction", "import", "synthetic"]


@dataclass(frozen=True, slots=True)
class Average:
    """An exponential moving average that starts as a plain mean, so that early values are not drowned by the prior."""

    value: float = 0.5
    count: int = 0

    def update(self, x: float, rate: float = 0.1) -> Average:
        """The average after one more observation `x`; the weight of `x` is max(rate, 1 / (count + 1))."""
        weight = max(rate, 1.0 / (self.count + 1))
        return Average(self.value + weight * (x - self.value), self.count + 1)


@dataclass(frozen=True, slots=True)
class Statistics:
    """What has been learned about one example. Written by the learner only.

    Attributes:
        quality: Reward of the example's own answer.
        helpfulness: Reward of the answers that were given with this example in the prompt.
        offload_value: Credits for successful offloads, decayed to `offload_at` (paper §4.3: 0.9 an hour).
        offload_at: When `offload_value` was last brought up to date.
        replay_gain: Moving average of G(e) (paper §4.3).
        replay_count: How many times the example was replayed.
    """

    quality: Average = Average()
    helpfulness: Average = Average()
    offload_value: float = 0.0
    offload_at: float = 0.0
    replay_gain: float = 0.0
    replay_count: int = 0


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
    """An example without its texts: what a replica keeps in memory.

    Attributes:
        id: Unique in the pool.
        size: Bytes of the plain texts (UTF-8), the weight of eviction.
        exact_key: The exact-tier key of the same request, removed together with the example; empty if none.
    """

    id: str
    scope: str
    task: str
    source: Source
    writer: str
    created_at: float
    size: int
    exact_key: str = ""
    statistics: Statistics = Statistics()


@dataclass(frozen=True, slots=True)
class Example:
    """A past request and its answer, as it is stored: entry, texts and unit vector of shape (dimension,)."""

    entry: Entry
    texts: Texts
    vector: Vector = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class ExactAnswer:
    """A stored answer of the exact tier. `payload` is the adapter's own JSON, opaque to the core."""

    key: str
    scope: str
    payload: bytes
    writer: str
    decision_id: str
    created_at: float


@dataclass(frozen=True, slots=True)
class DecisionRecord:
    """What is kept of a decision: ids and features, never messages.

    `example_ids` are the examples given; `admitted_id` is the example that this decision's answer became;
    `exact_key` is the exact answer that it stored or served. Each is empty if there is none. `arm` is ``"exact"``
    for an exact hit.
    """

    id: str
    scope: str
    task: str
    arm: str
    features: tuple[float, ...]
    example_ids: tuple[str, ...]
    propensity: float
    explored: bool
    version: int
    created_at: float
    exact_key: str = ""
    admitted_id: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Feedback:
    """One judgement of one answer: `score` in [0, 1], given by `rater`. Idempotent per (decision, rater)."""

    decision_id: str
    rater: str
    score: float
    at: float


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What the learner publishes: arrays and a little JSON, after consuming the feedback log up to `offset`."""

    version: int = 0
    offset: int = 0
    arrays: Mapping[str, NDArray[np.float64]] = field(default_factory=dict, compare=False)
    meta: Mapping[str, object] = field(default_factory=dict)
