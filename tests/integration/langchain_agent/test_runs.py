"""One run of an agent: what goes on the wire, what stays in the state, and what becomes an example."""

from __future__ import annotations

import pytest
from langchain_core.messages import ToolMessage
from langgraph.checkpoint.memory import InMemorySaver

from tests.integration.langchain_agent.runs import EXAMPLES, WAYS, admitted, provenance, run, said

SHOWN = {turn for pair in EXAMPLES for turn in pair}


@pytest.mark.parametrize("way", WAYS)
async def test_examples_go_on_the_wire_and_not_into_the_state(helped, agent, server, way):
    memory = InMemorySaver()
    config = {"configurable": {"thread_id": "1"}}
    talking = agent(helped, checkpointer=memory)
    state = await run(talking, way, "heat the kitchen please", config)
    assert said(state) == ["heat the kitchen please", "small answers"]
    assert server.asked[-1].turns == [
        ("system", "be brief"),
        ("user", "heat the bathroom"),
        ("assistant", "climate bathroom"),
        ("user", "heat the kitchen"),
        ("assistant", "climate kitchen"),
        ("user", "heat the kitchen please"),
    ]
    how = provenance(state["messages"][-1])
    assert (how["arm"], how["tier"], len(how["examples"])) == ("small", "model", 2)

    state = await run(talking, way, "heat the bathroom too", config)
    turns = server.asked[-1].turns
    assert [text for _, text in turns[5:]] == ["heat the kitchen please", "small answers", "heat the bathroom too"]
    assert {text for _, text in turns[1:5]} == SHOWN
    kept = [checkpoint.checkpoint["channel_values"].get("messages", []) for checkpoint in memory.list(config)]
    assert kept
    assert not SHOWN & {message.text for messages in kept for message in messages}
    assert not SHOWN & set(said(talking.get_state(config).values))


@pytest.mark.parametrize("way", WAYS)
async def test_a_tool_call_and_its_result_stay_together(helped, agent, server, store, way):
    state = await run(agent(helped), way, "measure and heat the kitchen")
    asked, calling, result, answer = state["messages"]
    assert calling.tool_calls[0]["name"] == "temperature"
    assert isinstance(result, ToolMessage)
    first, second = server.asked[-2:]
    assert (first.model, {text for _, text in first.turns[1:5]}) == ("small", SHOWN)
    assert [role for role, _ in second.turns] == ["system", "user", "assistant", "tool"]
    assert second.body["tools"][0]["function"]["name"] == "temperature"
    assert provenance(calling)["examples"] != []
    assert provenance(answer)["examples"] == []
    assert provenance(answer)["tier"] == "model"
    assert (
        helped.engine.counters.value("decided", arm="large") + helped.engine.counters.value("decided", arm="small") == 2
    )
    assert admitted(helped, store) == len(EXAMPLES)
    assert helped.engine.counters.value("refused", reason="tool_calls") == 1


async def test_what_the_large_model_answered_is_shown_to_the_small_one(build, agent, server):
    middleware = build()
    talking = agent(middleware)
    state = await run(talking, "ainvoke", "heat the kitchen")
    assert (said(state)[-1], provenance(state["messages"][-1])["arm"]) == ("large answers", "large")
    assert middleware.flush(10)
    middleware.engine.maintain()
    state = await run(talking, "astream", "heat the bathroom")
    assert said(state)[-1] == "small answers"
    assert server.asked[-1].turns[1:3] == [("user", "heat the kitchen"), ("assistant", "large answers")]
    state = await run(agent(middleware, tools=()), "ainvoke", "heat the kitchen")
    assert provenance(state["messages"][-1])["arm"] == "large"  # without the tool it is another task


async def test_a_final_answer_after_tools_is_admitted_only_if_query_fn_condenses_it(build, agent, store):
    plain = build()
    await run(agent(plain), "ainvoke", "measure the kitchen")
    assert admitted(plain, store) == 0
    assert plain.engine.counters.value("refused", reason="empty_query") == 1
    condensing = build(query_fn=lambda messages: messages[1].text)
    await run(agent(condensing), "ainvoke", "measure the kitchen")
    assert admitted(condensing, store) == 1


def test_the_papers_single_prompt_replaces_the_users_turn_on_the_wire_alone(build, agent, server):
    middleware = build(task="t", styles={"small": "paper"})
    middleware.add_examples(EXAMPLES)
    state = agent(middleware).invoke({"messages": [("user", "heat the kitchen please")]})
    assert said(state) == ["heat the kitchen please", "small answers"]
    (system, asked) = server.asked[-1].turns
    assert system == ("system", "be brief")
    assert "climate kitchen" in asked[1]
    assert asked[1].count("heat the kitchen please") == 2
