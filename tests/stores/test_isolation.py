"""No item crosses scopes, and rows keep their task, for any writes in any order, over all stores."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from shared_core.records import Example, Texts, WaitingAnswer
from shared_core.store.protocol import Admission, Store, Write
from shared_core.values import Message, Request
from tests.stores.conftest import OpenStore
from tests.stores.makers import (
    make_checkpoint,
    make_decision,
    make_exact,
    make_example,
    make_statistics,
    make_waiting,
    publish,
)

# Names that a careless key or pattern would run together, and ids that every scope uses.
SCOPES = st.sampled_from(["a", "a:b", "b", "", "*", "a*", "{a}", "a\x00b", "é", "e\u0301", "%", "' OR 1=1 --"])
IDS = st.sampled_from(["1", "b:1", "a:1", "*", "", "é", "'", "\x00"])
TASKS = st.sampled_from(["json", "chat", ""])


class Isolation(RuleBasedStateMachine):
    """A store beside a plain dictionary of what each scope should hold; both must always tell the same."""

    store: Store  # set by the test below, cleared between runs

    def __init__(self) -> None:
        super().__init__()
        self.store.clear()
        self.held: dict[str, dict[str, tuple[str, str]]] = {}  # scope → id → (task, answer)
        self.exact: dict[str, str] = {}  # exact key → its scope
        self.decided: dict[str, str] = {}  # decision id → its scope
        self.waits: dict[str, WaitingAnswer] = {}  # decision id → the answer that waits
        self.position = self.store.position()
        self.followed: dict[str, set[str]] = {}  # what a replica that follows the feed holds

    @rule(scope=SCOPES, id=IDS, task=TASKS, with_exact=st.booleans())
    def record(self, scope: str, id: str, task: str, with_exact: bool) -> None:
        answer = uuid.uuid4().hex
        key = Request((Message("user", id),), id, scope).exact_key if with_exact else ""
        example = replace(make_example(id, scope, task, exact_key=key), texts=Texts(f"{scope}/{id}", answer))
        decision = make_decision(uuid.uuid4().hex, scope)
        self.store.record(decision, example, make_exact(key, scope) if with_exact else None)
        self.held.setdefault(scope, {})[id] = (task, answer)
        self.decided[decision.id] = scope
        if with_exact:
            self.exact[key] = scope

    @rule(scope=SCOPES, ids=st.lists(IDS, max_size=3, unique=True))
    def delete(self, scope: str, ids: list[str]) -> None:
        held = self.held.get(scope, {})
        keys = [row.entry.exact_key for row in self.store.rows(scope, ids)]
        assert self.store.delete(scope, ids) == sum(held.pop(id, None) is not None for id in ids)
        for key in keys:
            self.exact.pop(key, None)

    @rule(scope=SCOPES)
    def clear(self, scope: str) -> None:
        assert self.store.clear(scope) == len(self.held.pop(scope, {}))
        self.exact = {key: owner for key, owner in self.exact.items() if owner != scope}
        self.decided = {id: owner for id, owner in self.decided.items() if owner != scope}
        self.waits = {id: answer for id, answer in self.waits.items() if answer.entry.scope != scope}

    @rule(scope=SCOPES, id=IDS, task=TASKS, decision=IDS)
    def wait(self, scope: str, id: str, task: str, decision: str) -> None:
        """The answer to a decision would become the example `id`; all scopes use the same names of decisions."""
        entry = make_example(id, scope, task).entry
        answer = replace(make_waiting(decision), entry=entry, texts=Texts(f"{scope}/{id}", uuid.uuid4().hex))
        self.store.write([Write(waiting=answer)])
        self.waits[decision] = answer

    @rule(scope=SCOPES, decision=IDS)
    def claim(self, scope: str, decision: str) -> None:
        waits = self.waits.get(decision)
        found = replace(waits or make_waiting(decision), entry=make_example("1", scope).entry)
        if waits and waits.entry.scope == scope:
            found = self.store.waiting([decision])[decision]
            entry = self.waits.pop(decision).entry
            self.held.setdefault(scope, {})[entry.id] = (entry.task, found.texts.answer)
        example = Example(found.entry, found.texts, found.vector)
        is_ours = waits is not None and waits.entry.scope == scope
        assert list(self.store.write([Write(admission=Admission(decision, scope, example, claims=True))])) == [is_ours]

    @rule(scope=SCOPES, id=IDS, count=st.integers(1, 9))
    def learn(self, scope: str, id: str, count: int) -> None:
        lease = self.store.acquire("learn", "me", 60)
        assert lease is not None
        now = self.store.progress()
        learned = {(scope, id): make_statistics(count)}
        after = make_checkpoint(now.version + 1, now.offset)
        assert publish(self.store, after, (now.version, now.offset), learned, lease)

    @invariant()
    def every_scope_holds_its_own(self) -> None:
        held = {scope: items for scope, items in self.held.items() if items}
        assert list(self.store.scopes()) == sorted(held)
        every_id = sorted({id for items in held.values() for id in items} | {"1", "*"})
        for scope in [*held, "a", "nobody"]:
            items = held.get(scope, {})
            texts = {id: Texts(f"{scope}/{id}", answer) for id, (_, answer) in items.items()}
            assert self.store.texts(scope, every_id) == texts
            rows = [row.entry for batch in self.store.scan(scope, 2) for row in batch]
            assert {entry.scope for entry in rows} <= {scope}
            assert sorted((entry.id, entry.task) for entry in rows) == sorted((i, t) for i, (t, _) in items.items())
            assert sorted(self.store.oldest(scope, 99)) == sorted(items)
            assert self.store.count(scope) == len(items)

    @invariant()
    def exact_answers_and_decisions_stay_with_their_scope(self) -> None:
        for key, scope in self.exact.items():
            answer = self.store.exact(key)
            assert answer is not None
            assert answer.scope == scope
        found = self.store.decisions(list(self.decided))
        assert {id: record.scope for id, record in found.items()} == self.decided
        assert self.store.waiting(sorted({*self.waits, "1", "*"})) == self.waits

    @invariant()
    def a_replica_that_follows_the_feed_holds_the_same(self) -> None:
        while changes := self.store.changes(self.position):
            for change in changes:
                ids = self.followed.setdefault(change.scope, set())
                ids.discard(change.id) if change.kind == "delete" else ids.add(change.id)
            self.position = changes[-1].seq
        ours = {scope: set(items) for scope, items in self.held.items() if items}
        assert {scope: ids for scope, ids in self.followed.items() if ids} == ours


@pytest.fixture
def machine(store: Store) -> Iterator[type[Isolation]]:
    yield type("IsolationOfOneStore", (Isolation,), {"store": store})


def test_no_item_crosses_scope(machine: type[Isolation]) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=20,
            stateful_step_count=15,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )


@given(st.text(), st.text(), st.text(), st.text())
def test_exact_keys_of_two_scopes_differ(one: str, other: str, text: str, fingerprint: str) -> None:
    keys = {
        scope: Request((Message("user", text),), text, scope, fingerprint=fingerprint).exact_key
        for scope in (one, other)
    }
    assert len(set(keys.values())) == len(keys)
