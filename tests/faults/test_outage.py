"""A Redis server that dies, hangs or forgets; a replica that slept too long; two processes on one pool."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import redis

from shared_core.errors import FeedWasTrimmed, StoreIsAway
from shared_core.settings import Settings
from shared_core.store import open_store
from shared_core.store.protocol import Store
from shared_core.store.redis import RedisStore
from tests.faults.children import SCOPE, answer_a_put_with_a_put, example_of, hear, record, running
from tests.servers import RedisServer

TIMEOUT = 0.3  # of the sockets, given in the address
PROMPTLY = TIMEOUT + 0.7  # room for a busy machine

CALLS: dict[str, Callable[[Store], object]] = {
    "record": lambda store: record(store, "lost"),
    "exact": lambda store: store.exact("key-kept"),
    "texts": lambda store: store.texts(SCOPE, ["kept"]),
    "changes": lambda store: store.changes(0),
}


def fails_promptly(store: Store, error: type[Exception]) -> None:
    for call in CALLS.values():
        start = time.monotonic()
        with pytest.raises(error) as raised:
            call(store)
        assert time.monotonic() - start < PROMPTLY
        assert store.label in str(raised.value)


def test_killed_server_fails_promptly_and_is_used_again_once_it_is_back() -> None:
    with RedisServer(appendonly="yes", appendfsync="always") as server:
        store = open_store(server.url(socket_timeout=str(TIMEOUT)), settings=Settings())
        record(store, "kept")
        server.kill()
        fails_promptly(store, StoreIsAway)
        server.start()
        assert store.texts(SCOPE, ["kept", "lost"]) == {"kept": example_of("kept").texts}
        record(store, "later")
        assert store.count(SCOPE) == 2


def test_hanging_server_fails_within_the_socket_timeout_and_is_used_again_once_it_answers() -> None:
    with RedisServer(save="3600 1") as server:
        store = open_store(server.url(socket_timeout=str(TIMEOUT)), settings=Settings())
        record(store, "kept")
        server.pause()
        fails_promptly(store, StoreIsAway)
        server.resume()
        record(store, "lost")  # the call that timed out may have been carried out since: the same id, once
        assert store.count(SCOPE) == 2


def test_server_that_lost_its_newest_writes_makes_replicas_reload() -> None:
    with RedisServer(save="3600 1") as server:
        store = open_store(server.url("kept"), settings=Settings())
        record(store, "saved")
        before = store.position()
        redis.Redis(unix_socket_path=str(server.socket)).save()
        record(store, "forgotten")
        ahead = store.position()
        server.restart()
        assert store.position() == before
        with pytest.raises(FeedWasTrimmed):
            store.changes(ahead)
        for name in ("a", "b", "c"):
            record(store, name)  # as many changes as were lost, and more
        with pytest.raises(FeedWasTrimmed):
            store.changes(ahead)
        assert [change.id for change in store.changes(before)] == ["a", "b", "c"]


def test_server_that_lost_everything_makes_replicas_reload() -> None:
    with RedisServer() as server:
        with pytest.warns(RuntimeWarning):
            store = open_store(server.url(), settings=Settings())
        record(store, "forgotten")
        ahead = store.position()
        server.restart()
        assert store.position() == 0
        with pytest.raises(FeedWasTrimmed):
            store.changes(ahead)
        record(store, "new")
        with pytest.raises(FeedWasTrimmed):
            store.changes(ahead)
        assert [change.id for change in store.changes(0)] == ["new"]


def test_a_replica_behind_the_trimmed_feed_must_reload(redis_url: str) -> None:
    store = RedisStore.open(redis_url, settings=Settings(), clock=time.time, feed_length=200)
    record(store, "first")
    asleep = store.position()
    store.put([example_of(f"e{number}") for number in range(200)])
    assert len(store.changes(asleep)) == 200
    store.put([example_of(f"e{number}") for number in range(400)])
    for after in (0, asleep):
        with pytest.raises(FeedWasTrimmed):
            store.changes(after)
    assert store.changes(store.position()) == []


def test_two_processes_see_each_others_examples_and_deletions_within_a_second(redis_url: str) -> None:
    store = open_store(redis_url, settings=Settings())
    at = store.position()

    def follow(kind: str) -> None:
        nonlocal at
        while True:
            for change in store.changes(at):
                at = change.seq
                if (change.kind, change.id) == (kind, "ours"):
                    return

    with running(answer_a_put_with_a_put, redis_url) as (_, line):
        assert hear(line) == b"ready"
        start = time.monotonic()
        record(store, "theirs")
        assert hear(line) == b"put"
        follow("put")
        assert [row.entry.id for row in store.rows(SCOPE, ["ours"])] == ["ours"]
        assert time.monotonic() - start < 1.0
        start = time.monotonic()
        store.delete(SCOPE, ["theirs"])
        assert hear(line) == b"delete"
        follow("delete")
        assert store.rows(SCOPE, ["ours", "theirs"]) == []
        assert store.exact("key-ours") is None
        assert time.monotonic() - start < 1.0
