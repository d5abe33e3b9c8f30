"""Converts LangChain messages: normalises turns, inserts examples, and reads how an answer ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final
from uuid import UUID

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)

from shared_core.adapters.parameters import rated_id
from shared_core.adapters.provenance import PROVENANCE, finish_reason, is_clean
from shared_core.errors import NotFromICCache
from shared_core.inference.naming import named_model
from shared_core.text import canonical_json
from shared_core.values import Insertion, Message, Outcome, Role

_ROLES: Final[tuple[tuple[type[BaseMessage], Role], ...]] = (
    (SystemMessage, "system"),
    (HumanMessage, "user"),
    (AIMessage, "assistant"),
    (ToolMessage, "tool"),
    (FunctionMessage, "tool"),
)
_MAKERS: Final[dict[Role, Callable[[str], BaseMessage]]] = {
    "system": SystemMessage,
    "user": HumanMessage,
    "assistant": AIMessage,
    "tool": partial(ToolMessage, tool_call_id=""),
}
_NAMED_ROLES: Final[dict[str, Role]] = {
    "system": "system", "developer": "system", "user": "user", "human": "user",
    "assistant": "assistant", "ai": "assistant", "tool": "tool", "function": "tool",
}  # fmt: skip

# The keys of `additional_kwargs` that integrations send to the model: OpenAI's legacy function call, and audio.
_SENT: Final = ("function_call", "audio")


def normalised(messages: Sequence[BaseMessage]) -> tuple[Message, ...]:
    """One `Message` for each message. Ids, token usage, response metadata and artifacts are dropped."""
    return tuple(Message(_role(m), str(m.text), _extra(m)) for m in messages)


def as_messages(turns: Sequence[Message]) -> list[BaseMessage]:
    """LangChain's messages with the roles and texts of `turns`."""
    return [_MAKERS[turn.role](turn.text) for turn in turns]


def insert(messages: Sequence[BaseMessage], insertion: Insertion) -> list[BaseMessage]:
    """The conversation with the examples inserted, as a new list; the given messages are not changed."""
    placed = list(messages)
    if insertion.rewrite is not None:
        last = next(i for i in reversed(range(len(placed))) if _role(placed[i]) == "user")
        placed[last] = placed[last].model_copy(update={"content": _with_text(placed[last], insertion.rewrite)})
    return placed[: insertion.index] + as_messages(insertion.turns) + placed[insertion.index :]


def outcome_of(message: AIMessage, *, require_finish_reason: bool = False) -> Outcome:
    """How the call that returned this message ended.

    Args:
        message: The whole answer.
        require_finish_reason: True if the answer may have been streamed. A lost connection looks like the end of a
            stream, so then only an answer with a finish reason counts as finished.
    """
    metadata, usage = message.response_metadata, message.usage_metadata
    reason = finish_reason(metadata)
    return Outcome(
        answer=str(message.text),
        finished=is_clean(reason) and (reason is not None or not require_finish_reason),
        tool_calls=bool(message.tool_calls or message.invalid_tool_calls),
        writer=named_model(metadata.get),
        prompt_tokens=usage.get("input_tokens", 0) if usage else 0,  # an answer from a cache may report only costs
        completion_tokens=usage.get("output_tokens", 0) if usage else 0,
        cached_tokens=(usage.get("input_token_details") or {}).get("cache_read") or 0 if usage else 0,
    )


def decision_id_of(answer: BaseMessage | UUID | str) -> str:
    """The decision id of an answer, given as its message, its run id or the decision id itself.

    Raises:
        ConfigurationError: It is none of these.
        NotFromICCache: The message did not come through IC-Cache.
    """
    if isinstance(answer, BaseMessage):
        provenance = answer.response_metadata.get(PROVENANCE)
        if not isinstance(provenance, dict) or "decision_id" not in provenance:
            raise NotFromICCache(
                f"this {type(answer).__name__} has no response_metadata['iccache']: it did not come through IC-Cache, "
                "or a later step dropped its metadata; pass the run id or the decision id instead"
            )
        return str(provenance["decision_id"])
    return rated_id(answer)


def _role(message: BaseMessage) -> Role:
    if isinstance(message, ChatMessage):
        return _NAMED_ROLES.get(message.role, "user")
    return next((role for made_by, role in _ROLES if isinstance(message, made_by)), "user")


def _extra(message: BaseMessage) -> str:
    """Canonical JSON of what is sent in addition to text and role; empty if nothing is."""
    extra: dict[str, object] = {"name": message.name or message.additional_kwargs.get("name")}
    if isinstance(message.content, list):
        extra["content"] = [block for block in message.content if not _is_text(block)]
    if isinstance(message, ChatMessage) and message.role not in _NAMED_ROLES:
        extra["role"] = message.role
    if isinstance(message, AIMessage):
        extra |= {"tool_calls": message.tool_calls, "invalid_tool_calls": message.invalid_tool_calls}
        extra |= {name: message.additional_kwargs.get(name) for name in _SENT}
    if isinstance(message, ToolMessage):
        extra |= {"tool_call_id": message.tool_call_id, "failed": message.status == "error"}
    sent = {name: value for name, value in extra.items() if value}
    return canonical_json(sent) if sent else ""


def _with_text(message: BaseMessage, text: str) -> str | list[str | dict[str, object]]:
    if isinstance(message.content, str):
        return text
    return [{"type": "text", "text": text}, *(block for block in message.content if not _is_text(block))]


def _is_text(block: str | dict[str, object]) -> bool:
    return isinstance(block, str) or block.get("type") == "text"
