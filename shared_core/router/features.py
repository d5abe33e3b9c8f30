"""The context of the bandit: features of a request and of the examples that an arm would see.

Raw features, all but the last group in [0, 1] (a similarity below 0 counts as 0):

====== ==============================================================================================
0      1, the bias
1      number of examples; 1 for `FULL_EXAMPLES` or more
2, 3   greatest and mean similarity of the examples
4, 5   greatest and mean utility of the examples
6      twice the standard deviation of their utilities
7      logarithm of the conversation's length; 1 for `LONG_CHARACTERS` or more
8-15   random projection of the request's unit vector, of norm about 1 (Johnson and Lindenstrauss 1984)
====== ==============================================================================================

Features 1 to 6 are 0 for an arm without examples. All features are multiplied by `SCALE`, which keeps the norm of the
context near 1 (0.5 to about 1.7).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

import numpy as np

from shared_core.router.bandit import Array
from shared_core.values import Arm, Request, ScoredExample, Selection

FEATURES: Final = "summary-projection-1"  # version of the features: change it whenever they change
PROJECTED: Final = 8
DIMENSION: Final = 8 + PROJECTED
SCALE: Final = 0.5
FULL_EXAMPLES: Final = 8
LONG_CHARACTERS: Final = 32_768
_PROJECTION_SEED: Final = 20_251_013


def contexts(request: Request, selection: Selection, arms: Sequence[Arm]) -> tuple[Array, ...]:
    """The context vector of each of `arms` for this request and the examples it would be shown, (DIMENSION,)."""
    plain = np.zeros(DIMENSION)
    plain[0] = 1.0
    plain[7] = min(1.0, math.log1p(_length(request)) / math.log1p(LONG_CHARACTERS))
    if selection.vector is not None:
        plain[8:] = _projection(len(selection.vector)) @ selection.vector
    plain *= SCALE
    return tuple(_with_summary(plain, selection.for_arm(arm.name)) for arm in arms)


def _with_summary(plain: Array, examples: Sequence[ScoredExample]) -> Array:
    if not examples:
        return plain
    shown = plain.copy()
    shown[1:7] = [SCALE * value for value in _summary(examples)]
    return shown


def _summary(examples: Sequence[ScoredExample]) -> tuple[float, ...]:
    n = len(examples)
    similarities = [max(0.0, e.similarity) for e in examples]
    utilities = [e.utility for e in examples]
    mean = sum(utilities) / n
    deviation = math.sqrt(sum((u - mean) ** 2 for u in utilities) / n)
    return min(1.0, n / FULL_EXAMPLES), max(similarities), sum(similarities) / n, max(utilities), mean, 2 * deviation


def _length(request: Request) -> int:
    return sum(len(m.text) for m in request.messages if m.role != "system")


@lru_cache(maxsize=8)
def _projection(dimension: int) -> Array:
    """Gaussian matrix (PROJECTED, dimension) that preserves the expected squared norm of a vector."""
    # The legacy generator, because NumPy guarantees that its stream never changes; stored posteriors rely on that.
    rng = np.random.RandomState(_PROJECTION_SEED)
    matrix = rng.standard_normal((PROJECTED, dimension)) / math.sqrt(PROJECTED)
    matrix.setflags(write=False)
    return matrix
