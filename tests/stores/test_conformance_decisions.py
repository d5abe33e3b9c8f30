"""Every store keeps the log of decisions: bounded a scope, in order, and readable for other releases."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest

from shared_core.settings import Settings
from shared_core.store.protocol import Store
from tests.fakes import FakeClock
from tests.stores.backends import Backend
from tests.stores.conftest import DECISION_TTL, EXACT_TTL, durable_stores
from tests.stores.makers import START, make_checkpoint, make_decision, make_example, make_feedback, publish

LIMIT = 3


@pytest.fixture
def settings() -> Settings:
    return Settings(exact_ttl=EXACT_TTL, decision_ttl=DECISION_TTL, log_records=LIMIT)


def ids(store: Store, scope: str, batch: int = 1024) -> list[str]:
    return [decision.id for decisions in store.scan_decisions(scope, batch) for decision in decisions]


def test_a_decision_comes_back_whole(store: Store) -> None:
    written = make_decision("d1")
    store.record(written)
    found = store.decisions(["d1"])["d1"]
    assert found == written
    assert found.vector is not None and written.vector is not None
    assert found.vector.tobytes() == written.vector.tobytes()


@pytest.mark.parametrize("batch", [1, 2, 1024])
def test_a_scan_holds_every_decision_of_the_scope_in_order(store: Store, batch: int) -> None:
    for number in (2, 0, 3, 1):
        store.record(make_decision(f"d{number}", created_at=START + number))
    store.record(make_decision("d9", "other"))
    assert ids(store, "s", batch) == ["d0", "d1", "d2", "d3"]
    assert ids(store, "none", batch) == []
    assert dict(store.decision_counts()) == {"other": 1, "s": 4}


def test_a_scan_leaves_expired_decisions_out(store: Store, clock: FakeClock) -> None:
    store.record(make_decision("d1"))
    store.record(make_decision("d2", created_at=START + 1))
    clock.now = START + DECISION_TTL
    assert ids(store, "s") == ["d2"]


def test_the_oldest_decisions_beyond_the_limit_of_a_scope_are_trimmed(store: Store) -> None:
    for number in range(LIMIT + 2):
        store.record(make_decision(f"d{number}", created_at=START + number))
    for number in range(LIMIT):
        store.record(make_decision(f"o{number}", "other"))
    assert len(ids(store, "s")) == LIMIT + 2  # writes do not wait for it
    assert store.trim_decisions() == 2
    assert ids(store, "s") == ["d2", "d3", "d4"]
    assert len(ids(store, "other")) == LIMIT
    assert set(store.decisions(["d0", "d1", "d2"])) == {"d2"}
    assert store.trim_decisions() == 0


def test_many_decisions_are_trimmed_in_steps(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared_core.store.sqlite_decisions.TRIMMED_AT_ONCE", 2)
    monkeypatch.setattr("shared_core.store.redis.TRIMMED_AT_ONCE", 2)
    for scope in ("s", "other"):
        for number in range(LIMIT + 5):
            store.record(make_decision(f"{scope}{number}", scope, START + number))
    assert store.trim_decisions() == 10
    assert ids(store, "s") == ["s5", "s6", "s7"]
    assert ids(store, "other") == ["other5", "other6", "other7"]


def test_clearing_a_scope_clears_its_log(store: Store) -> None:
    store.record(make_decision("d1"))
    store.record(make_decision("d2", "other"))
    store.clear("s")
    assert dict(store.decision_counts()) == {"other": 1}
    assert ids(store, "s") == []


def rewritten(data: bytes, change: Callable[[dict[str, object]], dict[str, object]]) -> bytes:
    head, newline, rest = data.partition(b"\n")
    return json.dumps(change(json.loads(head))).encode() + newline + rest


@durable_stores
def test_values_of_other_releases_open(backend: Backend, store: Store) -> None:
    """A field that an older release did not write, and one that a newer release did."""
    store.record(make_decision("d1"), make_example("e1"))
    lease = store.acquire("learn", "me", 60)
    assert lease is not None
    assert publish(store, make_checkpoint(1, 0), (0, 0), {}, lease)
    store.append_feedback(make_feedback("d1"))
    parts = [("decision", "d1", "", "arms"), ("entry", "e1", "s", "writer"), ("statistics", "e1", "s", "helpfulness")]
    for part, key, scope, missing in parts:
        data = rewritten(
            backend.peek(part, key, scope),  # type: ignore[arg-type]
            lambda fields, missing=missing: {name: fields[name] for name in fields if name != missing} | {"later": [1]},
        )
        backend.damage(part, data, key, scope)  # type: ignore[arg-type]
    assert store.decisions(["d1"])["d1"].arms == ()
    [row] = store.rows("s", ["e1"])
    assert (row.entry.writer, row.entry.statistics.helpfulness.count) == ("", 0)
    checkpoint = store.checkpoint("router")
    assert checkpoint is not None
    assert np.array_equal(checkpoint.arrays["A"], make_checkpoint(1, 0).arrays["A"])
    assert store.unreadable == 0
