"""Every store keeps the promises of `Store` to the learner: checkpoints, publication, leases."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest

from shared_core.settings import Settings
from shared_core.store.protocol import Lease, PartProgress, Progress, Store
from shared_core.records import Checkpoint
from tests.fakes import FakeClock
from tests.stores.backends import Backend
from tests.stores.conftest import DECISION_TTL, OpenStore, durable_stores
from tests.stores.makers import make_checkpoint, make_example, make_feedback, make_statistics, publish


def leased(store: Store, owner: str = "me", ttl: float = 60.0) -> Lease:
    lease = store.acquire("learn", owner, ttl)
    assert lease is not None
    return lease


def assert_checkpoint(store: Store, expected: Checkpoint) -> None:
    """The router's checkpoint is `expected`; nothing was published if that is empty."""
    found, progress = store.checkpoint("router"), store.progress()
    assert (progress.version, progress.offset) == (expected.version, expected.offset)
    if not expected.version:
        assert (found, progress) == (None, Progress())
        return
    assert progress.parts == {"router": PartProgress(expected.version, expected.offset)}
    assert found == expected
    assert {name: (array.dtype, array.shape, array.tobytes()) for name, array in found.arrays.items()} == {
        name: (array.dtype, array.shape, array.tobytes()) for name, array in expected.arrays.items()
    }


def test_before_the_first_checkpoint_there_is_none(store: Store) -> None:
    assert_checkpoint(store, Checkpoint())
    assert store.rounds() == []


def test_publication_feeds_the_new_statistics(store: Store) -> None:
    examples = [make_example("e1"), make_example("e2"), make_example("e1", "other")]
    store.put(examples)
    store.delete("s", ["e2"])
    before = store.position()
    statistics = {
        ("s", "e1"): make_statistics(1),
        ("s", "e2"): make_statistics(2),
        ("s", "never"): make_statistics(3),
        ("none", "e1"): make_statistics(4),
    }
    assert publish(store, make_checkpoint(), (0, 0), statistics, leased(store)) is True
    (row,) = store.rows("s", ["e1", "e2", "never"])
    assert row.entry == replace(examples[0].entry, statistics=make_statistics(1))
    assert np.array_equal(row.vector, examples[0].vector)
    assert store.rows("other", ["e1"])[0].entry == examples[2].entry
    assert (store.count("s"), store.count("none")) == (1, 0)
    assert list(store.scopes()) == ["other", "s"]
    assert [(c.kind, c.scope, c.id) for c in store.changes(before)] == [("statistics", "s", "e1")]
    assert store.texts("s", ["e1"]) == {"e1": examples[0].texts}


@pytest.mark.parametrize("expected", [(0, 0), (1, 4), (2, 5), (1, 6)])
def test_publication_is_refused_on_another_version_or_offset(store: Store, expected: tuple[int, int]) -> None:
    store.record(example=make_example())
    lease = leased(store)
    first = make_checkpoint(1, 5)
    assert publish(store, first, (0, 0), {}, lease) is True
    before = store.position()
    assert publish(store, make_checkpoint(2, 9), expected, {("s", "e1"): make_statistics()}, lease) is False
    assert_checkpoint(store, first)
    assert store.rows("s", ["e1"])[0].entry == make_example().entry
    assert store.position() == before
    second = make_checkpoint(2, 9)
    assert publish(store, second, (1, 5), {}, lease) is True
    assert_checkpoint(store, second)


def test_publication_is_refused_to_a_lease_that_was_lost(backend: Backend, store: Store) -> None:
    store.record(example=make_example())
    old = leased(store, "slow", ttl=10)
    backend.age_lease("learn", 11)
    new = leased(store, "fast")
    before = store.position()
    assert publish(store, make_checkpoint(), (0, 0), {("s", "e1"): make_statistics()}, old) is False
    assert_checkpoint(store, Checkpoint())
    assert store.rows("s", ["e1"])[0].entry == make_example().entry
    assert store.position() == before
    assert publish(store, make_checkpoint(), (0, 0), {}, new) is True


def test_publication_is_refused_to_a_lease_that_never_was(store: Store) -> None:
    assert publish(store, make_checkpoint(), (0, 0), {}, Lease("learn", "me", 1, 1e12)) is False
    assert_checkpoint(store, Checkpoint())


