"""The examples of one scope and task, in memory: their vectors, ids and statistics."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared_core.pool import STATISTICS_DTYPE, Candidates
from shared_core.pool.graph import Positions
from shared_core.pool.index import VectorIndex
from shared_core.records import Entry, Statistics, Vector
from shared_core.store.protocol import Row

PAIRS: Final = 4096  # random pairs behind the quantiles; a quantile is then accurate to about one percent of the ranks
ALL_PAIRS: Final = 64  # number of examples up to which every pair is used
DRIFT: Final = 0.2  # share by which a partition grows or shrinks before its pairs are sampled again


class _Table:
    """An index, with ids and statistics by position. Columns grow before the index, so readers never overrun them."""

    def __init__(self, index: VectorIndex, ids: list[str], learned: NDArray[np.void]) -> None:
        self.index = index
        self.ids = ids
        self.learned = learned  # of dtype `STATISTICS_DTYPE` and shape (at least len(ids),)

    def append(self, rows: Sequence[Row]) -> None:
        count = len(self.ids) + len(rows)
        if count > len(self.learned):
            grown = np.empty(max(count, len(self.learned) * 3 // 2), STATISTICS_DTYPE)
            grown[: len(self.ids)] = self.learned[: len(self.ids)]
            self.learned = grown
        self.learned[len(self.ids) : count] = np.array([_columns(row.entry) for row in rows], STATISTICS_DTYPE)
        self.ids.extend(row.entry.id for row in rows)
        self.index.add(np.stack([row.vector for row in rows]))


class Partition:
    """Examples that are searched together. Readers never wait; writers wait for each other.

    Args:
        dimension: Length of the vectors.
        seed: Seed of graphs and sampled pairs.
    """

    def __init__(self, dimension: int, seed: int) -> None:
        self._seed = seed
        self._lock = threading.Lock()
        self._table = _Table(VectorIndex(dimension), [], np.empty(0, STATISTICS_DTYPE))
        self._positions: dict[str, int] = {}
        self._cosines: NDArray[np.float32] = np.empty(0, np.float32)
        self._sampled_at = 0

    def __len__(self) -> int:
        return len(self._positions)

    def holds(self, ids: Collection[str]) -> set[str]:
        """Those of `ids` that the partition holds."""
        return {i for i in ids if i in self._positions}

    def put(self, rows: Sequence[Row]) -> None:
        """Add examples; those with the same ids are replaced. Vectors must have this partition's dimension."""
        newest = list({row.entry.id: row for row in rows}.values())
        with self._lock:
            self._remove([row.entry.id for row in newest])
            first = len(self._table.ids)
            self._positions |= {row.entry.id: first + i for i, row in enumerate(newest)}
            self._table.append(newest)

    def learn(self, learned: Mapping[str, Statistics]) -> None:
        """Replace the statistics of examples in this partition."""
        with self._lock:
            for example, statistics in learned.items():
                position = self._positions[example]
                known = self._table.learned[position]
                self._table.learned[position] = (*_learned(statistics), known["size"], known["created_at"])

    def remove(self, ids: Collection[str]) -> None:
        """Remove examples; later searches do not find them. Unknown ids are ignored."""
        with self._lock:
            self._remove(ids)

    def nearest(self, vector: Vector, k: int) -> Candidates:
        """At most `k` examples, the most similar to `vector` of shape (dimension,)."""
        table = self._table
        found = table.index.search(vector, k)
        ids = tuple([table.ids[position] for position in found.positions.tolist()])
        return Candidates(ids, found.similarity, found.vectors, table.learned.take(found.positions))

    def quantile(self, q: float) -> float:
        """The `q` quantile of the sampled cosines; -1.0 for q = 0 or fewer than two examples."""
        cosines = self._cosines
        if q <= 0.0 or not len(cosines):
            return -1.0
        return float(cosines[int(np.ceil(q * (len(cosines) - 1)))])

    def sample(self) -> None:
        """Sample the pairs behind `quantile` again if the size has changed by more than `DRIFT` since the last time."""
        with self._lock:
            if abs(len(self) - self._sampled_at) <= DRIFT * self._sampled_at:
                return
            index, positions = self._table.index, np.sort(list(self._positions.values()))
        first, second = _pairs(len(positions), self._seed)
        if len(first):
            left, right = index.vectors(positions[first]), index.vectors(positions[second])
            self._cosines = np.sort(np.einsum("ij,ij->i", left, right))
        else:
            self._cosines = np.empty(0, np.float32)
        self._sampled_at = len(positions)

    def rebuild(self) -> bool:
        """Rebuild the index if it is stale, then swap it in; one caller at a time."""
        old = self._table
        if not old.index.is_stale:
            return False
        index, origin = old.index.rebuilt(self._seed)
        with self._lock:
            origin = index.replay(old.index, origin)
            ids = [old.ids[position] for position in origin.tolist()]
            self._positions = {ids[position]: position for position in index.positions().tolist()}
            self._table = _Table(index, ids, old.learned[origin])
        return True

    def _remove(self, ids: Collection[str]) -> None:
        for example in ids:
            position = self._positions.pop(example, None)
            if position is not None:
                self._table.index.remove(position)


def _columns(entry: Entry) -> tuple[float, ...]:
    """One row of dtype `STATISTICS_DTYPE`."""
    return (*_learned(entry.statistics), entry.size, entry.created_at)


def _learned(statistics: Statistics) -> tuple[float, ...]:
    return (
        statistics.quality.value,
        statistics.quality.count,
        statistics.helpfulness.value,
        statistics.helpfulness.count,
        statistics.offload_value,
        statistics.offload_at,
        statistics.replay_gain,
        statistics.replay_count,
    )


def _pairs(count: int, seed: int) -> tuple[Positions, Positions]:
    """Every pair of `count` items if there are few, else random pairs of distinct items."""
    if count <= ALL_PAIRS:
        first, second = np.triu_indices(count, 1)
        return first, second
    generator = np.random.default_rng([seed, count])
    first = generator.integers(0, count, PAIRS)
    return first, (first + generator.integers(1, count, PAIRS)) % count
