"""What a store refuses for a while is written when it is back; after a failover, to the new primary."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from shared_core.engine import Engine
from shared_core.settings import Settings
from shared_core.store import open_store
from shared_core.values import Arm, Decision, Message, Outcome, Request, Route
from tests.embedding import Words
from tests.servers import RedisServer, free_port

ANSWERS = 60
SETTINGS = Settings(drain=20.0)


def build(url: str, **more: object) -> Engine:
    arguments = {"settings": SETTINGS, "reward": lambda request, answer: 1.0} | more
    arms = (Arm("small", 0.1), Arm("large", 1.0, uses_examples=False))
    return Engine(store=url, arms=arms, reference="large", embedder=Words(), background=False, **arguments)


def decision_of(name: str) -> Decision:
    text = f"question {name}"
    return Decision(name, Request((Message("user", text),), text, scope="s"), Route("large"), created_at=2e9)


def record(engine: Engine, names: list[str]) -> None:
    for name in names:
        engine.submit_record(decision_of(name), Outcome(f"answer {name}", writer="large"))
        engine.submit_feedback(name, 0.75)


def check(url: str, names: list[str]) -> None:
    """Everything is stored, and the users' ratings in order."""
    store = open_store(url, settings=SETTINGS, clock=lambda: 2e9)
    assert set(store.decisions(names)) == set(names)
    assert store.count("s") == len(names)
    log = [rating for _, rating in store.feedback(0)]
    assert [rating.decision_id for rating in log if rating.rater == "user"] == names
    assert sorted(rating.decision_id for rating in log if rating.rater == "reward") == sorted(names)
    store.close()


def names_of(part: str) -> list[str]:
    return [f"{part}-{number:03}" for number in range(ANSWERS)]


def test_a_redis_that_was_away(caplog: pytest.LogCaptureFixture) -> None:
    with RedisServer(appendonly="yes", appendfsync="always") as server:
        url = server.url("kept")
        engine = build(url)
        record(engine, names_of("before"))
        assert engine.flush()
        server.kill()
        record(engine, names_of("meanwhile"))
        assert not engine.flush(0.1)
        server.start()
        record(engine, names_of("after"))
        assert engine.flush()
        engine.close()
        check(url, names_of("before") + names_of("meanwhile") + names_of("after"))
        assert engine.counters["writer.retried"] >= 1
        assert engine.counters["writer.dropped"] == engine.counters["writer.failed"] == 0
        said = [entry.getMessage() for entry in caplog.records if entry.levelno >= logging.WARNING]
        assert len(said) == 2, said


def test_a_redis_that_was_full() -> None:
    with RedisServer(save="3600 1") as server:
        url = server.url("kept")
        engine, admin = build(url), redis.Redis(unix_socket_path=str(server.socket))
        admin.config_set("maxmemory", "1")
        record(engine, names_of("full"))
        assert not engine.flush(0.1)
        admin.config_set("maxmemory", "0")
        assert engine.flush()
        engine.close()
        check(url, names_of("full"))


FULL_DISK = """
import resource, sys
from tests.faults.test_nothing_is_lost import build, names_of, record
engine = build(sys.argv[1])
limit = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, limit[1]))
record(engine, names_of("full"))
assert not engine.flush(0.2)
assert engine.counters["writer.retried"] >= 1
resource.setrlimit(resource.RLIMIT_FSIZE, limit)
assert engine.flush(20)
engine.close()
"""


