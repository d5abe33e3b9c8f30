"""The examples of one scope, partitioned by task."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Final

import numpy as np

from shared_core.pool.partition import Partition
from shared_core.records import Statistics, Vector
from shared_core.store.protocol import Row

UNIT_TOLERANCE: Final = 1e-3  # largest accepted deviation of a stored vector's length from 1


class LoadedScope:
    """A scope in memory. Each id is in one partition only; one writer at a time.

    The most common dimension of the first vectors becomes the scope's; rows with another dimension are skipped.

    Args:
        seed: Seed of graphs and sampled pairs.
        used_at: When it was asked for last, by a monotonic clock in seconds.
    """

    def __init__(self, seed: int, used_at: float = 0.0) -> None:
        self.used_at = used_at
        self._dimension = 0
        self._seed = seed
        self.partitions: Mapping[str, Partition] = {}

    def __len__(self) -> int:
        return sum(len(partition) for partition in self.partitions.values())

    def put(self, rows: Sequence[Row]) -> int:
        """Add or replace examples; returns how many were skipped because their vectors are unusable."""
        if rows and not self._dimension:
            self._dimension = Counter(row.vector.size for row in rows).most_common(1)[0][0]
        tasks: dict[str, list[Row]] = {}
        unusable = 0
        for row in rows:
            if _is_usable(row.vector, self._dimension):
                tasks.setdefault(row.entry.task, []).append(row)
            else:
                self.remove([row.entry.id])
                unusable += 1
        for task, group in tasks.items():
            self._put(task, group)
        return unusable

    def learn(self, learned: Mapping[str, Statistics]) -> list[str]:
        """Replace the statistics of loaded examples; returns the ids that are not loaded."""
        missed = set(learned)
        for partition in self.partitions.values():
            here = partition.holds(missed)
            partition.learn({example: learned[example] for example in here})
            missed -= here
        return sorted(missed)

    def remove(self, ids: Collection[str]) -> None:
        """Remove examples; unknown ids are ignored."""
        for partition in self.partitions.values():
            partition.remove(ids)

    def sample(self) -> None:
        """Sample similarities again where a partition's size has changed."""
        for partition in self.partitions.values():
            partition.sample()

    def rebuild(self) -> int:
        """Rebuild stale indexes; returns how many."""
        return sum(partition.rebuild() for partition in self.partitions.values())

    def _put(self, task: str, rows: Sequence[Row]) -> None:
        ids = {row.entry.id for row in rows}
        for name, partition in self.partitions.items():
            if name != task:
                partition.remove(partition.holds(ids))
        if task not in self.partitions:  # replace the mapping, because readers must not see it change
            self.partitions = {**self.partitions, task: Partition(self._dimension, self._seed)}
        self.partitions[task].put(rows)


def _is_usable(vector: Vector, dimension: int) -> bool:
    with np.errstate(over="ignore"):  # the length of a damaged vector may be infinite
        return vector.shape == (dimension,) and abs(float(np.linalg.norm(vector)) - 1.0) <= UNIT_TOLERANCE
