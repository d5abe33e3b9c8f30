"""The replica: loading, following the feed, texts, quantiles."""

import threading

import numpy as np
import pytest

from shared_core.errors import DependencyIsSlow, ScopeIsCold
from shared_core.settings import Settings
from shared_core.store.protocol import Row
from shared_core.store.sqlite import SqliteStore
from shared_core.records import Average, Statistics
from shared_core.store.protocol import Publication
from tests.unit.pool_world import World, example, nearest, soon, units, world
from tests.steps import result

VECTORS = units(200, seed=3)
A, B, C = VECTORS[:3]


def test_a_cold_scope_says_so_and_loads_in_the_background():
    with world() as w:
        w.store.put([example("a", A)])
        loaded = threading.Event()
        w.store.before["scan"] = loaded.set
        with pytest.raises(ScopeIsCold, match="'s'"):
            result(w.replica.candidates("s", "t", A, 4))
        assert loaded.wait(5)
        w.replica.warm("s")
        assert w.ids(A) == ["a"]


def test_a_failed_load_is_counted_and_tried_again():
    with world() as w:
        w.store.put([example("a", A)])

        def fail():
            raise OSError("disk gone")

        w.store.before["scan"] = fail
        with pytest.raises(OSError, match="disk gone"):
            w.replica.warm("s")
        w.store.before["scan"] = fail
        with pytest.raises(ScopeIsCold):
            result(w.replica.candidates("s", "t", A, 4))
        wait_for_loader()
        assert w.counters.value("pool.load_failed", error="OSError") == 1
        w.replica.warm("s")
        assert w.ids(A) == ["a"]


def wait_for_loader():
    for thread in threading.enumerate():
        if thread.name == "iccache-load":
            thread.join(5)


def test_candidates_carry_similarity_vectors_and_what_was_learned():
    with world() as w:
        w.put(example("a", A, quality=0.9, helpfulness=0.2), example("b", B, quality=0.1, helpfulness=0.7))
        w.replica.warm("s")
        found = result(w.replica.candidates("s", "t", B, 4))
        assert found.ids == ("b", "a")
        assert found.similarity == pytest.approx([1.0, float(A @ B)], abs=1e-5)
        assert np.array_equal(found.vectors, [B, A])
        assert found.statistics["quality"] == pytest.approx([0.1, 0.9])
        assert found.statistics["helpfulness"] == pytest.approx([0.7, 0.2])


def test_scopes_and_tasks_are_apart():
    with world() as w:
        w.put(example("a", A), example("b", A, task="other"), example("c", A, scope="s2"))
        for scope in ("s", "s2"):
            w.replica.warm(scope)
        assert w.ids(A) == ["a"]
        assert w.ids(A, task="other") == ["b"]
        assert w.ids(A, scope="s2") == ["c"]
        assert w.ids(A, scope="s2", task="other") == []
        assert (w.replica.size("s"), w.replica.size("s2"), w.replica.size("s3")) == (2, 1, 0)


def test_refresh_follows_puts_replacements_and_deletions():
    with world() as w:
        w.replica.warm("s")
        assert w.replica.refresh() == 0
        w.store.put([example("a", A), example("b", B)])
        assert w.replica.refresh() == 2
        assert w.ids(A) == ["a", "b"] or w.ids(A)[0] == "a"
        w.store.put([example("a", C, quality=0.9)])
        w.store.delete("s", ["b"])
        assert w.replica.refresh() == 2
        found = result(w.replica.candidates("s", "t", C, 4))
        assert found.ids == ("a",)
        assert found.similarity[0] == pytest.approx(1.0)
        assert found.statistics["quality"][0] == pytest.approx(0.9)


def test_an_example_that_changes_its_task_leaves_the_old_one():
    with world() as w:
        w.replica.warm("s")
        w.put(example("a", A))
        w.put(example("a", A, task="other"))
        assert w.ids(A) == []
        assert w.ids(A, task="other") == ["a"]


