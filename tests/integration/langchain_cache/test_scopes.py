"""Scopes of `ICCache`: what is answered, stored and cleared in which of them."""

from __future__ import annotations

import asyncio
import threading

import pytest
from langchain_core.runnables import RunnableLambda

from iccache_langchain.cache import ICCache
from shared_core.adapters.context import iccache_context
from shared_core.errors import DependencyIsSlow
from shared_core.settings import Settings
from tests.integration.langchain_cache.calls import PATIENT, model, provenance
from tests.integration.langchain_cache.filled import words


class TestScopes:
    def test_contexts_do_not_mix(self, llm, server):
        for scope in ("anna", "ben", "anna"):
            with iccache_context(scope=scope):
                llm.invoke("my balance?")
        assert server.count() == 2
        llm.invoke("my balance?")
        assert server.count() == 3

    def test_batch_threads_keep_the_scope(self, llm, server):
        with iccache_context(scope="anna"):
            llm.batch(["a", "b", "c"])
            llm.batch(["a", "b", "c"])
        assert server.count() == 3
        llm.batch(["a", "b", "c"])
        assert server.count() == 6

    async def test_tasks_keep_their_scope(self, llm, server):
        async def ask(scope):
            with iccache_context(scope=scope):
                return [provenance(await llm.ainvoke("my balance?"))["tier"] for _ in range(2)]

        assert await asyncio.gather(*map(ask, ["anna", "ben"])) == [["model", "exact"]] * 2
        assert server.count() == 2

    def test_the_configurable_of_a_chain_names_the_scope(self, llm, server):
        chain = RunnableLambda(lambda text: text) | llm
        for scope in ("anna", "ben", "ben"):
            chain.invoke("hi", config={"configurable": {"iccache_scope": scope}})
        assert server.count() == 2

    def test_two_caches_of_one_file_with_scopes_of_their_own(self, server, url):
        caches = [ICCache(url, scope=scope, settings=PATIENT) for scope in ("anna", "ben", "anna")]
        for cache in caches:
            model(server, cache).invoke("hi")
        for cache in caches:
            cache.close()
        assert server.count() == 2

    def test_strict_scope_leaves_nameless_calls_alone(self, server, url):
        cache = ICCache(url, strict_scope=True, settings=PATIENT)
        llm = model(server, cache)
        for _ in range(2):
            llm.invoke("hi")
        assert server.count() == 2
        with iccache_context(scope="anna"):
            for _ in range(2):
                llm.invoke("hi")
        assert server.count() == 3
        cache.close()

    def test_no_store_keeps_nothing(self, llm, server):
        for _ in range(2):
            with iccache_context(no_store=True):
                llm.invoke("a secret")
        llm.invoke("a secret")
        assert server.count() == 3

    def test_clear_keeps_to_the_scope_in_force(self, llm, server, cache):
        for scope in ("anna", "ben"):
            with iccache_context(scope=scope):
                llm.invoke("hi")
        with iccache_context(scope="anna"):
            cache.clear()
            llm.invoke("hi")
        with iccache_context(scope="ben"):
            llm.invoke("hi")
        assert server.count() == 3

    async def test_clear_without_a_scope_clears_everything(self, llm, server, cache):
        for _ in range(2):
            with iccache_context(scope="anna"):
                llm.invoke("hi")
            await cache.aclear()
        assert server.count() == 2

    def test_clear_does_not_leave_what_waits_to_be_stored(self, server, url):
        def slow(texts):
            released.wait(30)
            return words(texts)

        released = threading.Event()
        cache = ICCache(url, embedder=slow, settings=Settings(deadline=20, drain=0.1))
        model(server, cache).invoke("hi")
        with pytest.raises(DependencyIsSlow):
            cache.clear()
        released.set()
        assert cache.engine.flush(20)
        cache.clear()
        assert cache.counters["admitted"] == 1
        assert cache.engine.clear() == 0, "no example is left to be cleared"
        cache.close()
