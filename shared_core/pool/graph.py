"""An immutable FAISS base: a graph of near neighbours, which a search walks towards its query."""

from __future__ import annotations

import importlib
import math
from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from shared_core.errors import ExtraIsMissing
from shared_core.records import Vector
from shared_core.telemetry import get_logger

log = get_logger("pool")

Positions: TypeAlias = NDArray[np.int64]
Source: TypeAlias = Callable[[Positions], Vector]

RECALL: Final = 0.975  # recall@16 on rows that the graph has not seen, which fixes how widely a search looks around
ENOUGH: Final = 0.95  # recall that is taken if more cannot be had
LINKS: Final = 16  # of a vector to others, twice as many on the ground level: Malkov and Yashunin's M
CANDIDATES: Final = 56  # among which the links of a new vector are chosen: their efConstruction
WIDTHS: Final = (  # of a search, of which the least that finds enough is chosen: their ef
    *(16, 20, 24, 28, 32, 40, 48, 56, 64, 72, 80, 96),
    *(112, 128, 160, 192, 224, 256, 320, 384, 448, 512),
)
_NEIGHBOURS: Final = 16
_PROBES: Final = 1024  # rows on which recall is measured, at most a sixteenth of all
_CONFIDENCE: Final = 2.326  # standard errors below a sample's mean, above which the true mean lies in 99 of 100 samples
_BATCH: Final = 4096
_ROUNDING: Final = 1e-5


def import_faiss() -> ModuleType:
    """FAISS, imported when it is first needed.

    Raises:
        ExtraIsMissing: Neither faiss-cpu nor faiss-gpu is installed.
    """
    try:
        return importlib.import_module("faiss")
    except ImportError as error:
        raise ExtraIsMissing("faiss", "cpu") from error


