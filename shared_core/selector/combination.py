"""Which of the relevant examples go into one prompt (paper §4.1: diversity and order)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared_core.records import Vector

TIE_DECIMALS: Final = 5  # decimals; an embedder's vector of a text depends on its batch, but by less than that
ROUNDING: Final = 1e-4  # in half precision, a unit vector's cosine with itself may be this much below 1


def by_utility(utility: NDArray[np.float32], similarity: NDArray[np.float32], ids: Sequence[str]) -> tuple[int, ...]:
    """Positions, the most useful first; ties by similarity, then by id, which makes the order deterministic.

    Numbers that differ only by rounding are ties. An embedder may treat two queries that differ in case or white space
    as one text; the choice between them must not depend on the batch in which either was embedded.
    """
    first, second = (-utility.round(TIE_DECIMALS)).tolist(), (-similarity.round(TIE_DECIMALS)).tolist()
    ranked = sorted(zip(first, second, ids, range(len(ids)), strict=True))
    return tuple([position for _, _, _, position in ranked])


def without_duplicates(vectors: Vector, order: Sequence[int], limit: float, most: int) -> tuple[int, ...]:
    """The first `most` positions of `order`, without near-duplicates of an earlier one.

    Args:
        vectors: Unit vectors of shape (k, dimension).
        order: Positions in `vectors`, the most useful first.
        limit: Cosine from which two examples count as duplicates; the more useful one stays.
        most: Maximum number of positions.
    """
    duplicate = limit - ROUNDING
    taken: list[int] = []
    for position in order:
        if len(taken) == most:
            break
        vector = vectors[position]
        if all(vector.dot(vectors[other]) < duplicate for other in taken):
            taken.append(position)
    return tuple(taken)
