"""Learns the posteriors of the linear router from feedback."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from shared_core.records import Checkpoint
from shared_core.router import PART, state
from shared_core.router.bandit import Posterior, observe
from shared_core.router.features import DIMENSION, FEATURES
from shared_core.trainee import Lesson, PairLesson, State, Trainee

MOST_FEATURE: Final = 1e3  # features are near 1; a stored one above this is damaged, and its square would spread


class LinearRouterTrainee(Trainee):
    """Learns one posterior per arm, one rating at a time, in the order of the log.

    It skips comparisons of two answers (``pair``): a head models the reward of one arm, and a comparison gives only the
    sign of a difference. It skips decisions without features, or with those of another release (``features``).

    Args:
        reference: Name of the reference arm, whose prior is better; empty if there are no arms.
    """

    part = PART
    replays = True

    def __init__(self, reference: str) -> None:
        self._reference = reference
        self._posteriors: dict[str, Posterior] = {}
        self._kept_arrays: Mapping[str, NDArray[Any]] = {}  # of other features, for a rollback to their release
        self._kept_meta: Mapping[str, object] = {}

    @override
    def resume(self, saved: Checkpoint | None) -> None:
        self._posteriors = state.read(saved)[0] if saved else {}
        kept = saved or Checkpoint()
        self._kept_arrays = {name: array for name, array in kept.arrays.items() if not name.startswith(state.KEY)}
        self._kept_meta = {name: value for name, value in kept.meta.items() if name != state.KEY}

    @override
    def fold(self, lesson: Lesson) -> str:
        if isinstance(lesson, PairLesson):
            return "pair"
        record = lesson.record
        features = np.array(record.features)
        # a fallback or an exact hit has no features; those of another release may mean something else
        if len(features) != DIMENSION or record.features_name not in ("", FEATURES):
            return "features"
        if not (np.abs(features) <= MOST_FEATURE).all():
            return "features"
        before = self._posteriors.get(record.arm) or state.initial(reference=record.arm == self._reference)
        self._posteriors[record.arm] = observe(before, features, lesson.feedback.score)
        return ""

    @override
    def state(self) -> State:
        arrays, meta = state.write(self._posteriors)
        return State({**self._kept_arrays, **arrays}, {**self._kept_meta, **meta})
