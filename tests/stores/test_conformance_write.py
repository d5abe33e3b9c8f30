"""`write` stores many records in one transaction: in order, all or none, each rating once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from shared_core.store.protocol import Store, Write
from tests.fakes import FakeClock
from tests.stores.conftest import DECISION_TTL
from tests.stores.makers import START, make_decision, make_exact, make_example, make_feedback


def test_many_records_come_back_whole(store: Store) -> None:
    batch = [
        Write(make_decision("d1"), make_example("e1"), make_exact("k1"), make_feedback("d1")),
        Write(make_decision("d2")),
        Write(example=make_example("e2", scope="other")),
        Write(exact=make_exact("k2")),
        Write(feedback=make_feedback("d2", "judge", 0.1)),
        Write(),
    ]
    assert list(store.write(batch)) == [True] * 6
    assert store.decisions(["d1", "d2"]) == {"d1": make_decision("d1"), "d2": make_decision("d2")}
    assert store.texts("s", ["e1"]) == {"e1": make_example("e1").texts}
    assert store.texts("other", ["e2"]) == {"e2": make_example("e2", scope="other").texts}
    assert [store.exact(key) for key in ("k1", "k2")] == [make_exact("k1"), make_exact("k2")]
    assert list(store.feedback(0)) == [(1, make_feedback("d1")), (2, make_feedback("d2", "judge", 0.1))]
    assert [(change.kind, change.scope, change.id) for change in store.changes(0)] == [
        ("put", "s", "e1"),
        ("put", "other", "e2"),
    ]


def test_an_empty_batch_writes_nothing(store: Store) -> None:
    assert list(store.write([])) == []
    assert store.position() == 0


def test_of_two_with_the_same_id_the_later_stays(store: Store) -> None:
    old, new = make_example("e1", answer="old"), make_example("e1", answer="new", created_at=START + 1)
    store.write(
        [
            Write(make_decision("d1", arm="small"), old, make_exact("k1", payload=b"old")),
            Write(make_decision("d1", arm="large"), new, make_exact("k1", payload=b"new")),
        ]
    )
    assert store.decisions(["d1"])["d1"].arm == "large"
    assert store.texts("s", ["e1"]) == {"e1": new.texts}
    answer = store.exact("k1")
    assert answer is not None
    assert answer.payload == b"new"
    assert len(store.changes(0)) == 2


def test_each_rating_counts_once(store: Store) -> None:
    store.append_feedback(make_feedback("d1"))
    batch = [make_feedback("d1"), make_feedback("d2"), make_feedback("d2", score=0.1), make_feedback("d2", "judge")]
    assert list(store.write([Write(feedback=rating) for rating in batch])) == [False, True, False, True]
    assert [(offset, rating.score) for offset, rating in store.feedback(0)] == [(1, 0.7), (2, 0.7), (3, 0.7)]


def test_all_or_nothing(store: Store) -> None:
    unstorable = replace(make_example("e2"), vector=np.full(8, "no number"))
    with pytest.raises(Exception):
        store.write([Write(make_decision("d1"), make_example("e1"), feedback=make_feedback()), Write(None, unstorable)])
    assert store.decisions(["d1"]) == {}
    assert store.count("s") == 0
    assert list(store.feedback(0)) == []


def test_a_large_batch(store: Store) -> None:
    batch = [
        Write(make_decision(f"d{n}"), make_example(f"e{n}"), make_exact(f"k{n}"), make_feedback(f"d{n}"))
        for n in range(300)
    ]
    assert list(store.write(batch)) == [True] * 300
    assert store.count("s") == len(store.decisions([f"d{n}" for n in range(300)])) == 300
    assert [offset for offset, _ in store.feedback(0)] == list(range(1, 301))


def test_what_expires_leaves_faster_than_batches_come(store: Store, clock: FakeClock) -> None:
    for number in range(4):
        store.write([Write(make_decision(f"{number}-{n}", created_at=clock.now)) for n in range(200)])
    clock.advance(DECISION_TTL)
    store.write([Write(make_decision(f"new-{n}", created_at=clock.now)) for n in range(200)])
    store.write([Write(make_decision(f"newer-{n}", created_at=clock.now)) for n in range(200)])
    store.clear("s")
    assert store.decisions([f"new-{n}" for n in range(200)]) == {}
