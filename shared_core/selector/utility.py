"""The expected usefulness of an example, without a trained model (paper §4.1, stage 1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared_core.pool import Candidates
from shared_core.records import Texts
from shared_core.values import Arm, Request

UNRATED: Final = 0.5  # `Average.value` before the first rating


class SimilarityUtility:
    """A `Utility` without learning: similarity, reduced by poor ratings. The same for every arm."""

    needs_texts: Final = False

    def score(
        self,
        request: Request,  # noqa: ARG002 - the similarity depends on it already
        found: Candidates,
        texts: Mapping[str, Texts],  # noqa: ARG002
        arms: Sequence[Arm],
    ) -> NDArray[np.float32]:
        """``max(similarity, 0) · quality_weight(quality)``, of shape (arms, candidates)."""
        return utility(found.similarity, found.statistics["quality"])[np.newaxis].repeat(len(arms), 0)


def quality_weight(quality: NDArray[np.float32]) -> NDArray[np.float32]:
    """The weight in [0, 1] of a quality in [0, 1]: ``min(1, quality / 0.5)``, of shape (k,).

    An unrated example has weight 1, because only answers of trusted writers are admitted. A poorer rating reduces the
    weight in proportion, down to 0. A better rating does not raise it: ratings spread over [0, 1], but cosines over a
    far narrower range, so a plain product would rank a well-rated example on another subject above an unrated one on
    the same subject (docs/decisions/0011-utility-and-combination.md).
    """
    return np.minimum(1.0, np.maximum(0.0, quality) / UNRATED)


def utility(similarity: NDArray[np.float32], quality: NDArray[np.float32]) -> NDArray[np.float32]:
    """``max(similarity, 0) · quality_weight(quality)`` in [0, 1], of shape (k,)."""
    return np.maximum(0.0, similarity) * quality_weight(quality)
