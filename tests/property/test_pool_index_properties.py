"""Whatever is added, removed and rebuilt, the index finds what brute force finds."""

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import shared_core.pool.index as index_module
from shared_core.pool.index import VectorIndex
from shared_core.pool.partition import Partition
from tests.unit.pool_world import nearest, row, units

VECTORS = units(400, 8, seed=11)

steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(1, 30)),
        st.tuples(st.just("remove"), st.integers(0, 10**6)),
        st.tuples(st.just("rebuild"), st.just(0)),
        st.tuples(st.just("start"), st.just(0)),
    ),
    max_size=25,
)


@given(steps, st.integers(1, 40), st.integers(0, 10**6))
def test_index_equals_brute_force(steps, k, seed):
    """`start` begins a rebuild that `rebuild` finishes; changes in between must be replayed."""
    index, known, added, begun = VectorIndex(8), {}, 0, None
    for step, n in steps:
        if step == "add":
            vectors = VECTORS[np.arange(added, added + n) % 400]
            first = index.add(vectors)
            known |= {first + i: v for i, v in enumerate(vectors)}
            added += n
        elif step == "remove" and known:
            position = sorted(known)[n % len(known)]
            index.remove(position)
            del known[position]
        elif step == "start":
            begun = index.rebuilt(0)
        elif step == "rebuild":
            fresh, origin = begun or index.rebuilt(0)
            origin = fresh.replay(index, origin)
            index, begun = fresh, None
            known = {p: known[o] for p, o in enumerate(origin.tolist()) if o in known}
        assert index.size == len(known)
    query = units(1, 8, seed=seed)[0]
    found = index.search(query, k)
    wanted = nearest(known, query, k)
    assert found.similarity == pytest.approx([s for _, s in wanted], abs=1e-5)
    assert all(np.array_equal(v, known[p]) for p, v in zip(found.positions.tolist(), found.vectors))
    assert len(set(found.positions.tolist())) == len(wanted)


@given(st.sets(st.integers(0, 299)), st.integers(0, 10**6), st.integers(1, 40))
@settings(max_examples=30)
def test_graph_never_finds_tombstones_and_never_too_few(removed, seed, k):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_module, "EXACT_LIMIT", 100)
        flat = VectorIndex(8)
        flat.add(VECTORS[:250])
        index, _ = flat.rebuilt(seed)
    index.add(VECTORS[250:300])
    for position in removed:
        index.remove(position)
    found = index.search(units(1, 8, seed=seed)[0], k).positions.tolist()
    assert len(found) == len(set(found)) == min(k, 300 - len(removed))
    assert not set(found) & removed


def test_threads_that_add_remove_search_and_rebuild_stay_consistent(monkeypatch):
    """A reader may see an example or not while it changes, but never another's vector, a twin, or one long gone."""
    monkeypatch.setattr(index_module, "EXACT_LIMIT", 500)
    monkeypatch.setattr(index_module, "TAIL_LIMIT", 50)
    monkeypatch.setattr(index_module, "DEAD_LIMIT", 50)
    partition = Partition(8, 0)
    base = units(1200, 8, seed=1)
    vectors = {f"e{i}": v for i, v in enumerate(base)}
    partition.put([row(f"e{i}", v) for i, v in enumerate(base[:800])])
    partition.remove([f"e{i}" for i in range(100)])  # gone before any thread starts
    stop, failures, rebuilt = threading.Event(), [], 0

    def run(function):
        def loop():
            try:
                while not stop.is_set():
                    function()
            except BaseException as error:
                failures.append(error)
                stop.set()

        return threading.Thread(target=loop)

    def search(generator=np.random.default_rng(5)):
        query = units(1, 8, seed=int(generator.integers(10**6)))[0]
        found = partition.nearest(query, 16)
        assert len(found.ids) == len(set(found.ids)) == 16
        assert np.all(np.diff(found.similarity) <= 1e-6)
        for i, similarity, vector in zip(found.ids, found.similarity, found.vectors):
            assert int(i[1:]) >= 100
            assert vector == pytest.approx(vectors[i], abs=3e-4)  # half precision
            assert similarity == pytest.approx(vector @ query, abs=1e-5)

    def rebuild():
        nonlocal rebuilt
        rebuilt += partition.rebuild()

    threads = [run(search), run(search), run(rebuild)]
    for thread in threads:
        thread.start()
    generator = np.random.default_rng(2)
    for changes in range(50_000):  # as many as it takes to be rebuilt twice, on a busy machine, too
        some = generator.choice(np.arange(400, 1200), 3, replace=False)
        partition.remove([f"e{i}" for i in some[:2]])
        partition.put([row(f"e{i}", base[i]) for i in some[1:]])
        if stop.is_set() or (changes >= 1500 and rebuilt > 1):
            break
    stop.set()
    for thread in threads:
        thread.join(30)
    assert not failures, failures[0]
    assert rebuilt > 1
    left = {i: vectors[i] for i in partition.holds(vectors)}
    query = units(1, 8, seed=77)[0]
    assert len(partition.nearest(query, 2000).ids) == len(left)
    assert set(partition.nearest(query, 2000).ids) == set(left)
