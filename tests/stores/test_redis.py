"""What only the Redis store has: addresses, what the server must be like, replies that get lost, a cluster."""

from __future__ import annotations

import logging
import re
import traceback
import warnings
from collections.abc import Iterator
from urllib.parse import quote

import pytest
import redis

from shared_core.engine import Engine
from shared_core.errors import ConfigurationError, FeedWasTrimmed, StoreIsAway, StoreIsUnusable
from shared_core.settings import Settings
from shared_core.store.protocol import Write
from shared_core.store.redis import RedisStore
from tests.fakes import FakeClock
from tests.proxy import Proxy
from tests.servers import RedisServer, free_port
from tests.stores.makers import (
    exact_key,
    make_checkpoint,
    make_decision,
    make_exact,
    make_example,
    make_feedback,
    make_statistics,
    publish,
    make_waiting,
)

SECRET = "p@ss/w?rd#1"


def open_store(url: str, clock: FakeClock | None = None, feed_length: int = 10_000) -> RedisStore:
    return RedisStore.open(url, settings=Settings(), clock=clock or FakeClock(), feed_length=feed_length)


@pytest.fixture
def store(redis_url: str) -> Iterator[RedisStore]:
    opened = open_store(redis_url)
    yield opened
    opened.close()


@pytest.fixture
def raw(redis_server: RedisServer) -> redis.Redis:
    return redis.Redis(unix_socket_path=str(redis_server.socket))


@pytest.fixture
def proxy(redis_server: RedisServer) -> Iterator[Proxy]:
    with Proxy(redis_server.socket) as between:
        yield between


def through(proxy: Proxy, redis_url: str) -> str:
    return redis_url.replace("redis.sock", "proxy.sock")


def everything(store: RedisStore) -> None:
    """Write one thing of every kind."""
    key = exact_key("s", "k1")
    store.claim("embedder", "minilm")
    store.record(make_decision(), make_example(exact_key=key), make_exact(key))
    store.append_feedback(make_feedback())
    store.write([Write(waiting=make_waiting())])
    lease = store.acquire("learn", "me", 10.0)
    assert lease is not None
    assert publish(store, make_checkpoint(1, 1), (0, 0), {("s", "e1"): make_statistics()}, lease)


# the address --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost:6379",
        "redis:/localhost",
        "redis://localhost:port/0",
        "redis://localhost/zero",
        "redis://localhost/0?pool=a}b",
        "redis://localhost/0?pool=",
        "redis://localhost/0?poool=a",
        "redis://localhost/0?decode_responses=yes",
        "redis://localhost/0?socket_timeout=soon",
        "unix://?pool=a",
    ],
)
def test_address_that_cannot_be_read_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError):
        open_store(url)


@pytest.mark.parametrize(
    "url", [f"redis://user:{SECRET}@localhost:6379/0", f"redis://:{SECRET}@localhost", "redis://me:12?34@host:6379/0"]
)
def test_password_that_was_not_escaped_is_refused_without_quoting_it(url: str) -> None:
    with pytest.raises(ConfigurationError, match="%XX") as refusal:
        open_store(url)
    assert not re.search(r"p@ss|w\?rd|12|34", "".join(traceback.format_exception(refusal.value, limit=0)))


def test_dead_server_is_named_without_the_password() -> None:
    port = free_port()
    with pytest.raises(StoreIsAway) as refusal:
        open_store(f"redis://user:{quote(SECRET, safe='')}@127.0.0.1:{port}/2?pool=mine")
    assert f"redis://127.0.0.1:{port}/2?pool=mine" in str(refusal.value)
    assert "p@ss" not in "".join(traceback.format_exception(refusal.value))


def test_password_opens_the_store_and_appears_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    port = free_port()
    with RedisServer(port, save="3600 1", requirepass=SECRET) as server:
        for right in (
            f"redis://:{quote(SECRET, safe='')}@127.0.0.1:{port}/0?pool=mine",
            server.url("other", password=quote(SECRET, safe="")),
        ):
            store = open_store(right)
            everything(store)
            assert "p@ss" not in store.label + repr(store) + repr(vars(store))
            store.close()
        for wrong in (f"redis://:wr0ng@127.0.0.1:{port}/0", f"redis://127.0.0.1:{port}/0"):
            with pytest.raises(StoreIsUnusable) as refusal:
                open_store(wrong)
            assert f"127.0.0.1:{port}" in str(refusal.value)
            assert "wr0ng" not in "".join(traceback.format_exception(refusal.value))
    assert "p@ss" not in caplog.text


def test_database_that_the_server_does_not_have_is_named(redis_server: RedisServer) -> None:
    with pytest.raises(OSError, match="DB index"):
        open_store(redis_server.url(db="99"))


