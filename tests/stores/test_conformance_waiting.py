"""Every store keeps answers that wait for feedback: bounded a scope, claimed once, never by another scope."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest

from shared_core.records import Average, Statistics, WaitingAnswer
from shared_core.settings import Settings
from shared_core.store.codec import encode_waiting
from shared_core.store.protocol import Admission, Rating, Store, Write
from tests.fakes import FakeClock
from tests.stores.backends import Backend
from tests.stores.conftest import DECISION_TTL, EXACT_TTL, OpenStore, durable_stores
from tests.stores.makers import (
    START,
    make_checkpoint,
    make_decision,
    make_example,
    make_feedback,
    make_waiting,
    publish,
)
from tests.stores.test_conformance_damage import WRECKS, wreck

LIMIT = 3
TTL = 50.0
HALF_MB = "x" * 480_000


@pytest.fixture
def settings() -> Settings:
    return Settings(exact_ttl=EXACT_TTL, decision_ttl=DECISION_TTL, wait_ttl=TTL, wait_answers=LIMIT, wait_mb=1)


def keep(store: Store, *answers: WaitingAnswer) -> None:
    store.write([Write(waiting=answer) for answer in answers])


def ids(store: Store) -> set[str]:
    return set(store.waiting([f"{letter}{number}" for letter in "do" for number in range(12)]))


def claimed(answer: WaitingAnswer, statistics: Statistics = Statistics()) -> Write:
    """What makes an example of a waiting answer."""
    entry = replace(answer.entry, statistics=statistics)
    example = replace(make_example(), entry=entry, texts=answer.texts, vector=answer.vector)
    return Write(admission=Admission(answer.decision_id, answer.entry.scope, example, claims=True))


def test_a_waiting_answer_comes_back_whole(store: Store) -> None:
    written = [make_waiting("d1"), make_waiting("d2", "other")]
    keep(store, *written)
    found = store.waiting(["d1", "none", "d2"])
    assert list(found.values()) == written
    assert found["d1"].vector.tobytes() == written[0].vector.tobytes()
    assert store.waiting([]) == {}
    assert store.count("s") == 0


def test_a_later_one_of_the_same_decision_replaces_it(store: Store) -> None:
    keep(store, make_waiting("d1", answer="first"), make_waiting("d1", answer="second"))
    assert store.waiting(["d1"])["d1"].texts.answer == "second"
    keep(store, make_waiting("d2", created_at=START + 1), make_waiting("d3", created_at=START + 2))
    assert ids(store) == {"d1", "d2", "d3"}  # counted once


def test_it_expires(store: Store, clock: FakeClock) -> None:
    keep(store, make_waiting("d1"), make_waiting("d2", created_at=START + 1))
    clock.now = START + TTL
    assert ids(store) == {"d2"}
    keep(store, make_waiting("d3", created_at=clock.now), make_waiting("d4", created_at=clock.now + 1))
    assert ids(store) == {"d2", "d3", "d4"}  # the expired one takes no room


def test_the_oldest_of_a_scope_leave_first(store: Store) -> None:
    for number in (3, 0, 4, 1, 2):
        keep(store, make_waiting(f"d{number}", created_at=START + number))
    keep(store, *(make_waiting(f"o{number}", "other", START + number) for number in range(LIMIT)))
    assert ids(store) == {"d2", "d3", "d4", "o0", "o1", "o2"}
    keep(store, *(make_waiting(f"d{number}", created_at=START + number) for number in range(5, 10)))
    assert ids(store) == {"d7", "d8", "d9", "o0", "o1", "o2"}


def test_bytes_of_a_scope_are_bounded_too(store: Store) -> None:
    keep(store, make_waiting("d0", answer=HALF_MB), make_waiting("d1", created_at=START + 1, answer=HALF_MB))
    keep(store, make_waiting("o0", "other", answer=HALF_MB))
    assert ids(store) == {"d0", "d1", "o0"}
    keep(store, make_waiting("d2", created_at=START + 2, answer=HALF_MB[:60_000]))
    assert ids(store) == {"d1", "d2", "o0"}
    keep(store, make_waiting("d3", created_at=START + 3, answer=2 * HALF_MB + HALF_MB[:60_000]))
    assert ids(store) == {"d1", "d2", "o0"}  # larger than all may be: it drives nothing away
    keep(store, make_waiting("d4", created_at=START + 4, answer=2 * HALF_MB))
    assert ids(store) == {"d4", "o0"}


def test_what_is_claimed_makes_room(store: Store) -> None:
    answers = [make_waiting(f"d{number}", created_at=START + number, answer=HALF_MB) for number in range(2)]
    keep(store, *answers)
    assert list(store.write([claimed(answers[1])])) == [True]
    keep(store, make_waiting("d2", created_at=START + 2, answer=HALF_MB))
    assert ids(store) == {"d0", "d2"}


def test_a_claim_stores_the_example_once_and_names_it_in_the_decision(store: Store) -> None:
    decision, answer = replace(make_decision("d1"), admitted_id=""), make_waiting("d1")
    store.write([Write(decision, waiting=answer)])
    learned = Statistics(quality=Average(0.9, 2))
    claim = claimed(answer, learned)
    assert list(store.write([Write(feedback=make_feedback("d1")), claim, claim])) == [True, True, False]
    assert store.waiting(["d1"]) == {}
    assert store.texts("s", ["e-d1"]) == {"e-d1": answer.texts}
    assert store.statistics("s", ["e-d1"]) == {"e-d1": learned}
    assert store.decisions(["d1"]) == {"d1": replace(decision, admitted_id="e-d1")}
    assert [(change.kind, change.id) for change in store.changes(0)] == [("put", "e-d1")]
    assert list(store.feedback(0)) == [(1, make_feedback("d1"))]


def test_a_claim_that_comes_too_late_still_stores_its_rating(store: Store) -> None:
    answer = make_waiting("d1")
    too_late = replace(claimed(answer), feedback=make_feedback("d1"))
    assert list(store.write([too_late, Write(feedback=make_feedback("d1"))])) == [False, False]
    assert (store.count("s"), len(store.feedback(0)), store.changes(0)) == (0, 1, [])


def test_an_answer_may_cease_to_wait_without_an_example(store: Store) -> None:
    keep(store, make_waiting("d1"))
    ends = Write(admission=Admission("d1", "s", None, claims=True))
    assert list(store.write([ends, ends])) == [True, False]
    assert (store.waiting(["d1"]), store.count("s")) == ({}, 0)


def test_another_scope_claims_nothing(store: Store) -> None:
    decision = replace(make_decision("d1", "s"), admitted_id="")
    store.write([Write(decision, waiting=make_waiting("d1", "s"))])
    stolen = make_waiting("d1", "thief")
    assert list(store.write([claimed(stolen), Write(admission=Admission("d1", "thief", None, claims=True))])) == [
        False,
        False,
    ]
    assert set(store.waiting(["d1"])) == {"d1"}
    late = replace(claimed(stolen).admission, claims=False)  # type: ignore[type-var]
    assert list(store.write([Write(admission=late)])) == [True]  # of its own scope, it may store an example
    assert store.decisions(["d1"]) == {"d1": decision}  # which another scope's decision does not name


def test_the_same_decision_id_in_two_scopes(store: Store, clock: FakeClock) -> None:
    """Callers may choose ids: the later answer waits, and what the other scope does later leaves it alone."""
    keep(store, make_waiting("d1", "s"), make_waiting("d1", "other", START + 1))
    assert store.waiting(["d1"])["d1"].entry.scope == "other"
    keep(store, *(make_waiting(f"d{number}", "s", START + number) for number in range(2, 6)))
    clock.now = START + TTL
    keep(store, make_waiting("d6", "s", clock.now))
    store.clear("s")
    assert set(store.waiting(["d1"])) == {"d1"}


def test_a_late_example_is_stored_without_a_claim(store: Store) -> None:
    decision = replace(make_decision("d1"), admitted_id="", exact_key="linked meanwhile")
    store.record(decision)
    late = Write(admission=Admission("d1", "s", make_example("e1"), claims=False))
    assert list(store.write([late, late])) == [True, True]
    assert store.decisions(["d1"]) == {"d1": replace(decision, admitted_id="e1")}
    assert store.count("s") == 1
    store.write([Write(admission=Admission("gone", "s", make_example("e2"), claims=False))])
    assert store.count("s") == 2


def test_texts_that_look_like_a_record_are_left_alone(store: Store) -> None:
    """Redis sets the field in the encoded record."""
    decision = replace(make_decision("d1"), task='"admitted_id":""', arm='x","admitted_id":"', admitted_id="")
    store.record(decision)
    store.write([Write(admission=Admission("d1", "s", make_example('e"\\1é'), claims=False))])
    assert store.decisions(["d1"]) == {"d1": replace(decision, admitted_id='e"\\1é')}


def test_all_or_nothing(store: Store) -> None:
    answer = make_waiting("d1")
    keep(store, answer)
    unstorable = Write(example=replace(make_example("e2"), vector=np.full(8, "no number")))
    with pytest.raises(Exception):
        store.write([claimed(answer), unstorable])
    assert (ids(store), store.count("s")) == ({"d1"}, 0)


def test_clearing_clears_what_waits(store: Store) -> None:
    keep(store, make_waiting("d1"), make_waiting("o1", "other"))
    assert store.clear("s") == 0
    assert ids(store) == {"o1"}
    keep(store, *(make_waiting(f"d{number}", created_at=START + number) for number in range(LIMIT)))
    assert len(ids(store)) == LIMIT + 1
    store.clear()
    assert ids(store) == set()


def test_many_threads_claim_one_answer_once(open_backend: OpenStore) -> None:
    stores = [open_backend() for _ in range(4)]
    first = stores[0]
    for store in stores:  # memory is another store each time
        if store.label == "memory://":
            stores = [first] * 4
    answer, got, start = make_waiting("d1"), list[bool](), threading.Barrier(4)
    keep(first, answer)

    def claim(store: Store) -> None:
        start.wait(10)
        got.extend(store.write([claimed(answer)]))

    threads = [threading.Thread(target=claim, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == [False, False, False, True]
    assert len(first.changes(0)) == 1


@durable_stores
def test_what_has_expired_is_deleted_by_a_later_write(backend: Backend, store: Store, clock: FakeClock) -> None:
    keep(store, make_waiting("d1"), make_waiting("o1", "other"))
    clock.advance(TTL)
    keep(store, make_waiting("d2", created_at=clock.now))
    with pytest.raises((TypeError, AssertionError)):
        backend.peek("waiting", "d1")


@durable_stores
@pytest.mark.parametrize("how", WRECKS)
def test_one_that_cannot_be_read_is_skipped_and_counted(backend: Backend, store: Store, how: str) -> None:
    keep(store, make_waiting("d1"), make_waiting("d2", created_at=START + 1))
    stored = wreck(backend, "waiting", how, "d1")
    assert set(store.waiting(["d1", "d2"])) == {"d2"}
    assert store.unreadable == 1
    assert backend.peek("waiting", "d1") == stored
    keep(store, *(make_waiting(f"d{number}", created_at=START + number) for number in (3, 4)))
    assert ids(store) == {"d2", "d3", "d4"}  # it leaves as the others do


@durable_stores
def test_bytes_of_another_answer_are_not_this_one(backend: Backend, store: Store) -> None:
    keep(store, make_waiting("d1", "ours"), make_waiting("d2", "theirs"))
    backend.damage("waiting", backend.peek("waiting", "d2"), "d1")
    moved = encode_waiting(replace(make_waiting("d2", "ours")))
    backend.damage("waiting", moved, "d2")  # the right id, in the wrong scope
    assert store.waiting(["d1", "d2"]) == {}
    assert store.unreadable == 2


# the ratings of a decision ---------------------------------------------------------------------------------------------


def test_ratings_say_what_the_learner_has_read(store: Store) -> None:
    given = [make_feedback("d1", "user", 0.2), make_feedback("d2"), make_feedback("d1", "judge", 0.9)]
    store.write([Write(feedback=feedback) for feedback in given])
    assert store.ratings(["d1", "none"]) == {"d1": [Rating(given[0], False), Rating(given[2], False)]}
    lease = store.acquire("learner", "me", 60)
    assert lease is not None
    offset = store.feedback(0)[1][0]
    assert publish(store, make_checkpoint(1, offset), (0, 0), {}, lease)
    assert store.ratings(["d1", "d2"]) == {
        "d1": [Rating(given[0], True), Rating(given[2], False)],
        "d2": [Rating(given[1], True)],
    }
    assert store.ratings([]) == {}


@durable_stores
def test_a_rating_that_cannot_be_read_is_left_out(backend: Backend, store: Store) -> None:
    store.append_feedback(make_feedback("d1", "user"))
    store.append_feedback(make_feedback("d1", "judge"))
    backend.damage("feedback", b"{", "1")
    assert store.ratings(["d1"]) == {"d1": [Rating(make_feedback("d1", "judge"), False)]}
    backend.damage("feedback", backend.peek("feedback", "2").replace(b'"d1"', b'"d7"'), "2")
    assert store.ratings(["d1"]) == {}
