"""Every store keeps the promises of `Store`: examples, change feed, exact answers, decisions, feedback."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from shared_core.errors import FeedWasTrimmed, StoreIsUnusable
from shared_core.store.protocol import Store
from shared_core.records import Example, Statistics, Texts
from tests.fakes import FakeClock
from tests.stores.conftest import DECISION_TTL, EXACT_TTL, OpenStore, durable_stores
from tests.stores.makers import (
    START,
    exact_key,
    make_decision,
    make_exact,
    make_example,
    make_feedback,
    make_statistics,
)


def scanned(store: Store, scope: str, batch: int = 1024) -> list[str]:
    return [row.entry.id for rows in store.scan(scope, batch) for row in rows]


def fed(store: Store, after: int = 0) -> list[tuple[str, str, str]]:
    return [(change.kind, change.scope, change.id) for change in store.changes(after)]


def assert_same(store: Store, example: Example) -> None:
    """The store holds exactly this example, vector to the bit."""
    scope, id = example.entry.scope, example.entry.id
    (row,) = store.rows(scope, [id])
    assert row.entry == example.entry
    assert row.vector.dtype == np.float32
    assert np.array_equal(row.vector, example.vector)
    assert store.texts(scope, [id]) == {id: example.texts}


# claims ---------------------------------------------------------------------------------------------------------------


def test_the_first_claim_is_in_force(store: Store) -> None:
    assert store.claim("embedder", "minilm") == "minilm"
    assert store.claim("embedder", "other") == "minilm"
    assert store.claim("dimension", "384") == "384"


# examples -------------------------------------------------------------------------------------------------------------


def test_an_empty_store_holds_nothing(store: Store) -> None:
    assert store.scopes() == []
    assert store.count("s") == 0
    assert store.oldest("s", 3) == []
    assert store.texts("s", ["e1"]) == {}
    assert list(store.rows("s", ["e1"])) == []
    assert scanned(store, "s") == []
    assert store.position() == 0
    assert list(store.changes(0)) == []
    assert store.exact("k1") is None
    assert store.decisions(["d1"]) == {}
    assert list(store.feedback(0)) == []
    assert store.unreadable == 0


def test_a_record_comes_back_whole(store: Store) -> None:
    example = make_example(exact_key="k1", statistics=make_statistics(4))
    decision, exact = make_decision(), make_exact("k1")
    store.record(decision, example, exact)
    assert_same(store, example)
    assert store.decisions(["d1"]) == {"d1": decision}
    assert store.exact("k1") == exact
    assert fed(store) == [("put", "s", "e1")]


def test_texts_of_many_come_together(store: Store) -> None:
    examples = [make_example(f"e{i}") for i in range(120)]
    store.put(examples)
    assert store.texts("s", [e.entry.id for e in examples]) == {e.entry.id: e.texts for e in examples}


def test_texts_of_every_kind_come_back(store: Store) -> None:
    for number, text in enumerate(["\x00", "a\nb\r\n\u2028", "𝛼 한국어 ✓", '{"v":99}', "", "x" * 300_000]):
        example = replace(make_example(f"e{number}"), texts=Texts(text, text))
        store.record(example=example)
        assert store.texts("s", [f"e{number}"]) == {f"e{number}": Texts(text, text)}


def test_an_example_of_the_same_id_is_replaced(store: Store) -> None:
    store.record(example=make_example(created_at=START, answer="old"))
    store.record(example=make_example("e2", created_at=START + 1))
    newer = make_example(created_at=START + 2, answer="new", task="other", statistics=make_statistics())
    store.record(example=newer)
    assert_same(store, newer)
    assert store.count("s") == 2
    assert store.oldest("s", 2) == ["e2", "e1"]
    assert fed(store) == [("put", "s", "e1"), ("put", "s", "e2"), ("put", "s", "e1")]


def test_the_same_id_in_two_scopes_is_two_examples(store: Store) -> None:
    ours, theirs = make_example(scope="ours"), make_example(scope="theirs")
    store.record(example=ours)
    store.record(example=theirs)
    assert_same(store, ours)
    assert store.delete("theirs", ["e1"]) == 1
    assert_same(store, ours)


def test_put_writes_many_and_replaces(store: Store) -> None:
    store.record(example=make_example("e7", answer="old"))
    examples = [make_example(f"e{i}", created_at=START + i) for i in range(700)]
    store.put(examples)
    assert store.count("s") == 700
    assert_same(store, examples[7])
    assert sorted(change.id for change in store.changes(0)[1:]) == sorted(e.entry.id for e in examples)
    store.put([])
    assert store.count("s") == 700


def test_a_write_that_cannot_be_encoded_writes_nothing(store: Store) -> None:
    bad = replace(make_example("bad"), vector=np.array([np.nan, 1.0], dtype=np.float32))
    with pytest.raises(ValueError, match="bad"):
        store.record(make_decision(), bad, make_exact())
    with pytest.raises(ValueError, match="bad"):
        store.put([make_example("e1"), bad])
    assert store.count("s") == 0
    assert store.position() == 0
    assert store.decisions(["d1"]) == {}
    assert store.exact("k1") is None


def test_scopes_counts_and_ages(store: Store) -> None:
    store.put(
        [
            make_example("b", "z", created_at=START + 1),
            make_example("a", "z", created_at=START + 1),
            make_example("c", "z", created_at=START),
            make_example("d", "ä", created_at=START - 9),
        ]
    )
    assert list(store.scopes()) == ["z", "ä"]
    assert (store.count("z"), store.count("ä"), store.count("none")) == (3, 1, 0)
    assert list(store.oldest("z", 2)) == ["c", "a"]
    assert list(store.oldest("z", 9)) == ["c", "a", "b"]
    assert list(store.oldest("z", 0)) == []
    store.delete("ä", ["d"])
    assert list(store.scopes()) == ["z"]


def test_absent_ids_and_other_scopes_are_left_out(store: Store) -> None:
    store.put([make_example("e1"), make_example("e2"), make_example("x1", "other")])
    asked = ["e2", "x1", "missing", "e1"]
    assert set(store.texts("s", asked)) == {"e1", "e2"}
    assert {row.entry.id for row in store.rows("s", asked)} == {"e1", "e2"}
    assert store.statistics("s", asked) == {"e1": Statistics(), "e2": Statistics()}
    assert store.texts("s", []) == {}
    assert store.statistics("s", []) == {}
    assert list(store.rows("s", [])) == []


@pytest.mark.parametrize("batch", [1, 3, 1024])
def test_scan_gives_every_row_once(store: Store, batch: int) -> None:
    store.put([make_example(f"e{i}", created_at=START + i % 3) for i in range(10)] + [make_example("x", "other")])
    assert sorted(scanned(store, "s", batch)) == sorted(f"e{i}" for i in range(10))
    assert all(len(rows) <= batch for rows in store.scan("s", batch))


def test_scan_keeps_what_stays_while_others_come_and_go(store: Store) -> None:
    store.put([make_example(f"e{i}", created_at=START + i) for i in range(20)])
    seen: list[str] = []
    for number, rows in enumerate(store.scan("s", 4)):
        seen += [row.entry.id for row in rows]
        store.delete("s", [f"e{number}"])
        store.record(example=make_example(f"new{number}", created_at=START + 100 + number))
        if number > 40:
            break
    stayed = {f"e{i}" for i in range(20)} & set(scanned(store, "s"))
    assert stayed <= set(seen)


def test_delete_removes_examples_and_their_exact_answers(store: Store) -> None:
    store.record(example=make_example("e1", exact_key="k1"), exact=make_exact("k1"))
    store.record(example=make_example("e2", exact_key="k2"), exact=make_exact("k2"))
    before = store.position()
    assert store.delete("other", ["e1"]) == 0
    assert store.delete("s", ["e1", "missing"]) == 1
    assert store.delete("s", ["e1"]) == 0
    assert store.exact("k1") is None
    assert store.exact("k2") is not None
    assert store.texts("s", ["e1"]) == {}
    assert scanned(store, "s") == ["e2"]
    assert store.oldest("s", 5) == ["e2"]
    assert fed(store, before) == [("delete", "s", "e1")]


def test_clear_of_one_scope_leaves_the_others(store: Store) -> None:
    ours, theirs = exact_key("s", "q"), exact_key("other", "q")
    store.claim("embedder", "minilm")
    store.record(make_decision(), make_example(exact_key=ours), make_exact(ours))
    store.record(make_decision("d2", "other"), make_example("x1", "other"), make_exact(theirs, "other"))
    store.append_feedback(make_feedback())
    before = store.position()
    assert store.clear("s") == 1
    assert store.clear("s") == 0
    assert list(store.scopes()) == ["other"]
    assert store.exact(ours) is None
    assert store.exact(theirs) is not None
    assert set(store.decisions(["d1", "d2"])) == {"d2"}
    assert len(store.feedback(0)) == 1
    assert fed(store, before) == [("delete", "s", "e1")]
    assert store.claim("embedder", "other") == "minilm"


def test_clear_of_a_scope_that_holds_no_example_still_clears_the_rest(store: Store) -> None:
    store.record(make_decision(), None, make_exact("k1"))
    assert store.clear("s") == 0
    assert store.exact("k1") is None
    assert store.decisions(["d1"]) == {}


def test_clear_of_everything_forgets_the_claims_and_keeps_the_log(store: Store) -> None:
    store.claim("embedder", "minilm")
    store.record(make_decision(), make_example(), make_exact("k1"))
    store.record(example=make_example("x1", "other"))
    store.append_feedback(make_feedback())
    lease = store.acquire("learn", "me", 60)
    before = store.position()
    assert store.clear() == 2
    assert list(store.scopes()) == []
    assert store.exact("k1") is None
    assert store.decisions(["d1"]) == {}
    assert sorted(fed(store, before)) == [("delete", "other", "x1"), ("delete", "s", "e1")]
    assert store.claim("embedder", "other") == "other"
    assert len(store.feedback(0)) == 1
    assert store.append_feedback(make_feedback()) is False
    assert store.acquire("learn", "you", 60) is None
    assert lease is not None


# change feed ----------------------------------------------------------------------------------------------------------


def test_the_feed_is_ordered_and_can_be_followed(store: Store) -> None:
    store.put([make_example(f"e{i}") for i in range(5)])
    store.delete("s", ["e3"])
    everything = store.changes(0)
    seqs = [change.seq for change in everything]
    assert seqs == sorted(set(seqs))
    assert seqs[-1] == store.position()
    followed, position = [], 0
    while page := store.changes(position, limit=2):
        assert len(page) <= 2
        followed += page
        position = page[-1].seq
    assert followed == list(everything)
    assert list(store.changes(store.position())) == []


def test_writes_without_examples_do_not_feed(store: Store) -> None:
    store.record(make_decision(), None, make_exact())
    store.append_feedback(make_feedback())
    store.forget_exact("k1")
    assert store.position() == 0


def test_a_trimmed_feed_says_so(open_backend: OpenStore) -> None:
    store = open_backend(feed_length=10)
    store.record(example=make_example("first"))
    behind = store.position()
    for start in range(0, 1000, 250):
        store.put([make_example(f"e{i}") for i in range(start, start + 250)])
    with pytest.raises(FeedWasTrimmed):
        store.changes(0)
    with pytest.raises(FeedWasTrimmed):
        store.changes(behind)
    recent = store.position()
    store.record(example=make_example("last"))
    assert fed(store, recent) == [("put", "s", "last")]


def test_a_position_beyond_the_feed_must_reload(store: Store) -> None:
    store.record(example=make_example())
    with pytest.raises(FeedWasTrimmed):
        store.changes(store.position() + 1)


# exact tier -----------------------------------------------------------------------------------------------------------


def test_an_exact_answer_is_served_until_it_expires(store: Store, clock: FakeClock) -> None:
    store.record(exact=make_exact("k1", payload=b'{"a": 1}\n\xff'))
    clock.advance(EXACT_TTL - 1)
    answer = store.exact("k1")
    assert answer is not None
    assert answer.payload == b'{"a": 1}\n\xff'
    clock.advance(2)
    assert store.exact("k1") is None


def test_a_replaced_exact_answer_gets_a_new_time_to_live(store: Store, clock: FakeClock) -> None:
    store.record(exact=make_exact("k1", payload=b"old"))
    clock.advance(EXACT_TTL - 1)
    newer = make_exact("k1", payload=b"new", created_at=clock.now)
    store.record(exact=newer)
    clock.advance(EXACT_TTL - 1)
    assert store.exact("k1") == newer


def test_an_exact_answer_can_be_forgotten(store: Store) -> None:
    store.record(example=make_example(exact_key="k1"), exact=make_exact("k1"))
    assert store.forget_exact("k1") is True
    assert store.forget_exact("k1") is False
    assert store.exact("k1") is None
    assert store.count("s") == 1


# decisions and feedback -----------------------------------------------------------------------------------------------


def test_decisions_are_read_until_they_expire(store: Store, clock: FakeClock) -> None:
    early, late = make_decision("d1"), make_decision("d2", created_at=START + 10)
    store.record(early)
    store.record(late)
    assert store.decisions(["d2", "missing", "d1"]) == {"d1": early, "d2": late}
    clock.advance(DECISION_TTL + 1)
    assert store.decisions(["d1", "d2"]) == {"d2": late}
    clock.advance(10)
    assert store.decisions(["d1", "d2"]) == {}
    assert store.decisions([]) == {}


def test_expired_things_stay_away_after_later_writes(store: Store, clock: FakeClock) -> None:
    store.record(make_decision(), make_example(), make_exact("k1"))
    clock.advance(DECISION_TTL + 1)
    fresh = make_decision("d2", created_at=clock.now)
    store.record(fresh, make_example("e2"), make_exact("k2", created_at=clock.now))
    assert store.exact("k1") is None
    assert store.exact("k2") is not None
    assert store.decisions(["d1", "d2"]) == {"d2": fresh}
    assert store.count("s") == 2  # examples do not expire


def test_feedback_is_a_log_with_offsets_from_one(store: Store) -> None:
    given = [make_feedback(f"d{i}", score=i / 10, at=START + i) for i in range(5)]
    assert all(store.append_feedback(feedback) for feedback in given)
    assert list(store.feedback(0)) == list(enumerate(given, start=1))
    assert list(store.feedback(2, limit=2)) == [(3, given[2]), (4, given[3])]
    assert list(store.feedback(5)) == []


def test_feedback_counts_once_per_decision_and_rater(store: Store) -> None:
    assert store.append_feedback(make_feedback("d1", "user", 0.9)) is True
    assert store.append_feedback(make_feedback("d1", "user", 0.1)) is False
    assert store.append_feedback(make_feedback("d1", "judge", 0.2)) is True
    assert store.append_feedback(make_feedback("d2", "user", 0.3)) is True
    log = store.feedback(0)
    assert [offset for offset, _ in log] == [1, 2, 3]
    assert [feedback.score for _, feedback in log] == [0.9, 0.2, 0.3]


def test_raters_and_decisions_are_not_run_together(store: Store) -> None:
    assert store.append_feedback(make_feedback("a:b", "c")) is True
    assert store.append_feedback(make_feedback("a", "b:c")) is True
    assert len(store.feedback(0)) == 2


# opening and closing --------------------------------------------------------------------------------------------------


def test_a_closed_store_says_so(store: Store) -> None:
    store.record(example=make_example())
    store.close()
    store.close()
    for use in (
        lambda: store.exact("k1"),
        lambda: store.record(example=make_example()),
        lambda: store.claim("a", "b"),
        lambda: list(store.scan("s")),
        lambda: store.position(),
    ):
        with pytest.raises(StoreIsUnusable, match="closed"):
            use()


@durable_stores
def test_what_was_written_is_there_for_the_next(open_backend: OpenStore) -> None:
    first = open_backend()
    example = make_example(exact_key="k1", statistics=make_statistics())
    first.claim("embedder", "minilm")
    first.record(make_decision(), example, make_exact("k1"))
    first.append_feedback(make_feedback())
    position = first.position()
    first.close()
    second = open_backend()
    assert_same(second, example)
    assert second.claim("embedder", "other") == "minilm"
    assert second.decisions(["d1"]) == {"d1": make_decision()}
    assert second.exact("k1") == make_exact("k1")
    assert second.feedback(0)[0] == (1, make_feedback())
    assert second.position() == position
    second.record(example=make_example("e2"))
    assert fed(second, position) == [("put", "s", "e2")]


@durable_stores
def test_two_open_stores_see_each_other(open_backend: OpenStore) -> None:
    here, there = open_backend(), open_backend()
    here.record(example=make_example("e1"))
    there.record(example=make_example("e2"))
    assert fed(here) == fed(there) == [("put", "s", "e1"), ("put", "s", "e2")]
    assert there.delete("s", ["e1"]) == 1
    assert here.texts("s", ["e1"]) == {}
    assert here.append_feedback(make_feedback()) is True
    assert there.append_feedback(make_feedback()) is False


def test_the_label_names_the_store(store: Store) -> None:
    assert "://" in store.label
