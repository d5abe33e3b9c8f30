"""What a store cannot read it skips and counts, and leaves as it is."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from shared_core.store.protocol import Change, Store
from tests.stores.backends import Backend, Part
from tests.stores.conftest import durable_stores
from tests.stores.makers import (
    make_checkpoint,
    make_decision,
    make_exact,
    make_example,
    make_feedback,
    make_statistics,
    publish,
)

pytestmark = durable_stores

WRECKS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "noise": lambda _: bytes(range(256)),
    "cut": lambda data: data[: len(data) // 2],
    "a newer version": lambda data: data.replace(b'"v":1', b'"v":2'),
    "deep": lambda _: b'{"v":1,"id":' + b"[" * 200_000,
    "another type": lambda _: b"[1]",
    "missing fields": lambda _: b'{"v":1}\n',
}
HAS_VERSION: tuple[Part, ...] = ("entry", "statistics", "texts", "exact", "decision", "feedback", "checkpoint")


def wreck(backend: Backend, part: Part, how: str, key: str = "", scope: str = "") -> bytes:
    """Damage one part; returns what is stored now."""
    before = backend.peek(part, key, scope)
    after = WRECKS[how](before)
    assert after != before
    backend.damage(part, after, key, scope)
    return after


def cases(*parts: Part) -> pytest.MarkDecorator:
    every = [(part, how) for part in parts for how in WRECKS if how != "a newer version" or part in HAS_VERSION]
    return pytest.mark.parametrize(("part", "how"), every, ids=[f"{part}, {how}" for part, how in every])


def write_about(store: Store) -> None:
    """Writes of all kinds beside the damaged thing."""
    store.put([make_example("e7"), make_example("e8")])
    store.delete("s", ["e8"])
    store.record(make_decision("d7"), make_example("e9"), make_exact("k7"))
    store.append_feedback(make_feedback("d7"))


@cases("entry", "statistics", "vector")
def test_a_row_that_cannot_be_read(backend: Backend, store: Store, part: Part, how: str) -> None:
    store.put([make_example("e1"), make_example("e2")])
    stored = wreck(backend, part, how, "e1", "s")
    assert [row.entry.id for row in store.rows("s", ["e1", "e2"])] == ["e2"]
    assert store.unreadable == 1
    assert [row.entry.id for rows in store.scan("s", 1) for row in rows] == ["e2"]
    assert store.unreadable == 2
    assert set(store.texts("s", ["e1", "e2"])) == {"e1", "e2"}
    assert set(store.statistics("s", ["e1", "e2"])) == ({"e2"} if part == "statistics" else {"e1", "e2"})
    write_about(store)
    assert backend.peek(part, "e1", "s") == stored
    assert store.delete("s", ["e1"]) == 1  # what cannot be read can still be removed


@cases("texts")
def test_texts_that_cannot_be_read(backend: Backend, store: Store, part: Part, how: str) -> None:
    store.put([make_example("e1"), make_example("e2")])
    stored = wreck(backend, part, how, "e1", "s")
    assert set(store.texts("s", ["e1", "e2"])) == {"e2"}
    assert store.unreadable == 1
    write_about(store)
    assert backend.peek(part, "e1", "s") == stored


@cases("exact")
def test_an_exact_answer_that_cannot_be_read(backend: Backend, store: Store, part: Part, how: str) -> None:
    store.record(exact=make_exact("k1"))
    store.record(exact=make_exact("k2"))
    stored = wreck(backend, part, how, "k1")
    assert store.exact("k1") is None
    assert store.exact("k2") is not None
    assert store.unreadable == 1
    write_about(store)
    assert backend.peek(part, "k1") == stored
    assert store.forget_exact("k1") is True


@cases("decision")
def test_a_decision_that_cannot_be_read(backend: Backend, store: Store, part: Part, how: str) -> None:
    store.record(make_decision("d1"))
    store.record(make_decision("d2"))
    stored = wreck(backend, part, how, "d1")
    assert set(store.decisions(["d1", "d2"])) == {"d2"}
    assert store.unreadable == 1
    write_about(store)
    assert backend.peek(part, "d1") == stored


@cases("feedback")
def test_feedback_that_cannot_be_read_does_not_stop_the_log(
    backend: Backend, store: Store, part: Part, how: str
) -> None:
    for number in range(1, 5):
        store.append_feedback(make_feedback(f"d{number}"))
    stored = [wreck(backend, part, how, key) for key in ("2", "3")]
    assert [offset for offset, _ in store.feedback(0)] == [1, 4]
    assert store.unreadable == 2
    assert [offset for offset, _ in store.feedback(1, limit=1)] == [4]
    write_about(store)
    assert [backend.peek(part, key) for key in ("2", "3")] == stored


@pytest.mark.parametrize(
    ("part", "data"), [("kind", b"explode"), ("kind", b"\xff"), ("scope", b"\xff\x00"), ("id", b"\x80")]
)
def test_changes_that_cannot_be_read_do_not_stop_the_feed(
    backend: Backend, store: Store, part: str, data: bytes
) -> None:
    """Not even where a follower is handed nothing else, in the middle or at the end of the feed."""
    store.put([make_example(f"e{number}") for number in range(1, 9)])
    seqs = [change.seq for change in store.changes(0)]
    for number in (3, 4, 5, 6, 8):
        backend.damage_change(seqs[number - 1], part, data)
    followed: list[Change] = []
    while page := store.changes(followed[-1].seq if followed else 0, limit=2):
        followed += page
    assert [change.id for change in followed] == ["e1", "e2", "e7"]
    assert store.unreadable in (5, 6)  # the last one may be looked at again, until a change comes after it
    write_about(store)
    assert [(change.kind, change.id) for change in store.changes(seqs[6], limit=1)] == [("put", "e7")]


@cases("checkpoint", "weights")
def test_a_checkpoint_that_cannot_be_read(backend: Backend, store: Store, part: Part, how: str) -> None:
    store.record(example=make_example("e1"))
    lease = store.acquire("learn", "me", 60)
    assert lease is not None
    assert publish(store, make_checkpoint(3, 5), (0, 0), {}, lease) is True
    stored = wreck(backend, part, how)
    assert store.checkpoint("router") is None
    assert store.unreadable == 1
    is_head, version = part == "checkpoint", store.progress().parts["router"]
    assert version.is_newer is (how == "a newer version")
    assert version.version == (0 if is_head else 3)
    assert store.progress().version == 3
    assert publish(store, make_checkpoint(1, 9), (0, 0), {("s", "e1"): make_statistics()}, lease) is False
    write_about(store)
    assert backend.peek(part, "") == stored


def test_bytes_of_another_example_are_not_this_one(backend: Backend, store: Store) -> None:
    """A row, an answer or a decision with another scope or id inside never crosses scopes."""
    store.record(make_decision("d1", "ours"), make_example("e1", "ours"), make_exact("k1", "ours"))
    store.record(make_decision("d2", "theirs"), make_example("e1", "theirs"), make_exact("k2", "theirs"))
    backend.damage("entry", backend.peek("entry", "e1", "theirs"), "e1", "ours")
    backend.damage("exact", backend.peek("exact", "k2"), "k1")
    backend.damage("decision", backend.peek("decision", "d2"), "d1")
    assert list(store.rows("ours", ["e1"])) == []
    assert store.exact("k1") is None
    assert store.decisions(["d1"]) == {}
    assert store.unreadable == 3
