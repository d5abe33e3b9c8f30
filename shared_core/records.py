"""Stored values. All are frozen. Times are seconds since the epoch, from the injected clock; texts are plain text."""

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
    """An exponential moving average that starts as a plain mean, so the initial value has no weight."""

    value: float = 0.5
    count: int = 0

    def update(self, x: float, rate: float = 0.1) -> Average:
        """The average after one more observation `x`; the weight of `x` is max(rate, 1 / (count + 1))."""
        weight = max(rate, 1.0 / (self.count + 1))
        return Average(self.value + weight * (x - self.value), self.count + 1)


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
    """An example without its texts, as a replica keeps it in memory.

    Attributes:
        id: Unique in the pool.
        size: Bytes of the plain texts (UTF-8), for eviction.
        exact_key: The exact-tier key of the same request, deleted together with the example; empty if there is none.
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
    """A past request and its answer: entry, texts and unit vector of shape (dimension,)."""

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
    """The stored form of a decision: ids and features, never messages.

    `example_ids` are the examples in the prompt, `admitted_id` is the example that the answer became, and `exact_key`
    is the exact answer that the decision stored or served. Each is empty if there is none. `arm` is ``"exact"`` for an
    exact hit.
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
    """One rating of one answer: `score` in [0, 1], by `rater`. Only the first per (decision, rater) counts."""

    decision_id: str
    rater: str
    score: float
    at: float


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The learner's published state: arrays and a small JSON, after consuming the feedback log up to `offset`."""

    version: int = 0
    offset: int = 0
    arrays: Mapping[str, NDArray[np.float64]] = field(default_factory=dict, compare=False)
    meta: Mapping[str, object] = field(default_factory=dict)
