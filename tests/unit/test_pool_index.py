"""The vector index: search, tombstones, rebuilding, memory."""

import subprocess
import sys

import faiss
import numpy as np
import pytest

import shared_core.pool.graph as pool_graph
from shared_core.errors import ExtraIsMissing, ConfigurationError
from shared_core.pool.graph import WIDTHS, Graph, lower_bound
from shared_core.pool.index import DEAD_LIMIT, EXACT_LIMIT, TAIL_LIMIT, VectorIndex
from tests.unit.pool_world import units

BIG = EXACT_LIMIT + TAIL_LIMIT


@pytest.fixture(scope="module")
def built():
    """20,000 vectors around 500 centres, in the order of their index after rebuilding, and this index."""
    vectors = units(20_000, 64, clusters=500)
    fresh, origin = rebuilt(vectors)
    return vectors[origin], fresh


def rebuilt(vectors, seed=0):
    index = VectorIndex(vectors.shape[1])
    index.add(vectors)
    assert index.is_stale
    fresh, origin = index.rebuilt(seed)
    assert np.array_equal(np.sort(origin), np.arange(len(vectors)))
    return fresh, origin


def recall(index, vectors, queries, k=16):
    truth = np.argsort(-(queries @ vectors.T), axis=1)[:, :k]
    return np.mean([len(set(index.search(q, k).positions) & set(t)) / k for q, t in zip(queries, truth)])


def test_search_returns_positions_similarities_and_vectors():
    vectors = units(50)
    index = VectorIndex(16)
    assert index.add(vectors[:30]) == 0
    assert index.add(vectors[30:]) == 30
    found = index.search(vectors[33], 5)
    assert found.positions[0] == 33
    assert found.similarity == pytest.approx(vectors[found.positions] @ vectors[33], abs=1e-5)
    assert np.array_equal(found.vectors, vectors[found.positions])


def test_empty_index_finds_nothing():
    found = VectorIndex(16).search(units(1)[0], 5)
    assert found.positions.shape == (0,)
    assert found.vectors.shape == (0, 16)


def test_tombstones_are_never_found_and_never_cost_a_place():
    vectors = units(40)
    index = VectorIndex(16)
    index.add(vectors)
    for position in range(30):
        index.remove(position)
        index.remove(position)
    assert index.size == 10
    assert sorted(index.search(vectors[3], 16).positions) == list(range(30, 40))


def test_position_that_was_never_given_out_is_refused():
    index = VectorIndex(16)
    index.add(units(3))
    with pytest.raises(IndexError, match="3"):
        index.remove(3)


def test_vector_of_another_dimension_is_refused():
    with pytest.raises(ConfigurationError, match=r"\(16,\)"):
        VectorIndex(16).search(units(1, 8)[0], 1)


def test_graph_finds_97_of_100_neighbours_of_new_requests(built):
    vectors, index = built
    assert recall(index, vectors, units(500, 64, seed=7, clusters=500)) >= 0.97


def test_newest_rows_that_are_easily_found_do_not_narrow_the_search():
    """The width is chosen on rows that stand for new requests, which must not be the last ones of a sorted import."""
    circle = np.pad(units(1500, 2, seed=3), ((0, 0), (0, 22)))
    vectors = np.concatenate([units(18_000, 24), circle])
    index, origin = rebuilt(vectors)
    assert recall(index, vectors[origin], units(500, 24, seed=7)) >= 0.97


def test_a_good_mean_of_few_probes_is_not_enough():
    shares = np.array([1.0, 1.0, 1.0, 0.92])  # 0.98 on average
    assert lower_bound(shares) < 0.96
    assert 0.97 < lower_bound(np.tile(shares, 100)) < 0.98
    assert lower_bound(np.ones(5)) == 1.0


@pytest.mark.parametrize("target", [0.9, 0.95, 0.97])
def test_the_width_is_about_the_least_that_finds_the_target(monkeypatch, target):
    monkeypatch.setattr(pool_graph, "RECALL", target)
    vectors, queries = units(6000, 24), units(500, 24, seed=7)
    graph = Graph(lambda rows: vectors[rows], 6000, 24, seed=0)
    true = np.sort(queries @ vectors.T, axis=1)[:, -16]

    def found(width):
        parameters = faiss.SearchParametersHNSW(efSearch=width)
        return np.mean(
            [graph._index.search(q[None], 16, params=parameters)[0] >= t - 1e-4 for q, t in zip(queries, true)]
        )

    assert found(WIDTHS[WIDTHS.index(graph.width) - 2]) < target <= found(graph.width)


def test_doubt_about_the_recall_widens_the_search(monkeypatch):
    vectors = units(6000, 24)
    careful = Graph(lambda rows: vectors[rows], 6000, 24, seed=0)
    monkeypatch.setattr(pool_graph, "_CONFIDENCE", 0.0)
    assert Graph(lambda rows: vectors[rows], 6000, 24, seed=0).width < careful.width


