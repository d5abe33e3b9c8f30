"""The in-process replica of the examples: searched without touching the network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from shared_core.guard import Steps
from shared_core.records import Texts, Vector

LEARNED: Final = np.dtype(
    [
        ("quality", np.float32),
        ("quality_count", np.int32),
        ("helpfulness", np.float32),
        ("helpfulness_count", np.int32),
        ("offload_value", np.float32),  # as of `offload_at`
        ("offload_at", np.float64),
        ("replay_gain", np.float32),
        ("replay_count", np.int32),
        ("size", np.int32),
        ("created_at", np.float64),
    ]
)
"""What utility may depend on beside vector and texts: `Statistics` first, then size and age of `Entry`."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """What stage 1 found, the most similar first.

    Attributes:
        ids: Of the k examples.
        similarity: Cosines of shape (k,).
        vectors: Unit vectors of shape (k, dimension).
        statistics: What is known of each, of shape (k,) and dtype `LEARNED`.
    """

    ids: tuple[str, ...]
    similarity: NDArray[np.float32] = field(repr=False)
    vectors: Vector = field(repr=False)
    statistics: NDArray[np.void] = field(repr=False)


class Pool(Protocol):
    """The examples of a store, ready to be searched. What the request path asks of it are `Steps`."""

    def candidates(self, scope: str, task: str, vector: Vector, k: int) -> Steps[Candidates]:
        """The at most `k` examples of this scope and task that are most similar to `vector` of shape (dimension,).

        Raises:
            ScopeIsCold: The scope is not loaded yet; loading has been started in the background.
        """

    def similarity_quantile(self, scope: str, task: str, q: float) -> Steps[float]:
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
