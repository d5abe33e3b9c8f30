"""Updates of example statistics from feedback, as pure functions over `Statistics`."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final

from shared_core.records import Statistics

DECAY: Final = 0.9  # factor of the offload value per hour (paper §4.3)
HOUR: Final = 3600.0


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
