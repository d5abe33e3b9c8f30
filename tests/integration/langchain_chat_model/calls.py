"""What the chat model's tests ask, and what they read in its answers."""

from __future__ import annotations

from uuid import UUID, uuid5

from pydantic import BaseModel

from tests.openai_server import Reply

NAMESPACE = UUID(int=7)
EXAMPLES = [("heat the kitchen", "climate kitchen"), ("heat the bathroom", "climate bathroom")]


class City(BaseModel):
    """A city."""

    name: str


def weather(city: str) -> str:
    """The weather in a city."""
    return city


def naming(asked) -> Reply:
    """Every model answers with its own name."""
    return Reply(f"{asked.model} answers")


def provenance(message) -> dict:
    return message.response_metadata["iccache"]


def merged(chunks):
    whole, *rest = chunks
    for chunk in rest:
        whole += chunk
    return whole


def run(n: int) -> UUID:
    return uuid5(NAMESPACE, str(n))


async def streamed_by_handler(model, asked, config):
    """LangChain streams within `ainvoke` where a handler wants tokens, and then tells the model no run id."""
    final = None
    async for event in model.astream_events(asked, config, version="v2"):
        if event["event"] == "on_chat_model_end":
            final = event["data"]["output"]
    return final


def admitted(model, store) -> int:
    assert model.flush(10)
    return store.count("default")
