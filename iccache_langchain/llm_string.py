"""Parses the two strings that LangChain passes to a cache: the prompt and the `llm_string`.

The `llm_string` names a model and its parameters. For a serialisable model it is ``<JSON of the model>---<repr of the
parameters>``, else only the repr. The repr may not be a literal (``('response_format', <class '__main__.P'>)``). A call
whose parameters cannot be parsed is only answered from identical calls, and its answer does not become an example.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from langchain_core.messages import AIMessage, BaseMessage, ChatMessage, HumanMessage, SystemMessage, ToolMessage

from iccache_langchain.calls import FREE
from shared_core.inference.naming import named_model
from shared_core.text import canonical_json

# Parameters of the transport, which do not change the answer: another timeout must not miss the cache.
_TRANSPORT: Final = frozenset(
    {"max_retries", "request_timeout", "stream_chunk_timeout", "stream_usage", "streaming", "timeout", "verbose"}
)

# Parameters of a call that leave its answer one free text; `n` and `stop` are checked separately.
_SAMPLING: Final = FREE | {"stop"}

# Each of these in the model or the call means structured output or several answers.
_NOT_PLAIN: Final = re.compile(
    r"""['"](?:tools|tool_choice|functions|function_call|response_format|response_schema|response_mime_type|"""
    r"""json_schema|json_mode|format|grammar|guided_\w+|structured_outputs?|ls_structured_output_format|"""
    r"""modalities|stop_sequences|best_of)['"]"""
)
_CLASSES: Final[Mapping[str, type[BaseMessage]]] = {
    "AIMessage": AIMessage,
    "AIMessageChunk": AIMessage,
    "ChatMessage": ChatMessage,
    "HumanMessage": HumanMessage,
    "HumanMessageChunk": HumanMessage,
    "SystemMessage": SystemMessage,
    "SystemMessageChunk": SystemMessage,
    "ToolMessage": ToolMessage,
    "ToolMessageChunk": ToolMessage,
}
_ADDRESS: Final = re.compile(r" at 0x[0-9a-fA-F]+")


@dataclass(frozen=True, slots=True)
class CallKey:
    """What the `llm_string` holds about a call.

    Attributes:
        fingerprint: The model and every parameter that affects the answer; equal for equal calls.
        writer: The model's name; empty if uncertain.
        plain: True only if the call certainly asks for one free text: no tools, no response format, no stop, n = 1.
        repeatable: False if a parameter is identified only by its memory address, which another object may have next
            time.
    """

    fingerprint: str
    writer: str
    plain: bool
    repeatable: bool


@lru_cache(maxsize=64)
def parse(llm_string: str) -> CallKey:
    """Parse an `llm_string`. Never raises; uncertain values stay empty or False.

    Results are cached, because a program uses few models and parameter sets.
    """
    model, tail = _split(llm_string)
    call = _literal(tail)
    params = {name: value for name, value in (call or {}).items() if value is not None}
    if model is None:
        fingerprint, shaping, known = llm_string, {}, call is not None
    else:
        kwargs = model.pop("kwargs", None)
        shaping = {k: v for k, v in kwargs.items() if k not in _TRANSPORT} if isinstance(kwargs, dict) else {}
        fingerprint = f"{canonical_json([model, shaping])}---{tail}"
        known = call is not None and params.keys() <= _SAMPLING
    return CallKey(
        fingerprint=fingerprint,
        writer=(named_model(params.get) or named_model(shaping.get)) if call is not None else "",
        plain=known and _asks_for_one_text(shaping | params) and _NOT_PLAIN.search(llm_string) is None,
        repeatable=_ADDRESS.search(llm_string) is None,
    )


def _split(llm_string: str) -> tuple[dict[str, object] | None, str]:
    """The serialised model, if the string starts with one, and the repr of the parameters."""
    try:
        model, end = json.JSONDecoder().raw_decode(llm_string)
    except (ValueError, RecursionError):
        return None, llm_string
    if isinstance(model, dict) and llm_string.startswith("---", end):
        return model, llm_string[end + 3 :]
    return None, llm_string


def _literal(text: str) -> dict[str, object] | None:
    """The parameters, if their repr is a literal list of pairs."""
    try:
        return {str(name): value for name, value in ast.literal_eval(text)}
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None


def _asks_for_one_text(params: Mapping[str, object]) -> bool:
    return not params.get("stop") and params.get("n") in (None, 1)


def read_messages(prompt: str) -> list[BaseMessage] | None:
    """The messages of a chat model's prompt, parsed from JSON; None for any other prompt. Never raises.

    Does not use `langchain_core.load`, which can build other objects than messages.
    """
    try:
        messages = [_message(value) for value in json.loads(prompt)]
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    return messages or None


def _message(value: dict[str, Any]) -> BaseMessage:
    made_by = _CLASSES[value["id"][-1]]
    return made_by(**{name: kept for name, kept in value["kwargs"].items() if name in made_by.model_fields})
