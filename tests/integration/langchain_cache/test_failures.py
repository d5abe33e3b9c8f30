"""What is damaged, closed or hangs beneath `ICCache` costs no answer."""

from __future__ import annotations

import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import pytest
from blockbuster import blockbuster_ctx
from langchain_core.outputs import Generation

from iccache_langchain import ICCacheChatModel
from iccache_langchain.cache import ICCache
from shared_core.settings import Settings
from shared_core.store.sqlite import SqliteStore
from tests.integration.langchain_cache.calls import PATIENT, model, provenance
from tests.integration.langchain_cache.filled import words
from tests.servers import RedisServer


class TestFailures:
    @pytest.mark.parametrize(
        "change",
        [
            "UPDATE exact SET answer = x'00ff'",
            "UPDATE exact SET answer = replace(CAST(answer AS TEXT), '\"schema_version\": 1', '\"schema_version\": 9')",
            "UPDATE exact SET answer = replace(CAST(answer AS TEXT), 'content', 'lc')",
            "UPDATE exact SET answer = substr(answer, 1, length(answer) - 9)",
        ],
        ids=["garbage", "later schema", "other fields", "cut"],
    )
    def test_corrupt_bytes_are_a_miss(self, llm, server, cache, tmp_path, change):
        llm.invoke("hi")
        with sqlite3.connect(tmp_path / "pool.db") as database:
            assert database.execute(change).rowcount == 1
        database.close()
        assert llm.invoke("hi").text == "Hello, this is a scripted answer."
        assert server.count() == 2
        assert cache.counters["lookup.unreadable.failed"] + cache.counters["lookup.miss"] == 2
        assert provenance(llm.invoke("hi"))["tier"] == "exact", "the new answer takes the place of what was corrupt"

    def test_a_closed_store(self, server, url):
        cache = ICCache(url, settings=Settings(deadline=20, drain=0.2))
        llm = model(server, cache)
        llm.invoke("hi")
        cache.close()
        assert llm.invoke("hi").text
        assert server.count() == 2
        assert cache.counters["lookup.failed"] == cache.counters["writer.dropped"] == 1
        with pytest.raises(Exception):
            cache.clear()

    def test_tables_that_are_gone(self, llm, server, cache, tmp_path):
        with sqlite3.connect(tmp_path / "pool.db") as database:
            database.execute("DROP TABLE exact")
        database.close()
        assert llm.invoke("hi").text
        cache.flush(5)
        assert cache.counters["lookup.failed"] == cache.counters["writer.failed"] == 1

    def test_a_redis_that_dies(self, server):
        with RedisServer() as redis:
            cache = ICCache(redis.url(), settings=PATIENT)
            llm = model(server, cache)
            llm.invoke("hi")
            assert provenance(llm.invoke("hi"))["tier"] == "exact"
            redis.kill()
            assert llm.invoke("hi").text
            assert server.count() == 2
            assert cache.counters["lookup.failed"] == 1
            cache.close()

    def test_a_store_that_hangs_holds_the_call_no_longer_than_the_deadline(self, server):
        class Hanging(SqliteStore):
            def exact(self, key):
                released.wait(30)
                return super().exact(key)

            def write(self, batch):
                released.wait(30)
                return super().write(batch)

        released = threading.Event()
        cache = ICCache(Hanging(None, settings=PATIENT), settings=Settings(deadline=0.3))
        try:
            bare, llm = model(server, None), model(server, cache)
            bare.invoke("warm")
            began = time.monotonic()
            bare.invoke("hi")
            asked = time.monotonic()
            assert llm.invoke("hi").text
            assert time.monotonic() - asked < asked - began + 0.3 + 0.1  # one deadline, for look-up and update together
            assert cache.counters.value("lookup.failed", error="DependencyIsSlow") == 1
            released.set()
            assert cache.flush(10)
            assert provenance(llm.invoke("hi"))["tier"] == "exact", "the answer was stored when the store came back"
        finally:
            released.set()
            cache.close()

    @pytest.mark.parametrize("shared", [True, False])
    def test_a_routers_first_answer_that_is_judged_poor_is_not_served_again(self, server, url, tmp_path, shared):
        arms = {name: model(server, None, name) for name in ("small", "large")}
        router = ICCacheChatModel(
            arms=arms, reference="large", costs={"small": 0.1}, store=url, embedder=words, settings=PATIENT
        )
        own = {"engine": router.engine} if shared else {"store": f"sqlite:///{tmp_path}/other.db", "settings": PATIENT}
        cache = router.cache = ICCache(**own)
        try:
            first = router.invoke("hi")
            assert provenance(first)["arm"] == "large"
            assert provenance(router.invoke("hi"))["tier"] == "exact"
            cache.record_feedback(first, 0.0)
            assert router.flush(10)
            assert cache.flush(10)
            assert provenance(router.invoke("hi"))["tier"] == "model"
        finally:
            cache.close()
            router.close()

    def test_a_routers_answer_that_its_reward_function_finds_poor_is_not_served_again(self, server, url):
        arms = {name: model(server, None, name) for name in ("small", "large")}
        router = ICCacheChatModel(
            arms=arms,
            reference="large",
            costs={"small": 0.1},
            store=url,
            embedder=words,
            settings=PATIENT,
            reward=lambda request, answer: float(request.query == "good"),
        )
        cache = router.cache = ICCache(engine=router.engine)
        try:
            for query, tier in (("good", "exact"), ("bad", "model")):
                router.invoke(query)
                assert router.flush(10)
                assert provenance(router.invoke(query))["tier"] == tier
        finally:
            cache.close()
            router.close()

    def test_an_answer_that_json_cannot_hold_is_still_given(self, cache):
        cache.update("p", "l", [Generation(text="a", generation_info={"at": datetime(2026, 1, 1)})])
        cache.update("p", "l", [])
        assert cache.lookup("p", "l") is None
        assert cache.counters["update.unstorable.failed"] == 2
        assert cache.counters["update.failed"] == 0

    def test_arguments_that_are_not_strings_do_not_raise(self, cache):
        assert cache.lookup(None, None) is None
        cache.update(None, None, None)
        assert cache.counters["lookup.failed"] == cache.counters["update.failed"] == 1

    async def test_nothing_of_ours_blocks_the_loop(self, llm, server):
        await llm.ainvoke("warm")  # the client itself loads certificates at its first call
        with blockbuster_ctx(["iccache_langchain", "shared_core"]) as detector:
            assert detector
            await llm.ainvoke("hi")
            assert provenance(await llm.ainvoke("hi"))["tier"] == "exact"

    def test_many_threads(self, llm, server, cache):
        texts = [f"question {n % 10}" for n in range(100)]
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(llm.invoke, texts))
        assert all(answer.text for answer in answers)
        assert cache.counters["lookup.hit"] + server.count() == 100
        assert all(provenance(llm.invoke(text))["tier"] == "exact" for text in texts[:10])
