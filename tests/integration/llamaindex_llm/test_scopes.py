"""Whose call it is: every form in which a call to `ICCacheLLM` names its scope."""

from __future__ import annotations

import pytest
from llama_index.core import Document, SummaryIndex

from iccache_llamaindex import iccache_context
from shared_core.errors import ConfigurationError
from tests.integration.llamaindex_llm.calls import WAYS, City, admitted, ask, provenance, queries, text, user
from tests.openai_server import obliging


async def test_the_scope_of_a_call_in_every_form(build, store):
    model = build(scope="own")

    async def each(way, llm=model, **kwargs):
        store.clear()
        await ask(llm, way, "x", **kwargs)
        assert model.flush(10)
        return set(store.scopes())

    for way in WAYS:
        assert await each(way, iccache_scope="a") == {"a"}, way
        assert await each(way, model.bind(iccache_scope="a")) == {"a"}, way
        assert await each(way, model.bind(iccache_scope="b"), iccache_scope="a") == {"a"}, way
        with iccache_context(scope="a"):
            assert await each(way) == {"a"}, way
            assert await each(way, model.bind(iccache_scope="b")) == {"b"}, way
        assert await each(way) == {"own"}, way
    with iccache_context(scope="a"):
        lazily = model.stream_chat([user("x")]), await model.astream_complete("x")
    store.clear()
    with iccache_context(scope="b"):
        list(lazily[0])
        [piece async for piece in lazily[1]]
    assert model.flush(10)
    assert set(store.scopes()) == {"a"}


async def test_a_bound_llm_in_engines_and_agents(build, store, server):
    model = build(strict_scope=True).bind(iccache_scope="acme")
    engine = SummaryIndex.from_documents([Document(text="30 degrees")]).as_query_engine(llm=model, streaming=True)
    assert str(engine.query("how warm?")) == "large answers"
    server.answer = obliging
    assert model.as_structured_llm(City).chat([user("in 'Rome'")]).raw.name == "Rome"
    assert model.flush(10)
    assert (set(store.scopes()), queries(store, "acme")) == ({"acme"}, {"how warm?"})
    with pytest.raises(ConfigurationError, match="got scope"):
        model.bind(scope="acme")


async def test_two_tenants_never_see_each_others_examples(build, server):
    model = build(task="t")
    for tenant in ("acme", "globex"):
        model.add_examples([("heat the kitchen", f"secret of {tenant}")], scope=tenant)
        model.engine.warm(tenant)
    for tenant, other in (("acme", "globex"), ("globex", "acme")):
        for way in WAYS:
            answer = await ask(model, way, "heat the kitchen now", iccache_scope=tenant)
            assert len(provenance(answer)["examples"]) == 1
            assert f"secret of {tenant}" in str(server.asked[-1].turns)
            assert f"secret of {other}" not in str(server.asked[-1].turns)
    assert provenance(model.chat([user("heat the kitchen")]))["examples"] == []


async def test_strict_wants_every_call_to_name_its_scope(build):
    model = build(strict_scope=True)
    with pytest.raises(ConfigurationError, match="iccache_scope"):
        model.chat([user("x")])
    with iccache_context(scope="a"):
        assert text(model.chat([user("x")])) == "large answers"
        for way in ("stream_chat", "astream_chat", "stream_complete", "astream_complete"):
            with pytest.raises(ConfigurationError, match="iccache_scope"):
                await ask(model, way, "x")
    assert text(await ask(model, "stream_chat", "x", iccache_scope="a")) == "large answers"
    with pytest.raises(ConfigurationError, match="None"):
        model.chat([user("x")], iccache_scope=None)
    with pytest.raises(ConfigurationError, match="did you mean iccache_scope"):
        model.chat([user("x")], iccache_scop="acme")


def test_what_must_not_be_stored_is_not(build, store):
    model = build()
    model.chat([user("x")], iccache_no_store=True)
    model.bind(iccache_no_store=True).complete("x")
    with iccache_context(no_store=True):
        model.chat([user("x")])
    assert admitted(model, store) == 0
    assert model.engine.counters.value("refused", reason="no_store") == 3
