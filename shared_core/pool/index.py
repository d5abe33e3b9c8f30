"""Inner-product search over vectors that are added and removed.

An index has an immutable base in a graph, an exact tail of later additions, and tombstones in both. Small indexes have
only a tail, so their search is exact. Rebuilding creates a new index and leaves this one unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from operator import itemgetter
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared_core.errors import ConfigurationError
from shared_core.pool.graph import Alive, Graph, Positions, import_faiss
from shared_core.pool.memory import allocate
from shared_core.records import Vector

EXACT_LIMIT: Final = 16_384  # rows; an exact search of that many MiniLM vectors takes about a millisecond
TAIL_LIMIT: Final = 1_024  # rows of the tail, or a twentieth of the base, above which a rebuild pays
DEAD_LIMIT: Final = 256  # tombstones, or a fifth of all rows, above which a rebuild pays


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The result of a search, the most similar first: positions (k,), similarities (k,), vectors (k, dimension)."""

    positions: Positions
    similarity: NDArray[np.float32] = field(repr=False)
    vectors: Vector = field(repr=False)


class VectorIndex:
    """Unit vectors at positions 0, 1, 2, … in the order of addition; positions are never reused.

    Searches run on any thread at any time without waiting. Only one `add` or `remove` may run at a time.

    Args:
        dimension: Length of a vector.
        base: A graph that holds the first positions, without removed ones.

    Raises:
        ExtraIsMissing: FAISS is not installed.
    """

    def __init__(self, dimension: int, base: Graph | None = None) -> None:
        self.dimension = dimension
        self._faiss = import_faiss()
        self._base = base
        self._offset = base.count if base else 0
        self._dead = 0
        self._count = 0  # of the tail; readers stop there, so rows are written before it grows
        self._tail: Vector = np.empty((0, dimension), np.float32)
        self._alive = Alive(0)

    @property
    def rows(self) -> int:
        """Number of positions, removed ones included."""
        return self._offset + self._count

    @property
    def size(self) -> int:
        """Number of vectors that are not removed."""
        return self.rows - self._dead

    @property
    def is_stale(self) -> bool:
        """True if a rebuild would save noticeable time or memory."""
        if self._dead > max(DEAD_LIMIT, self.rows // 5):
            return True
        return self.size > EXACT_LIMIT and self._count > max(TAIL_LIMIT, self._offset // 20)

    def add(self, vectors: Vector) -> int:
        """Append unit vectors of shape (n, dimension); returns the position of the first."""
        first, count = self.rows, self._count + len(vectors)
        if count > len(self._tail):
            self._grow(count)
        self._tail[self._count : count] = vectors
        self._count = count
        return first

    def remove(self, position: int) -> None:
        """Tombstone one position (idempotent)."""
        alive, row = self._locate(position)
        if alive[row]:
            alive.drop(row)
            self._dead += 1

    def search(self, vector: Vector, k: int) -> Neighbours:
        """The `k` vectors most similar to `vector` of shape (dimension,); fewer only if the index holds fewer.

        Raises:
            ConfigurationError: The vector has another dimension.
        """
        if vector.shape != (self.dimension,):
            raise ConfigurationError(f"expected a vector of shape ({self.dimension},); got {vector.shape}")
        count = self._count  # read first: a row that replaces another is added last; both must not be found
        query = np.ascontiguousarray(vector, np.float32)[None]
        similarity, positions = self._search_tail(query, k, count)
        if self._base:
            near_base, base = self._search_base(self._base, query, k)
            found = [*zip(near_base.tolist(), base.tolist(), strict=True)]
            found += [(s, p + self._offset) for s, p in zip(similarity.tolist(), positions.tolist(), strict=True)]
            found.sort(key=itemgetter(0), reverse=True)
            similarity = np.array([s for s, _ in found[:k]], np.float32)
            positions = np.array([position for _, position in found[:k]], np.int64)
        return Neighbours(positions, similarity, self._few_vectors(positions))

    def vectors(self, positions: Positions) -> Vector:
        """The vectors at these positions, removed ones included, of shape (len(positions), dimension)."""
        found = np.empty((len(positions), self.dimension), np.float32)
        late = positions >= self._offset
        found[late] = self._tail[positions[late] - self._offset]
        if self._base and not late.all():
            found[~late] = self._base.vectors(positions[~late])
        return found

    def _few_vectors(self, positions: Positions) -> Vector:
        """`vectors` one by one, because NumPy releases the GIL when it gathers rows."""
        rows = [
            self._base.vector(at) if self._base and at < self._offset else self._tail[at - self._offset]
            for at in positions.tolist()
        ]
        return np.array(rows, np.float32).reshape(len(rows), self.dimension)

    def positions(self) -> Positions:
        """Every position that is not removed, ascending."""
        tail = self._alive.rows(self._count) + self._offset
        return np.concatenate([self._base.alive.rows(self._offset), tail]) if self._base else tail

    def rebuilt(self, seed: int) -> tuple[VectorIndex, Positions]:
        """A new index without removed vectors, and for each of its positions the position in this index.

        Takes seconds on a large index, on one core; this index may be searched and changed meanwhile.
        """
        origin = self.positions()
        if len(origin) > EXACT_LIMIT:
            origin = np.random.default_rng(seed).permutation(origin)  # the graph takes its last rows for a fair sample
            base = Graph(lambda rows: self.vectors(origin[rows]), len(origin), self.dimension, seed)
            return VectorIndex(self.dimension, base), origin
        index = VectorIndex(self.dimension)
        index.add(self.vectors(origin))
        return index, origin

    def replay(self, old: VectorIndex, origin: Positions) -> Positions:
        """Apply the changes of `old` since it was rebuilt into this index, which must be unchanged so far.

        Args:
            old: The index on which `rebuilt` was called; must not change during this call.
            origin: The positions that `rebuilt` returned.

        Returns:
            For each position of this index, the position in `old`.
        """
        alive = old.positions()
        late = alive[alive > origin.max()] if len(origin) else alive
        for position in np.flatnonzero(~np.isin(origin, alive, assume_unique=True)):
            self.remove(int(position))
        self.add(old.vectors(late))
        return np.concatenate([origin, late])

    def _locate(self, position: int) -> tuple[Alive, int]:
        if not 0 <= position < self.rows:
            raise IndexError(f"position {position} does not exist; the index has {self.rows}")
        if self._base and position < self._offset:
            return self._base.alive, position
        return self._alive, position - self._offset

    def _grow(self, count: int) -> None:
        tail = allocate(max(count, len(self._tail) * 2), self.dimension)
        tail[: self._count] = self._tail[: self._count]
        self._alive = Alive(len(tail), self._alive)
        self._tail = tail

    def _search_tail(self, query: Vector, k: int, count: int) -> tuple[Vector, Positions]:
        similarity, rows = np.empty(k, np.float32), np.full(k, -1, np.int64)
        if count:
            tail, alive, pointer = self._tail, self._alive, self._faiss.swig_ptr
            # Always pass a selector: without one, FAISS splits a single query over OpenMP threads, whose barriers
            # cost 30 ms when other threads are busy.
            self._faiss.knn_inner_product(
                *(pointer(query), pointer(tail), self.dimension, 1, count, k),
                *(pointer(similarity), pointer(rows), alive.selector),
            )
        return _found(similarity, rows)

    def _search_base(self, base: Graph, query: Vector, k: int) -> tuple[Vector, Positions]:
        similarity, rows = base.search(query, k)
        if rows[0, -1] < 0:  # the walk met fewer than k vectors that are not removed
            similarity, rows = base.search(query, k, exhaustive=True)
        return _found(similarity[0], rows[0])


def _found(similarity: Vector, rows: Positions) -> tuple[Vector, Positions]:
    """Drop the trailing rows of -1, with which FAISS fills up a result."""
    if rows[-1] >= 0:
        return similarity, rows
    count = int(np.count_nonzero(rows >= 0))
    return similarity[:count], rows[:count]