def test_a_full_disk(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/pool.db"
    done = subprocess.run([sys.executable, "-c", FULL_DISK, url], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    check(url, names_of("full"))


def test_a_process_that_ends_first_says_how_many_are_lost(caplog: pytest.LogCaptureFixture) -> None:
    with RedisServer(save="3600 1") as server:
        engine = build(server.url(), settings=Settings(drain=0.05), reward=None)
        server.kill()
        for name in names_of("lost"):
            engine.submit_feedback(name, 0.75)
        engine.close()
    assert f"loses {ANSWERS} records and ratings (StoreIsAway" in caplog.text


def test_a_database_deleted_under_a_running_process(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/pool.db"
    engine = build(url)
    record(engine, names_of("old"))
    assert engine.flush()
    (tmp_path / "pool.db").unlink()
    engine.maintain()
    record(engine, names_of("new"))
    assert engine.flush()
    engine.close()
    check(url, names_of("new"))


# a failover -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def pair() -> Iterator[tuple[RedisServer, RedisServer]]:
    """A primary and its replica."""
    ports = free_port(), free_port()
    with (
        RedisServer(ports[0], save="3600 1") as primary,
        RedisServer(ports[1], save="3600 1", replicaof=f"127.0.0.1 {ports[0]}") as replica,
    ):
        admin = redis.Redis(unix_socket_path=str(replica.socket))
        replica.wait_for(lambda: admin.info("replication")["master_link_status"] == "up")
        yield primary, replica


def test_after_a_failover_records_go_to_the_new_primary(pair: tuple[RedisServer, RedisServer]) -> None:
    """A graceful one: the old primary becomes a replica, and keeps its connections."""
    primary, replica = pair
    address = primary.folder / "front.sock"
    address.symlink_to(primary.socket)
    url = f"unix://{address}?pool=kept"
    engine = build(url)
    record(engine, names_of("before"))
    assert engine.flush()
    old, new = (redis.Redis(unix_socket_path=str(server.socket)) for server in pair)
    primary.wait_for(
        lambda: new.info("replication")["slave_repl_offset"] == old.info("replication")["master_repl_offset"]
    )
    new.execute_command("REPLICAOF", "NO", "ONE")
    address.unlink()
    address.symlink_to(replica.socket)
    old.execute_command("REPLICAOF", "127.0.0.1", replica.port)
    record(engine, names_of("after"))
    assert engine.flush()
    assert engine.counters["writer.retried"] == 0
    engine.close()
    check(f"unix://{replica.socket}?pool=kept", names_of("before") + names_of("after"))


def test_while_the_address_still_leads_to_the_old_primary_records_wait(pair: tuple[RedisServer, RedisServer]) -> None:
    primary, replica = pair
    address = primary.folder / "front.sock"
    address.symlink_to(primary.socket)
    engine = build(f"unix://{address}?pool=kept")
    old, new = (redis.Redis(unix_socket_path=str(server.socket)) for server in pair)
    new.execute_command("REPLICAOF", "NO", "ONE")
    old.execute_command("REPLICAOF", "127.0.0.1", replica.port)
    record(engine, names_of("after"))
    assert not engine.flush(0.1)
    address.unlink()
    address.symlink_to(replica.socket)
    assert engine.flush()
    engine.close()
    check(f"unix://{replica.socket}?pool=kept", names_of("after"))


# kill -9 --------------------------------------------------------------------------------------------------------------

KILLED = """
import sys
from tests.faults.test_nothing_is_lost import build, names_of, record
engine = build(sys.argv[1])
for number in range(1000):
    record(engine, names_of(f"wave{number:03}"))
    assert engine.flush(20)
    print(f"wave{number:03}", flush=True)
"""


@pytest.mark.parametrize("waves", [1, 4])
def test_what_flush_has_confirmed_survives_a_kill(tmp_path: Path, waves: int) -> None:
    url = f"sqlite:///{tmp_path}/pool.db"
    child = subprocess.Popen([sys.executable, "-c", KILLED, url], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    confirmed = [child.stdout.readline().strip() for _ in range(waves)]
    os.kill(child.pid, signal.SIGKILL)
    confirmed += child.stdout.read().split()
    child.wait()
    store = open_store(url, settings=SETTINGS, clock=lambda: 2e9)
    names = [name for wave in confirmed for name in names_of(wave)]
    assert set(store.decisions(names)) == set(names)
    rated = [rating for _, rating in store.feedback(0, 100_000)]
    assert set(names) <= {rating.decision_id for rating in rated if rating.rater == "user"}
    assert set(names) <= {rating.decision_id for rating in rated if rating.rater == "reward"}
    store.close()
