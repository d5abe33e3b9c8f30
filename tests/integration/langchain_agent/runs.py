"""Runs of an agent in each way, and what they leave in its state."""

from __future__ import annotations

from langchain_core.messages import AIMessage

from tests.openai_server import Refused, Reply

EXAMPLES = [("heat the kitchen", "climate kitchen"), ("heat the bathroom", "climate bathroom")]
WAYS = ["invoke", "ainvoke", "stream", "astream"]


def answering(asked) -> Reply:
    """Measures before it heats; to every other request the model answers with its name."""
    if asked.body.get("tools") and asked.messages[-1]["role"] == "user" and "measure" in asked.query:
        return Reply("", [("temperature", {"room": "kitchen"})])
    return Reply(f"{asked.model} answers")


async def run(agent, way, text, config=None, **wanted) -> dict:
    """The final state of one run, called in one of the ways."""
    asked = {"messages": [("user", text)]}
    match way:
        case "invoke":
            return agent.invoke(asked, config, **wanted)
        case "ainvoke":
            return await agent.ainvoke(asked, config, **wanted)
        case "stream":
            parts = list(agent.stream(asked, config, stream_mode=["messages", "values"], **wanted))
        case "astream":
            parts = [p async for p in agent.astream(asked, config, stream_mode=["messages", "values"], **wanted)]
    tokens = [part for mode, part in parts if mode == "messages" and isinstance(part[0], AIMessage) and part[0].content]
    assert len(tokens) > 1  # the arm's words, one by one
    assert {metadata["iccache_arm"] for _, metadata in tokens} <= {"small", "large"}
    last = [part for mode, part in parts if mode == "values"][-1]
    assert tokens[-1][1]["iccache_decision_id"] == provenance(last["messages"][-1])["decision_id"]
    return last


def provenance(message) -> dict:
    return message.response_metadata["iccache"]


def said(state) -> list[str]:
    return [message.text for message in state["messages"]]


def admitted(middleware, store, scope="default") -> int:
    assert middleware.flush(10)
    return store.count(scope)


def failing(*models):
    def answer(asked):
        if asked.model in models:
            raise Refused(500)
        return answering(asked)

    return answer
