"""Learns from one batch of the feedback log: a fold over its entries, in the order of the log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from shared_core.learning.statistics import credited, helped, rated
from shared_core.records import Average, Checkpoint, DecisionRecord, Feedback, Statistics
from shared_core.router import state
from shared_core.router.bandit import Posterior, observe
from shared_core.router.features import DIMENSION, FEATURES

REWARDS: Final = "rewards"  # metadata: arm → [mean reward, count], over all ratings so far


@dataclass(slots=True)
class Round:
    """The learner's state during a batch.

    Attributes:
        reference: Name of the reference arm.
        target: Share of the reference's mean reward from which an offload is successful.
        posteriors: Posterior by arm.
        rewards: Mean reward by arm.
        statistics: Statistics of the existing examples in the batch, by (scope, id).
        orphans: Entries whose decision is unknown or expired.
        unusable: Entries whose score is not a number in [0, 1].
    """

    reference: str
    target: float
    posteriors: dict[str, Posterior]
    rewards: dict[str, Average]
    statistics: dict[tuple[str, str], Statistics] = field(default_factory=dict)
    orphans: int = 0
    unusable: int = 0

    def take(self, feedback: Feedback, record: DecisionRecord | None, now: float) -> None:
        """Learn from one entry; `record` is its decision, None if it is unknown or expired."""
        if record is None:
            self.orphans += 1
            return
        if not 0.0 <= feedback.score <= 1.0:  # false for NaN, too
            self.unusable += 1
            return
        self._learn_arm(record, feedback.score)
        # A rater's clock may run ahead; a time in the future would delay the decay of the value.
        self._learn_examples(record, feedback.score, min(feedback.at, now))

    def _learn_arm(self, record: DecisionRecord, score: float) -> None:
        self.rewards[record.arm] = self.rewards.get(record.arm, Average()).update(score, rate=0.0)
        if len(record.features) != DIMENSION or record.features_name not in ("", FEATURES):
            return  # a fallback or an exact hit has no features; those of another release may mean something else
        before = self.posteriors.get(record.arm) or state.initial(reference=record.arm == self.reference)
        self.posteriors[record.arm] = observe(before, np.array(record.features), score)

    def _learn_examples(self, record: DecisionRecord, score: float, at: float) -> None:
        own = (record.scope, record.admitted_id)
        if own in self.statistics:
            self.statistics[own] = rated(self.statistics[own], score)
        offloaded = record.arm != self.reference and score >= self.target * self._expected()
        for example_id in record.example_ids:
            key = (record.scope, example_id)
            if key not in self.statistics:
                continue  # deleted meanwhile
            statistics = helped(self.statistics[key], score)
            if offloaded:
                statistics = credited(statistics, 1.0 / len(record.example_ids), at)
            self.statistics[key] = statistics

    def _expected(self) -> float:
        """The reference's mean reward so far; before the first reward, that of the prior."""
        rewards = self.rewards.get(self.reference)
        return rewards.value if rewards else state.PRIOR_REFERENCE


def resume(checkpoint: Checkpoint, reference: str, target: float) -> tuple[Round, int]:
    """The state of a checkpoint, and the number of foreign or unusable entries, which are ignored."""
    posteriors, ignored = state.read(checkpoint)
    saved = checkpoint.meta.get(REWARDS)
    rewards: dict[str, Average] = {}
    for arm, entry in saved.items() if isinstance(saved, Mapping) else ():
        match entry:
            case [float(mean), int(count)]:
                rewards[arm] = Average(mean, count)
            case _:
                ignored += 1
    return Round(reference, target, posteriors, rewards), ignored


def advance(checkpoint: Checkpoint, round_: Round, offset: int) -> Checkpoint:
    """The checkpoint after a round that consumed the log up to `offset`; entries of other parts are kept."""
    arrays, meta = state.write(round_.posteriors)
    rewards = {arm: [average.value, average.count] for arm, average in round_.rewards.items()}
    return Checkpoint(
        version=checkpoint.version + 1,
        offset=offset,
        arrays={**checkpoint.arrays, **arrays},
        meta={**checkpoint.meta, **meta, REWARDS: rewards},
    )


def examples_of(records: Sequence[DecisionRecord]) -> dict[str, list[str]]:
    """Ids of the examples that these decisions used or created, by scope, without duplicates."""
    ids: dict[str, dict[str, None]] = {}
    for record in records:
        of_scope = ids.setdefault(record.scope, {})
        of_scope.update(dict.fromkeys(record.example_ids))
        if record.admitted_id:
            of_scope[record.admitted_id] = None
    return {scope: list(of_scope) for scope, of_scope in ids.items() if of_scope}