def test_statistics_that_the_learner_published_arrive():
    with world() as w:
        w.put(example("a", A))
        w.replica.warm("s")
        lease = w.store.acquire("learner", "me", 60)
        learned = Statistics(quality=Average(0.25, 4), helpfulness=Average(0.75, 4))
        assert w.store.publish(Publication((0, 0), 1, 0, {}, {("s", "a"): learned}), lease)
        assert w.replica.refresh() == 1
        found = result(w.replica.candidates("s", "t", A, 1))
        assert (found.statistics["quality"][0], found.statistics["helpfulness"][0]) == (0.25, 0.75)


def test_what_changes_during_a_load_is_not_lost():
    """Between scan and publication another scope's follower has moved on past the changes."""
    with world() as w:
        w.put(example("x", A, scope="s2"))
        w.replica.warm("s2")
        w.store.put([example("a", A), example("b", B)])

        def meanwhile():
            w.store.put([example("c", C)])
            w.store.delete("s", ["a"])
            w.replica.refresh()

        w.store.before["scan"] = meanwhile
        real = w.store._store.scan
        stale = [list(batch) for batch in real("s")]
        w.store._store.scan = lambda scope, size: iter(stale)  # a scan that saw nothing of it
        try:
            w.replica.warm("s")
        finally:
            w.store._store.scan = real
        assert set(w.ids(A)) == {"b", "c"}


def test_a_replica_that_slept_past_the_feeds_end_reloads():
    with world(SqliteStore(None, settings=Settings(), feed_length=4)) as w:
        w.put(example("a", A), example("b", B))
        w.replica.warm("s")
        w.texts(["a"])
        w.store.delete("s", ["a"])
        for i in range(8):
            w.store.put([example(f"n{i}", VECTORS[10 + i])])
        w.replica.refresh()
        assert w.counters["pool.reloaded"] == 1
        assert set(w.ids(A)) == {"b", *(f"n{i}" for i in range(8))}
        assert w.texts(["a"]) == {}
        w.put(example("later", C))
        assert "later" in w.ids(C)
        assert w.counters["pool.reloaded"] == 1


def test_a_load_overtaken_by_the_feeds_end_starts_again():
    with world(SqliteStore(None, settings=Settings(), feed_length=4)) as w:
        w.put(example("x", A, scope="s2"))
        w.replica.warm("s2")

        def meanwhile():
            for i in range(8):
                w.put(example(f"n{i}", VECTORS[10 + i]))

        w.store.before["scan"] = meanwhile
        w.replica.warm("s")
        assert set(w.ids(A)) == {f"n{i}" for i in range(8)}


def test_records_that_cannot_be_used_are_skipped_and_counted():
    with world() as w:
        w.put(*(example(f"e{i}", v) for i, v in enumerate(VECTORS[:5])))
        bad = [units(1, 8)[0], np.zeros(16, np.float32), np.full(16, np.nan, np.float32), A * 2]
        rows = [Row(example(f"bad{i}", v).entry, v) for i, v in enumerate(bad)]
        scan = w.store._store.scan
        w.store._store.scan = lambda scope, size: iter([[*rows, *(r for batch in scan(scope) for r in batch)]])
        w.replica.warm("s")
        assert w.counters["pool.unusable"] == 4
        assert set(w.ids(A)) == {f"e{i}" for i in range(5)}


def test_texts_are_read_in_one_call_and_then_kept():
    with world() as w:
        w.put(example("a", A), example("b", B), example("c", C))
        w.replica.warm("s")
        assert w.texts(["a", "b"])["b"].answer == "answer b"
        w.texts(["a", "b", "c"])
        w.texts(["c", "a"])
        assert w.store.texts_read == [["a", "b"], ["c"]]


def test_texts_of_deleted_and_replaced_examples_leave_the_cache():
    with world() as w:
        w.put(example("a", A), example("b", B))
        w.replica.warm("s")
        w.texts(["a", "b"])
        w.store.delete("s", ["a"])
        w.put(example("b", B, answer="a better answer"))
        read = w.texts(["a", "b"])
        assert set(read) == {"b"}
        assert read["b"].answer == "a better answer"


def test_texts_deleted_while_they_were_read_are_not_kept():
    with world() as w:
        w.put(example("a", A))
        w.replica.warm("s")

        def meanwhile():
            w.store.delete("s", ["a"])
            w.replica.refresh()

        w.store.before["texts returns"] = meanwhile
        w.texts(["a"])
        assert w.texts(["a"]) == {}


