"""While an open store is away, what waits for it raises the store's own error, which names the store and what to do."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.language_models import FakeListChatModel

from iccache_langchain import ICCache, ICCacheChatModel, ICCacheExampleSelector
from shared_core.engine import Engine
from shared_core.errors import ICCacheError, StoreIsAway
from shared_core.store import database
from shared_core.store.errors import StoreRefuses, is_temporary
from shared_core.values import Message, Outcome, Request
from tests.embedding import Words
from tests.servers import RedisServer

PAIR = ("How?", "So.")
FOREGROUND: dict[str, Callable[[ICCacheChatModel], object]] = {
    "add_examples": lambda llm: llm.add_examples([PAIR]),
    "engine.add_examples": lambda llm: llm.engine.add_examples([PAIR], scope="default", task="t"),
    "selector.add_examples": lambda llm: selector(llm).add_examples([{"input": "How?", "output": "So."}]),
    "from_examples": lambda llm: ICCacheExampleSelector.from_examples(
        [{"input": "How?", "output": "So."}], engine=llm.engine
    ),
    "record": lambda llm: llm.engine.record(llm.engine.decide(Request((Message("user", "Hi"),), "Hi")), Outcome("So.")),
    "feedback": lambda llm: llm.engine.feedback("0" * 32, 1.0),
    "delete": lambda llm: llm.engine.delete("default", ["x"]),
    "clear": lambda llm: llm.engine.clear("default"),
    "cache.clear": lambda llm: ICCache(engine=llm.engine).clear(),
}


def selector(llm: ICCacheChatModel) -> ICCacheExampleSelector:
    return ICCacheExampleSelector(engine=llm.engine)


def router(store: str) -> ICCacheChatModel:
    arms = {name: FakeListChatModel(responses=[name]) for name in ("small", "large")}
    options: dict[str, Any] = {"costs": {"small": 0.1}, "embedder": Words(), "background": False, "drain": 0.0}
    return ICCacheChatModel(arms=arms, reference="large", store=store, **options)


@pytest.fixture(scope="module")
def cut_off() -> Iterator[ICCacheChatModel]:
    with RedisServer(save="3600 1") as server:
        llm = router(server.url("gone", socket_timeout="1"))
        server.kill()
        yield llm
        llm.close()


@pytest.mark.parametrize("name", [*FOREGROUND, "maintain"])
def test_redis_is_down(cut_off: ICCacheChatModel, name: str) -> None:
    call = FOREGROUND.get(name, lambda llm: llm.engine.maintain())
    says = r"^unix://.*redis\.sock\?pool=gone cannot be reached: .*; start the server, and try again$"
    with pytest.raises(StoreIsAway, match=says) as caught:
        call(cut_off)
    assert isinstance(caught.value, ICCacheError) and is_temporary(caught.value)


@pytest.mark.parametrize("name", FOREGROUND)
def test_a_sqlite_file_is_busy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.01)
    llm = router(f"sqlite:///{tmp_path}/pool.db")
    other = sqlite3.connect(tmp_path / "pool.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    says = r"^sqlite:///.*pool\.db: database is locked; another process is writing to it; try again$"
    with pytest.raises(StoreIsAway, match=says) as caught:
        FOREGROUND[name](llm)
    assert is_temporary(caught.value)
    other.execute("ROLLBACK")
    other.close()
    FOREGROUND[name](llm)
    llm.close()


def test_a_server_that_hangs(tmp_path: Path) -> None:
    with RedisServer(save="3600 1") as server:
        engine = Engine(store=server.url("slow", socket_timeout="0.2"), embedder=Words(), background=False)
        server.pause()
        with pytest.raises(StoreIsAway, match=r"did not answer in time; what was to be stored may be; try again$"):
            engine.add_examples([PAIR], scope="default", task="t")
        server.resume()
        engine.add_examples([PAIR], scope="default", task="t")
        engine.close()


def test_what_is_refused_for_good_is_ours_too() -> None:
    assert issubclass(StoreRefuses, ICCacheError)
    assert not is_temporary(StoreRefuses("unix://: WRONGTYPE"))
