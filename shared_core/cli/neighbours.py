"""How much of a stream of requests has a near neighbour among the earlier ones (paper §2.3), as pure functions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from shared_core.records import Vector
from shared_core.text import fold

Floats: TypeAlias = NDArray[np.float32]

NEAR: Final = 0.8  # where the paper draws the line (§2.3)
PAPER_SHARE: Final = 0.7
BINS: Final = 10
QUANTILES: Final = (0.1, 0.25, 0.5, 0.75, 0.9)
BLOCK: Final = 512  # requests that are compared together: (BLOCK, n) similarities are held
RANDOM_PAIRS: Final = 10_000
# Median similarity of random pairs from which all requests look alike. With MiniLM: CLINC150 0.07, GSM8K 0.35, the
# demo's task 0.20, and with an instruction of eight words before each of its requests 0.58.
ALIKE: Final = 0.5
FEW: Final = 20  # different requests; of fewer, one near pair is more than 5 % of the pairs


@dataclass(frozen=True, slots=True)
class Estimate:
    """What in-context caching could do for a file of requests.

    Shares are of all requests, in [0, 1].

    Attributes:
        requests: How many.
        repeated: Asked before, word for word (white space aside): the exact tier's.
        near: Not repeated, with an earlier request more similar than `NEAR`.
        known_by_third: Repeated or near, of each third of the stream: a pool grows, and this share with it.
        quantiles: Of the greatest similarity to an earlier request, at `QUANTILES`; repeats and the first request, which
            has no earlier one, are left out. Empty if that leaves none.
        histogram: How many of the same requests are in each of `BINS` equal bins over [0, 1]; below 0 counts as 0.
        different: How many different requests.
        random_median: Median similarity of random pairs of different requests of this file: what "unrelated" means to
            this embedder. None if there is only one request; so are the next two.
        random_upper: Their 0.95 quantile.
        random_high: Their 0.99 quantile.
    """

    requests: int
    repeated: float
    near: float
    known_by_third: tuple[float, float, float]
    quantiles: tuple[float, ...]
    histogram: tuple[int, ...]
    different: int
    random_median: float | None
    random_upper: float | None
    random_high: float | None

    @property
    def looks_alike(self) -> bool:
        """True if random pairs are so similar that being near an earlier request means little.

        That happens where all requests begin with the same instruction. A few requests may be alike by chance.
        """
        if self.random_median is None or self.random_upper is None:
            return False
        return self.random_median >= ALIKE or (self.random_upper >= NEAR and self.different >= FEW)


def repeats(texts: Iterable[str]) -> NDArray[np.bool_]:
    """True where the same text came before, white space aside."""
    seen: set[str] = set()
    flags = []
    for text in texts:
        folded = fold(text)
        flags.append(folded in seen)
        seen.add(folded)
    return np.array(flags, dtype=np.bool_)


def similarity_to_earlier(vectors: Vector, advance: Callable[[int], None] = lambda _: None) -> Floats:
    """Greatest cosine of each unit vector with those before it, (n,); -1 for the first.

    Args:
        vectors: Unit vectors of shape (n, dimension), in order of arrival.
        advance: Called with how many more requests are done.
    """
    best = np.full(len(vectors), -1.0, dtype=np.float32)
    for start in range(0, len(vectors), BLOCK):
        block = vectors[start : start + BLOCK]
        similarity = block @ vectors[: start + len(block)].T
        rows = np.arange(len(block))[:, None]
        similarity[np.arange(similarity.shape[1])[None, :] >= start + rows] = -1.0
        best[start : start + len(block)] = similarity.max(axis=1)
        advance(len(block))
    return np.clip(best, -1.0, 1.0)


def estimated(texts: list[str], vectors: Vector, best: Floats) -> Estimate:
    """The figures of a stream, from what `similarity_to_earlier` found. At least one request."""
    repeated = repeats(texts)
    near = (best >= NEAR) & ~repeated
    fresh = best[1:][~repeated[1:]]
    counts, _ = np.histogram(np.clip(fresh, 0.0, 1.0), bins=BINS, range=(0.0, 1.0))
    random = _random_pairs(vectors[~repeated])
    median, upper, high = (float(q) for q in np.quantile(random, (0.5, 0.95, 0.99))) if random.size else (None,) * 3
    a, b, c = (float(part.mean()) if len(part) else 0.0 for part in np.array_split(near | repeated, 3))
    return Estimate(
        requests=len(texts),
        repeated=float(repeated.mean()),
        near=float(near.mean()),
        known_by_third=(a, b, c),
        quantiles=tuple(float(q) for q in np.quantile(fresh, QUANTILES)) if fresh.size else (),
        histogram=tuple(int(count) for count in counts),
        different=int((~repeated).sum()),
        random_median=median,
        random_upper=upper,
        random_high=high,
    )


def _random_pairs(vectors: Vector) -> Floats:
    """Similarities of random pairs of different rows; none if there is only one row."""
    n = len(vectors)
    if n < 2:
        return np.zeros(0, dtype=np.float32)
    rng = np.random.default_rng(0)
    left = rng.integers(n, size=RANDOM_PAIRS)
    right = (left + rng.integers(1, n, size=RANDOM_PAIRS)) % n
    pairs: Floats = np.einsum("ij,ij->i", vectors[left], vectors[right])
    return pairs