def test_texts_keep_to_the_deadline():
    with world() as w:
        w.put(example("a", A))
        release = threading.Event()
        w.store.before["texts returns"] = lambda: release.wait(10)
        try:
            with pytest.raises(DependencyIsSlow):
                w.texts(["a"], 0.05)
        finally:
            release.set()


def test_quantiles_are_those_of_the_pools_own_pairs():
    with world() as w:
        w.put(*(example(f"e{i}", v) for i, v in enumerate(VECTORS)))
        w.replica.warm("s")
        cosines = np.sort((VECTORS @ VECTORS.T)[np.triu_indices(200, 1)])
        for q in (0.1, 0.5, 0.9):
            sampled = result(w.replica.similarity_quantile("s", "t", q))
            assert np.mean(cosines <= sampled) == pytest.approx(q, abs=0.03)
        assert result(w.replica.similarity_quantile("s", "t", 0.0)) == -1.0
        assert result(w.replica.similarity_quantile("s", "t", 1.0)) >= np.quantile(cosines, 0.999)
        assert result(w.replica.similarity_quantile("s", "t", 1.0)) <= cosines[-1] + 1e-6
        with world(w.store._store) as other:
            other.replica.warm("s")
            assert result(other.replica.similarity_quantile("s", "t", 0.9)) == result(
                w.replica.similarity_quantile("s", "t", 0.9)
            )


def test_quantiles_follow_the_pool_as_it_grows_and_shrinks():
    with world() as w:
        w.replica.warm("s")
        assert result(w.replica.similarity_quantile("s", "t", 0.5)) == -1.0
        w.put(example("a", A))
        assert result(w.replica.similarity_quantile("s", "t", 0.5)) == -1.0
        w.put(example("b", B))
        assert result(w.replica.similarity_quantile("s", "t", 0.5)) == pytest.approx(float(A @ B), abs=1e-6)
        w.put(example("c", A))
        assert result(w.replica.similarity_quantile("s", "t", 1.0)) == pytest.approx(1.0, abs=1e-6)
        w.store.delete("s", ["c"])
        w.replica.refresh()
        assert result(w.replica.similarity_quantile("s", "t", 1.0)) == pytest.approx(float(A @ B), abs=1e-6)
        w.store.clear("s")
        w.replica.refresh()
        assert result(w.replica.similarity_quantile("s", "t", 1.0)) == -1.0
        assert w.ids(A) == []


def test_maintenance_rebuilds_what_has_thinned_and_changes_no_answer():
    with world() as w:
        vectors = units(1000, seed=9)
        w.put(*(example(f"e{i}", v) for i, v in enumerate(vectors)))
        w.replica.warm("s")
        w.store.delete("s", [f"e{i}" for i in range(600)])
        w.replica.refresh()
        w.replica.maintain()
        assert w.counters["pool.rebuilt"] == 1
        left = {f"e{i}": v for i, v in enumerate(vectors) if i >= 600}
        assert w.ids(A) == [i for i, _ in nearest(left, A, 16)]
        w.replica.maintain()
        assert w.counters["pool.rebuilt"] == 1


def test_closing_drops_everything_and_loads_nothing_more():
    w = World()
    w.put(example("a", A))
    w.replica.warm("s")
    w.replica.close()
    with pytest.raises(ScopeIsCold, match="is closed"):
        result(w.replica.candidates("s", "t", A, 1))
    wait_for_loader()
    assert w.replica.size("s") == 0
    w.guard.close()


def test_a_load_that_fails_because_the_pool_is_closed_is_no_news(caplog):
    with world() as w:
        begun, release = threading.Event(), threading.Event()

        def fail():
            begun.set()
            assert release.wait(5)
            raise OSError("the store is closed")

        w.store.before["scan"] = fail
        with pytest.raises(ScopeIsCold):
            result(w.replica.candidates("s", "t", A, 4))
        assert begun.wait(5)
        w.replica.close()
        release.set()
        wait_for_loader()
        assert w.counters.value("pool.load_failed", error="OSError") == 1
        assert caplog.records == []
