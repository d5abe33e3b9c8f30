"""Intervals. Every rate in docs/benchmarks.md has one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000
SEED = 20_261_123


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and its 95 % bootstrap percentile interval."""

    mean: float
    low: float
    high: float

    def as_list(self) -> list[float]:
        return [round(self.mean, 4), round(self.low, 4), round(self.high, 4)]

    def as_text(self) -> str:
        return f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


def share(values: NDArray[np.float64]) -> Interval:
    """Mean of `values` of shape (n,), with the interval over resampled requests."""
    draws = np.random.default_rng(SEED).integers(0, len(values), (RESAMPLES, len(values)))
    low, high = np.percentile(values[draws].mean(axis=1), [2.5, 97.5])
    return Interval(float(values.mean()), float(low), float(high))


def paired_difference(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> Interval:
    """Mean of ours - theirs over the same requests, both of shape (n,)."""
    return share(ours - theirs)
