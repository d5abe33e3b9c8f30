"""A store that the first schema wrote opens, is read whole, and takes new values.

`first_schema.sqlite` holds synthetic texts: two scopes, an exact answer, four rated decisions, a checkpoint.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from shared_core.assembly import trainees
from shared_core.learning.learner import Learner
from shared_core.router import state
from shared_core.settings import Settings
from shared_core.store.protocol import Store, Write
from shared_core.store.sqlite import SqliteStore
from tests.stores.makers import START, make_checkpoint, make_decision, make_example, make_waiting, publish

WRITTEN = Path(__file__).with_name("first_schema.sqlite")
EXACT = "1a3f4a3d6f46936d7103bf4d99b0170f47c01dcbd5afbed5d3b52b89d0b28cac"
IDS = [f"decision-{number}" for number in range(4)]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    shutil.copy(WRITTEN, tmp_path / "pool.db")
    opened = SqliteStore(tmp_path / "pool.db", settings=Settings(), clock=lambda: START + 100)
    yield opened
    opened.close()


def test_every_value_is_read(store: Store) -> None:
    assert [(scope, store.count(scope)) for scope in store.scopes()] == [("default", 6), ("other", 1)]
    rows = [row for rows in store.scan("default") for row in rows]
    texts = store.texts("default", [row.entry.id for row in rows])
    assert len(rows) == len(texts) == 6
    assert "cool the bath ✓ 한국어" in {text.query for text in texts.values()}
    assert all(np.linalg.norm(row.vector) == pytest.approx(1.0, abs=1e-5) for row in rows)
    assert max(row.entry.statistics.quality.count for row in rows) > 0
    decisions = store.decisions(IDS)
    assert list(decisions) == IDS
    assert all(len(decision.features) == 16 and decision.prompt_tokens == 10 for decision in decisions.values())
    assert all(decision.vector is None and decision.arms == () for decision in decisions.values())
    assert sum(map(len, store.scan_decisions("default"))) == 5
    answer = store.exact(EXACT)
    assert answer is not None
    assert (answer.payload, answer.writer) == (b'{"text":"noon"}', "large")
    assert len(store.feedback(0)) == 5
    progress = store.progress()
    assert progress.version > 0
    assert (progress.offset, progress.parts) == (5, {})
    assert store.changes(0)
    assert store.unreadable == 0


def test_it_takes_new_values(store: Store) -> None:
    store.record(make_decision("d1"), make_example("e1"))
    assert store.decisions(["d1"]) == {"d1": make_decision("d1")}
    store.write([Write(waiting=make_waiting("d1"))])
    assert set(store.waiting(["d1"])) == {"d1"}
    progress = store.progress()
    lease = store.acquire("learner", "me", 60.0)
    assert lease is not None
    after = make_checkpoint(progress.version + 1, progress.offset)
    assert publish(store, after, (progress.version, progress.offset), {}, lease)


def test_its_router_is_learned_again_from_the_log_and_no_example_counts_twice(store: Store) -> None:
    rows = {row.entry.id: row.entry.statistics for rows in store.scan("default") for row in rows}
    learner = Learner(store, trainees("large", Settings()), lambda: START + 100, "me")
    report = learner.run_until_drained()
    assert (report.consumed, report.published) == (0, True)
    checkpoint = store.checkpoint("router")
    assert checkpoint is not None
    assert sum(posterior.count for posterior in state.read(checkpoint)[0].values()) == 5
    assert {row.entry.id: row.entry.statistics for rows in store.scan("default") for row in rows} == rows
