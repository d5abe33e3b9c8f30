"""Bayesian linear Thompson sampling: pure functions over frozen state.

The reward of an arm is modelled as ``r = w·x + noise``, with Gaussian noise of variance `NOISE` and a Gaussian prior on
the weights. The posterior is then Gaussian with ``precision = prior + Σ x xᵀ / NOISE`` and mean ``precision⁻¹ shift``,
``shift = prior precision · prior mean + Σ x r / NOISE`` (Agrawal and Goyal 2013; Bishop 2006, eq. 3.50 and 3.51). The
paper (§4.2, §5) uses a contextual bandit with Thompson sampling, but gives no formula.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]

NOISE: Final = 0.25  # the largest variance of a reward in [0, 1], so confidence is never overstated
KNOWN_AFTER: Final = 10  # rewards from which an arm's exploration share begins to fade

# Quadrature: every Gaussian is cut at these standard deviations; each piece is integrated by a 16-point Gauss rule.
_CUTS: Final = np.array([-8.0, -4.0, 0.0, 4.0, 8.0])
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(16)
_ROOT2: Final = math.sqrt(2)


@dataclass(frozen=True, slots=True, eq=False)
class Posterior:
    """The posterior distribution of the weights of one arm.

    Attributes:
        precision: Inverse covariance of the weights, (d, d), symmetric positive definite.
        shift: Precision times mean, (d,).
        count: Number of observed rewards.
    """

    precision: Array
    shift: Array
    count: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """A posterior solved for prediction.

    Attributes:
        weights: Posterior mean, (d,).
        whitener: Inverse of the precision's lower Cholesky factor, (d, d): ``|whitener x|`` is the deviation at x.
        count: Number of observed rewards.
    """

    weights: Array
    whitener: Array
    count: int


def prior(mean: Array, std: Array) -> Posterior:
    """The posterior before any reward: independent weights with this mean and standard deviation, each (d,)."""
    precision = 1.0 / np.square(std)
    return Posterior(np.diag(precision), precision * mean)


def observe(posterior: Posterior, x: Array, reward: float) -> Posterior:
    """The posterior after one more `reward` in [0, 1] at context `x` (d,).

    Floating-point sums depend on their order. So observations are added one at a time, in the order of the log, which
    makes the posterior independent of the batches, bit by bit.
    """
    return Posterior(
        posterior.precision + np.outer(x, x) / NOISE,
        posterior.shift + x * (reward / NOISE),
        posterior.count + 1,
    )


def solve(posterior: Posterior) -> Head:
    """Factor a posterior once; each prediction then takes two small products.

    Raises:
        numpy.linalg.LinAlgError: The precision is not positive definite.
    """
    whitener = np.linalg.inv(np.linalg.cholesky(posterior.precision))
    return Head(whitener.T @ (whitener @ posterior.shift), whitener, posterior.count)


def predict(head: Head, x: Array) -> tuple[float, float]:
    """Mean and standard deviation of the expected reward at context `x` (d,), without the noise."""
    spread = head.whitener @ x
    return float(head.weights @ x), math.sqrt(float(spread @ spread))


def thompson(means: Sequence[float], stds: Sequence[float], rng: np.random.Generator) -> tuple[float, ...]:
    """One independent draw from each arm's posterior."""
    return tuple(mean + std * rng.standard_normal() for mean, std in zip(means, stds, strict=True))


def guard(
    means: Sequence[float], stds: Sequence[float], reference: int, target: float, confidence: float
) -> tuple[bool, ...]:
    """Which arms may answer: the reference, and every arm that reaches the bar with confidence.

    The bar is `target` times the reference's mean. An arm reaches it if its mean minus `confidence` standard deviations
    is at least the bar. A linear model may predict outside [0, 1], which must not help: the reference's mean is clipped
    to [0, 1], and an arm's mean to at most 1.
    """
    bar = target * min(1.0, max(0.0, means[reference]))
    return tuple(
        arm == reference or min(mean, 1.0) - confidence * std >= bar
        for arm, (mean, std) in enumerate(zip(means, stds, strict=True))
    )


def exploration_shares(counts: Sequence[int], explorable: Sequence[bool], explore: float) -> tuple[float, ...]:
    """The share of requests that each arm gets regardless of its posterior; at most `explore` in total.

    ``explore · min(1, KNOWN_AFTER / count)`` for each explorable arm, divided by their number
    (docs/decisions/0005-exploration-and-propensities.md).
    """
    each = explore / max(1, sum(explorable))
    return tuple(
        each * min(1.0, KNOWN_AFTER / max(1, count)) if may else 0.0
        for count, may in zip(counts, explorable, strict=True)
    )


def win_probabilities(locations: Sequence[float], stds: Sequence[float]) -> tuple[float, ...]:
    """Probability that each of n independent Gaussians, all with positive deviation, is the greatest.

    For two, by the Gaussian distribution of their difference; for more, ``P_i = ∫ φ_i(t) Π_{j≠i} Φ_j(t) dt`` by
    quadrature.
    """
    if len(locations) == 1:
        return (1.0,)
    if len(locations) == 2:
        z = (locations[0] - locations[1]) / math.hypot(stds[0], stds[1])
        return _below(z), _below(-z)
    return tuple(_win_by_quadrature(np.array(locations)[:, None], np.array(stds)[:, None]).tolist())


def _win_by_quadrature(locations: Array, stds: Array) -> Array:
    # Each piece spans at most four standard deviations of every Gaussian. So the rule is exact to about 1e-9, even if
    # the deviations differ widely. Pieces of zero width add nothing.
    edges = np.sort((locations + stds * _CUTS).ravel())
    half = np.diff(edges)[:, None] / 2
    points = (edges[:-1, None] + half + half * _NODES).ravel()
    z = (points - locations) / stds
    density = np.exp(-z * z / 2) / stds * (half * _WEIGHTS).ravel()
    below = np.array([_below(value) for value in z.ravel().tolist()]).reshape(z.shape)
    wins: Array = np.array([row @ np.delete(below, i, axis=0).prod(axis=0) for i, row in enumerate(density)])
    return wins / float(wins.sum())


def _below(z: float) -> float:
    """The standard normal distribution function, exact in both tails."""
    return math.erfc(z / -_ROOT2) / 2
