"""The examples of one scope, partitioned by task."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Final

import numpy as np

from shared_core.pool.partition import Partition
from shared_core.records import Statistics, Vector
from shared_core.store.protocol import Row

UNIT_TOLERANCE: Final = 1e-3  # how far from 1 the length of a stored vector may be


class LoadedScope:
    """A scope as it is held in memory. An id stands in one partition only; one writer at a time.

    The most common length of the first vectors is the scope's dimension; rows of another length are not taken.

    Args:
        seed: Seed of everything that is drawn.
    """

    def __init__(self, seed: int) -> None:
        self._dimension = 0
        self._seed = seed
        self.partitions: Mapping[str, Partition] = {}

    def __len__(self) -> int:
        return sum(len(partition) for partition in self.partitions.values())

    def put(self, rows: Sequence[Row]) -> int:
        """Add or replace examples; returns how many were skipped because their vectors cannot be used."""
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
        """Take over the statistics of those of these examples that are here; returns the ids of the others."""
        missed = set(learned)
        for partition in self.partitions.values():
            here = partition.holds(missed)
            partition.learn({example: learned[example] for example in here})
            missed -= here
        return sorted(missed)

    def remove(self, ids: Collection[str]) -> None:
        """Remove those of these examples that are here."""
        for partition in self.partitions.values():
            partition.remove(ids)

    def sample(self) -> None:
        """Bring the sampled similarities up to date."""
        for partition in self.partitions.values():
            partition.sample()

    def rebuild(self) -> int:
        """Build stale indexes anew; returns how many."""
        return sum(partition.rebuild() for partition in self.partitions.values())

    def _put(self, task: str, rows: Sequence[Row]) -> None:
        ids = {row.entry.id for row in rows}
        for name, partition in self.partitions.items():
            if name != task:
                partition.remove(partition.holds(ids))
        if task not in self.partitions:  # a new mapping, so that readers never see one that changes
            self.partitions = {**self.partitions, task: Partition(self._dimension, self._seed)}
        self.partitions[task].put(rows)


def _is_usable(vector: Vector, dimension: int) -> bool:
    return vector.shape == (dimension,) and abs(float(np.linalg.norm(vector)) - 1.0) <= UNIT_TOLERANCE
