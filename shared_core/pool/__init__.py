"""The in-process replica of the examples, which is searched without network access."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from shared_core.guard import Steps
from shared_core.records import Texts, Vector

STATISTICS_DTYPE: Final = np.dtype(
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
"""Columns that a utility may use, in addition to vectors and texts: `Statistics`, then size and age of `Entry`."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """The result of stage 1, the most similar first.

    Attributes:
        ids: Ids of the k examples.
        similarity: Cosines of shape (k,).
        vectors: Unit vectors of shape (k, dimension).
        statistics: Statistics of shape (k,) and dtype `STATISTICS_DTYPE`.
    """

    ids: tuple[str, ...]
    similarity: NDArray[np.float32] = field(repr=False)
    vectors: Vector = field(repr=False)
    statistics: NDArray[np.void] = field(repr=False)


class Pool(Protocol):
    """The searchable examples of a store. Methods for the request path return `Steps`."""

    def candidates(self, scope: str, task: str, vector: Vector, k: int) -> Steps[Candidates]:
        """At most `k` examples of this scope and task, the most similar to `vector` of shape (dimension,).

        Raises:
            ScopeIsCold: The scope is not loaded; this call has started to load it in the background.
        """

    def similarity_quantile(self, scope: str, task: str, q: float) -> Steps[float]:
        """The `q` quantile of the cosines between random pairs of the examples of this scope and task.

        -1.0 if q = 0 or if there are fewer than two examples; the greatest sampled cosine if q = 1. Only a look-up: the
        pairs are sampled when the pool changes, off the request path.
        """

    def texts(self, scope: str, ids: Sequence[str]) -> Steps[Mapping[str, Texts]]:
        """Texts of these examples, from the LRU cache or by one step to the store; deleted ones are left out."""

    def warm(self, scope: str) -> None:
        """Load a scope if it is cold, and wait for it."""

    def refresh(self) -> int:
        """Follow the change feed; returns the number of applied changes."""

    def size(self, scope: str) -> int:
        """Number of loaded examples of the scope."""

    def maintain(self) -> None:
        """Rebuild stale indexes, off the request path."""

    def close(self) -> None:
        """Drop everything."""
