"""The in-process replica of the examples: searched without touching the network (DESIGN.md §4.7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from shared_core.guard import Steps
from shared_core.values import Texts, Vector


@dataclass(frozen=True, slots=True)
class Candidates:
    """What stage 1 found, the most similar first: k ids, similarities (k,), unit vectors (k, dimension), and the
    examples' quality and helpfulness (k,)."""

    ids: tuple[str, ...]
    similarity: NDArray[np.float32] = field(repr=False)
    vectors: Vector = field(repr=False)
    quality: NDArray[np.float32] = field(repr=False)
    helpfulness: NDArray[np.float32] = field(repr=False)


class Pool(Protocol):
    """The examples of a store, ready to be searched."""

    def candidates(self, scope: str, task: str, vector: Vector, k: int) -> Candidates:
        """The at most `k` examples of this scope and task that are most similar to `vector` of shape (dimension,).

        Raises:
            ScopeIsCold: The scope is not loaded yet; loading has been started in the background.
        """

    def similarity_quantile(self, scope: str, task: str, q: float) -> float:
        """The `q` quantile of the cosines between random pairs of the examples of this scope and task.

        -1.0 if there are fewer than two examples. 0 and 1 are honoured (-1.0, and the greatest sampled cosine).
        Costs no more than a look-up: the sample is drawn when the pool changes, off the request path.
        """

    def texts(self, scope: str, ids: Sequence[str]) -> Steps[Mapping[str, Texts]]:
        """Texts of these examples, from the LRU or in one step to the store; deleted ones are left out."""

    def warm(self, scope: str) -> None:
        """Load a scope now, if it is cold, and wait for it."""

    def refresh(self) -> int:
        """Follow the change feed; returns how many changes were applied."""

    def size(self, scope: str) -> int:
        """How many examples of the scope are loaded."""

    def maintain(self) -> None:
        """Rebuild what has grown or thinned, off the request path."""

    def close(self) -> None:
        """Drop everything."""
