"""An immutable FAISS base: a graph of near neighbours, which a search walks towards its query."""

from __future__ import annotations

import importlib
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

RECALL: Final = 0.97  # recall@16 on vectors like the pool's that fixes how widely a search looks around
ENOUGH: Final = 0.95  # recall that is taken if more cannot be had
LINKS: Final = 16  # of a vector to others, twice as many on the ground level: Malkov and Yashunin's M
CANDIDATES: Final = 40  # among which the links of a new vector are chosen: their efConstruction
WIDTHS: Final = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)  # of a search, of which one is chosen: their ef
_NEIGHBOURS: Final = 16
_PROBES: Final = 256  # vectors on which recall is measured
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
        source: Gives the unit vectors, shape (n, dimension), of n rows.
        count: How many rows there are.
        dimension: Length of a vector.
        seed: Seed of the levels and of the sample on which recall is measured.
    """

    def __init__(self, source: Source, count: int, dimension: int, seed: int) -> None:
        self.count = count
        self.alive = Alive(count)
        self._faiss = import_faiss()
        with one_thread(self._faiss):
            self._index, self._storage, self._halves = self._built(source, dimension, seed)
            self.width = self._enough_width(source, seed)
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

    def _built(self, source: Source, dimension: int, seed: int) -> tuple[Any, Any, NDArray[np.float16]]:
        """The graph, the vectors behind it, and a view of these, shape (count, dimension)."""
        faiss = self._faiss
        half, product = faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
        index = faiss.IndexHNSWSQ(dimension, half, LINKS, product)
        index.hnsw.efConstruction, index.hnsw.rng = CANDIDATES, faiss.RandomGenerator(seed)
        storage = faiss.downcast_index(index.storage)
        index.train(source(np.arange(1)))
        for vector, size in ((storage.codes, storage.code_size), (index.hnsw.neighbors, 2 * LINKS)):
            vector.resize(self.count * size)  # room at once, since a vector that grows ends up half empty
            vector.resize(0)
        for start in range(0, self.count, _BATCH):
            index.add(source(np.arange(start, min(start + _BATCH, self.count))))
        codes = faiss.rev_swig_ptr(storage.codes.data(), self.count * storage.code_size)
        return index, storage, codes.view(np.float16).reshape(self.count, dimension)

    def _enough_width(self, source: Source, seed: int) -> int:
        """How widely a search must look around to find `RECALL` of the true neighbours of vectors like the pool's.

        0 if no width is enough: many copies of one vector, say, are linked to each other and to little else.
        """
        k = min(self.count, _NEIGHBOURS)
        queries = self._like_requests(source, np.random.default_rng(seed))
        true = self._storage.search(queries, k)[0][:, -1:] - _ROUNDING  # ties count as found
        for width in WIDTHS:
            found = self._index.search(queries, k, params=self._faiss.SearchParametersHNSW(efSearch=width))[0]
            recall = float(np.mean(found >= true))
            if recall >= RECALL:
                return width
        if recall >= ENOUGH:
            return width
        log.warning(
            "IC-Cache searches %d examples exactly, which takes longer: they are so alike that only %.0f %% of the "
            "nearest were found otherwise",
            self.count,
            100 * recall,
        )
        return 0

    def _like_requests(self, source: Source, generator: np.random.Generator) -> Vector:
        """Vectors as far from the pool as its own usually are from each other, which new requests turn out to be.

        The pool's own vectors would flatter the graph, whose links were chosen by searching for just these.
        """
        size = min(self.count, _PROBES)
        own = source(np.sort(generator.choice(self.count, size, replace=False)))
        nearest = float(np.clip(np.median(self._storage.search(own, min(self.count, 2))[0][:, -1]), -1, 1))
        noise = generator.standard_normal(own.shape, np.float32)
        noise /= np.linalg.norm(noise, axis=1, keepdims=True)
        moved = nearest * own + np.float32(np.sqrt(1 - nearest * nearest)) * noise
        queries: Vector = (moved / np.linalg.norm(moved, axis=1, keepdims=True)).astype(np.float32)
        return queries


@contextmanager
def one_thread(faiss: Any) -> Iterator[None]:
    """Keep FAISS on the calling thread: what is built in the background must leave the processors to the requests."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
