"""An immutable FAISS base: unit vectors grouped around √N centroids, of which a search visits the nearest few."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from types import ModuleType
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from shared_core.errors import ExtraIsMissing
from shared_core.values import Vector

Positions: TypeAlias = NDArray[np.int64]
Source: TypeAlias = Callable[[Positions], Vector]

RECALL: Final = 0.97  # recall@16 on the pool's own vectors that fixes how many clusters are visited
_NEIGHBOURS: Final = 16
_PROBES: Final = 512  # own vectors on which recall is measured
_TRAINED_ON: Final = 64  # vectors a centroid; more moves centroids little and costs in proportion
_BATCH: Final = 4096


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


class Clusters:
    """An inverted file (FAISS ``IndexIVFFlat``, inner product) over `count` rows; tombstones aside it never changes.

    Rows are written list by list, so that each list is as large as its rows and no vector is kept twice.
    Equal rows and seed give equal clusters.

    Args:
        source: Gives the unit vectors, shape (n, dimension), of n rows.
        count: How many rows there are.
        dimension: Length of a vector.
        seed: Seed of the training sample and of k-means.
    """

    def __init__(self, source: Source, count: int, dimension: int, seed: int) -> None:
        self.count = count
        self.alive = Alive(count)
        self._faiss = import_faiss()
        with one_thread(self._faiss):
            self._ivf = self._trained(source, dimension, seed)
            lists = self._fill(source)
            self.probes = self._enough_probes(source, lists, seed)
        some = self._faiss.SearchParametersIVF(nprobe=self.probes, sel=self.alive.selector)
        every = self._faiss.SearchParametersIVF(nprobe=self._ivf.nlist, sel=self.alive.selector)
        self._parameters = (some, every)

    def search(self, query: Vector, k: int, *, exhaustive: bool = False) -> tuple[Vector, Positions]:
        """Similarities and rows, each of shape (1, k), of the alive rows nearest to `query` of shape (1, dimension).

        Where fewer are found, similarities are meaningless and rows are -1.
        """
        similarity, rows = self._ivf.search(query, k, params=self._parameters[exhaustive])
        return similarity, rows

    def vectors(self, rows: Positions) -> Vector:
        """The vectors of these rows, shape (len(rows), dimension)."""
        vectors: Vector = self._ivf.reconstruct_batch(rows)
        return vectors

    def _trained(self, source: Source, dimension: int, seed: int) -> Any:
        faiss, lists = self._faiss, round(self.count**0.5)
        ivf = faiss.IndexIVFFlat(faiss.IndexFlatIP(dimension), dimension, lists, faiss.METRIC_INNER_PRODUCT)
        ivf.cp.seed, ivf.cp.niter, ivf.cp.spherical = seed, 10, True
        size = min(self.count, lists * _TRAINED_ON)
        sample = np.random.default_rng(seed).choice(self.count, size, replace=False)
        ivf.train(source(np.sort(sample)))
        return ivf

    def _fill(self, source: Source) -> Positions:
        """Write every row to the list of its nearest centroid; returns that list for each row."""
        starts = range(0, self.count, _BATCH)
        batches = (np.arange(start, min(start + _BATCH, self.count)) for start in starts)
        lists = np.concatenate([self._ivf.quantizer.search(source(rows), 1)[1][:, 0] for rows in batches])
        order = np.argsort(lists, kind="stable")
        bounds = np.searchsorted(lists[order], np.arange(self._ivf.nlist + 1))
        for number, (start, end) in enumerate(pairwise(bounds)):
            if start < end:
                rows = order[start:end]
                codes = np.ascontiguousarray(source(rows)).view(np.uint8)
                pointers = self._faiss.swig_ptr(rows), self._faiss.swig_ptr(codes)
                self._ivf.invlists.add_entries(number, rows.size, *pointers)
        self._ivf.ntotal = self.count
        self._ivf.set_direct_map_type(self._faiss.DirectMap.Array)
        return lists

    def _enough_probes(self, source: Source, lists: Positions, seed: int) -> int:
        """How many lists a search must visit to find `RECALL` of the true neighbours of the pool's own vectors."""
        size = min(self.count, _PROBES)
        own = np.sort(np.random.default_rng(seed).choice(self.count, size, replace=False))
        queries = source(own)
        everything = self._faiss.SearchParametersIVF(nprobe=self._ivf.nlist)
        neighbours = self._ivf.search(queries, _NEIGHBOURS + 1, params=everything)[1]
        visited = np.argsort(self._ivf.quantizer.search(queries, self._ivf.nlist)[1], axis=1)
        rank = np.take_along_axis(visited, lists[neighbours], axis=1)
        others = rank[neighbours != own[:, None]]
        return int(np.quantile(others, RECALL, method="higher")) + 1


@contextmanager
def one_thread(faiss: Any) -> Iterator[None]:
    """Keep FAISS on the calling thread: clustering in the background must leave the processors to the requests."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