def test_pools_of_one_server_do_not_mix(redis_server: RedisServer) -> None:
    one, other = open_store(redis_server.url("one")), open_store(redis_server.url("other"))
    everything(one)
    assert other.scopes() == []
    assert other.position() == 0
    assert other.progress().version == 0
    assert other.clear() == 0
    assert one.count("s") == 1


# what the server must be like ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
def test_server_that_evicts_is_refused_by_name(policy: str) -> None:
    with RedisServer(maxmemory_policy=policy) as server:
        with pytest.raises(StoreIsUnusable, match=f"{policy}.*CONFIG SET maxmemory-policy noeviction"):
            open_store(server.url())


def test_server_older_than_6_2_is_refused(redis_server: RedisServer, redis_url: str) -> None:
    version = redis.Redis(unix_socket_path=str(redis_server.socket)).info("server")["redis_version"]
    old = "6.0.9" + "9" * (len(version) - 5)
    assert len(old) == len(version)
    with Proxy(
        redis_server.socket, rewrite=(f"redis_version:{version}".encode(), f"redis_version:{old}".encode())
    ) as between:
        with pytest.raises(StoreIsUnusable, match="6.2 or newer"):
            open_store(through(between, redis_url))


def test_server_that_keeps_nothing_on_disk_is_warned_about() -> None:
    with RedisServer() as server:
        with pytest.warns(RuntimeWarning, match="keeps nothing on disk") as caught:
            open_store(server.url()).close()
            Engine(store=server.url(), background=False).close()
    assert {warning.filename for warning in caught} == {__file__}  # the user's line, not one of ours


@pytest.mark.parametrize("kept", [{"appendonly": "yes"}, {"save": "3600 1"}])
def test_server_that_keeps_something_on_disk_is_not(kept: dict[str, str]) -> None:
    with RedisServer(**kept) as server, warnings.catch_warnings():
        warnings.simplefilter("error")
        open_store(server.url()).close()


@pytest.mark.parametrize("forbidden", ["-info", "-config"])
def test_managed_server_that_forbids_to_look_is_used_all_the_same(
    forbidden: str, caplog: pytest.LogCaptureFixture
) -> None:
    with RedisServer() as server:
        admin = redis.Redis(unix_socket_path=str(server.socket))
        admin.execute_command("ACL", "SETUSER", "app", "on", ">pw", "~*", "+@all", forbidden)
        store = open_store(f"unix://app@{server.socket}?password=pw")
        everything(store)
        assert store.count("s") == 1
    assert "not checked" in caplog.text
    assert "pw" not in caplog.text.replace(str(server.socket), "")


def test_full_server_is_an_os_error(caplog: pytest.LogCaptureFixture) -> None:
    with RedisServer(save="3600 1") as server:
        store = open_store(server.url())
        redis.Redis(unix_socket_path=str(server.socket)).config_set("maxmemory", "1")
        with pytest.raises(OSError, match="OOM"):
            store.record(example=make_example())
        assert store.count("s") == 0
        assert store.position() == 0


# keys and times to live ---------------------------------------------------------------------------------------------


def test_every_key_carries_the_pool_as_its_one_hash_tag(redis_server: RedisServer, raw: redis.Redis) -> None:
    before = set(raw.keys())
    everything(open_store(redis_server.url("tagged")))
    written = set(raw.keys()) - before
    assert len(written) > 10
    assert all(key.startswith(b"{iccache:tagged}:") for key in written)


def test_expired_values_leave_the_server_by_themselves(store: RedisStore, redis_url: str, raw: redis.Redis) -> None:
    everything(store)
    pool = redis_url.partition("pool=")[2]
    lives = {key: raw.pttl(key) for key in raw.keys(f"{{iccache:{pool}}}:*")}
    ttl = Settings().decision_ttl * 1000
    limited = {key.split(b":")[2] for key, left in lives.items() if 0 < left <= ttl}
    of_waiting = {b"waiting", b"waitings", b"waitingbytes"}
    assert limited == {b"decision", b"decisions", b"exact", b"exacts", b"rated"} | of_waiting
    longest = max(left for key, left in lives.items() if key.split(b":")[2] in of_waiting)
    assert longest <= Settings().wait_ttl * 1000 < ttl


def test_expired_values_are_swept_as_new_ones_arrive(redis_url: str, raw: redis.Redis) -> None:
    clock = FakeClock()
    store = open_store(redis_url, clock)
    pool = redis_url.partition("pool=")[2]
    store.record(make_decision("old"))
    clock.advance(Settings().decision_ttl + 1)
    store.record(make_decision("new", created_at=clock()))
    assert raw.keys(f"{{iccache:{pool}}}:decision:*") == [f"{{iccache:{pool}}}:decision:new".encode()]
    assert raw.zrange(f"{{iccache:{pool}}}:decisions:s", 0, -1) == [b"new"]


# replies that get lost ----------------------------------------------------------------------------------------------


