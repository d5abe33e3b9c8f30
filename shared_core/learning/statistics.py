"""The statistics of examples, learned from feedback. All but the trainee are pure functions over `Statistics`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from typing_extensions import override

from shared_core.records import Average, Checkpoint, Statistics
from shared_core.router.state import PRIOR_REFERENCE
from shared_core.trainee import Lesson, PairLesson, RatingLesson, State, Trainee

PART: Final = "statistics"
REWARDS: Final = "rewards"  # metadata: arm → [mean reward, count], over all ratings so far
DECAY: Final = 0.9  # factor of the offload value per hour (paper §4.3)
HOUR: Final = 3600.0
MOST_VALUE: Final = 1e9  # more offloads than an example can have: a stored value above it is damaged


class ExampleStatistics(Trainee):
    """Learns how good examples are, and the mean reward of each arm.

    A comparison of two answers teaches it nothing.

    Args:
        reference: Name of the reference arm; empty if there are no arms.
        target: Share of the reference's mean reward from which an offload is successful.
    """

    part = PART
    replays = False  # the statistics of the examples have counted the log already

    def __init__(self, reference: str, target: float) -> None:
        self._reference = reference
        self._target = target
        self._rewards: dict[str, Average] = {}
        self._statistics: dict[tuple[str, str], Statistics] = {}  # changed since the last state

    @override
    def resume(self, saved: Checkpoint | None) -> None:
        self._rewards = rewards_of(saved)
        self._statistics = {}

    @override
    def fold(self, lesson: Lesson) -> str:
        if isinstance(lesson, PairLesson):
            return "pair"
        record, score = lesson.record, lesson.feedback.score
        self._rewards[record.arm] = self._rewards.get(record.arm, Average()).update(score, rate=0.0)
        self._fold_examples(lesson, is_offloaded=record.arm != self._reference and score >= self._needed())
        return ""

    @override
    def state(self) -> State | None:
        statistics, self._statistics = self._statistics, {}
        rewards = {arm: [average.value, average.count] for arm, average in self._rewards.items()}
        return State(meta={REWARDS: rewards}, statistics=statistics)

    def _needed(self) -> float:
        """The reward from which an offload is successful; before the reference's first, by the prior."""
        rewards = self._rewards.get(self._reference)
        return self._target * (rewards.value if rewards else PRIOR_REFERENCE)

    def _fold_examples(self, lesson: RatingLesson, *, is_offloaded: bool) -> None:
        record, score = lesson.record, lesson.feedback.score
        at = min(lesson.feedback.at, lesson.now)  # a rater's clock may run ahead, which would delay the decay
        if (own := self._known(lesson, record.admitted_id)) is not None:
            self._statistics[record.scope, record.admitted_id] = rated(own, score)
        for example_id in record.example_ids:
            if (known := self._known(lesson, example_id)) is not None:
                learned = helped(known, score)
                if is_offloaded:
                    learned = credited(learned, 1.0 / len(record.example_ids), at)
                self._statistics[record.scope, example_id] = learned

    def _known(self, lesson: RatingLesson, example_id: str) -> Statistics | None:
        """What is known of an example; None if it was deleted."""
        stored = lesson.statistics.get(example_id)
        return self._statistics.get((lesson.record.scope, example_id)) or (stored and mended(stored, lesson.now))


def rewards_of(saved: Checkpoint | None) -> dict[str, Average]:
    """The mean rewards in a checkpoint of the statistics, by arm. Entries that cannot be used are left out."""
    entries = saved.meta.get(REWARDS) if saved else None
    rewards = {}
    for arm, entry in entries.items() if isinstance(entries, Mapping) else ():
        match entry:
            case [float(mean), int(count)] if _is_sound(Average(mean, count)):
                rewards[arm] = Average(mean, count)
    return rewards


def is_sound(statistics: Statistics) -> bool:
    """True if all numbers are such as learning makes them."""
    means = _is_sound(statistics.quality) and _is_sound(statistics.helpfulness)
    plain = statistics.offload_value, statistics.offload_at, statistics.replay_gain
    return means and all(map(math.isfinite, plain)) and statistics.replay_count >= 0


def _is_sound(average: Average) -> bool:
    return average.count >= 0 and 0.0 <= average.value <= 1.0


def mended(statistics: Statistics, now: float) -> Statistics:
    """`statistics` with every number that cannot be right as if it were new, so one damaged example stops nothing."""
    fresh, value = Statistics(), statistics.offload_value
    return replace(
        statistics,
        quality=statistics.quality if _is_sound(statistics.quality) else fresh.quality,
        helpfulness=statistics.helpfulness if _is_sound(statistics.helpfulness) else fresh.helpfulness,
        offload_value=value if 0.0 <= value <= MOST_VALUE else fresh.offload_value,
        offload_at=min(statistics.offload_at, now),
        replay_count=max(statistics.replay_count, 0),
    )


def rated(statistics: Statistics, score: float) -> Statistics:
    """The example's own answer got `score` in [0, 1]."""
    return replace(statistics, quality=statistics.quality.update(score))


def helped(statistics: Statistics, score: float) -> Statistics:
    """An answer to a prompt with this example got `score` in [0, 1]."""
    return replace(statistics, helpfulness=statistics.helpfulness.update(score))


def credited(statistics: Statistics, credit: float, at: float) -> Statistics:
    """A successful offload at time `at` (seconds) adds `credit` to this example.

    Value and credit are decayed to the later of the two times, so the order of credits does not matter.
    """
    now = max(at, statistics.offload_at)
    value = decayed(statistics.offload_value, now - statistics.offload_at) + decayed(credit, now - at)
    return replace(statistics, offload_value=value, offload_at=now)


def decayed(value: float, seconds: float) -> float:
    """The offload value after `seconds`, at least 0, of decay."""
    return value * math.pow(DECAY, seconds / HOUR)
