"""The arms of an agent: its own model, named models, settings of a call and structured answers."""

from __future__ import annotations

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware, ModelFallbackMiddleware
from langchain.agents.structured_output import ProviderStrategy, ToolStrategy
from langchain_core.messages import AIMessage
from pydantic import BaseModel

from iccache_langchain import ICCacheChatModel
from shared_core.errors import ConfigurationError
from tests.integration.langchain_agent.runs import EXAMPLES, admitted, failing, provenance, run, said
from tests.openai_server import obliging


class City(BaseModel):
    """A city."""

    name: str


async def test_none_is_the_agents_own_model(build, agent, model, server):
    middleware = build()
    fallback = ModelFallbackMiddleware(model("spare"))
    server.answer = failing("large")
    state = await run(agent(fallback, middleware), "ainvoke", "hello")
    assert said(state)[-1] == "spare answers"
    assert provenance(state["messages"][-1])["arm"] == "large"


async def test_arms_may_all_be_named(build, agent, model, server):
    middleware = build(arms={"small": model("small"), "large": model("huge")})
    assert said(await run(agent(middleware), "ainvoke", "hello"))[-1] == "huge answers"


def test_an_agents_model_that_routes_by_itself_is_refused(build, model, store):
    middleware = build()
    router = ICCacheChatModel(
        arms={"small": model("small"), "large": model("large")}, reference="large", engine=middleware.engine
    )
    with pytest.raises(ConfigurationError, match="routes by itself"):
        create_agent(router, [], middleware=[middleware]).invoke({"messages": [("user", "hello")]})


class Setting(AgentMiddleware):
    """An outer middleware that sets parameters of the call."""

    def __init__(self, **settings):
        self.settings = settings

    def wrap_model_call(self, request, handler):
        return handler(request.override(model_settings=self.settings))


def test_settings_of_the_call_reach_the_arm_and_a_named_model_is_not_routed(helped, agent, server, store):
    state = agent(Setting(temperature=0.3), helped).invoke({"messages": [("user", "heat the kitchen")]})
    assert (server.asked[-1].model, server.asked[-1].body["temperature"]) == ("small", 0.3)
    state = agent(Setting(model="another"), helped).invoke({"messages": [("user", "heat the kitchen now")]})
    assert server.asked[-1].model == "another"
    assert provenance(state["messages"][-1])["reason"] == "the call names its own model"
    assert admitted(helped, store) == len(EXAMPLES)


@pytest.mark.parametrize("strategy", [City, ToolStrategy(City), ProviderStrategy(City)])
@pytest.mark.parametrize("way", ["invoke", "ainvoke"])
async def test_structured_answers_come_from_whichever_arm(helped, agent, server, strategy, way):
    server.answer = obliging
    state = await run(agent(helped, tools=(), response_format=strategy), way, "heat the kitchen in 'Rome'")
    assert state["structured_response"] == City(name="Rome")
    answer = next(message for message in state["messages"] if isinstance(message, AIMessage))
    assert provenance(answer)["arm"] == "small"


def test_another_response_format_is_another_task(build, agent, server, store):
    server.answer = obliging
    middleware = build()
    made = []
    for strategy in (ToolStrategy(City), ToolStrategy(City, handle_errors=str), ProviderStrategy(City), None):
        state = agent(middleware, tools=(), response_format=strategy).invoke({"messages": [("user", "heat 'Rome'")]})
        made.append(provenance(state["messages"][1])["decision_id"])
    assert middleware.flush(10)
    records = store.decisions(made)
    assert len({records[decision].task for decision in made}) == 3  # the handler of errors is none of the answer's form
