"""Numbers, names and keys that somebody else has written, or that damage has changed, cost what they held and no more."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import redis

from shared_core.errors import StoreIsAway
from shared_core.settings import Settings
from shared_core.store.protocol import Store
from tests.fakes import FakeClock
from tests.stores.backends import SqliteBackend
from tests.stores.makers import (
    make_checkpoint,
    make_decision,
    make_exact,
    make_example,
    make_feedback,
    make_statistics,
    make_waiting,
)
from tests.stores.makers import publish as publish_part
from tests.stores.redis_backend import RedisBackend

TOO_FAR = 2**63 - 1
SCOPE_KEYS = ["ages", "entry", "statistics", "texts", "vector", "answer", "decisions", "exacts", "waitings"]
POOL_KEYS = [
    "claims",
    "scopes",
    "expiring",
    "changes",
    "feedback",
    "feedback:last",
    "checkpoint",
    "rounds",
    "lease:learn",
]


class Pool:
    """A store, and the way behind its back."""

    def __init__(self, backend: SqliteBackend | RedisBackend) -> None:
        self.backend, self.clock = backend, FakeClock()
        self.store: Store = backend.open(Settings(), self.clock, 10_000)

    def sql(self, statement: str, *parameters: object) -> list[Any]:
        connection = sqlite3.connect(self.backend.path)
        with connection:
            rows = connection.execute(statement, parameters).fetchall()
        connection.close()
        return rows

    def key(self, suffix: str) -> str:
        return self.backend.prefix + suffix

    @property
    def raw(self) -> redis.Redis:
        return self.backend.client

    def reopen(self) -> Store:
        self.store.close()
        self.store = self.backend.open(Settings(), self.clock, 10_000)
        return self.store


@pytest.fixture
def file(tmp_path: Path) -> Any:
    pool = Pool(SqliteBackend(tmp_path / "pool.db"))
    yield pool
    pool.store.close()


@pytest.fixture
def server(redis_url: str) -> Any:
    pool = Pool(RedisBackend(redis_url))
    yield pool
    pool.store.close()


@pytest.fixture(params=["file", "server"])
def pool(request: pytest.FixtureRequest) -> Pool:
    return request.getfixturevalue(request.param)


def publish(store: Store, version: int, offset: int, expected: tuple[int, int], examples: tuple[str, ...] = ()) -> bool:
    lease = store.acquire("learn", "me", 60)
    assert lease is not None
    statistics = {("s", name): make_statistics() for name in examples}
    return publish_part(store, make_checkpoint(version, offset), expected, statistics, lease)


def rate(store: Store, *names: str) -> list[int]:
    """Rate decisions; returns the offsets of these ratings, read after the last one that was learned."""
    for name in names:
        assert store.append_feedback(make_feedback(name)) is True
    found = {feedback.decision_id: offset for offset, feedback in store.feedback(store.progress().offset)}
    return [found[name] for name in names]


# the feedback log -----------------------------------------------------------------------------------------------------


def test_redis_loses_the_counter_of_the_log(server: Pool) -> None:
    first = rate(server.store, "d1", "d2", "d3")
    server.raw.delete(server.key("feedback:last"))
    assert rate(server.store, "d4") == [first[-1] + 1]


@pytest.mark.parametrize("value", [b"", b"abc", b"-7", b"nan", b"inf", b"1e9", b"9" * 40, b"\xff", b"1"])
def test_redis_has_another_counter_of_the_log(server: Pool, value: bytes) -> None:
    rate(server.store, "d1", "d2", "d3")
    server.raw.set(server.key("feedback:last"), value)
    assert rate(server.store, "d4", "d5") == [4, 5]


@pytest.mark.parametrize("stream_id", ["*", "9-3", "4-0", f"{2**53}-0", f"{TOO_FAR}-0", f"{2**64 - 1}-{2**64 - 1}"])
@pytest.mark.parametrize("fields", [{"hello": "world"}, {"value": "x", "at": "soon"}])
def test_a_foreign_entry_in_the_log_of_redis(server: Pool, stream_id: str, fields: dict[str, str]) -> None:
    rate(server.store, "d1", "d2", "d3")
    server.raw.xadd(server.key("feedback"), fields, id=stream_id)
    d4, d5 = rate(server.store, "d4", "d5")
    assert 3 < d4 < d5 < 2**53
    assert [feedback.decision_id for _, feedback in server.store.feedback(0)] == ["d1", "d2", "d3", "d4", "d5"]
    assert [offset for offset, _ in server.store.feedback(d4)] == [d5]
    assert server.store.feedback(d5) == []
    server.clock.advance(1e9)
    assert publish(server.store, 1, d5, (0, 0))
    assert server.store.feedback(0) == []  # learned, expired, and deleted: also the foreign one
    assert server.raw.xlen(server.key("feedback")) == 0


def test_the_log_of_redis_was_deleted(server: Pool) -> None:
    rate(server.store, "d1", "d2", "d3")
    assert publish(server.store, 1, 3, (0, 0))
    server.raw.delete(server.key("feedback"), server.key("feedback:last"))
    [offset] = rate(server.store, "d4")
    assert offset > 3  # the learner reads on from there


@pytest.mark.parametrize(
    "number",
    ["NULL", "'abc'", "-5", str(TOO_FAR), "1e18"],
)
def test_sqlite_counts_on_after_its_sequence_was_damaged(file: Pool, number: str) -> None:
    rate(file.store, "d1", "d2", "d3")
    assert publish(file.store, 1, 3, (0, 0))
    file.store.put([make_example("e1")])
    file.sql(f"UPDATE sqlite_sequence SET seq = {number}")
    file.sql("DELETE FROM feedback")
    try:
        file.store.put([make_example("e2")])
    except StoreIsAway:  # "full", which passes
        file.store.put([make_example("e2")])
    file.reopen().put([make_example("e2")])
    [offset] = rate(file.store, "d4")
    assert offset > 3
    assert 1 < file.store.position() < 2**53  # where a replica that has seen "e1" only finds a gap


@pytest.mark.parametrize("far", [2**53, 2**60])
def test_the_log_of_sqlite_is_sent_off_while_it_is_open(file: Pool, far: int) -> None:
    rate(file.store, "d1", "d2")
    file.sql("UPDATE sqlite_sequence SET seq = ? WHERE name = 'feedback'", far)
    d3, d4 = rate(file.store, "d3", "d4")
    assert 2 < d3 < d4 < 2**53
    assert publish(file.store, 1, d4, (0, 0))
    assert file.store.progress().offset == d4


@pytest.mark.parametrize("number", [TOO_FAR, 2**60, -7])
def test_a_foreign_number_in_the_log_of_sqlite(file: Pool, number: int) -> None:
    rate(file.store, "d1", "d2")
    file.sql("INSERT INTO feedback VALUES (?, 'x', 'y', 0.0, x'00')", number)
    file.sql("INSERT INTO changes VALUES (?, 'put', 's', 'x')", number)
    try:
        file.store.append_feedback(make_feedback("d3"))
    except StoreIsAway as error:
        assert error.__cause__.sqlite_errorcode == sqlite3.SQLITE_FULL
    assert file.reopen().append_feedback(make_feedback("d4"))
    file.store.put([make_example("e1")])
    assert max(offset for offset, _ in file.store.feedback(0)) < 2**53
    assert file.store.position() < 2**53


# the change feed ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream_id", ["*", f"{2**53}-0", f"{TOO_FAR}-0", f"{2**64 - 1}-{2**64 - 1}"])
@pytest.mark.parametrize("fields", [{"hello": "world"}, {"kind": "put", "scope": "s", "id": "\udcff"}])
def test_a_foreign_entry_in_the_feed_of_redis(server: Pool, stream_id: str, fields: dict[str, str]) -> None:
    from shared_core.errors import FeedWasTrimmed

    server.store.put([make_example("e1")])
    before = server.store.position()
    encoded = {name: value.encode("utf-8", "surrogateescape") for name, value in fields.items()}
    for _ in range(5 if stream_id == "*" else 1):
        server.raw.xadd(server.key("changes"), encoded, id=stream_id)
    assert server.store.changes(before, limit=1) == []  # and it comes back
    server.store.put([make_example("e2")])
    try:
        assert [change.id for change in server.store.changes(before, limit=1)] == ["e2"]
    except FeedWasTrimmed:  # then the replica reloads, and follows from the new position
        assert stream_id != "*"
    position = server.store.position()
    assert before < position < 2**53
    server.store.put([make_example("e3")])
    assert [change.id for change in server.store.changes(position)] == ["e3"]


# names ----------------------------------------------------------------------------------------------------------------


NOT_UTF8 = [b"\xff\xfe", b"caf\xe9", b"\xc3"]


@pytest.mark.parametrize("name", NOT_UTF8)
def test_names_in_redis_that_are_not_utf8(server: Pool, name: bytes) -> None:
    server.store.record(make_decision("d1"), make_example("e1"))
    server.raw.sadd(server.key("scopes"), name)
    server.raw.zadd(server.key("expiring"), {name: 1e12})
    server.raw.zadd(server.key("ages:s"), {name: 1.0})
    server.raw.zadd(server.key("decisions:s"), {name: 1e12})
    server.raw.hset(server.key("claims"), "embedder", name)
    store = server.reopen()
    assert store.scopes() == ["s"]
    assert store.decision_counts() == {"s": 2}
    assert store.oldest("s", 9) == ["e1"]
    assert [row.entry.id for rows in store.scan("s") for row in rows] == ["e1"]
    assert [decision.id for batch in store.scan_decisions("s") for decision in batch] == ["d1"]
    assert store.claim("embedder", "minilm") == store.claim("embedder", "other") == "minilm"
    assert store.trim_decisions() == 0
    assert store.unreadable > 4
    assert store.clear() == 2  # also the one without a name
    assert store.scopes() == []


@pytest.mark.parametrize("name", NOT_UTF8)
@pytest.mark.parametrize("kind", ["TEXT", "BLOB"])
def test_names_in_sqlite_that_are_not_utf8(file: Pool, name: bytes, kind: str) -> None:
    file.store.put([make_example("e1"), make_example("e2"), make_example("e3", "other"), make_example("e4", "other")])
    file.store.record(make_decision("d1"))
    file.store.record(make_decision("d2"))
    file.store.claim("embedder", "minilm")
    file.sql(f"UPDATE examples SET id = CAST(? AS {kind}) WHERE id = 'e1'", name)
    file.sql(f"UPDATE examples SET scope = CAST(? AS {kind}) WHERE id = 'e3'", name)
    file.sql(f"UPDATE decisions SET id = CAST(? AS {kind}) WHERE id = 'd1'", name)
    file.sql(f"UPDATE claims SET value = CAST(? AS {kind})", name)
    file.sql(f"INSERT INTO decisions SELECT 'd3', CAST(? AS {kind}), created_at, record FROM decisions LIMIT 1", name)
    store = file.reopen()
    assert store.scopes() == ["other", "s"]
    assert store.decision_counts() == {"s": 2}
    assert store.oldest("s", 9) == ["e2"]
    assert [row.entry.id for rows in store.scan("s", 1) for row in rows] == ["e2"]
    assert [decision.id for batch in store.scan_decisions("s", 1) for decision in batch] == ["d2"]
    assert store.claim("embedder", "minilm") == store.claim("embedder", "other") == "minilm"
    assert store.trim_decisions() == 0
    assert store.unreadable > 2


# keys of another type -------------------------------------------------------------------------------------------------


def everything(store: Store, rated: str = "d7") -> None:
    """Use all of a pool; what was there before may be lost."""
    store.claim("embedder", "minilm")
    store.record(make_decision("d7"), make_example("e7"), make_exact("k7"))
    store.write([make_waiting_write("d8")])
    assert store.append_feedback(make_feedback(rated)) is True
    assert store.scopes() == ["s"]
    assert store.count("s") >= 1
    assert "e7" in store.oldest("s", 9)
    assert store.texts("s", ["e7"]) and store.rows("s", ["e7"]) and store.statistics("s", ["e7"])
    assert "e7" in [row.entry.id for rows in store.scan("s") for row in rows]
    assert store.exact("k7") and store.decisions(["d7"]) and store.waiting(["d8"]) and store.ratings([rated])
    assert "e7" in [change.id for change in store.changes(0)]
    assert rated in [feedback.decision_id for _, feedback in store.feedback(0)]
    store.trim_decisions()
    now = store.progress()
    assert store.rounds() == []
    assert publish(store, now.version + 1, 1, (now.version, now.offset), ("e7",))
    assert store.progress().version == now.version + 1
    assert store.delete("s", ["e7"]) == 1


def make_waiting_write(name: str) -> Any:
    from shared_core.store.protocol import Write

    return Write(waiting=make_waiting(name))


@pytest.mark.parametrize(
    "key", [*POOL_KEYS, *(f"{kind}:s" for kind in SCOPE_KEYS), "rated:d7", "waiting:d8", "exact:k7"]
)
@pytest.mark.parametrize("is_empty", [True, False])
def test_a_key_of_redis_has_another_type(server: Pool, key: str, is_empty: bool) -> None:
    if not is_empty:
        everything(server.store, "d6")
        server.store.put([make_example("e8")])
    server.raw.delete(server.key(key))
    server.raw.rpush(server.key(key), "a list")
    store = server.reopen()
    everything(store)
    assert server.raw.type(server.key(f"damaged:{key}")) == b"list" or key.startswith("exact:")


# checkpoints and leases -----------------------------------------------------------------------------------------------

NUMBERS = ["inf", "-inf", "nan", "abc", "", "-1", "1.5", str(2**70), "\xff"]


def damage_progress(pool: Pool, name: str, value: str) -> None:
    if isinstance(pool.backend, RedisBackend):
        pool.raw.hset(pool.key("checkpoint"), name, value.encode("latin-1"))
    else:
        number = {"inf": "9e999", "-inf": "-9e999", "nan": "'nan'"}.get(value)
        pool.sql(
            f"UPDATE progress SET {name} = {number or 'CAST(? AS TEXT)'}",
            *([] if number else [value.encode("latin-1")]),
        )


@pytest.mark.parametrize("name", ["version", "offset"])
@pytest.mark.parametrize("value", [*NUMBERS, "7"])
def test_another_number_in_the_progress_of_learning(pool: Pool, name: str, value: str) -> None:
    """It counts as 0 or as what it says, the parts are read all the same, and the next round replaces it."""
    store = pool.store
    rate(store, "d1", "d2", "d3", "d4", "d5", "d6", "d7", "d8", "d9")
    assert publish(store, 3, 5, (0, 0))
    damage_progress(pool, name, value)
    store = pool.reopen()
    found = store.progress()
    assert getattr(found, name) == (7 if value == "7" else 0)
    assert store.checkpoint("router") == make_checkpoint(3, 5)
    assert publish(store, 8, 9, (found.version, found.offset))
    assert (store.progress().version, store.progress().offset) == (8, 9)


@pytest.mark.parametrize("field", ["version", "offset", "key", "chunks", "size", "checksum"])
@pytest.mark.parametrize("value", [-1, 7, 2**53, 10**12, "x", None, 0.5])
def test_a_head_with_another_value_is_unreadable_and_can_be_replaced(pool: Pool, field: str, value: object) -> None:
    store = pool.store
    assert publish(store, 3, 5, (0, 0))
    pool.backend.damage("checkpoint", json.dumps(json.loads(pool.backend.peek("checkpoint")) | {field: value}).encode())
    assert store.checkpoint("router") is None
    assert store.unreadable == 1
    assert publish(store, 4, 6, (3, 5))
    assert store.checkpoint("router") == make_checkpoint(4, 6)


@pytest.mark.parametrize("name", ["token", "expires", "owner"])
@pytest.mark.parametrize("value", [*NUMBERS, "1e300", str(2**53)])
def test_a_lease_with_another_number_or_owner_is_free_before_long(pool: Pool, name: str, value: str) -> None:
    store = pool.store
    old = store.acquire("learn", "they", 60)
    if isinstance(pool.backend, RedisBackend):
        pool.raw.hset(pool.key("lease:learn"), name, value.encode("latin-1"))
    else:
        column = {"expires": "expires_at"}.get(name, name)
        pool.sql(f"UPDATE leases SET {column} = CAST(? AS TEXT)", value.encode("latin-1"))
    lease = store.acquire("learn", "we", 60)
    if lease is None:
        assert name == "owner"
        pool.backend.age_lease("learn", 61)
        lease = store.acquire("learn", "we", 60)
    assert lease is not None
    assert lease.token > old.token
    assert publish_part(store, make_checkpoint(), (0, 0), {}, lease) is True
    store.release(lease)
    assert store.acquire("learn", "they", 60).token > lease.token


@pytest.mark.parametrize("value", ["abc", "-3", str(2**60), "1e9", ""])
def test_damaged_totals_of_waiting_answers_lose_none(pool: Pool, value: str) -> None:
    pool.store.write([make_waiting_write(f"d{number}") for number in range(5)])
    if isinstance(pool.backend, RedisBackend):
        pool.raw.set(pool.key("waitingbytes:s"), value)
    else:
        pool.sql("UPDATE waiting_totals SET answers = ?, bytes = ?", value, value)
    pool.store.write([make_waiting_write("d5")])
    assert len(pool.store.waiting([f"d{number}" for number in range(6)])) == 6


# texts of others ------------------------------------------------------------------------------------------------------


def test_texts_of_another_scope_or_example_are_not_shown(pool: Pool) -> None:
    pool.store.put([make_example("e1", "ours"), make_example("e2", "ours"), make_example("e1", "theirs")])
    pool.backend.damage("texts", pool.backend.peek("texts", "e1", "theirs"), "e1", "ours")
    assert set(pool.store.texts("ours", ["e1", "e2"])) == {"e2"}
    pool.backend.damage("texts", pool.backend.peek("texts", "e2", "ours"), "e1", "ours")
    assert set(pool.store.texts("ours", ["e1", "e2"])) == {"e2"}
    assert pool.store.unreadable == 2
    half = pool.backend.peek("texts", "e2", "ours").replace(b"answer of", b"answer \xed\xa0\xbd")
    pool.backend.damage("texts", half, "e2", "ours")
    assert pool.store.texts("ours", ["e2"]) == {}


@pytest.mark.parametrize("half", ["\ud800", "d1\udfff", "\udcff"])
def test_names_with_half_a_character_are_unknown(pool: Pool, half: str) -> None:
    """Damage in a rating leads to such an id."""
    pool.store.record(make_decision("d1"), make_example("e1"))
    assert set(pool.store.decisions([half, "d1"])) == {"d1"}
    assert set(pool.store.rows("s", ["e1", half])[0].entry.id) == set("e1")
    assert set(pool.store.statistics("s", [half, "e1"])) == {"e1"}
    assert pool.store.statistics(half, ["e1"]) == pool.store.texts(half, ["e1"]) == pool.store.waiting([half]) == {}
    assert pool.store.ratings([half]) == {}
    assert pool.store.exact(half) is None
    assert pool.store.count(half) == 0
    assert list(pool.store.scan(half)) == list(pool.store.scan_decisions(half)) == []