def test_feedback_whose_reply_was_lost_is_written_once_and_true(proxy: Proxy, redis_url: str) -> None:
    store = open_store(through(proxy, redis_url))
    assert store.append_feedback(make_feedback(rater="first"))
    proxy.lose_reply()
    assert store.append_feedback(make_feedback(rater="second"))
    assert not store.append_feedback(make_feedback(rater="second"))
    assert [(offset, entry.rater) for offset, entry in store.feedback(0)] == [(1, "first"), (2, "second")]


def test_checkpoint_whose_reply_was_lost_is_published_once_and_true(proxy: Proxy, redis_url: str) -> None:
    store = open_store(through(proxy, redis_url))
    store.record(example=make_example())
    lease = store.acquire("learn", "me", 10.0)
    assert lease is not None
    at = store.position()
    proxy.lose_reply()
    assert publish(store, make_checkpoint(1, 1), (0, 0), {("s", "e1"): make_statistics()}, lease)
    assert not publish(store, make_checkpoint(1, 1), (0, 0), {}, lease)
    assert len(store.changes(at)) == 1


def test_example_whose_reply_was_lost_is_there_once(proxy: Proxy, redis_url: str) -> None:
    store = open_store(through(proxy, redis_url))
    store.scopes()
    proxy.lose_reply()
    store.record(make_decision(), make_example())
    assert store.count("s") == 1
    assert {(change.kind, change.id) for change in store.changes(0)} == {("put", "e1")}


def test_clear_that_broke_off_leaves_whole_examples_and_can_be_finished(
    proxy: Proxy, redis_url: str, redis_server: RedisServer
) -> None:
    store = open_store(through(proxy, redis_url))
    store.put([make_example(f"e{i:04}", exact_key=exact_key("s", str(i))) for i in range(1200)])
    store.clear("nobody")  # the server has the script now: every batch is one reply
    at = store.position()
    proxy.lose_reply(after=1, for_good=True)
    with pytest.raises(StoreIsAway):
        store.clear("s")
    again = open_store(redis_url)
    left = again.count("s")
    assert 0 < left < 1200
    ids = again.oldest("s", 1200)
    assert len(again.rows("s", ids)) == len(again.texts("s", ids)) == left
    assert len(again.changes(at, 5000)) == 1200 - left
    assert again.clear("s") == left
    assert again.scopes() == []
    assert len(again.changes(at, 5000)) == 1200
    assert again.unreadable == 0


# the feed -----------------------------------------------------------------------------------------------------------


def test_sequence_numbers_grow_even_where_the_clock_goes_back(redis_url: str) -> None:
    clock = FakeClock()
    store = open_store(redis_url, clock)
    for step in (0.0, -50.0, 0.0, 200.0, -1000.0):
        clock.advance(step)
        store.put([make_example("a"), make_example("b")])
    sequence = [change.seq for change in store.changes(0)]
    assert len(sequence) == 10
    assert sequence == sorted(set(sequence))


def test_foreign_entry_in_the_feed_is_counted_not_raised(store: RedisStore, redis_url: str, raw: redis.Redis) -> None:
    store.record(example=make_example("e1"))
    pool = redis_url.partition("pool=")[2]
    raw.xadd(
        f"{{iccache:{pool}}}:changes", {"kind": "explode", "scope": "s", "id": "x"}, id=f"{store.position() + 1}-0"
    )
    store.record(example=make_example("e2"))
    assert [change.id for change in store.changes(0)] == ["e1", "e2"]
    assert store.unreadable == 1


def test_position_that_the_feed_never_gave_is_refused(store: RedisStore) -> None:
    with pytest.raises(FeedWasTrimmed):
        store.changes(7)
    store.record(example=make_example())
    with pytest.raises(FeedWasTrimmed):
        store.changes(store.position() + 1)


# a cluster ----------------------------------------------------------------------------------------------------------


def test_cluster_holds_a_pool_like_a_single_server() -> None:
    port = free_port()
    with RedisServer(port, save="3600 1", cluster_enabled="yes", cluster_announce_ip="127.0.0.1") as server:
        admin = redis.Redis(unix_socket_path=str(server.socket))
        admin.execute_command("CLUSTER", "ADDSLOTS", *range(16384))
        server.wait_for(lambda: admin.cluster("INFO")["cluster_state"] == "ok")
        store = open_store(f"redis://127.0.0.1:{port}?pool=mine")
        everything(store)
        store.put([make_example(f"e{i}", scope=f"s{i % 3}") for i in range(30)])
        assert store.scopes() == ["s", "s0", "s1", "s2"]
        assert len(store.changes(0)) == 32
        assert len([row for rows in store.scan("s1") for row in rows]) == 10
        assert set(store.decisions(["d1", "d2"])) == {"d1"}
        assert store.exact(exact_key("s", "k1")) is not None
        assert store.clear() == 31
        store.close()
        with pytest.raises(StoreIsUnusable, match="host and port"):
            open_store(server.url())