def test_a_search_looks_around_no_more_widely_than_it_must():
    vectors = units(4000, 64, clusters=60)
    easy = Graph(lambda rows: vectors[rows], 4000, 64, seed=0)
    vectors = units(4000, 64)
    hard = Graph(lambda rows: vectors[rows], 4000, 64, seed=0)  # no vector is near any other
    assert WIDTHS[0] <= easy.width < hard.width <= WIDTHS[-1]


def test_copies_that_a_graph_loses_are_searched_exactly(caplog):
    """Three hundred copies of each of twenty: who arrives among one vector's copies does not get away again."""
    vectors = np.random.default_rng(0).permutation(np.repeat(units(20, 64), 300, axis=0))
    graph = Graph(lambda rows: vectors[rows], len(vectors), 64, seed=0)
    assert graph.width == 0
    assert "6000 examples exactly" in caplog.text
    for query in units(20, 64, seed=3):
        similarity, _ = graph.search(query[None], 200)
        assert similarity[0] == pytest.approx(np.sort(vectors @ query)[::-1][:200], abs=1e-3)


def test_graph_is_the_same_for_the_same_seed(built):
    _, index = built
    again, _ = rebuilt(units(20_000, 64, clusters=500))
    for query in units(20, 64, seed=3, clusters=500):
        assert np.array_equal(index.search(query, 16).positions, again.search(query, 16).positions)


def test_tombstones_in_the_base_never_cost_a_place():
    vectors = units(BIG + 1, 16, clusters=300)
    flat = VectorIndex(16)
    flat.add(vectors)
    index, _ = flat.rebuilt(seed=0)
    query = vectors[5]
    ranked = np.argsort(-(vectors @ query), kind="stable")
    for position in ranked[:3000]:  # nothing near the query is left
        index.remove(int(position))
    found = index.search(query, 16)
    assert len(found.positions) == 16
    assert not set(found.positions) & set(ranked[:3000])
    for position in ranked[3000:-4]:
        index.remove(int(position))
    assert set(index.search(query, 16).positions) == set(ranked[-4:])


def test_replay_takes_over_what_happened_during_rebuilding():
    vectors = units(60)
    index = VectorIndex(16)
    index.add(vectors[:40])
    index.remove(1)
    fresh, origin = index.rebuilt(seed=0)
    index.remove(2)
    index.add(vectors[40:])
    index.remove(50)
    origin = fresh.replay(index, origin)
    assert fresh.size == index.size == 57
    for query in units(20, seed=5):
        old, new = index.search(query, 57), fresh.search(query, 57)
        assert np.array_equal(old.positions, origin[new.positions])


def test_an_index_is_stale_when_its_tail_or_its_tombstones_have_grown(built):
    vectors, _ = built
    index = VectorIndex(64)
    index.add(vectors[:EXACT_LIMIT])
    assert not index.is_stale
    for position in range(EXACT_LIMIT // 5 + 1):
        index.remove(position)
    assert index.is_stale
    small = VectorIndex(64)
    small.add(vectors[: DEAD_LIMIT + 1])
    for position in range(DEAD_LIMIT):
        small.remove(position)
    assert not small.is_stale


def test_missing_faiss_is_named_with_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ExtraIsMissing, match=r"faiss is not installed; run: pip install 'iccache\[cpu\]'"):
        VectorIndex(16)


def test_importing_the_pool_does_not_import_faiss():
    code = "import sys, shared_core.pool.replica; sys.exit('faiss' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


MEMORY = """
import sys
import numpy as np
from shared_core.pool import index
from shared_core.pool.memory import return_memory
from shared_core.pool.partition import Partition
from shared_core.store.protocol import Row
from shared_core.records import Entry
from shared_core.text import digest

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

def rows(start, count):
    vectors = np.random.default_rng(start).standard_normal((count, 384), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return [Row(Entry(digest(start + i), "s", "t", "traffic", "m", 0.0, 1), vectors[i]) for i in range(count)]

index.EXACT_LIMIT = 2000
warm = Partition(384, 0)  # what FAISS itself allocates once is no part of an example
warm.put(rows(10**9, 3100))
assert warm.rebuild()
warm.nearest(np.ones(384, np.float32), 4)
del warm
return_memory()
partition, before = Partition(384, 0), resident()
for start in range(0, 6000, 500):
    for row in rows(start, 500):
        partition.put([row])
print((resident() - before) / 6000)
for start in range(6000, 9000, 500):
    for row in rows(start, 500):
        partition.put([row])
    if partition.rebuild():
        return_memory()
print((resident() - before) / 9000)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/statm")
def test_an_example_takes_at_most_two_and_a_half_kilobytes():
    run = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    one_by_one, rebuilt = map(float, run.stdout.split())
    assert 384 * 4 < one_by_one <= 2500
    assert 384 * 2 < rebuilt <= 2500
