"""A server that can never be written is refused when it is opened, with the name of what is missing."""

from __future__ import annotations

import time

import pytest
import redis

from shared_core.errors import StoreIsUnusable
from shared_core.settings import Settings
from shared_core.store.redis import RedisStore
from tests.servers import RedisServer, free_port


def refused(url: str) -> str:
    with pytest.raises(StoreIsUnusable) as raised:
        RedisStore.open(url, settings=Settings(), clock=time.time)
    return str(raised.value)


@pytest.fixture
def raw(redis_server: RedisServer) -> redis.Redis:
    return redis.Redis(unix_socket_path=str(redis_server.socket))


@pytest.mark.parametrize("command", ["XADD", "SET", "ZADD", "HGET", "DEL", "PEXPIRE", "XTRIM"])
def test_a_command_that_the_user_may_not_run(redis_server: RedisServer, raw: redis.Redis, command: str) -> None:
    raw.execute_command("ACL", "SETUSER", "limited", "reset", "on", ">pw", "~*", "+@all", f"-{command.lower()}")
    message = refused(f"unix://limited@{redis_server.socket}?password=pw&pool=denied")
    assert f"{command} is refused" in message
    assert f"ACL SETUSER name +{command.lower()}" in message
    assert "pw" not in message.replace(str(redis_server.socket), "")
    left = raw.keys("{iccache:denied}:*")
    assert len(left) == (command == "DEL")
    assert all(0 < raw.pttl(key) <= 60_000 for key in left)
    raw.delete("unused", *left)


@pytest.mark.parametrize("missing", ["-evalsha", "-@scripting", "-@all"])
def test_a_user_that_may_not_run_scripts(redis_server: RedisServer, raw: redis.Redis, missing: str) -> None:
    raw.execute_command("ACL", "SETUSER", "limited", "reset", "on", ">pw", "~*", "+@all", missing)
    message = refused(f"unix://limited@{redis_server.socket}?password=pw")
    assert "refuses this user" in message
    assert missing == "-@all" or "eval" in message or "script" in message


def test_a_user_with_other_keys(redis_server: RedisServer, raw: redis.Redis) -> None:
    raw.execute_command("ACL", "SETUSER", "limited", "reset", "on", ">pw", "~theirs:*", "+@all")
    assert "refuse" in refused(f"unix://limited@{redis_server.socket}?password=pw")


def test_the_grants_that_the_manual_names_are_enough(redis_server: RedisServer, raw: redis.Redis) -> None:
    granted = "~{iccache:* +@read +@write +@scripting +@connection +time +info".split()
    raw.execute_command("ACL", "SETUSER", "limited", "reset", "on", ">pw", *granted)
    store = RedisStore.open(
        f"unix://limited@{redis_server.socket}?password=pw&pool=granted", settings=Settings(), clock=time.time
    )
    assert store.claim("a", "b") == "b"
    store.close()


def test_a_renamed_command() -> None:
    with RedisServer(save="3600 1", rename_command="XADD hidden") as server:
        assert "does not offer this command" in refused(server.url())


def test_a_full_server() -> None:
    with RedisServer(save="3600 1", maxmemory="1") as server:
        assert "OOM" in refused(server.url())


def test_a_server_that_lacks_replicas() -> None:
    with RedisServer(save="3600 1", min_replicas_to_write="1") as server:
        assert "NOREPLICAS" in refused(server.url())


def test_a_read_only_replica() -> None:
    port = free_port()
    with RedisServer(port, save="3600 1"), RedisServer(save="3600 1", replicaof=f"127.0.0.1 {port}") as replica:
        assert "use the address of the primary" in refused(replica.url())
