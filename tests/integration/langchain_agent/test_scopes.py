"""Whose run it is: every form in which a run names its scope."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from iccache_langchain import iccache_context
from shared_core.errors import ConfigurationError
from tests.integration.langchain_agent.runs import WAYS, admitted, provenance, run, said


@dataclass
class Tenancy:
    """An agent's own context, which names the scope."""

    iccache_scope: str


@pytest.mark.parametrize("way", WAYS)
async def test_the_scope_of_a_run_in_every_form(build, agent, store, way):
    middleware = build(scope="own")

    async def scope_of(talking, *args, **wanted):
        store.clear()
        await run(talking, way, "hello", *args, **wanted)
        assert middleware.flush(10)
        (scope,) = store.scopes()
        return scope

    named = {"configurable": {"iccache_scope": "a"}}
    assert await scope_of(agent(middleware)) == "own"
    assert await scope_of(agent(middleware), named) == "a"
    assert await scope_of(agent(middleware, context_schema=Tenancy), context=Tenancy("b")) == "b"
    assert await scope_of(agent(middleware, context_schema=dict), context={"iccache_scope": "c"}) == "c"
    with pytest.raises(ConfigurationError, match="did you mean iccache_scope"):
        await scope_of(agent(middleware, context_schema=dict), context={"iccache_scop": "c"})
    assert await scope_of(agent(middleware, context_schema=Tenancy), named, context=Tenancy("b")) == "a"
    with iccache_context(scope="d"):
        assert await scope_of(agent(middleware)) == "d"
        assert await scope_of(agent(middleware), named) == "a"


@pytest.mark.parametrize("way", WAYS)
async def test_a_tenant_never_sees_what_another_was_answered(build, agent, server, way):
    middleware = build(task="t")
    middleware.add_examples([("heat the kitchen", "secret")], scope="acme")
    middleware.engine.warm("globex")
    talking = agent(middleware)
    state = await run(talking, way, "heat the kitchen", {"configurable": {"iccache_scope": "globex"}})
    assert provenance(state["messages"][-1])["examples"] == []
    assert "secret" not in str([asked.turns for asked in server.asked])
    state = await run(talking, way, "heat the kitchen", {"configurable": {"iccache_scope": "acme"}})
    assert len(provenance(state["messages"][-1])["examples"]) == 1


async def test_strict_wants_the_run_itself_to_name_its_scope(build, agent):
    talking = agent(build(strict_scope=True))
    with iccache_context(scope="a"):
        for way in ("invoke", "astream"):
            with pytest.raises(ConfigurationError, match="iccache_scope"):
                await run(talking, way, "hello")
    state = await run(talking, "astream", "hello", {"configurable": {"iccache_scope": "a"}})
    assert said(state)[-1] == "large answers"


async def test_what_must_not_be_stored_is_not(build, agent, store):
    middleware = build()
    await run(agent(middleware), "ainvoke", "hello", {"configurable": {"iccache_no_store": True}})
    with iccache_context(no_store=True):
        await run(agent(middleware), "ainvoke", "hello")
    assert admitted(middleware, store) == 0
    assert middleware.engine.counters.value("refused", reason="no_store") == 2