def test_publication_after_clear_leaves_nothing_behind(store: Store) -> None:
    store.record(example=make_example())
    store.clear()
    assert publish(store, make_checkpoint(), (0, 0), {("s", "e1"): make_statistics()}, leased(store)) is True
    assert (store.count("s"), list(store.scopes()), list(store.rows("s", ["e1"]))) == (0, [], [])
    assert_checkpoint(store, make_checkpoint())
    store.clear()
    assert_checkpoint(store, make_checkpoint())


def test_a_lease_is_held_by_one_until_it_expires(backend: Backend, store: Store) -> None:
    first = leased(store, "me", ttl=100)
    assert (first.name, first.owner) == ("learn", "me")
    assert first.expires_at == pytest.approx(time.time() + 100, abs=30)
    assert store.acquire("learn", "you", 100) is None
    assert store.acquire("replay", "you", 100) is not None
    backend.age_lease("learn", 60)
    renewed = leased(store, "me", ttl=100)
    assert first.expires_at <= renewed.expires_at < first.expires_at + 30
    backend.age_lease("learn", 60)
    assert store.acquire("learn", "you", 100) is None
    backend.age_lease("learn", 60)
    taken = leased(store, "you")
    assert taken.token > renewed.token >= first.token
    assert store.acquire("learn", "me", 100) is None


@durable_stores
@pytest.mark.parametrize("ahead", [-3600.0, 3600.0, 1e9])
def test_clocks_that_differ_stop_nobody_and_break_no_lease(
    backend: Backend, settings: Settings, clock: FakeClock, ahead: float
) -> None:
    other_clock = FakeClock(clock.now + ahead)
    ours, theirs = backend.open(settings, clock, 100), backend.open(settings, other_clock, 100)
    leased(theirs, "they", ttl=100)
    assert ours.acquire("learn", "we", 100) is None
    backend.age_lease("learn", 101)
    lease = leased(ours, "we", ttl=100)
    assert theirs.acquire("learn", "they", 100) is None
    assert publish(ours, make_checkpoint(), (0, 0), {}, lease) is True
    ours.close()
    theirs.close()


def test_a_renewal_does_not_fence_its_own_holder(store: Store) -> None:
    first = leased(store)
    leased(store)
    assert publish(store, make_checkpoint(), (0, 0), {}, first) is True


def test_a_released_lease_is_free_and_tokens_keep_growing(store: Store) -> None:
    tokens = []
    for owner in ("me", "you", "me", "me"):
        lease = leased(store, owner)
        tokens.append(lease.token)
        store.release(lease)
    assert tokens == sorted(set(tokens))


def test_releasing_a_lost_lease_changes_nothing(backend: Backend, store: Store) -> None:
    lost = leased(store, "slow", ttl=10)
    backend.age_lease("learn", 11)
    held = leased(store, "fast")
    store.release(lost)
    assert store.acquire("learn", "third", 10) is None
    assert publish(store, make_checkpoint(), (0, 0), {}, held) is True


@durable_stores
def test_leases_and_checkpoints_outlive_the_store(open_backend: OpenStore) -> None:
    first = open_backend()
    lease = leased(first)
    assert publish(first, make_checkpoint(3, 7), (0, 0), {}, lease) is True
    first.close()
    second = open_backend()
    assert_checkpoint(second, make_checkpoint(3, 7))
    assert second.acquire("learn", "you", 10) is None
    second.release(lease)
    assert leased(second, "you").token > lease.token


def test_offsets_are_never_used_again(store: Store, clock: FakeClock) -> None:
    for number in range(4):
        store.append_feedback(make_feedback(f"d{number}", at=clock.now))
    clock.advance(DECISION_TTL + 1)
    lease = leased(store)
    assert publish(store, make_checkpoint(1, 4), (0, 0), {}, lease) is True
    assert publish(store, make_checkpoint(2, 4), (1, 4), {}, lease) is True
    late = make_feedback("d9", at=clock.now)
    assert store.append_feedback(late) is True
    assert list(store.feedback(4)) == [(5, late)]


def test_feedback_that_nobody_learned_from_is_never_dropped(store: Store, clock: FakeClock) -> None:
    given = [make_feedback(f"d{number}", at=clock.now) for number in range(4)]
    for feedback in given:
        store.append_feedback(feedback)
    clock.advance(DECISION_TTL + 1)
    assert publish(store, make_checkpoint(1, 2), (0, 0), {}, leased(store)) is True
    store.record(example=make_example())
    store.append_feedback(make_feedback("d9", at=clock.now))
    assert [feedback for _, feedback in store.feedback(2)][:2] == given[2:]
