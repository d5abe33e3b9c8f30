"""Models behind the cache, and what their answers say of where they come from."""

from __future__ import annotations

from langchain_core.messages import AIMessage
from langchain_openai import ChatOpenAI

from shared_core.settings import Settings

# A busy machine must not make a test miss the deadline. What the deadline does is tested with a store that hangs.
PATIENT = Settings(deadline=20)


def model(server, cache, name="big", **kwargs) -> ChatOpenAI:
    return ChatOpenAI(model=name, base_url=server.url, api_key="none", max_retries=0, cache=cache, **kwargs)


def provenance(message: AIMessage) -> dict:
    return message.response_metadata["iccache"]