class Alive:
    """Which of `count` rows are not tombstoned, as the bitmap that FAISS reads while it searches.

    A bit is cleared in place: a search that is under way may still see the row, a later one never does.
    """

    def __init__(self, count: int, before: Alive | None = None) -> None:
        self.bits = np.full((count + 7) // 8, 255, np.uint8)
        if before is not None:
            self.bits[: before.bits.size] = before.bits
        faiss = import_faiss()
        self.selector = faiss.IDSelectorBitmap(self.bits.size, faiss.swig_ptr(self.bits))

    def __getitem__(self, row: int) -> bool:
        return bool(self.bits[row >> 3] >> (row & 7) & 1)

    def drop(self, row: int) -> None:
        """Tombstone one row."""
        self.bits[row >> 3] &= 255 ^ (1 << (row & 7))

    def rows(self, count: int) -> Positions:
        """Those of the first `count` rows that are alive."""
        return np.flatnonzero(np.unpackbits(self.bits, count=count, bitorder="little")).astype(np.int64)


class Graph:
    """A hierarchical navigable small world (Malkov and Yashunin 2018) over `count` rows; tombstones aside it never
    changes. Similarities are inner products of vectors in half precision, right to about 1e-4
    (docs/decisions/0013-graph-in-half-precision.md).

    Equal rows and seed give an equal graph.

    Args:
        source: Gives the unit vectors, shape (n, dimension), of n rows. The last rows stand for new requests while the
            width of searches is chosen, so rows must come in random order.
        count: How many rows there are.
        dimension: Length of a vector.
        seed: Seed of the levels.
    """

    def __init__(self, source: Source, count: int, dimension: int, seed: int) -> None:
        self.count = count
        self.alive = Alive(count)
        self._faiss = import_faiss()
        with one_thread(self._faiss):
            self._index, self._storage, self._halves = self._empty(source, dimension, seed)
            seen = count - min(_PROBES, math.ceil(count / 16))
            self._add(source, 0, seen)
            self.width = self._enough_width(source(np.arange(seen, count)))
            self._add(source, seen, count)
        self._parameters = self._faiss.SearchParametersHNSW(efSearch=self.width, sel=self.alive.selector)
        self._exhaustively = self._faiss.SearchParameters(sel=self.alive.selector)

    def search(self, query: Vector, k: int, *, exhaustive: bool = False) -> tuple[Vector, Positions]:
        """Similarities and rows, each of shape (1, k), of the alive rows nearest to `query` of shape (1, dimension).

        Where fewer are found, similarities are meaningless and rows are -1.
        """
        if exhaustive or not self.width:
            similarity, rows = self._storage.search(query, k, params=self._exhaustively)
        else:
            similarity, rows = self._index.search(query, k, params=self._parameters)
        return similarity, rows

    def vector(self, row: int) -> NDArray[np.float16]:
        """The vector of one row, shape (dimension,)."""
        half: NDArray[np.float16] = self._halves[row]
        return half

    def vectors(self, rows: Positions) -> Vector:
        """The vectors of these rows, shape (len(rows), dimension)."""
        return self._halves[rows].astype(np.float32)

    def _empty(self, source: Source, dimension: int, seed: int) -> tuple[Any, Any, NDArray[np.float16]]:
        """A graph without rows, the storage of their vectors, and a view of all that will be there."""
        faiss = self._faiss
        half, product = faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
        index = faiss.IndexHNSWSQ(dimension, half, LINKS, product)
        index.hnsw.efConstruction, index.hnsw.rng = CANDIDATES, faiss.RandomGenerator(seed)
        storage = faiss.downcast_index(index.storage)
        index.train(source(np.arange(1)))
        for vector, size in ((storage.codes, storage.code_size), (index.hnsw.neighbors, 2 * LINKS)):
            vector.resize(self.count * size)  # all its room now: a vector that grows ends up half empty
            vector.resize(0)
        codes = faiss.rev_swig_ptr(storage.codes.data(), self.count * storage.code_size)
        return index, storage, codes.view(np.float16).reshape(self.count, dimension)

    def _add(self, source: Source, start: int, stop: int) -> None:
        for first in range(start, stop, _BATCH):
            self._index.add(source(np.arange(first, min(first + _BATCH, stop))))

    def _enough_width(self, queries: Vector) -> int:
        """How widely a search must look around to find `RECALL` of the true neighbours of `queries`, not yet rows.

        0 if no width is enough: many copies of one vector, for example, are linked to each other and to little else.
        """
        k = min(self._index.ntotal, _NEIGHBOURS)
        true = self._nearest(queries, k)[:, -1:] - _ROUNDING  # ties count as found

        def recalls(width: int) -> NDArray[np.float64]:
            found = self._index.search(queries, k, params=self._faiss.SearchParametersHNSW(efSearch=width))[0]
            shares: NDArray[np.float64] = np.mean(found >= true, axis=1)
            return shares

        least = bisect_left(WIDTHS, True, key=lambda width: lower_bound(recalls(width)) >= RECALL)
        if least < len(WIDTHS):
            return WIDTHS[least]
        recall = float(recalls(WIDTHS[-1]).mean())
        if recall >= ENOUGH:
            return WIDTHS[-1]
        log.warning(
            "IC-Cache searches %d examples exactly, which takes longer: they are so alike that only %.0f %% of the "
            "nearest were found otherwise",
            self.count,
            100 * recall,
        )
        return 0

    def _nearest(self, queries: Vector, k: int) -> Vector:
        """The `k` greatest similarities of each query to the rows so far, descending: `search` for many, faster."""
        best: Vector = np.full((len(queries), k), -np.inf, np.float32)
        for start in range(0, self._index.ntotal, _BATCH):
            rows = self._halves[start : min(start + _BATCH, self._index.ntotal)].astype(np.float32)
            near = self._faiss.knn(queries, rows, min(k, len(rows)), metric=self._faiss.METRIC_INNER_PRODUCT)[0]
            best = -np.sort(-np.hstack([best, near]), axis=1)[:, :k]
        return best


def lower_bound(shares: NDArray[np.float64]) -> float:
    """What the mean of all is at least, with 99 % confidence, where these are a random sample, shape (n,), of them."""
    return float(shares.mean() - _CONFIDENCE * shares.std() / np.sqrt(len(shares)))


@contextmanager
def one_thread(faiss: Any) -> Iterator[None]:
    """Keep FAISS on the calling thread: what is built in the background must leave the processors to the requests."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
