"""What the LLM's tests ask in each of the eight ways, and what they read in its answers."""

from __future__ import annotations

from llama_index.core.llms import ChatMessage
from pydantic import BaseModel

from tests.openai_server import Reply

KEY = "sk-very-secret"
EXAMPLES = [("heat the kitchen", "climate kitchen"), ("heat the bathroom", "climate bathroom")]
WAYS = ("chat", "achat", "stream_chat", "astream_chat", "complete", "acomplete", "stream_complete", "astream_complete")


class City(BaseModel):
    """A city."""

    name: str


def user(text: str) -> ChatMessage:
    return ChatMessage(role="user", content=text)


def naming(asked) -> Reply:
    """Every model answers with its own name."""
    return Reply(f"{asked.model} answers")


async def ask(model, way, text, **kwargs):
    """The last response of any of the eight calls."""
    given = [user(text)] if "chat" in way else text
    result = getattr(model, way)(given, **kwargs)
    if way.startswith("a"):
        result = await result
    if hasattr(result, "__aiter__"):
        return [piece async for piece in result][-1]
    return list(result)[-1] if hasattr(result, "__next__") else result


def provenance(response) -> dict:
    return response.additional_kwargs["iccache"]


def text(response) -> str:
    return response.text if hasattr(response, "text") else response.message.content


def queries(store, scope="default") -> set[str]:
    return {texts.query for texts in store.texts(scope, store.oldest(scope, 100)).values()}


def admitted(model, store, scope="default") -> int:
    assert model.flush(10)
    return store.count(scope)
