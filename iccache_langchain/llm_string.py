"""What can be read from the two strings that LangChain hands to a cache: the prompt, and the `llm_string`.

The `llm_string` names a model and its parameters. A serialisable model gives ``<JSON of the model>---<repr of the call's parameters>``, any other the repr alone. The
repr need not be a literal (``('response_format', <class '__main__.P'>)``), so nothing here depends on reading it:
what cannot be read is a call whose answer may be repeated word for word, and nothing more.
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
from shared_core.adapters.provenance import named_model
from shared_core.text import canonical_json

# How the answer travels, not what it is: a longer timeout must not empty the cache.
_TRANSPORT: Final = frozenset(
    {"max_retries", "request_timeout", "stream_chunk_timeout", "stream_usage", "streaming", "timeout", "verbose"}
)

# Parameters of a single call that leave its answer free text in one piece; `n` and `stop` where they ask for nothing.
_SAMPLING: Final = FREE | {"stop"}

# Where one of these is named, by the model or by the call, the answer is bound to a form.
_BOUND: Final = re.compile(
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
class Call:
    """What is known of one model call.

    Attributes:
        fingerprint: Names the model and every parameter that shapes the answer; the same for equal calls.
        writer: The model's name; empty if it cannot be read with certainty.
        plain: True only if the call certainly asks for one free text: no tools, no response format, no stop, n = 1.
        repeatable: False if the parameters hold an object that is only known by its address in memory, where another
            object may live next time.
    """

    fingerprint: str
    writer: str
    plain: bool
    repeatable: bool


@lru_cache(maxsize=64)
def parse(llm_string: str) -> Call:
    """Read an `llm_string`; never raises. What is not certain is not claimed.

    A program calls a few models with a few sets of parameters, time and again, so the last ones are kept.
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
    return Call(
        fingerprint=fingerprint,
        writer=(named_model(params.get) or named_model(shaping.get)) if call is not None else "",
        plain=known and _asks_for_one_text(shaping | params) and _BOUND.search(llm_string) is None,
        repeatable=_ADDRESS.search(llm_string) is None,
    )


def _split(llm_string: str) -> tuple[dict[str, object] | None, str]:
    """The serialised model, if the string begins with one, and the repr of the parameters."""
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
    """The messages of a chat model's prompt, which is their JSON; None for any other prompt. Never raises.

    Built by hand rather than by `langchain_core.load`, which constructs more than messages.
    """
    try:
        messages = [_message(value) for value in json.loads(prompt)]
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    return messages or None


def _message(value: dict[str, Any]) -> BaseMessage:
    made_by = _CLASSES[value["id"][-1]]
    return made_by(**{name: kept for name, kept in value["kwargs"].items() if name in made_by.model_fields})
