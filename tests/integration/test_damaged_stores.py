"""Requests go on over a damaged store: what can be read is shown, and nobody falls back for the rest."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis

from shared_core.engine import Engine
from shared_core.settings import Settings
from shared_core.values import Arm, Message, Request
from tests.embedding import Words
from tests.servers import RedisServer, free_port

NUMBER = 300
PAGE = 4096
WORDS = ("kitchen", "bath", "hall", "garden", "cellar", "attic", "office", "garage", "porch", "pantry")


def query(number: int) -> str:
    return f"heat the {WORDS[number % 10]} of house {WORDS[number // 10 % 10]} and room {number}"


def ask(number: int) -> Request:
    return Request((Message("user", query(number)),), query(number), scope="s", task="t")


def engine_on(url: str) -> Engine:
    settings = Settings(relevance_quantile=0.0, explore=1.0, deadline=10.0)
    arms = [Arm("small", 0.1), Arm("large", 1.0)]
    return Engine(store=url, arms=arms, reference="large", embedder=Words(), settings=settings, background=False)


@pytest.mark.parametrize(("place", "byte"), [(0.5, 0xAA), (0.5, 0x00), (0.25, 0xFF), (0.75, 0xAA)])
def test_twelve_damaged_kilobytes_cost_the_examples_in_them(tmp_path: Path, place: float, byte: int) -> None:
    path = tmp_path / "pool.db"
    engine = engine_on(f"sqlite:///{path}")
    engine.add_examples([(query(n), f"answer {n} " + "word " * 60) for n in range(NUMBER)], scope="s", task="t")
    engine.close()
    data = bytearray(path.read_bytes())
    first = int(len(data) * place) // PAGE * PAGE
    data[first : first + 3 * PAGE] = bytes([byte]) * (3 * PAGE)
    path.write_bytes(data)
    engine = engine_on(f"sqlite:///{path}")
    engine.warm("s")
    decisions = [engine.decide(ask(number)) for number in range(0, NUMBER, 3)]
    assert not any(decision.fallback for decision in decisions)
    assert sum(bool(decision.given) for decision in decisions) > 90
    engine.maintain()
    assert engine.counters["store.unreadable"] > 0
    assert engine.counters["pool.load_failed"] == 0
    assert engine.counters["fallback"] == 0
    engine.close()


def test_a_cluster_that_goes_away_raises_pythons_own_errors() -> None:
    """And no error of redis-py, whose cluster has a family of its own."""
    port = free_port()
    with RedisServer(port, save="3600 1", cluster_enabled="yes", cluster_announce_ip="127.0.0.1") as server:
        admin = redis.Redis(unix_socket_path=str(server.socket))
        admin.execute_command("CLUSTER", "ADDSLOTS", *range(16384))
        server.wait_for(lambda: admin.cluster("INFO")["cluster_state"] == "ok")
        engine = engine_on(f"redis://127.0.0.1:{port}?socket_timeout=0.5&socket_connect_timeout=0.2")
        engine.add_examples([(query(1), "answer")], scope="s", task="t")
        decision = engine.decide(ask(1))
        server.kill()
        for call in (
            lambda: engine.add_examples([(query(2), "answer")], scope="s", task="t"),
            lambda: engine.maintain(),
            lambda: engine.feedback(decision.id, 1.0),
        ):
            with pytest.raises(OSError) as raised:
                call()
            assert type(raised.value).__module__.partition(".")[0] != "redis"
        engine.decide(ask(1))
        engine.close()
