"""Scopes that cannot be loaded are left alone for a while, and idle scopes leave memory."""

import threading

import numpy as np
import pytest

from shared_core.errors import ScopeIsCold
from shared_core.pool import replica
from tests.steps import result
from tests.unit.pool_world import example, units, world

[A] = units(1)


def ask(w, scope="s"):
    """A request for a scope; the loader has ended when it returns."""
    with pytest.raises(ScopeIsCold) as cold:
        result(w.replica.candidates(scope, "t", A, 4))
    for thread in threading.enumerate():
        if thread.name == "iccache-load":
            thread.join(5)
    return str(cold.value)


def fail():
    raise OSError("disk gone")


@pytest.fixture
def scans(monkeypatch):
    """The scopes that a store was asked to scan; each of them fails."""
    asked = []

    def scan(self, scope, batch):
        asked.append(scope)
        fail()

    monkeypatch.setattr("shared_core.store.sqlite.SqliteStore.scan", scan)
    return asked


@pytest.mark.parametrize("requests", [1, 5, 50])
def test_a_scope_that_cannot_be_loaded_is_not_scanned_for_each_request(scans, caplog, requests):
    with world() as w:
        for _ in range(requests):
            ask(w)
        assert scans == ["s"]
        assert w.counters["pool.load_failed"] == 1
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert requests == 1 or "could not be loaded" in ask(w)


def test_pauses_grow_up_to_a_minute_and_it_is_said_once(scans, caplog):
    with world() as w:
        ask(w)
        waited = []
        for _ in range(7):
            began = w.clock.now
            while len(scans) == len(waited) + 1:
                w.clock.advance(1)
                ask(w)
            waited.append(w.clock.now - began)
        assert waited == [5, 10, 20, 40, 60, 60, 60]
        assert [record.levelname for record in caplog.records].count("WARNING") == 1


def test_other_scopes_are_loaded_meanwhile_and_a_success_forgets_the_pause():
    with world() as w:
        w.put(example("a", A), example("b", A, scope="t"))
        w.store.before["scan"] = fail
        ask(w, "s")
        ask(w, "t")
        assert w.ids(A, "t") == ["b"]
        assert "could not be loaded" in ask(w, "s")
        w.clock.advance(6)
        ask(w, "s")
        assert w.ids(A, "s") == ["a"]


# idle scopes ----------------------------------------------------------------------------------------------------------


def loaded(w, count):
    """Load so many scopes of one example."""
    names = [f"tenant-{number}" for number in range(count)]
    w.store.put([example(f"e-{name}", A, scope=name) for name in names])
    for name in names:
        w.replica.warm(name)
    return names


def test_idle_scopes_leave_memory_and_come_back(monkeypatch):
    monkeypatch.setattr(replica, "KEPT", 3)
    with world() as w:
        names = loaded(w, 8)
        w.clock.advance(replica.IDLE_SECONDS - 1)
        w.replica.maintain()
        assert all(w.replica.size(name) for name in names)
        assert w.ids(A, names[0]) and w.ids(A, names[5])
        w.clock.advance(2)
        w.replica.maintain()
        assert {name for name in names if w.replica.size(name)} >= {names[0], names[5]}
        assert sum(w.replica.size(name) > 0 for name in names) == 3
        assert w.counters["pool.released"] == 5
        gone = next(name for name in names if not w.replica.size(name))
        w.put(example("new", A, scope=gone), example("later", A, scope=names[0]))
        assert sorted(w.ids(A, names[0])) == sorted([f"e-{names[0]}", "later"])
        ask(w, gone)
        assert sorted(w.ids(A, gone)) == sorted([f"e-{gone}", "new"])


def test_few_scopes_stay_however_long_they_are_idle():
    with world() as w:
        names = loaded(w, 5)
        w.clock.advance(1e9)
        w.replica.maintain()
        assert all(w.replica.size(name) for name in names)


def test_a_reload_is_no_use(monkeypatch):
    monkeypatch.setattr(replica, "KEPT", 0)
    with world() as w:
        names = loaded(w, 2)
        w.clock.advance(replica.IDLE_SECONDS + 1)
        w.ids(A, names[1])
        w.replica._reload()
        w.replica.maintain()
        assert [w.replica.size(name) for name in names] == [0, 1]


def test_a_vector_of_huge_numbers_is_left_out_in_silence(recwarn):
    with world() as w:
        w.store.put([example("a", A), example("huge", np.full(16, 3e38, np.float32))])
        w.replica.warm("s")
        assert w.ids(A) == ["a"]
        assert not [warning for warning in recwarn if issubclass(warning.category, RuntimeWarning)]
