"""The router's posteriors: the prior, and their form in the learner's checkpoint.

Arrays and metadata are stored under a name that contains `FEATURES`. So a posterior over other features is never
misread, and a release with other features keeps it for a rollback.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared_core.records import Checkpoint
from shared_core.router.bandit import Array, Posterior, prior, solve
from shared_core.router.features import DIMENSION, FEATURES, PROJECTED, SCALE

PREFIX: Final = "router/"
KEY: Final = PREFIX + FEATURES

PRIOR_REWARD: Final = 0.5  # an unknown arm
PRIOR_REFERENCE: Final = 0.8  # the reference, which the user chose because it is good
# Prior standard deviations of the reward, for each raw feature at 1. The projection gets the least: eight weak features
# together must not keep an arm uncertain for its first hundred rewards.
_BIAS_STD: Final = 0.3
_SUMMARY_STD: Final = 0.6
_PROJECTION_STD: Final = 0.08


def initial(*, reference: bool) -> Posterior:
    """The prior of an arm, before its first reward."""
    mean = np.zeros(DIMENSION)
    mean[0] = PRIOR_REFERENCE if reference else PRIOR_REWARD
    std = np.full(DIMENSION, _SUMMARY_STD)
    std[0] = _BIAS_STD
    std[-PROJECTED:] = _PROJECTION_STD
    return prior(mean / SCALE, std / SCALE)


def read(checkpoint: Checkpoint) -> tuple[dict[str, Posterior], int]:
    """The posteriors of a checkpoint by arm, and the number of foreign or unusable entries, which are ignored."""
    saved = checkpoint.meta.get(KEY)
    if saved is None:
        return {}, sum(name.startswith(PREFIX) for name in checkpoint.meta)
    precisions, shifts = checkpoint.arrays.get(KEY + "/precision"), checkpoint.arrays.get(KEY + "/shift")
    if not isinstance(saved, Mapping) or precisions is None or shifts is None:
        return {}, 1
    arms, counts = saved.get("arms"), saved.get("counts")
    if not isinstance(arms, list) or not isinstance(counts, list):
        return {}, 1
    if not len(arms) == len(counts) == len(precisions) == len(shifts):
        return {}, 1
    rows = zip(arms, precisions, shifts, counts, strict=True)
    usable = {arm: Posterior(a, b, n) for arm, a, b, n in rows if isinstance(arm, str) and _is_usable(a, b, n)}
    return usable, len(arms) - len(usable)


def write(posteriors: Mapping[str, Posterior]) -> tuple[dict[str, NDArray[np.float64]], dict[str, object]]:
    """Arrays and metadata for a checkpoint; the inverse of `read`."""
    arrays = {
        KEY + "/precision": np.array([p.precision for p in posteriors.values()]).reshape(-1, DIMENSION, DIMENSION),
        KEY + "/shift": np.array([p.shift for p in posteriors.values()]).reshape(-1, DIMENSION),
    }
    return arrays, {KEY: {"arms": list(posteriors), "counts": [p.count for p in posteriors.values()]}}


def _is_usable(precision: Array, shift: Array, count: object) -> bool:
    if precision.shape != (DIMENSION, DIMENSION) or shift.shape != (DIMENSION,):
        return False
    if not isinstance(count, int) or count < 0 or not np.isfinite(precision).all():
        return False
    try:
        return bool(np.isfinite(solve(Posterior(precision, shift, count)).weights).all())
    except np.linalg.LinAlgError:
        return False
