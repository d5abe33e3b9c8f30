"""Redis killed in mid-traffic, records corrupted, the disk full: the answer still comes, and the counters say why."""

import sqlite3
import time

import pytest
from langchain_core.language_models.fake_chat_models import FakeListChatModel

from iccache_langchain import ICCacheChatModel
from tests.servers import RedisServer
from tests.unit.engine.world import Words


def chat(store, **more):
    arguments = {
        "arms": {"small": FakeListChatModel(responses=["small"]), "large": FakeListChatModel(responses=["large"])},
        "reference": "large",
        "costs": {"small": 0.1},
        "store": store,
        "embedder": Words(),
        "reward": lambda request, answer: 1.0,
        "explore": 1.0,
        "relevance_quantile": 0.0,
        "background": False,
    }
    llm = ICCacheChatModel(**(arguments | more))
    llm.engine.warm("default")
    return llm


def examples_of(answer):
    return answer.response_metadata["iccache"]["examples"]


def test_redis_killed_in_mid_traffic_and_back_again():
    with RedisServer(appendonly="yes", appendfsync="always") as server:
        llm = chat(server.url(socket_timeout="2"))  # a killed server refuses at once; a slow disk may take its time
        llm.add_examples([("alpha beta", "1")])
        assert len(examples_of(llm.invoke("alpha"))) == 1
        assert llm.flush(5)
        server.kill()
        for n in range(10):
            begun = time.monotonic()
            assert llm.invoke(f"alpha gamma {n}").content in {"small", "large"}
            assert time.monotonic() - begun < llm.engine.settings.deadline + 0.25
        assert not llm.flush(0.1)
        assert llm.engine.counters["writer.retried"] >= 1
        server.start()
        llm.invoke("alpha delta")
        assert llm.flush(20)
        llm.engine.maintain()
        assert llm.engine.counters["admitted"] == 12
        assert llm.engine.counters["writer.failed"] == 0
        assert len(examples_of(llm.invoke("alpha"))) >= 1
        llm.close()


def test_corrupt_records_are_skipped_and_counted(tmp_path):
    llm = chat(f"sqlite:///{tmp_path}/pool.db")
    llm.add_examples([("alpha beta", "1"), ("alpha gamma", "2")])
    llm.close()
    with sqlite3.connect(tmp_path / "pool.db") as database:
        tables = [row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type='table'")]
        (table,) = [t for t in tables if t.startswith("example")]
        columns = [row[1] for row in database.execute(f"PRAGMA table_info({table})") if row[2] == "BLOB"]
        (identity,) = database.execute(f"SELECT rowid FROM {table} LIMIT 1").fetchone()
        for column in columns:
            database.execute(f"UPDATE {table} SET {column} = x'00ff13' WHERE rowid = ?", (identity,))
    llm = chat(f"sqlite:///{tmp_path}/pool.db")
    answer = llm.invoke("alpha")
    assert answer.content in {"small", "large"}
    assert len(examples_of(answer)) <= 1
    llm.engine.maintain()
    assert llm.engine.counters["store.unreadable"] >= 1
    llm.close()


@pytest.mark.parametrize(
    "damage", ["head = x'7b7d'", "head = CAST(replace(CAST(head AS TEXT), '\"v\":1', '\"v\":2') AS BLOB)"]
)
def test_an_unreadable_router_is_logged_once_and_the_last_one_stays_in_use(tmp_path, caplog, damage):
    path = tmp_path / "pool.db"
    llm = chat(f"sqlite:///{path}")
    llm.add_examples([("alpha beta", "1")])
    learned = teach(llm)
    with sqlite3.connect(path) as database:
        database.execute(f"UPDATE parts SET {damage} WHERE name = 'router'")
    for _ in range(3):
        llm.engine._components().refresh()
    assert routed_by(llm) == learned  # what this process had learned
    assert llm.engine.counters.value("checkpoint.unreadable", part="router") == 1
    assert [r.levelname for r in caplog.records if "cannot be read" in r.getMessage()] == ["WARNING"]
    llm.close()


def test_an_unreadable_checkpoint_is_learned_again_from_the_log(tmp_path, caplog):
    path = tmp_path / "pool.db"
    llm = chat(f"sqlite:///{path}")
    llm.add_examples([("alpha beta", "1")])
    for _ in range(3):
        learned = teach(llm)
    llm.close()
    with sqlite3.connect(path) as database:
        database.execute("UPDATE parts SET head = x'7b7d'")
    llm = chat(f"sqlite:///{path}")
    report = llm.engine.maintain().learned
    assert (report.published, report.version) == (True, learned + 1)
    assert routed_by(llm) == learned + 1
    router = next(part for part in report.rounds[0].parts if part.part == "router")
    assert router.folded + sum(router.skipped.values()) == 6  # also those that it had learned before
    assert llm.engine.counters.value("learn.restarted", part="router") == 1
    assert len([r for r in caplog.records if "IC-Cache learns it again from the log" in r.getMessage()]) == 1
    assert teach(llm) == learned + 2
    llm.close()


def teach(llm):
    """Answer, learn from the reward, and return the version that the router uses then."""
    llm.invoke("alpha")
    llm.flush(5)
    llm.engine.maintain()
    return routed_by(llm)


def routed_by(llm):
    return llm.invoke("alpha").response_metadata["iccache"]["version"]


def test_a_full_disk_costs_neither_the_answer_nor_the_record(tmp_path):
    llm = chat(f"sqlite:///{tmp_path}/pool.db")
    llm.add_examples([("alpha beta", "1")])
    llm.flush(5)
    store = llm.engine._local.store

    def full(*args, **kwargs):
        error = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorcode = sqlite3.SQLITE_FULL
        raise error

    store.write, write = full, store.write
    answer = llm.invoke("alpha")
    assert answer.content in {"small", "large"}
    assert not llm.flush(0.1)
    assert llm.engine.counters.value("writer.retried", error="OperationalError") >= 1
    store.write = write
    assert llm.flush(5)
    decision_id = answer.response_metadata["iccache"]["decision_id"]
    assert list(store.decisions([decision_id])) == [decision_id]
    llm.close()


@pytest.mark.parametrize("call", ["invoke", "stream"])
def test_an_arm_that_fails_before_its_first_word_is_replaced_by_the_reference(tmp_path, call):
    class Broken(FakeListChatModel):
        def _generate(self, *args, **kwargs):
            raise ConnectionError("gpu-1 is down")

        def _stream(self, *args, **kwargs):
            raise ConnectionError("gpu-1 is down")
            yield

    arms = {"small": Broken(responses=["x"]), "large": FakeListChatModel(responses=["large"])}
    llm = chat("memory://", arms=arms)
    llm.add_examples([("alpha beta", "1")])
    if call == "invoke":
        assert llm.invoke("alpha").content == "large"
    else:
        assert "".join(chunk.content for chunk in llm.stream("alpha")) == "large"
    assert llm.engine.counters["fallback.arm_failed"] == 1
    llm.close()
